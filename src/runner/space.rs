//! Is there room for what is still to be run?

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::hash::Hash;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::campaign::CampaignError;
use crate::ids::IterationNumber;
use crate::plan::Plan;
use crate::record::Status;
use crate::report::plan::{capture_bytes, file_bytes};
use crate::spec::{KeepRule, StorageSpec, Tuple};
use crate::store::AttemptName;

/// Bytes of an iteration file before any has been written, for one pair; each further pair adds half of it.
const FILE_BYTES: u64 = 64 << 10;
/// Room that must be left for the iteration that is running: scratch files and the file being written.
const RESERVE_BYTES: u64 = 32 << 20;

/// Refuses a run that cannot fit into the space that is free for this user: what is still to do, each iteration as large as the mean of
/// those stored so far of which the same files stay (or as an estimate, when there is none), and what those take that run at once.
pub(super) fn check(
    out: &Path,
    plan: &Plan,
    to_do: &[IterationNumber],
    jobs: NonZeroUsize,
) -> Result<(), CampaignError> {
    let jobs = jobs.get().min(to_do.len()) as u64;
    let free = free(out)?;
    let (stays, running) = (stays(out, plan, to_do).map_err(anyhow::Error::from)?, running(plan, to_do));
    let running = running.saturating_mul(jobs);
    let needed = stays.saturating_add(running).saturating_add(RESERVE_BYTES.saturating_mul(jobs));
    if to_do.is_empty() || needed <= free {
        return Ok(());
    }
    let count = to_do.len() as u64;
    let while_running = match running {
        0 => String::new(),
        bytes if jobs > 1 => format!(" with {} for the captures of {jobs} while they run", size(bytes)),
        bytes => format!(" with {} for the captures of one while it runs", size(bytes)),
    };
    Err(CampaignError::Space(format!(
        "not enough room in {}: {count} iterations of about {} need {}{while_running}, {} are free",
        out.display(),
        size(stays / count),
        size(needed),
        size(free)
    )))
}

/// Which kinds of files stay of an iteration that goes well: captures, events, outputs.
type Stays = [bool; 3];

fn rules(spec: &StorageSpec, repetition: u32) -> Stays {
    [spec.captures, spec.events, spec.outputs].map(|rule| rule.keeps(Status::Complete, repetition))
}

/// Bytes that stay of these iterations.
fn stays(out: &Path, plan: &Plan, to_do: &[IterationNumber]) -> io::Result<u64> {
    let of_stored = |name: AttemptName| match plan.get(name.number) {
        Some(iteration) if iteration.identity == name.identity => rules(&plan.spec.storage, iteration.repetition),
        // It was of another plan, and tells more than nothing where all files stay.
        _ => [true; 3],
    };
    let stored = stored(out, of_stored)?;
    let each = to_do.iter().filter_map(|&number| plan.get(number)).map(|iteration| {
        let stays = rules(&plan.spec.storage, iteration.repetition);
        stored.get(&stays).and_then(Used::mean).unwrap_or_else(|| estimate(plan, iteration.tuple, stays))
    });
    Ok(each.fold(0, u64::saturating_add))
}

/// Bytes that one iteration takes only while it runs: its captures are there in full before rules drop and compress them.
fn running(plan: &Plan, to_do: &[IterationNumber]) -> u64 {
    let storage = &plan.spec.storage;
    if storage.captures == KeepRule::All && storage.compress.is_none() {
        return 0;
    }
    let tuples = to_do.iter().filter_map(|&number| plan.get(number)).map(|iteration| iteration.tuple);
    let most = tuples.filter_map(|tuple| capture_bytes(&plan.spec, tuple)).max().unwrap_or(0);
    // A file and its compressed form are there together for a while.
    if storage.compress.is_some() { most.saturating_mul(2) } else { most }
}

/// Bytes that are free for this user on the file system of `out`.
pub(super) fn free(out: &Path) -> anyhow::Result<u64> {
    let space =
        statvfs(out).map_err(|errno| anyhow::anyhow!("cannot read the free space of {}: {errno}", out.display()))?;
    Ok(space.blocks_available().saturating_mul(space.fragment_size()))
}

/// As `vptest sweep` reckons; where that cannot be foreseen, an iteration file alone.
fn estimate(plan: &Plan, tuple: &Tuple, [captures, ..]: Stays) -> u64 {
    let captures = if captures { capture_bytes(&plan.spec, tuple) } else { Some(0) };
    match captures {
        Some(bytes) => file_bytes(tuple).saturating_add(bytes),
        None => FILE_BYTES + (u64::from(tuple.pairs()) - 1) * FILE_BYTES / 2,
    }
}

/// What iterations take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// Of their files and of what is kept with them.
    pub(super) bytes: u64,
    /// Iteration files.
    pub(super) files: u64,
}

impl Used {
    /// Bytes of one; `None` when there is none.
    pub(super) fn mean(&self) -> Option<u64> {
        self.bytes.checked_div(self.files)
    }

    /// With one more iteration file, and what is kept with it.
    pub(super) fn add(&mut self, file: &Path) -> io::Result<()> {
        self.files += 1;
        self.bytes += unless_gone(file.metadata())?.map_or(0, |file| file.len());
        self.bytes += added(&file.with_extension("d"))?;
        Ok(())
    }
}

/// `None` for what another process of the campaign has removed meanwhile, or given another name.
fn unless_gone<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Shows all files below a directory.
fn each_kept(dir: &Path, visit: &mut impl FnMut(&Metadata)) -> io::Result<()> {
    for entry in unless_gone(std::fs::read_dir(dir))?.into_iter().flatten() {
        let Some(entry) = unless_gone(entry)? else { continue };
        match unless_gone(entry.file_type())? {
            Some(kind) if kind.is_dir() => each_kept(&entry.path(), visit)?,
            Some(_) => {
                if let Some(file) = unless_gone(entry.metadata())? {
                    visit(&file);
                }
            }
            None => {}
        }
    }
    Ok(())
}

/// Bytes that a directory of kept files adds to those of all others: a file that has names elsewhere was counted there.
fn added(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut shared: HashMap<(u64, u64), (u64, u64)> = HashMap::new();
    each_kept(dir, &mut |file| {
        if file.nlink() == 1 {
            bytes += file.len();
        } else {
            let (_, elsewhere) = shared.entry((file.dev(), file.ino())).or_insert((file.len(), file.nlink()));
            *elsewhere -= 1;
        }
    })?;
    Ok(bytes + shared.values().filter(|(_, elsewhere)| *elsewhere == 0).map(|(bytes, _)| bytes).sum::<u64>())
}

/// What the iterations in a directory take; a file with several names takes its room once.
pub(super) fn used(out: &Path) -> io::Result<Used> {
    Ok(stored(out, |_| ())?.remove(&()).unwrap_or_default())
}

/// What the iterations of each class take.
fn stored<C: Eq + Hash>(out: &Path, class: impl Fn(AttemptName) -> C) -> io::Result<HashMap<C, Used>> {
    let mut all: HashMap<C, Used> = HashMap::new();
    let mut shared = HashSet::new();
    for entry in std::fs::read_dir(out)? {
        let Some(entry) = unless_gone(entry)? else { continue };
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Ok(attempt) = name.parse::<AttemptName>() {
            let used = all.entry(class(attempt)).or_default();
            used.files += 1;
            used.bytes += unless_gone(entry.metadata())?.map_or(0, |file| file.len());
        } else if let Some(attempt) = name.strip_suffix(".d").and_then(|stem| format!("{stem}.db").parse().ok())
            // Without a file it is still being run, or was not stored.
            && entry.path().with_extension("db").exists()
        {
            let used = all.entry(class(attempt)).or_default();
            each_kept(&entry.path(), &mut |file| {
                if file.nlink() == 1 || shared.insert((file.dev(), file.ino())) {
                    used.bytes += file.len();
                }
            })?;
        }
    }
    Ok(all)
}

/// `17 kB`, `3.2 GB`.
pub(super) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let value = bytes as f64;
    let (factor, unit) = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
        .into_iter()
        .find(|(f, _)| value >= *f)
        .unwrap_or((1.0, "B"));
    let value = value / factor;
    if value < 10.0 && factor > 1.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    #[test]
    fn sizes_are_short() {
        let cases = [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (65_536, "66 kB"), (3_200_000_000, "3.2 GB")];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn the_mean_counts_files_and_their_artifacts() {
        let out = tempfile::tempdir().unwrap();
        assert_eq!(used(out.path()).unwrap().mean(), None);
        std::fs::write(out.path().join("000001-0123456789ab01.db"), [0; 100]).unwrap();
        std::fs::write(out.path().join("000002-0123456789ac01.db"), [0; 300]).unwrap();
        std::fs::write(out.path().join("merged.db"), [0; 900]).unwrap();
        std::fs::create_dir(out.path().join("000001-0123456789ab01.d")).unwrap();
        std::fs::write(out.path().join("000001-0123456789ab01.d/x.pcapng"), [0; 200]).unwrap();
        assert_eq!(used(out.path()).unwrap().mean(), Some(300));
    }

    #[test]
    fn files_in_directories_of_nodes_count_and_linked_ones_once() {
        let out = tempfile::tempdir().unwrap();
        let file = |n: u32| out.path().join(format!("{n:06}-0123456789ab01.db"));
        let kept = |n: u32, name: &str| file(n).with_extension("d").join(name);
        let mut used_so_far = used(out.path()).unwrap();
        for n in 1..=2 {
            std::fs::create_dir_all(kept(n, "client1")).unwrap();
            std::fs::write(file(n), [0; 100]).unwrap();
            std::fs::write(kept(n, "client1/own"), [0; 10]).unwrap();
            match n {
                1 => std::fs::write(kept(n, "client1/a"), [0; 1000]).unwrap(),
                _ => std::fs::hard_link(kept(1, "client1/a"), kept(n, "client1/a")).unwrap(),
            }
            std::fs::hard_link(kept(n, "client1/a"), kept(n, "b")).unwrap();
            used_so_far.add(&file(n)).unwrap();
        }
        let expected = Used { bytes: 1220, files: 2 };
        assert_eq!((used_so_far, used(out.path()).unwrap()), (expected, expected));
    }

    #[test]
    fn what_another_process_removes_meanwhile_takes_nothing() {
        let out = tempfile::tempdir().unwrap();
        let directory = out.path().join("000001-0123456789ab01.d");
        for name in ["a", "b", "c"] {
            std::fs::create_dir_all(directory.join(name)).unwrap();
            std::fs::write(directory.join(name).join("file"), [0; 10]).unwrap();
        }
        let mut seen = 0;
        let mut visit = |file: &Metadata| {
            seen += file.len();
            // The others, whose names may have been read.
            std::fs::remove_dir_all(&directory).unwrap_or_default();
        };
        each_kept(&directory, &mut visit).unwrap();
        each_kept(&directory, &mut visit).unwrap();
        assert_eq!(seen, 10);
    }

    fn plan(storage: &str) -> Plan {
        let text = format!(
            "name = \"x\"\nrepetitions = 5\norder = \"blocked\"\n[factors]\ntestbed = \"netns\"\nurl = \"/?size=10MB\"\n\
             [workload]\npreset = \"ab\"\n[capture]\nkeep = true\n[storage]\n{storage}\n"
        );
        Plan::expand(Spec::parse(&text).unwrap(), text).unwrap()
    }

    #[test]
    fn what_remains_is_reckoned_by_what_stays_of_it() {
        let plan = plan("captures = \"first 3\"");
        let numbers: Vec<_> = plan.iter().map(|iteration| iteration.number).collect();
        let out = tempfile::tempdir().unwrap();
        let full = capture_bytes(&plan.spec, plan.iter().next().unwrap().tuple).unwrap();
        assert!(full > 100_000_000, "{full}");
        let file = file_bytes(plan.iter().next().unwrap().tuple);
        assert_eq!(stays(out.path(), &plan, &numbers).unwrap(), 5 * file + 3 * full);
        // The first three are there, with their captures.
        for iteration in plan.iter().take(3) {
            let name = AttemptName { number: iteration.number, identity: iteration.identity, attempt: 1 };
            let file = out.path().join(name.to_string());
            std::fs::write(&file, [0; 100]).unwrap();
            std::fs::create_dir(file.with_extension("d")).unwrap();
            std::fs::write(file.with_extension("d").join("a.pcapng"), [0; 900]).unwrap();
        }
        assert_eq!(stays(out.path(), &plan, &numbers[..1]).unwrap(), 1000);
        assert_eq!(stays(out.path(), &plan, &numbers[3..]).unwrap(), 2 * file, "without captures");
    }

    #[test]
    fn one_iteration_has_room_for_what_is_dropped_or_compressed_afterwards() {
        let running = |storage: &str| {
            let plan = plan(storage);
            let numbers: Vec<_> = plan.iter().map(|iteration| iteration.number).collect();
            let full = capture_bytes(&plan.spec, plan.iter().next().unwrap().tuple).unwrap();
            running(&plan, &numbers) / full
        };
        let rules = ["captures = \"all\"", "captures = \"problems\"", "captures = \"none\"\ncompress = \"zstd\""];
        assert_eq!(rules.map(running), [0, 1, 2]);
    }
}

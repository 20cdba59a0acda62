//! Is there room for what is still to be run?

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::campaign::CampaignError;
use crate::plan::Plan;
use crate::report::plan::Estimate;
use crate::store::AttemptName;

/// Bytes of an iteration file before any has been written, for one pair; each further pair adds half of it.
const FILE_BYTES: u64 = 64 << 10;
/// Room that must be left for the iteration that is running: scratch files and the file being written.
const RESERVE_BYTES: u64 = 32 << 20;

/// Refuses a run that cannot fit: the mean size of the iterations stored so far (files and kept artifacts), or an
/// estimate when there is none, times what is still to do, against the free space for this user.
pub(super) fn check(out: &Path, plan: &Plan, to_do: usize) -> Result<(), CampaignError> {
    let free = free(out)?;
    let each = used(out).map_err(anyhow::Error::from)?.mean().unwrap_or_else(|| estimate(plan));
    let needed = each.saturating_mul(to_do as u64).saturating_add(RESERVE_BYTES);
    if to_do > 0 && needed > free {
        return Err(CampaignError::Space(format!(
            "not enough room in {}: {to_do} iterations of about {} need {}, {} are free",
            out.display(),
            size(each),
            size(needed),
            size(free)
        )));
    }
    Ok(())
}

/// Bytes that are free for this user on the file system of `out`.
pub(super) fn free(out: &Path) -> anyhow::Result<u64> {
    let space =
        statvfs(out).map_err(|errno| anyhow::anyhow!("cannot read the free space of {}: {errno}", out.display()))?;
    Ok(space.blocks_available().saturating_mul(space.fragment_size()))
}

/// As `vptest sweep` shows it; where that cannot be foreseen, iteration files alone.
fn estimate(plan: &Plan) -> u64 {
    let iterations = plan.iterations.len() as u64;
    let foreseen = Estimate::of(plan).bytes.and_then(|bytes| bytes.checked_div(iterations));
    foreseen.unwrap_or_else(|| {
        let pairs = plan.tuples.iter().map(|planned| u64::from(planned.tuple.pairs())).max().unwrap_or(1);
        FILE_BYTES + (pairs - 1) * FILE_BYTES / 2
    })
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
        let size = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(0) } else { Err(error) };
        self.files += 1;
        self.bytes += file.metadata().map(|file| file.len()).or_else(size)?;
        self.bytes += added(&file.with_extension("d")).or_else(size)?;
        Ok(())
    }
}

/// Shows all files below a directory.
fn each_kept(dir: &Path, visit: &mut impl FnMut(&Metadata)) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            each_kept(&entry.path(), visit)?;
        } else {
            visit(&entry.metadata()?);
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
    let mut used = Used::default();
    let mut shared = HashSet::new();
    for entry in std::fs::read_dir(out)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.parse::<AttemptName>().is_ok() {
            used.files += 1;
            used.bytes += entry.metadata()?.len();
        } else if name.ends_with(".d") && !name.starts_with('.') && entry.file_type()?.is_dir() {
            each_kept(&entry.path(), &mut |file| {
                if file.nlink() == 1 || shared.insert((file.dev(), file.ino())) {
                    used.bytes += file.len();
                }
            })?;
        }
    }
    Ok(used)
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
}

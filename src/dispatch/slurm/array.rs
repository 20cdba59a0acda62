//! An array in Slurm's queue, and what is noted of it: `OUT/.dispatch/slurm-ROUND/`.
//!
//! ```text
//! orders.json  nonce  files.tar  program.tar  script     what elements are given
//! name                                                   of the array; written before it is submitted
//! job                                                    its number; written after
//! done                                                   elements of which everything was stored
//! said/ELEMENT-RESTARTS/{stdout,stderr}                  what workers say
//! ```
//!
//! The name is drawn by chance, so that the array is found by it when its number was not noted any more.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::super::orders::{Orders, Round};
use super::super::place::{Files, Program};
use super::super::state::DIRECTORY;
use super::script::{self, Subject};
use crate::ids::ShortHash;
use crate::spec::SlurmSpec;

/// Beginning of the names of its directories.
const PREFIX: &str = "slurm-";
/// Of those that are over, as far as they could not be removed yet.
const GONE: &str = "gone-";
/// Seconds before the end of its time at which an element is told to take its iteration down, at most.
const WARNING: u64 = 120;

/// A time limit, as Slurm counts it.
pub(super) fn minutes(time: Duration) -> u64 {
    time.as_secs().div_ceil(60).max(1)
}

/// How long before the end of its time an element is told to take its iteration down.
pub(super) fn warning(time: Duration) -> Duration {
    Duration::from_secs(WARNING.min(minutes(time) * 60 / 4))
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Array {
    pub(super) directory: PathBuf,
    pub(super) name: String,
    /// Slurm's number; `None` when that was not noted.
    pub(super) job: Option<u64>,
    pub(super) orders: Orders,
    /// Elements of which everything was stored.
    pub(super) done: BTreeSet<u32>,
}

/// Directories of arrays that were not seen to their end.
pub(super) fn left(out: &Path) -> Vec<PathBuf> {
    left_in(&out.join(DIRECTORY))
}

fn left_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_one = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_one).collect();
    all.sort();
    all
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let temp = path.with_extension("new");
    let write = || {
        let mut file = std::fs::File::create(&temp)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temp, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// A file of an array; `None` when it is not there.
fn text(path: &Path, name: &str) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).with_context(|| format!("cannot read {}", path.join(name).display())),
    }
}

impl Array {
    /// Makes the directory of an array that is to be submitted. `directory` is the coordinator's, absolute.
    pub(super) fn make(
        directory: &Path,
        id: ShortHash,
        (program, plan): (&Program, &[u8]),
        orders: Orders,
        shared: Option<bool>,
    ) -> anyhow::Result<Self> {
        let round = Round::fresh();
        sweep(directory);
        let path = directory.join(format!("{PREFIX}{}", round.as_str()));
        let name = format!("vptest-{id}-{}", round.as_str());
        std::fs::create_dir_all(path.join(script::SAID))
            .with_context(|| format!("cannot create {}", path.display()))?;
        let files = Files::pack(id, plan, &round, &orders)?;
        let nonce = Round::fresh().as_str().to_owned();
        let place = path.to_str().with_context(|| format!("{} is no text", path.display()))?;
        let subject = Subject { id, round: &round, program, directory: place, nonce: &nonce, shared };
        let program_file = program_file(directory, program)?;
        std::fs::hard_link(&program_file, path.join(script::PROGRAM))
            .or_else(|_| std::fs::copy(&program_file, path.join(script::PROGRAM)).map(drop))
            .with_context(|| format!("cannot copy {}", program_file.display()))?;
        write(&path.join(script::FILES), files.archive())?;
        write(&path.join(script::NONCE), nonce.as_bytes())?;
        write(&path.join("script"), subject.element().as_bytes())?;
        write(&path.join("step"), subject.step().as_bytes())?;
        write(&path.join("release"), subject.release().as_bytes())?;
        write(&path.join("orders.json"), &serde_json::to_vec(&orders)?)?;
        write(&path.join("name"), name.as_bytes())?;
        Ok(Self { directory: path, name, job: None, orders, done: BTreeSet::new() })
    }

    /// Name and number of one; `None` when it cannot have been submitted.
    pub(super) fn names(path: &Path) -> anyhow::Result<Option<(String, Option<u64>)>> {
        let Some(name) = text(path, "name")? else { return Ok(None) };
        Ok(Some((name, text(path, "job")?.and_then(|text| text.trim().parse().ok()))))
    }

    /// One of which an earlier coordinator has noted enough to go on with it; `None` when it cannot have been submitted.
    pub(super) fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let Some((name, job)) = Self::names(path)? else { return Ok(None) };
        let text = |name| text(path, name);
        let orders = text("orders.json")?.context("the orders are gone");
        let orders = orders.and_then(|text| Ok(serde_json::from_str(&text)?));
        let orders = orders.with_context(|| format!("{} is not of this vptest", path.display()))?;
        let done = text("done")?.unwrap_or_default();
        // `1` may be the beginning of `12`.
        let whole = done.rfind('\n').map_or("", |end| &done[..end]);
        let done = whole.lines().filter_map(|line| line.parse().ok()).collect();
        Ok(Some(Self { directory: path.to_owned(), name, job, orders, done }))
    }

    pub(super) fn submitted(&mut self, job: u64) -> anyhow::Result<()> {
        self.job = Some(job);
        write(&self.directory.join("job"), format!("{job}\n").as_bytes())
    }

    /// Everything of an element is stored.
    pub(super) fn finish(&mut self, element: u32) -> anyhow::Result<()> {
        self.done.insert(element);
        let path = self.directory.join("done");
        let append = || {
            let mut file = std::fs::File::options().read(true).append(true).create(true).open(&path)?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            if text.last().is_some_and(|&byte| byte != b'\n') {
                // A line that an earlier coordinator did not end would become another number.
                let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
                file.set_len(whole as u64)?;
            }
            file.write_all(format!("{element}\n").as_bytes())
        };
        append().with_context(|| format!("cannot write {}", path.display()))
    }

    /// It is over.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        remove(&self.directory)
    }

    /// The words for sbatch.
    pub(super) fn words(&self, spec: &SlurmSpec, partition: Option<&str>, time: Duration, nodes: &str) -> Vec<String> {
        let minutes = minutes(time);
        let warning = warning(time).as_secs();
        let mut words: Vec<String> = [
            "--parsable",
            "--nodes=1",
            "--ntasks=1",
            "--exclusive",
            "--requeue",
            "--open-mode=append",
            "--output=/dev/null",
            "--error=/dev/null",
            "--input=/dev/null",
            "--chdir=/",
            "--export=ALL",
        ]
        .map(str::to_owned)
        .to_vec();
        words.push(format!("--job-name={}", self.name));
        words.push(format!("--array=1-{}", self.orders.shares.len()));
        words.push(format!("--time={minutes}"));
        words.push(format!("--signal=B:TERM@{warning}"));
        let keys = [
            ("partition", partition),
            ("account", spec.account.as_deref()),
            ("constraint", spec.constraint.as_deref()),
            ("qos", spec.qos.as_deref()),
            ("exclude", Some(nodes).filter(|nodes| !nodes.is_empty())),
        ];
        words.extend(keys.iter().filter_map(|(key, value)| value.map(|value| format!("--{key}={value}"))));
        // The node is the iteration's alone, with all of its memory.
        if !spec.options.iter().any(|option| option.starts_with("--mem")) {
            words.push("--mem=0".to_owned());
        }
        words.extend(spec.options.iter().cloned());
        words.push(self.directory.join("script").to_string_lossy().into_owned());
        words
    }
}

/// Removes the directory of an array that is over. On a network file system, what somebody has open cannot be removed yet: such
/// a directory has another name then, so that nobody takes it for an array's.
pub(super) fn remove(directory: &Path) -> anyhow::Result<()> {
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let gone = directory.with_file_name(format!("{GONE}{name}"));
    std::fs::rename(directory, &gone).with_context(|| format!("cannot remove {}", directory.display()))?;
    forget(&gone);
    Ok(())
}

/// Gives the directory of an array that cannot be read another name, which is no array's.
pub(super) fn set_aside(directory: &Path) -> anyhow::Result<PathBuf> {
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let aside = directory.with_file_name(format!("unread-{name}"));
    std::fs::rename(directory, &aside).with_context(|| format!("cannot rename {}", directory.display()))?;
    Ok(aside)
}

/// Removes what nobody needs any more; what cannot be removed is only in the way.
pub(super) fn forget(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        tracing::debug!("cannot remove {} yet: {error}", directory.display());
    }
}

/// Tries again to remove what could not be removed.
fn sweep(directory: &Path) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(GONE))
        .for_each(|entry| forget(&entry.path()));
}

/// The program as elements are given it; once for all arrays.
fn program_file(directory: &Path, program: &Program) -> anyhow::Result<PathBuf> {
    let path = directory.join(format!("program-{}.tar", program.hash()));
    let is_there = std::fs::metadata(&path).is_ok_and(|about| about.len() == program.archive().len() as u64);
    if !is_there {
        write(&path, program.archive())?;
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_old = |other: &PathBuf| {
            let name = other.file_name().unwrap_or_default().to_string_lossy();
            *other != path && name.starts_with("program-") && name.ends_with(".tar")
        };
        // Arrays that were given an older one have it in their own directories.
        for old in entries.filter(is_old) {
            std::fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::super::super::share::{Share, Turn};
    use super::*;
    use crate::ids::IterationNumber;

    fn orders(shares: u32) -> Orders {
        let turn = |number| Turn { number: IterationNumber(number), attempt: 1 };
        Orders {
            spec_hash: ShortHash::of(b"x"),
            shares: (1..=shares).map(|number| Share { number, iterations: vec![turn(number)] }).collect(),
            complete: Vec::new(),
            stored: Vec::new(),
            until: None,
            retries: 0,
            allow_changed_image: false,
        }
    }

    fn array(directory: &Path) -> Array {
        let path = directory.join("slurm-0123456789abcdef");
        std::fs::create_dir(&path).unwrap();
        write(&path.join("orders.json"), &serde_json::to_vec(&orders(3)).unwrap()).unwrap();
        Array { directory: path, name: "vptest-a-b".to_owned(), job: None, orders: orders(3), done: BTreeSet::new() }
    }

    #[test]
    fn what_was_noted_is_enough_to_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let mut array = array(directory.path());
        assert!(Array::read(&array.directory).unwrap().is_none(), "not named yet");
        write(&array.directory.join("name"), b"vptest-a-b").unwrap();
        assert_eq!(Array::read(&array.directory).unwrap().unwrap().job, None);
        array.submitted(7).unwrap();
        array.finish(2).unwrap();
        array.finish(3).unwrap();
        let done = array.directory.join("done");
        let mut torn = std::fs::read(&done).unwrap();
        torn.extend(b"1");
        std::fs::write(&done, torn).unwrap();
        let again = Array::read(&array.directory).unwrap().unwrap();
        assert_eq!((again.job, again.name.as_str(), again.orders), (Some(7), "vptest-a-b", orders(3)));
        assert_eq!(again.done, [2, 3].into());
        array.finish(1).unwrap();
        assert_eq!(Array::read(&array.directory).unwrap().unwrap().done, [1, 2, 3].into());
        array.remove().unwrap();
        assert!(left_in(directory.path()).is_empty());
    }

    #[test]
    fn sbatch_is_told_what_the_spec_says() {
        let directory = tempfile::tempdir().unwrap();
        let array = array(directory.path());
        let spec = SlurmSpec {
            account: Some("lab".to_owned()),
            constraint: Some("a&b".to_owned()),
            options: vec!["--mem-per-cpu=1G".to_owned(), "--licenses=x".to_owned()],
            ..SlurmSpec::default()
        };
        let words = array.words(&spec, Some("net"), Duration::from_secs(901), "n1,n2");
        for word in [
            "--array=1-3",
            "--time=16",
            "--signal=B:TERM@120",
            "--partition=net",
            "--account=lab",
            "--constraint=a&b",
            "--exclude=n1,n2",
            "--licenses=x",
            "--exclusive",
            "--requeue",
        ] {
            assert!(words.iter().any(|is| is == word), "{word}: {words:?}");
        }
        assert!(!words.iter().any(|word| word == "--mem=0" || word.starts_with("--qos")), "{words:?}");
        assert!(words.last().unwrap().ends_with("/slurm-0123456789abcdef/script"));
        let short = array.words(&SlurmSpec::default(), None, Duration::from_secs(120), "");
        assert!(short.contains(&"--signal=B:TERM@30".to_owned()) && short.contains(&"--mem=0".to_owned()), "{short:?}");
    }
}

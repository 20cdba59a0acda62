//! `[storage]`: which files of an attempt stay beside its iteration file, and in which form.
//!
//! The rules are applied when the outcome is known and before the iteration file is there. Whoever dies in between leaves an
//! attempt that was not stored, and recovery removes the files of such a one as a whole.

mod compress;
mod objects;

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

pub(crate) use objects::Objects;

use super::cancel::Cancel;
use super::observer::{Observer, Progress};
use crate::host::clock::now_ns;
use crate::ids::Stage;
use crate::record::{Event, EventLevel, IterationRecord, Status};
use crate::spec::{KeepRule, StorageSpec};
use crate::store::AttemptName;
use crate::text::printable;

/// Files that are no larger take a block of their file system in any form: they are neither compressed nor linked.
const SMALL_BYTES: u64 = 4096;
/// Names in one event.
const NAMES: usize = 10;

/// What a kept file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Capture,
    Events,
    Output,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Capture, Self::Events, Self::Output];

    /// By its path in the attempt's directory. What nodes hand over lies in directories of their own.
    fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match path.components().count() {
            1 if name.ends_with(".pcapng") || name.ends_with(".pcapng.tmp") => Self::Capture,
            1 if name.starts_with("syscalls-") && name.ends_with(".zst") => Self::Events,
            _ => Self::Output,
        }
    }

    /// Key and rule.
    fn rule(self, spec: &StorageSpec) -> (&'static str, KeepRule) {
        match self {
            Self::Capture => ("captures", spec.captures),
            Self::Events => ("events", spec.events),
            Self::Output => ("outputs", spec.outputs),
        }
    }
}

/// Applies the rules to the files of an attempt that is about to be stored. The record says what became of them.
///
/// What cannot be done leaves a file as it is, and is an event: it says nothing about the measurement.
pub(super) async fn apply(
    spec: &StorageSpec,
    out: &Path,
    mut record: IterationRecord,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> IterationRecord {
    let name = AttemptName::of(&record.header);
    if *spec == StorageSpec::default() || !name.artifacts(out).is_dir() {
        return record;
    }
    let (status, repetition) = (record.outcome.status(), record.header.repetition);
    let (owned, place, wish) = (spec.clone(), out.to_owned(), cancel.clone());
    let work = tokio::task::spawn_blocking(move || Tidying::new(&owned, &place, name, &wish).run(status, repetition));
    let mut has_died = false;
    let tidied = work.await.unwrap_or_else(|error| {
        has_died = true;
        let warning = (EventLevel::Warn, format!("the rules of `[storage]` were not applied to the end: {error}"));
        Tidied { files: BTreeMap::new(), events: vec![warning] }
    });
    let logs = record.syscalls.iter_mut().map(|trace| &mut trace.log);
    for file in record.captures.iter_mut().map(|capture| &mut capture.file).chain(logs) {
        match file.as_ref() {
            // What it had done by then is only to be seen.
            Some(path) if has_died => *file = as_it_is(out, path),
            Some(path) => {
                if let Some(now) = tidied.files.get(path) {
                    file.clone_from(now);
                }
            }
            None => {}
        }
    }
    for (level, text) in tidied.events {
        observer.notice(&Progress::Event { number: record.header.number, level, text: &text });
        record.events.push(Event { at_ns: now_ns(), stage: Stage::Store, level, text });
    }
    record
}

/// The name that a recorded file has now; `None` when it is gone.
fn as_it_is(out: &Path, path: &str) -> Option<String> {
    let names = [path.to_owned(), format!("{path}.zst")];
    names.into_iter().find(|name| out.join(name).symlink_metadata().is_ok())
}

/// What became of the files.
struct Tidied {
    /// Paths below the campaign's directory that are others now; `None` for a file that is gone.
    files: BTreeMap<String, Option<String>>,
    events: Vec<(EventLevel, String)>,
}

/// The work on the files of one attempt.
struct Tidying<'a> {
    spec: &'a StorageSpec,
    out: &'a Path,
    directory: PathBuf,
    /// Dropping files is quick. The rest can take long, and is left when somebody wishes an end.
    cancel: &'a Cancel,
    done: Tidied,
}

impl<'a> Tidying<'a> {
    fn new(spec: &'a StorageSpec, out: &'a Path, name: AttemptName, cancel: &'a Cancel) -> Self {
        let done = Tidied { files: BTreeMap::new(), events: Vec::new() };
        Self { spec, out, directory: name.artifacts(out), cancel, done }
    }

    fn run(mut self, status: Status, repetition: u32) -> Tidied {
        let mut files = Vec::new();
        if let Err(error) = list(&self.directory, &mut files) {
            self.warn(format!("cannot list {}: {error}", self.directory.display()));
        }
        files.sort();
        let files = &mut self.without_unfinished(files);
        for kind in Kind::ALL {
            let (key, rule) = kind.rule(self.spec);
            if !rule.keeps(status, repetition) {
                let (dropped, others) =
                    std::mem::take(files).into_iter().partition(|path| kind == Kind::of(self.inside(path)));
                *files = others;
                self.drop_all(dropped, key, rule);
            }
        }
        if let Some(level) = self.spec.compress {
            *files = self.compress(std::mem::take(files), level);
        }
        if self.spec.deduplicate {
            self.deduplicate(files);
        }
        // Captures that were given up have left none but this.
        remove_empty(&self.directory);
        self.done
    }

    /// The path in the attempt's directory.
    fn inside<'p>(&self, path: &'p Path) -> &'p Path {
        path.strip_prefix(&self.directory).unwrap_or(path)
    }

    /// The path as records have it.
    fn recorded(&self, path: &Path) -> String {
        path.strip_prefix(self.out).unwrap_or(path).to_string_lossy().into_owned()
    }

    fn info(&mut self, text: String) {
        self.done.events.push((EventLevel::Info, text));
    }

    fn warn(&mut self, text: String) {
        self.done.events.push((EventLevel::Warn, text));
    }

    /// Removes what captures that did not end in time were writing, and returns the others.
    fn without_unfinished(&mut self, files: Vec<PathBuf>) -> Vec<PathBuf> {
        let (unfinished, others): (Vec<_>, _) = files.into_iter().partition(|path| is_unfinished(self.inside(path)));
        let mut gone = Vec::new();
        for path in unfinished {
            // Its writer may have given it its name, or removed it.
            if std::fs::remove_file(&path).is_ok() {
                gone.push(self.shown(&path));
            }
        }
        if !gone.is_empty() {
            self.warn(format!("removed what was not written to its end: {}", listed(&gone)));
            remove_empty(&self.directory);
        }
        others
    }

    fn drop_all(&mut self, files: Vec<PathBuf>, key: &str, rule: KeepRule) {
        let (mut names, mut bytes, mut failed) = (Vec::new(), 0, Failed::default());
        for path in files {
            let size = path.symlink_metadata().map_or(0, |file| file.len());
            match std::fs::remove_file(&path) {
                Ok(()) => {
                    bytes += size;
                    names.push(self.shown(&path));
                    self.done.files.insert(self.recorded(&path), None);
                }
                Err(error) => {
                    failed.add(|| format!("cannot drop {}, as storage.{key} = {rule} says: {error}", self.shown(&path)))
                }
            }
        }
        self.done.events.extend(failed.event());
        if !names.is_empty() {
            let names = listed(&names);
            self.info(format!("not kept, as storage.{key} = {rule} says: {names}; {bytes} bytes"));
            remove_empty(&self.directory);
        }
    }

    /// Returns the files that are there afterwards.
    fn compress(&mut self, files: Vec<PathBuf>, level: i32) -> Vec<PathBuf> {
        let (mut count, mut before, mut after) = (0_u32, 0, 0);
        let (mut failed, mut left) = (Failed::default(), 0);
        let mut all = Vec::with_capacity(files.len());
        for path in files {
            match compress::compress(&path, level, &|| self.may_go_on()) {
                Ok(compress::Done::Compressed(done)) => {
                    count += 1;
                    before += done.before;
                    after += done.after;
                    self.done.files.insert(self.recorded(&path), Some(self.recorded(&done.path)));
                    all.push(done.path);
                    continue;
                }
                Ok(compress::Done::Unchanged) => {}
                Ok(compress::Done::Stopped) => left += 1,
                Err(error) => {
                    failed.add(|| format!("cannot compress {}, which stays as it is: {error}", self.shown(&path)))
                }
            }
            all.push(path);
        }
        self.done.events.extend(failed.event());
        if let Some(by) = self.cancel.requested().filter(|_| left > 0) {
            self.warn(format!("{by}: {} not compressed, and as before", counted(left)));
        }
        if count > 0 {
            self.info(format!("compressed {} with zstd: {before} bytes are {after}", counted(count)));
        }
        all
    }

    fn may_go_on(&self) -> bool {
        self.cancel.requested().is_none()
    }

    fn deduplicate(&mut self, files: &[PathBuf]) {
        let found = Objects::new(self.out).deduplicate(files, &|| self.may_go_on());
        if found.linked > 0 {
            let (files, bytes) = (counted(found.linked), found.bytes);
            self.info(format!("stored before with the same content, and linked to that: {files}, {bytes} bytes"));
        }
        if let Some(problem) = found.problem {
            self.warn(format!("equal files are stored more than once: {problem}"));
        }
    }

    fn shown(&self, path: &Path) -> String {
        printable(&self.inside(path).to_string_lossy(), 200)
    }
}

/// What could not be done with some files, as one event however many they are.
#[derive(Default)]
struct Failed {
    first: String,
    more: u32,
}

impl Failed {
    fn add(&mut self, text: impl FnOnce() -> String) {
        if self.first.is_empty() {
            self.first = text();
        } else {
            self.more += 1;
        }
    }

    fn event(self) -> Option<(EventLevel, String)> {
        let more = match self.more {
            0 => String::new(),
            more => format!("; nor {} more", counted(more)),
        };
        (!self.first.is_empty()).then(|| (EventLevel::Warn, self.first + &more))
    }
}

/// Is it a capture on its way to its name?
fn is_unfinished(inside: &Path) -> bool {
    let name = inside.file_name().unwrap_or_default().to_string_lossy();
    inside.components().count() == 1 && name.starts_with('.') && name.ends_with(".tmp")
}

fn counted(count: u32) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMES);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", names[..names.len() - more].join(", "))
}

/// All that is no directory. Links are not followed.
fn list(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Removes directories that hold nothing, `directory` included. Others stay, which is how it ends.
fn remove_empty(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(directory);
}

/// All files below the directory of an attempt, by their paths.
pub(crate) fn files_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    list(directory, &mut files)?;
    files.sort();
    Ok(files)
}

/// Is it a path in the directory of an attempt, without detours?
fn is_artifact(path: &Path) -> bool {
    let mut components = path.components();
    let Some(Component::Normal(first)) = components.next() else { return false };
    let name = Path::new(first).with_extension("db");
    let is_attempt = Path::new(first).extension().is_some_and(|extension| extension == "d")
        && name.to_str().is_some_and(|name| name.parse::<AttemptName>().is_ok());
    let rest = components.as_path();
    is_attempt && rest.components().next().is_some() && components.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests;

//! Reading a bundle, which may come from anybody.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path};

use sha2::{Digest as _, Sha256};

use super::{DATABASE, METADATA, SPEC, SUMS};
use crate::plan::{Plan, PlanFileError};
use crate::store::{RecordFile, StoreError};
use crate::text::{hex, printable};

/// All iterations, in order.
pub const PLAN: &str = "plan.json";
/// Bytes of a plan, of metadata and of checksums, at most.
const MOST: u64 = 1 << 30;
/// Files in a bundle, at most.
const MOST_FILES: usize = 1_000_000;
/// Bytes of all files for each byte of the bundle, at most: SQLite's compress to a tenth, seldom to a hundredth.
const MOST_RATIO: u64 = 2000;
/// Bytes of a path, at most.
const LONGEST: u64 = 4096;
/// Memory of zstd's decoder, as a power of two; what other programs give it without being told.
pub(super) const WINDOW: u32 = 27;

/// What a bundle holds.
#[derive(Debug)]
pub struct Bundle {
    /// Its plan.
    pub plan: Plan,
    /// Files and their bytes.
    pub files: BTreeMap<String, u64>,
    /// Attempts in its database, each verified.
    pub attempts: usize,
    /// What is not as it should be; empty for a bundle that is whole.
    pub problems: Vec<String>,
}

/// A bundle could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is none, or damaged.
    #[error("{0}")]
    Bad(String),
    /// It is no archive, or cut off, or cannot be read.
    #[error("it cannot be read to its end: {0}")]
    Io(#[from] io::Error),
    /// Its plan is not accepted.
    #[error("its plan: {0}")]
    Plan(#[from] PlanFileError),
}

fn bad(what: impl Into<String>) -> BundleError {
    BundleError::Bad(what.into())
}

/// Reads all of a bundle and compares it with its checksums; its database is written to `scratch` meanwhile.
///
/// # Errors
/// When it is no bundle. What is wrong with a file of it is in [`Bundle::problems`].
pub fn verify(path: &Path, scratch: &Path) -> Result<Bundle, BundleError> {
    let mut found: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut texts: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let database = scratch.join(DATABASE);
    each(path, |name, entry| {
        let mut sink = match name {
            DATABASE => Sink::File(File::create(&database)?),
            PLAN | SPEC | SUMS | METADATA => Sink::Memory(Vec::new()),
            _ => Sink::Nothing,
        };
        let (bytes, sum) = copy(entry, &mut sink)?;
        if let Sink::Memory(text) = sink {
            texts.insert(name.to_owned(), text);
        }
        match found.insert(name.to_owned(), (bytes, sum)) {
            Some(_) => Err(bad(format!("{} is in it twice", printable(name, 200)))),
            None => Ok(()),
        }
    })?;
    let text = |name: &str| texts.get(name).ok_or_else(|| bad(format!("it has no {name}, and is no bundle of vptest")));
    let sums = String::from_utf8(text(SUMS)?.clone()).map_err(|_| bad(format!("{SUMS} is no text")))?;
    let mut problems = compare(&sums, &found);
    let plan = Plan::from_json(text(PLAN)?)?;
    if text(SPEC)? != plan.spec_text.as_bytes() {
        problems.push(format!("{SPEC} is not the spec of {PLAN}"));
    }
    if let Err(error) = serde_json::from_slice::<serde_json::Value>(text(METADATA)?) {
        problems.push(format!("{METADATA} is no JSON: {error}"));
    }
    let attempts = match found.contains_key(DATABASE).then(|| attempts(&database)) {
        Some(Ok(attempts)) => attempts,
        Some(Err(error)) => {
            problems.push(format!("{DATABASE}: {error}"));
            0
        }
        None => 0,
    };
    let files = found.into_iter().map(|(name, (bytes, _))| (name, bytes)).collect();
    Ok(Bundle { plan, files, attempts, problems })
}

/// Writes one file of a bundle.
///
/// # Errors
/// When the bundle cannot be read or has no such file.
pub fn extract(path: &Path, name: &str, out: &mut impl Write) -> Result<(), BundleError> {
    let mut is_there = false;
    each(path, |found, entry| {
        if found == name {
            is_there = true;
            io::copy(entry, out)?;
        }
        Ok(())
    })?;
    if is_there { Ok(()) } else { Err(bad(format!("it has no {name}"))) }
}

/// Shows the files of a bundle, by their paths in its directory.
fn each(path: &Path, mut visit: impl FnMut(&str, &mut dyn Read) -> Result<(), BundleError>) -> Result<(), BundleError> {
    let file = File::open(path)?;
    let most = file.metadata()?.len().saturating_mul(MOST_RATIO).saturating_add(1 << 20);
    let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(1 << 20, file))?;
    decoder.window_log_max(WINDOW)?;
    let mut archive = tar::Archive::new(decoder.take(most));
    let mut directory = None;
    let mut long_name = None;
    // Raw: tar's own reading of long names has no limit.
    for (count, entry) in archive.entries()?.raw(true).enumerate() {
        let mut entry = entry?;
        if count >= 2 * MOST_FILES {
            return Err(bad(format!("it has more than {MOST_FILES} files")));
        }
        if entry.header().entry_type().is_gnu_longname() {
            let mut name = Vec::new();
            (&mut entry).take(LONGEST).read_to_end(&mut name)?;
            name.pop_if(|last| *last == 0);
            long_name = Some(String::from_utf8(name).map_err(|_| bad("a path in it is no text"))?);
            continue;
        }
        let path = match long_name.take() {
            Some(name) => std::path::PathBuf::from(name),
            None => entry.path()?.into_owned(),
        };
        let shown = || printable(&path.to_string_lossy(), 200);
        if entry.header().entry_type().is_dir() {
            continue;
        }
        if !entry.header().entry_type().is_file() {
            return Err(bad(format!("{} is no regular file", shown())));
        }
        let mut components = path.components();
        let first = components.next();
        let name = components.as_path().to_str().filter(|name| !name.is_empty());
        let is_plain = components.clone().all(|component| matches!(component, Component::Normal(_)));
        let (Some(Component::Normal(first)), Some(name), true) = (first, name, is_plain) else {
            return Err(bad(format!("{} is no path in its directory", shown())));
        };
        if directory.get_or_insert_with(|| first.to_owned()) != first {
            return Err(bad(format!("{} is in another directory", shown())));
        }
        visit(name, &mut entry)?;
    }
    // tar stops at its end; what is behind must be there as well.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink())?;
    if rest.limit() == 0 {
        return Err(bad(format!("it holds more than {MOST_RATIO} times its own size")));
    }
    Ok(())
}

/// Where the content of a file goes.
enum Sink {
    Nothing,
    Memory(Vec<u8>),
    File(File),
}

/// Bytes and SHA-256.
fn copy(from: &mut dyn Read, to: &mut Sink) -> Result<(u64, String), BundleError> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hex(&hash.finalize())));
        }
        bytes += read as u64;
        hash.update(&buffer[..read]);
        match to {
            Sink::Nothing => {}
            Sink::File(file) => file.write_all(&buffer[..read])?,
            Sink::Memory(_) if bytes > MOST => return Err(bad("one of its texts is too large")),
            Sink::Memory(text) => text.extend_from_slice(&buffer[..read]),
        }
    }
}

/// Files that are not what their checksums say, that are missing, and that have none.
fn compare(sums: &str, found: &BTreeMap<String, (u64, String)>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut listed = BTreeMap::new();
    for line in sums.lines() {
        match line.split_once("  ") {
            Some((sum, name)) => drop(listed.insert(name, sum)),
            None => problems.push(format!("{SUMS}: `{}` is no checksum with a name", printable(line, 100))),
        }
    }
    for (name, sum) in &listed {
        match found.get(*name) {
            None => problems.push(format!("{} is missing", printable(name, 200))),
            Some((_, found)) if found != sum => {
                problems.push(format!("{}: its SHA-256 is {found}, not {}", printable(name, 200), printable(sum, 64)));
            }
            Some(_) => {}
        }
    }
    let unlisted = found.keys().filter(|name| *name != SUMS && !listed.contains_key(name.as_str()));
    problems.extend(unlisted.map(|name| format!("{} has no checksum", printable(name, 200))));
    problems
}

/// Attempts of a database, each verified.
fn attempts(path: &Path) -> Result<usize, StoreError> {
    let file = RecordFile::open(path)?;
    let mut count = 0;
    for record in file.records()? {
        record?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::super::{About, Content, Part, pack};
    use super::*;
    use crate::spec::Spec;

    fn parts() -> Vec<Part> {
        let text = "name = \"x\"\nrepetitions = 1\n\n[factors]\ntestbed = \"netns\"\n\n[workload]\npreset = \"ab\"\n";
        let plan = Plan::expand(Spec::parse(text).unwrap(), text.to_owned()).unwrap();
        let mut json = Vec::new();
        plan.to_json(&mut json).unwrap();
        let part =
            |name: &str, content: &[u8]| Part { name: name.to_owned(), content: Content::Bytes(content.to_vec()) };
        vec![part(SPEC, text.as_bytes()), part(PLAN, &json), part("artifacts/a", b"packets")]
    }

    fn write(directory: &Path, parts: &[Part]) -> std::path::PathBuf {
        let path = directory.join("x.tar.zst");
        pack("x", &About::default(), parts, 1, File::create(&path).unwrap()).unwrap();
        path
    }

    #[test]
    fn paths_of_any_length_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let name = format!("artifacts/{}/a", ["d"; 100].join("/"));
        let mut parts = parts();
        parts.push(Part { name: name.clone(), content: Content::Bytes(b"x".to_vec()) });
        let bundle = verify(&write(directory.path(), &parts), directory.path()).unwrap();
        assert_eq!((bundle.problems.len(), bundle.files[&name]), (0, 1));
    }

    #[test]
    fn what_is_packed_beyond_measure_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut parts = parts();
        parts.push(Part { name: "artifacts/zeros".to_owned(), content: Content::Bytes(vec![0; 200 << 20]) });
        let path = write(directory.path(), &parts);
        let error = verify(&path, directory.path()).unwrap_err().to_string();
        assert!(error.contains("more than 2000 times") || error.contains("to its end"), "{error}");
    }

    #[test]
    fn files_with_several_names_take_their_room_once() {
        let directory = tempfile::tempdir().unwrap();
        // Nothing that compresses, and more than the usual window of zstd.
        let mut content = vec![0; 3 << 20];
        File::open("/dev/urandom").unwrap().read_exact(&mut content).unwrap();
        let files = ["a", "b", "c"].map(|name| directory.path().join(name));
        std::fs::write(&files[0], &content).unwrap();
        std::fs::hard_link(&files[0], &files[1]).unwrap();
        std::fs::write(&files[2], &content).unwrap();
        let packed = |chosen: [usize; 2]| {
            let mut parts = parts();
            for index in chosen {
                let name = format!("artifacts/{index}");
                parts.push(Part { name, content: Content::File(files[index].clone()) });
            }
            let path = write(directory.path(), &parts);
            let bundle = verify(&path, directory.path()).unwrap();
            assert_eq!((bundle.problems.len(), bundle.files[&format!("artifacts/{}", chosen[1])]), (0, 3 << 20));
            path.metadata().unwrap().len()
        };
        let (once, twice) = (packed([0, 1]), packed([0, 2]));
        assert!(once < 4 << 20 && twice > 6 << 20, "{once} {twice}");
    }

    #[test]
    fn what_was_packed_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), &parts());
        let bundle = verify(&path, directory.path()).unwrap();
        assert_eq!(bundle.problems, [""; 0]);
        assert_eq!(bundle.files["artifacts/a"], 7);
        let mut out = Vec::new();
        extract(&path, "artifacts/a", &mut out).unwrap();
        assert_eq!(out, b"packets");
        let first = std::fs::read(&path).unwrap();
        assert_eq!(std::fs::read(write(directory.path(), &parts())).unwrap(), first, "same parts, same bytes");
    }

    /// A bundle whose archive went through `change`.
    fn changed(change: impl Fn(&str, Vec<u8>) -> Vec<(String, Vec<u8>)>) -> Result<Bundle, BundleError> {
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), &parts());
        let mut out = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        let mut archive = tar::Archive::new(zstd::Decoder::new(File::open(&path).unwrap()).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            for (name, content) in change(&name, content) {
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                header.set_mode(0o644);
                let bytes = header.as_old_mut();
                bytes.name[..name.len()].copy_from_slice(name.as_bytes());
                header.set_cksum();
                out.append(&header, content.as_slice()).unwrap();
            }
        }
        std::fs::write(&path, out.into_inner().unwrap().finish().unwrap()).unwrap();
        verify(&path, directory.path())
    }

    #[test]
    fn a_change_is_found() {
        let keep = |name: &str, content: Vec<u8>| vec![(name.to_owned(), content)];
        assert_eq!(changed(keep).unwrap().problems, [""; 0]);
        let other = |name: &str, content| {
            if name == "x/artifacts/a" { keep(name, b"PACKETS".to_vec()) } else { keep(name, content) }
        };
        assert!(changed(other).unwrap().problems[0].starts_with("artifacts/a: its SHA-256 is "));
        let less = |name: &str, content| if name == "x/artifacts/a" { Vec::new() } else { keep(name, content) };
        assert_eq!(changed(less).unwrap().problems, ["artifacts/a is missing"]);
        let more = |name: &str, content| {
            let more = (name == "x/plan.json").then(|| ("x/evil".to_owned(), Vec::new()));
            keep(name, content).into_iter().chain(more).collect()
        };
        assert_eq!(changed(more).unwrap().problems, ["evil has no checksum"]);
        let spec =
            |name: &str, content| if name == "x/spec.toml" { keep(name, Vec::new()) } else { keep(name, content) };
        assert!(changed(spec).unwrap().problems.contains(&"spec.toml is not the spec of plan.json".to_owned()));
    }

    #[test]
    fn what_is_no_bundle_is_refused() {
        let more = |bad: &'static str| {
            changed(move |name, content| {
                let more = (name == "x/plan.json").then(|| (bad.to_owned(), Vec::new()));
                [(name.to_owned(), content)].into_iter().chain(more).collect()
            })
            .unwrap_err()
            .to_string()
        };
        assert_eq!(more("x/../y"), "x/../y is no path in its directory");
        assert_eq!(more("y/z"), "y/z is in another directory");
        assert_eq!(more("x/spec.toml"), "spec.toml is in it twice");
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), &parts());
        let content = std::fs::read(&path).unwrap();
        std::fs::write(&path, &content[..content.len() - 20]).unwrap();
        verify(&path, directory.path()).unwrap_err();
        std::fs::write(&path, b"PK").unwrap();
        verify(&path, directory.path()).unwrap_err();
    }
}

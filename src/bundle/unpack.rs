//! Reading a bundle, which may come from anybody.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{ARTIFACTS, DATABASE, METADATA, SPEC, SUMS};
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
/// Memory of zstd's decoder, as a power of two.
const WINDOW: u32 = 27;

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
        let entry = match entry {
            Found::File(entry) => entry,
            Found::Like(first) => {
                let same = found.get(first).cloned().ok_or_else(|| nowhere(name))?;
                return once(found.insert(name.to_owned(), same), name);
            }
        };
        let mut sink = match name {
            DATABASE => Sink::File(File::create(&database)?),
            PLAN | SPEC | SUMS | METADATA => Sink::Memory(Vec::new()),
            _ => Sink::Nothing,
        };
        let (bytes, sum) = copy(entry, &mut sink)?;
        if let Sink::Memory(text) = sink {
            texts.insert(name.to_owned(), text);
        }
        once(found.insert(name.to_owned(), (bytes, sum)), name)
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

fn once<T>(before: Option<T>, name: &str) -> Result<(), BundleError> {
    match before {
        Some(_) => Err(bad(format!("{} is in it twice", printable(name, 200)))),
        None => Ok(()),
    }
}

fn nowhere(name: &str) -> BundleError {
    bad(format!("{} is a link to a file that is not before it", printable(name, 200)))
}

/// Writes one file of a bundle.
///
/// # Errors
/// When the bundle cannot be read or has no such file.
pub fn extract(path: &Path, name: &str, out: &mut impl Write) -> Result<(), BundleError> {
    let mut is_there = false;
    let mut first = None;
    each(path, |found, entry| {
        if found == name {
            is_there = true;
            match entry {
                Found::File(entry) => drop(io::copy(entry, out)?),
                Found::Like(other) => first = Some(other.to_owned()),
            }
        }
        Ok(())
    })?;
    let Some(first) = first else {
        return if is_there { Ok(()) } else { Err(bad(format!("it has no {name}"))) };
    };
    let mut is_file = false;
    each(path, |found, entry| {
        if let Found::File(entry) = entry
            && found == first
        {
            is_file = true;
            io::copy(entry, out)?;
        }
        Ok(())
    })?;
    if is_file { Ok(()) } else { Err(nowhere(name)) }
}

/// A file of a bundle.
enum Found<'a> {
    /// With its content.
    File(&'a mut dyn Read),
    /// The same as another one.
    Like(&'a str),
}

/// Shows the files of a bundle, by their paths in its directory.
fn each(path: &Path, mut visit: impl FnMut(&str, Found<'_>) -> Result<(), BundleError>) -> Result<(), BundleError> {
    let file = File::open(path)?;
    let most = file.metadata()?.len().saturating_mul(MOST_RATIO).saturating_add(1 << 20);
    let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(1 << 20, file))?;
    decoder.window_log_max(WINDOW)?;
    let mut archive = tar::Archive::new(decoder.take(most));
    let mut directory = None;
    let (mut long_name, mut long_link) = (None, None);
    // Raw: tar's own reading of long names has no limit.
    for (count, entry) in archive.entries()?.raw(true).enumerate() {
        let mut entry = entry?;
        if count >= 2 * MOST_FILES {
            return Err(bad(format!("it has more than {MOST_FILES} files")));
        }
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            long_name = Some(long_path(&mut entry)?);
            continue;
        }
        if kind.is_gnu_longlink() {
            long_link = Some(long_path(&mut entry)?);
            continue;
        }
        let path = match long_name.take() {
            Some(name) => name,
            None => entry.path()?.into_owned(),
        };
        let long_link = long_link.take();
        // Programs do not agree on whether it is there, and so on where the next entry begins.
        if !kind.is_file() && entry.size() != 0 {
            return Err(bad(format!("{} is no file and has content", printable(&path.to_string_lossy(), 200))));
        }
        if kind.is_dir() {
            continue;
        }
        if kind.is_file() {
            visit(inside(&path, &mut directory)?, Found::File(&mut entry))?;
            continue;
        }
        let target = long_link.or(entry.link_name()?.map(std::borrow::Cow::into_owned));
        let Some(target) = target.filter(|_| kind.is_hard_link()) else {
            return Err(bad(format!("{} is no regular file", printable(&path.to_string_lossy(), 200))));
        };
        let (name, target) = (inside(&path, &mut directory)?, inside(&target, &mut directory)?);
        // The others are read for what they are.
        if ![name, target].iter().all(|name| Path::new(name).starts_with(ARTIFACTS)) {
            return Err(bad(format!("{} is a link, which only a file in {ARTIFACTS} can be", printable(name, 200))));
        }
        visit(name, Found::Like(target))?;
    }
    // tar stops at its end; what is behind must be there as well.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink())?;
    if rest.limit() == 0 {
        return Err(bad(format!("it holds more than {MOST_RATIO} times its own size")));
    }
    Ok(())
}

/// The path that stands in an entry of its own.
fn long_path(entry: &mut impl Read) -> Result<PathBuf, BundleError> {
    let mut name = Vec::new();
    entry.take(LONGEST).read_to_end(&mut name)?;
    name.pop_if(|last| *last == 0);
    String::from_utf8(name).map(PathBuf::from).map_err(|_| bad("a path in it is no text"))
}

/// A path without the bundle's directory, which is the first that is seen.
fn inside<'p>(path: &'p Path, directory: &mut Option<OsString>) -> Result<&'p str, BundleError> {
    let shown = || printable(&path.to_string_lossy(), 200);
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
    Ok(name)
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

    fn write(directory: &Path, parts: &[Part]) -> PathBuf {
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
    fn a_file_with_several_names_is_in_it_once() {
        let directory = tempfile::tempdir().unwrap();
        // Nothing that compresses, and more than zstd looks back.
        let mut content = vec![0; 3 << 20];
        File::open("/dev/urandom").unwrap().read_exact(&mut content).unwrap();
        let files = ["a", "b", "c"].map(|name| directory.path().join(name));
        std::fs::write(&files[0], &content).unwrap();
        std::fs::hard_link(&files[0], &files[1]).unwrap();
        std::fs::write(&files[2], &content).unwrap();
        let long = format!("artifacts/{}", ["d"; 100].join("/"));
        let packed = |chosen: [usize; 3]| {
            let mut parts = parts();
            for (place, index) in chosen.into_iter().enumerate() {
                let name = format!("{long}/{place}");
                parts.push(Part { name, content: Content::File(files[index].clone()) });
            }
            let path = write(directory.path(), &parts);
            let bundle = verify(&path, directory.path()).unwrap();
            assert_eq!((bundle.problems.len(), bundle.files[&format!("{long}/2")]), (0, 3 << 20));
            let mut out = Vec::new();
            extract(&path, &format!("{long}/2"), &mut out).unwrap();
            assert!(out == content);
            path.metadata().unwrap().len() >> 20
        };
        assert_eq!((packed([0, 1, 1]), packed([0, 1, 2])), (3, 6));
    }

    #[test]
    fn links_that_lead_elsewhere_are_refused() {
        let refused = |name: &str, target: &str| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("x.tar.zst");
            let mut out = tar::Builder::new(zstd::Encoder::new(File::create(&path).unwrap(), 1).unwrap());
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            out.append_data(&mut header, "x/artifacts/a", &b"a"[..]).unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Link);
            header.set_size(0);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_cksum();
            out.append(&header, io::empty()).unwrap();
            out.into_inner().unwrap().finish().unwrap();
            verify(&path, directory.path()).unwrap_err().to_string()
        };
        assert!(refused("x/artifacts/b", "x/artifacts/a").contains("no SHA256SUMS"), "this one is no fault");
        assert_eq!(refused("x/artifacts/b", "/etc/passwd"), "/etc/passwd is no path in its directory");
        assert_eq!(refused("x/artifacts/b", "x/artifacts/../../y"), "x/artifacts/../../y is no path in its directory");
        assert_eq!(refused("x/artifacts/b", "y/artifacts/a"), "y/artifacts/a is in another directory");
        assert_eq!(refused("x/artifacts/b", "x/artifacts/c"), "artifacts/b is a link to a file that is not before it");
        assert_eq!(refused("x/artifacts/a", "x/artifacts/a"), "artifacts/a is in it twice");
        let only = "plan.json is a link, which only a file in artifacts can be";
        assert_eq!(refused("x/plan.json", "x/artifacts/a"), only);
    }

    #[test]
    fn links_and_directories_with_content_are_refused() {
        for (kind, size, expected) in [
            (tar::EntryType::Link, 512, "x/artifacts/b is no file and has content"),
            (tar::EntryType::Directory, 1, "x/artifacts/b is no file and has content"),
            (tar::EntryType::Link, 0, "no SHA256SUMS"),
            (tar::EntryType::Directory, 0, "no SHA256SUMS"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("x.tar.zst");
            let mut out = tar::Builder::new(zstd::Encoder::new(File::create(&path).unwrap(), 1).unwrap());
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            out.append_data(&mut header, "x/artifacts/a", &b"a"[..]).unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(size);
            header.set_path("x/artifacts/b").unwrap();
            header.set_link_name("x/artifacts/a").unwrap();
            header.set_cksum();
            out.append(&header, io::repeat(b'x').take(size)).unwrap();
            out.into_inner().unwrap().finish().unwrap();
            let error = verify(&path, directory.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{kind:?}, {size} bytes: {error}");
        }
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

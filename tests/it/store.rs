//! The store when the disk is full and when it is killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use vptest::ids::{IterationNumber, ShortHash, Stage};
use vptest::record::{Event, EventLevel, Header, IterationRecord, Outcome};
use vptest::store::{RecordFile, StoreError, merge, scan, stale_temps, write_iteration};

use crate::need::need;

pub(crate) fn record(n: u32) -> IterationRecord {
    IterationRecord {
        header: Header {
            identity: ShortHash::of(&n.to_be_bytes()),
            tuple: ShortHash::of(b"tuple"),
            number: IterationNumber(n),
            repetition: 1,
            block: None,
            attempt: 1,
            testbed: "fake".to_owned(),
            host: "here".to_owned(),
            started_ns: i64::from(n),
            finished_ns: None,
            spec_hash: ShortHash::of(b"spec"),
            vptest_version: "0.1.0".to_owned(),
        },
        outcome: Outcome::Complete,
        factors: Vec::new(),
        settings: Vec::new(),
        metrics: Vec::new(),
        quantiles: Vec::new(),
        captures: Vec::new(),
        paths: Vec::new(),
        syscalls: Vec::new(),
        probes: Vec::new(),
        counters: Vec::new(),
        events: (0..20)
            .map(|i| Event {
                at_ns: i,
                stage: Stage::Workload,
                level: EventLevel::Info,
                text: "something happened ".repeat(20),
            })
            .collect(),
        stages: Vec::new(),
        environment: Vec::new(),
    }
}

fn read(path: &Path) -> Vec<IterationRecord> {
    RecordFile::open(path).unwrap().records().unwrap().map(|r| r.unwrap().record).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A small file system of its own; unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let mounted = nix::mount::mount(
            Some("vptest-test"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        );
        mounted.is_ok().then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let disk = SmallDisk::new(256 * 1024);
    if !need("root", disk.is_some()) {
        return;
    }
    let disk = disk.unwrap();
    let dir = disk.0.path();
    let mut written = 0;
    let error = loop {
        match write_iteration(dir, &record(written + 1)) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "the disk does not fill");
    };
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    assert!(written > 0);
    let names = names(dir);
    assert_eq!(names.len(), written as usize, "something stayed: {names:?}");

    let inputs: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
    let error = merge(&inputs, &dir.join("merged.db"), &mut |_| ()).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    assert_eq!(self::names(dir), names);
    for (path, n) in inputs.iter().zip(1..) {
        assert_eq!(read(path), [record(n)]);
    }
}

/// Runs the test `name` of this binary in a process of its own, with `dir` as its place.
fn spawn(name: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env("VPTEST_TEST_DIR", dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn helper_dir() -> Option<PathBuf> {
    std::env::var_os("VPTEST_TEST_DIR").map(PathBuf::from)
}

#[test]
#[ignore = "run by a_killed_writer_leaves_whole_files"]
fn helper_writes_for_ever() {
    let Some(dir) = helper_dir() else { return };
    for n in 1.. {
        write_iteration(&dir, &record(n)).unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_whole_files() {
    for round in 1..=8 {
        let dir = tempfile::tempdir().unwrap();
        let mut child = spawn("store::helper_writes_for_ever", dir.path());
        while scan(dir.path()).unwrap().len() < round {
            assert!(child.try_wait().unwrap().is_none(), "the writer ended");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for name in scan(dir.path()).unwrap().iter() {
            assert_eq!(read(&dir.path().join(name.to_string())), [record(name.number.0)]);
        }
        // What the dead writer was at can be found and removed, and nothing else is there.
        for temp in stale_temps(dir.path()).unwrap() {
            std::fs::remove_file(temp).unwrap();
        }
        assert_eq!(names(dir.path()).len(), scan(dir.path()).unwrap().len());
    }
}

#[test]
#[ignore = "run by a_killed_merge_leaves_the_old_output"]
fn helper_merges() {
    let Some(dir) = helper_dir() else { return };
    let inputs: Vec<PathBuf> =
        scan(&dir.join("in")).unwrap().iter().map(|name| dir.join("in").join(name.to_string())).collect();
    // Waits in the middle for the signal, so that it comes where it should.
    merge(&inputs, &dir.join("merged.db"), &mut |progress| {
        if progress.done == progress.total / 2 {
            std::fs::write(dir.join("half"), "").unwrap();
            loop {
                std::thread::park();
            }
        }
    })
    .unwrap();
}

#[test]
fn a_killed_merge_leaves_the_old_output() {
    let dir = tempfile::tempdir().unwrap();
    let input_dir = dir.path().join("in");
    std::fs::create_dir(&input_dir).unwrap();
    let inputs: Vec<PathBuf> = (1..=20).map(|n| write_iteration(&input_dir, &record(n)).unwrap()).collect();
    let output = dir.path().join("merged.db");
    merge(&inputs[..1], &output, &mut |_| ()).unwrap();
    let before = std::fs::read(&output).unwrap();

    let mut child = spawn("store::helper_merges", dir.path());
    while !dir.path().join("half").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the merge ended");
        std::thread::yield_now();
    }
    assert!(stale_temps(dir.path()).unwrap().is_empty(), "a temporary file of a living merge counts as left behind");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(std::fs::read(&output).unwrap(), before);
    let left = stale_temps(dir.path()).unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    left.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    assert_eq!(names(dir.path()), ["half", "in", "merged.db"]);

    let report = merge(&inputs, &output, &mut |_| ()).unwrap();
    assert_eq!((report.added, report.known), (19, 1));
    assert_eq!(read(&output).len(), 20);
}

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::record::Outcome;
use crate::runner::Canceller;
use crate::store::tests::records::sample;

/// A campaign's directory with the files of one attempt: its directory and the name of the attempt.
fn attempt(out: &Path, attempt: u32, files: &[(&str, &[u8])]) -> (PathBuf, AttemptName) {
    let mut header = sample(7).header;
    header.attempt = attempt;
    let name = AttemptName::of(&header);
    let directory = name.artifacts(out);
    for (file, content) in files {
        let path = directory.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    (directory, name)
}

fn tidied(spec: &StorageSpec, out: &Path, name: AttemptName) -> Tidied {
    let (_canceller, cancel) = Canceller::new();
    Tidying::new(spec, out, name, &cancel).run(Status::Complete, 3)
}

fn there(directory: &Path) -> Vec<String> {
    let all = files_of(directory).unwrap_or_default();
    all.iter().map(|path| path.strip_prefix(directory).unwrap().display().to_string()).collect()
}

/// More than a small file, which compresses well.
fn large() -> Vec<u8> {
    b"0123456789 packets".repeat(1000)
}

const FILES: [&str; 5] =
    ["client1/a.pcapng", "client1/deep/syscalls-x.zst", "client1-guest.pcapng", "client1.console", "syscalls-host.zst"];

fn all_kinds() -> Vec<(&'static str, &'static [u8])> {
    FILES.map(|name| (name, name.as_bytes())).to_vec()
}

#[test]
fn each_kind_has_a_rule_and_what_a_node_handed_over_is_an_output() {
    type Case = (fn(&mut StorageSpec), &'static [usize]);
    let rules: [Case; 3] = [
        (|spec| spec.captures = KeepRule::NONE, &[2]),
        (|spec| spec.events = KeepRule::NONE, &[4]),
        (|spec| spec.outputs = KeepRule::NONE, &[0, 1, 3]),
    ];
    for (set, gone) in rules {
        let out = tempfile::tempdir().unwrap();
        let (directory, name) = attempt(out.path(), 1, &all_kinds());
        let mut spec = StorageSpec::default();
        set(&mut spec);
        let tidied = tidied(&spec, out.path(), name);
        let expected: Vec<&str> = (0..5).filter(|index| !gone.contains(index)).map(|index| FILES[index]).collect();
        assert_eq!(there(&directory), expected);
        let [(EventLevel::Info, text)] = &tidied.events[..] else { panic!("{:?}", tidied.events) };
        assert!(text.starts_with("not kept, as storage.") && text.contains(FILES[gone[0]]), "{text}");
        assert_eq!(tidied.files.len(), gone.len());
        assert!(tidied.files.values().all(Option::is_none));
    }
    // Without any file there is no directory either.
    let out = tempfile::tempdir().unwrap();
    let (directory, name) = attempt(out.path(), 1, &all_kinds());
    let none = StorageSpec { captures: KeepRule::NONE, events: KeepRule::NONE, ..StorageSpec::default() };
    tidied(&StorageSpec { outputs: KeepRule::NONE, ..none }, out.path(), name);
    assert!(!directory.exists());
}

#[test]
fn the_record_names_files_as_they_are_and_says_what_is_gone() {
    let out = tempfile::tempdir().unwrap();
    let content = large();
    let (directory, name) = attempt(out.path(), 1, &[("a.pcapng", &content), ("syscalls-host.zst", b"x")]);
    let mut record = sample(7);
    record.outcome = Outcome::Complete;
    record.header.attempt = 1;
    let below = |file: &str| format!("{}/{file}", directory.file_name().unwrap().to_str().unwrap());
    record.captures[0].file = Some(below("a.pcapng"));
    record.syscalls[0].log = Some(below("syscalls-host.zst"));
    assert_eq!(AttemptName::of(&record.header), name);
    let spec = StorageSpec { events: KeepRule::NONE, compress: Some(3), ..StorageSpec::default() };
    struct Silent;
    impl Observer for Silent {
        fn notice(&self, _: &Progress<'_>) {}
    }
    let before = record.events.len();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let record = runtime.block_on(apply(&spec, out.path(), record, &Silent, &Canceller::new().1));
    assert_eq!(record.captures[0].file, Some(below("a.pcapng.zst")));
    assert_eq!(record.syscalls[0].log, None);
    assert_eq!(record.events.len(), before + 2, "{:?}", record.events);
    assert_eq!(there(&directory), ["a.pcapng.zst"]);
    crate::store::check_record(&record).unwrap();
}

#[test]
fn compressed_files_hold_the_same_bytes_and_others_stay() {
    let out = tempfile::tempdir().unwrap();
    let content = large();
    let gzip = [&[0x1f, 0x8b][..], &content].concat();
    let limit = vec![7; 4096];
    let files: [(&str, &[u8]); 6] = [
        ("a.pcapng", &content),
        ("client1/both", &content),
        ("client1/both.zst", &content),
        ("client1/gzip", &gzip),
        ("client1/limit", &limit),
        ("client1/more", &[7; 4097]),
    ];
    let (directory, name) = attempt(out.path(), 1, &files);
    std::fs::set_permissions(directory.join("client1/more"), std::fs::Permissions::from_mode(0o750)).unwrap();
    let spec = StorageSpec { compress: Some(19), ..StorageSpec::default() };
    let tidied = tidied(&spec, out.path(), name);
    let names =
        ["a.pcapng.zst", "client1/both", "client1/both.zst.zst", "client1/gzip", "client1/limit", "client1/more.zst"];
    assert_eq!(there(&directory), names);
    let unpacked = |name: &str| zstd::decode_all(std::fs::File::open(directory.join(name)).unwrap()).unwrap();
    assert!(unpacked("a.pcapng.zst") == content && unpacked("client1/both.zst.zst") == content);
    assert_eq!(unpacked("client1/more.zst"), [7; 4097]);
    assert_eq!(directory.join("client1/more.zst").metadata().unwrap().mode() & 0o777, 0o750);
    let (levels, texts): (Vec<_>, Vec<_>) = tidied.events.iter().cloned().unzip();
    assert_eq!(levels, [EventLevel::Warn, EventLevel::Info]);
    assert!(texts[0].starts_with("cannot compress client1/both, which stays as it is: "), "{texts:?}");
    assert!(texts[1].starts_with("compressed 3 files with zstd: "), "{texts:?}");
}

#[test]
fn who_wishes_an_end_does_not_wait_for_compression() {
    let out = tempfile::tempdir().unwrap();
    let content = large();
    let files: [(&str, &[u8]); 3] = [("a.pcapng", &content), ("client1/b", &content), ("syscalls-host.zst", b"x")];
    let (directory, name) = attempt(out.path(), 1, &files);
    let spec = StorageSpec { events: KeepRule::NONE, compress: Some(3), deduplicate: true, ..StorageSpec::default() };
    let (canceller, cancel) = Canceller::new();
    canceller.cancel("Ctrl-C");
    let tidied = Tidying::new(&spec, out.path(), name, &cancel).run(Status::Interrupted, 1);
    assert_eq!(there(&directory), ["a.pcapng", "client1/b"], "dropped all the same");
    assert_eq!(tidied.events[1..], [(EventLevel::Warn, "Ctrl-C: 2 files not compressed, and as before".to_owned())]);
    assert!(!out.path().join(".objects").exists());
    // Also in the middle of a file.
    let asked = std::cell::Cell::new(0);
    let path = directory.join("big");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    let may_go_on = || asked.replace(asked.get() + 1) < 3;
    assert!(matches!(compress::compress(&path, 3, &may_go_on).unwrap(), compress::Done::Stopped));
    assert_eq!(there(&directory), ["a.pcapng", "big", "client1/b"], "something half is left");
}

#[test]
fn captures_on_their_way_are_removed() {
    let out = tempfile::tempdir().unwrap();
    let files: [(&str, &[u8]); 3] = [(".a.pcapng.tmp", b"x"), ("b.pcapng", b"x"), ("client1/.c.tmp", b"x")];
    let (directory, name) = attempt(out.path(), 1, &files);
    let spec = StorageSpec { deduplicate: true, ..StorageSpec::default() };
    let events = tidied(&spec, out.path(), name).events;
    assert_eq!(there(&directory), ["b.pcapng", "client1/.c.tmp"], "what a node handed over is no capture");
    let text = "removed what was not written to its end: .a.pcapng.tmp".to_owned();
    assert_eq!(events, [(EventLevel::Warn, text)]);
    assert_eq!(Kind::of(Path::new(".a.pcapng.tmp")), Kind::Capture);
}

#[test]
fn however_many_files_cannot_be_compressed_there_is_one_event() {
    let out = tempfile::tempdir().unwrap();
    let content = large();
    let names: Vec<String> = (0..5).flat_map(|n| [format!("client1/{n}"), format!("client1/{n}.zst")]).collect();
    let bytes = |name: &str| if name.ends_with(".zst") { &b"x"[..] } else { &content };
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], bytes(name))).collect();
    let (_, name) = attempt(out.path(), 1, &files);
    let spec = StorageSpec { compress: Some(1), ..StorageSpec::default() };
    let events = tidied(&spec, out.path(), name).events;
    let [(EventLevel::Warn, text)] = &events[..] else { panic!("{events:?}") };
    assert!(text.starts_with("cannot compress client1/0, ") && text.ends_with("; nor 4 files more"), "{text}");
}

#[test]
fn after_a_panic_files_are_named_as_they_are() {
    let out = tempfile::tempdir().unwrap();
    let below = |file: &str| format!("000007-{file}");
    std::fs::write(out.path().join(below("a")), "x").unwrap();
    std::fs::write(out.path().join(below("a.zst")), "x").unwrap();
    std::fs::write(out.path().join(below("b.zst")), "x").unwrap();
    let found = ["a", "b", "c"].map(|file| as_it_is(out.path(), &below(file)));
    assert_eq!(found, [Some(below("a")), Some(below("b.zst")), None]);
}

fn inode(path: PathBuf) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

#[test]
fn equal_files_are_one_and_stay_when_a_name_goes() {
    let out = tempfile::tempdir().unwrap();
    let content = large();
    let files: [(&str, &[u8]); 3] = [("client1/a", &content), ("client1/b", &content), ("client1/small", b"small")];
    let spec = StorageSpec { deduplicate: true, ..StorageSpec::default() };
    let (first, name) = attempt(out.path(), 1, &files);
    assert_eq!(tidied(&spec, out.path(), name).events.len(), 1);
    let (second, name) = attempt(out.path(), 2, &files);
    let said = tidied(&spec, out.path(), name).events;
    assert!(said[0].1.ends_with("linked to that: 2 files, 36000 bytes"), "{said:?}");
    let one = inode(first.join("client1/a"));
    for path in [first.join("client1/b"), second.join("client1/a"), second.join("client1/b")] {
        assert_eq!(inode(path.clone()), one);
        assert_eq!(path.metadata().unwrap().mode() & 0o222, 0, "it could be written to under another name");
    }
    assert_ne!(inode(first.join("client1/small")), inode(second.join("client1/small")));
    std::fs::remove_dir_all(&first).unwrap();
    assert_eq!(std::fs::read(second.join("client1/a")).unwrap(), content);
    // The hint leads nowhere now: the next one is stored as it is, and those after it are linked to it.
    let (third, name) = attempt(out.path(), 3, &files[..1]);
    assert!(tidied(&spec, out.path(), name).events.is_empty());
    let (fourth, name) = attempt(out.path(), 4, &files[..1]);
    tidied(&spec, out.path(), name);
    assert_eq!(inode(third.join("client1/a")), inode(fourth.join("client1/a")));
    assert_ne!(inode(third.join("client1/a")), one);
    assert_eq!(there(&fourth), ["client1/a"], "something else was left");
}

#[test]
fn a_hint_that_is_wrong_links_nothing() {
    let out = tempfile::tempdir().unwrap();
    let content = large();
    let spec = StorageSpec { deduplicate: true, ..StorageSpec::default() };
    let (first, name) = attempt(out.path(), 1, &[("client1/a", &content)]);
    tidied(&spec, out.path(), name);
    // Somebody has changed it, without its length.
    let mut other = content.clone();
    other[5000] ^= 1;
    let path = first.join("client1/a");
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    std::fs::write(&path, &other).unwrap();
    mode(0o444);
    let (second, name) = attempt(out.path(), 2, &[("client1/a", &content)]);
    tidied(&spec, out.path(), name);
    assert_eq!(std::fs::read(second.join("client1/a")).unwrap(), content);
    assert_eq!(std::fs::read(&path).unwrap(), other);
}

#[test]
fn a_file_that_may_be_written_to_is_not_linked_to() {
    let out = tempfile::tempdir().unwrap();
    let content = large();
    let spec = StorageSpec { deduplicate: true, ..StorageSpec::default() };
    let linked = [0o444, 0o644].map(|mode| {
        let number = mode;
        let (first, name) = attempt(out.path(), number, &[("client1/a", &content)]);
        tidied(&spec, out.path(), name);
        let path = first.join("client1/a");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let (second, name) = attempt(out.path(), number + 1, &[("client1/a", &content)]);
        tidied(&spec, out.path(), name);
        inode(path) == inode(second.join("client1/a"))
    });
    assert_eq!(linked, [true, false]);
}

#[test]
fn a_hint_to_what_is_no_file_of_an_attempt_is_not_followed() {
    let around = tempfile::tempdir().unwrap();
    let out = around.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let content = large();
    let spec = StorageSpec { deduplicate: true, ..StorageSpec::default() };
    let (_, name) = attempt(&out, 1, &[("client1/a", &content)]);
    tidied(&spec, &out, name);
    let bucket = std::fs::read_dir(out.join(".objects")).unwrap().next().unwrap().unwrap().path();
    let hint = std::fs::read_dir(&bucket).unwrap().next().unwrap().unwrap().path();
    // Each would do by its content and its mode.
    let elsewhere = around.path().join("elsewhere");
    let fixed = std::fs::Permissions::from_mode(0o444);
    for path in [&elsewhere, &out.join("plan.json")] {
        std::fs::write(path, &content).unwrap();
        std::fs::set_permissions(path, fixed.clone()).unwrap();
    }
    let targets = [Path::new("../../../elsewhere"), &elsewhere, Path::new("../../plan.json")];
    for (number, target) in (2..).zip(targets) {
        std::fs::remove_file(&hint).unwrap();
        std::os::unix::fs::symlink(target, &hint).unwrap();
        assert_eq!(std::fs::read(bucket.join(target)).unwrap(), content, "{}", target.display());
        let (directory, name) = attempt(&out, number, &[("client1/a", &content)]);
        std::fs::set_permissions(directory.join("client1/a"), fixed.clone()).unwrap();
        assert!(tidied(&spec, &out, name).events.is_empty());
        assert_eq!(directory.join("client1/a").metadata().unwrap().nlink(), 1, "{}", target.display());
    }
}

#[test]
fn only_paths_in_directories_of_attempts_are_believed() {
    let ours = "000007-ba7816bf8f0101.d";
    for (path, expected) in [("a", true), ("client1/a", true), ("", false), ("../x", false), ("client1/../../x", false)]
    {
        assert_eq!(is_artifact(&Path::new(ours).join(path)), expected, "{path}");
    }
    for path in ["plan.json", "x.d/a", "/000007-ba7816bf8f0101.d/a", "000007-ba7816bf8f0101.db/a", "../x/a"] {
        assert!(!is_artifact(Path::new(path)), "{path}");
    }
}

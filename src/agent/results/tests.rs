use std::io::Cursor;

use proptest::prelude::*;

use super::*;

const LONG: &str =
    "a/directory/with/a/rather/long/name/that/does/not/fit/into/the/first/field/of/a/header/of/an/archive/at/all/x.log";

fn disk(files: &[(&str, &[u8])]) -> (Vec<u8>, ArchiveReceipt) {
    let mut writer = Writer::begin(Cursor::new(Vec::new()), 7).unwrap();
    for (name, content) in files {
        writer.add(name, content.len() as u64, &mut &content[..]).unwrap();
    }
    let (out, receipt) = writer.finish().unwrap();
    (out.into_inner(), receipt)
}

#[test]
fn what_files_need_is_what_they_take() {
    for sizes in [&[][..], &[0], &[1, 511, 512, 513], &[100_000]] {
        let contents: Vec<Vec<u8>> = sizes.iter().map(|size| vec![7; *size]).collect();
        let names: Vec<String> = (0..sizes.len()).map(|number| format!("f{number}")).collect();
        let files: Vec<(&str, &[u8])> =
            names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
        assert_eq!(needed(sizes.iter().map(|size| *size as u64)), disk(&files).0.len() as u64, "{sizes:?}");
    }
    assert_eq!(needed([u64::MAX, 1]), u64::MAX);
}

#[test]
fn only_what_was_told_is_read() {
    let (content, receipt) = disk(&[("a", b"one")]);
    let directory = tempfile::tempdir().unwrap();
    let (image, into) = (directory.path().join("image"), directory.path().join("into"));
    fs::write(&image, content).unwrap();
    fs::create_dir(&into).unwrap();
    let read = |receipt: &ArchiveReceipt| read_as_told(&image, receipt, ReadLimits::default(), &into);
    let turned = if receipt.sha256.starts_with('0') { "1" } else { "0" };
    let turned = format!("{turned}{}", &receipt.sha256[1..]);
    for (told, expected) in [
        (ArchiveReceipt { sha256: turned, ..receipt.clone() }, "is not the one that the node told"),
        (ArchiveReceipt { bytes: 2560, ..receipt.clone() }, "1 files in 2048 bytes are there, the node told 1 in 2560"),
        (ArchiveReceipt { files: 2, ..receipt.clone() }, "1 files in 2048 bytes are there, the node told 2 in 2048"),
        (ArchiveReceipt { nonce: 8, ..receipt.clone() }, "results number 7, not 8"),
    ] {
        let error = read(&told).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(fs::read_dir(&into).unwrap().count(), 0);
    }
    assert_eq!(read(&receipt).unwrap().len(), 1);
}

/// A disk whose checksums are right, around any stream.
fn around(stream: &[u8]) -> Vec<u8> {
    let head = Head {
        whole: true,
        nonce: 7,
        bytes: stream.len() as u64,
        sha256: hex(Sha256::new_with_prefix(stream)),
        files: 1,
    };
    [&header(&head), stream].concat()
}

fn unpack(disk: &[u8], nonce: Option<u64>, limits: ReadLimits) -> Result<Vec<(String, Vec<u8>)>, ResultsError> {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    fs::write(&image, disk).unwrap();
    let into = directory.path().join("into");
    fs::create_dir(&into).unwrap();
    let result = read(&image, nonce, limits, &into);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "something was unpacked elsewhere");
    if result.is_err() {
        assert_eq!(fs::read_dir(&into).unwrap().count(), 0, "something was unpacked of a bad disk");
    }
    Ok(result?.into_iter().map(|file| (file.name, fs::read(file.path).unwrap())).collect())
}

fn bad(disk: &[u8]) -> ResultsError {
    unpack(disk, None, ReadLimits::default()).unwrap_err()
}

#[test]
fn files_come_back() {
    let (disk, receipt) = disk(&[("tmp/x.log", b"hello"), ("empty", b""), (LONG, &[7; 1024])]);
    assert_eq!((receipt.files, receipt.bytes), (3, disk.len() as u64 - HEADER as u64));
    let more = [disk, vec![0xee; 5000]].concat();
    let files = unpack(&more, Some(7), ReadLimits::default()).unwrap();
    let expected = [("tmp/x.log", b"hello".to_vec()), ("empty", Vec::new()), (LONG, vec![7; 1024])];
    assert_eq!(files, expected.map(|(name, content)| (name.to_owned(), content)));
}

#[test]
fn tar_reads_the_stream() {
    let (disk, _) = disk(&[("tmp/x.log", b"hello"), (LONG, &[7; 1024])]);
    let mut tar = std::process::Command::new("tar")
        .arg("t")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    tar.stdin.take().unwrap().write_all(&disk[HEADER..]).unwrap();
    let output = tar.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("tmp/x.log\n{LONG}\n"));
}

#[test]
fn sizes_beyond_eight_gibibytes_survive() {
    for size in [0, 511, 1 << 33, (1 << 33) - 1, 1 << 40] {
        assert_eq!(read_entry(&entry("x", size).unwrap()).unwrap(), ("x".to_owned(), size));
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused_on_both_sides() {
    for name in ["", "/etc/x", "../x", "a/../../x", "a//b", "a/.", "a\nb", &"x".repeat(101)] {
        assert!(entry(name, 0).is_none(), "{name:?} was written");
        let mut head = entry("x", 0).unwrap();
        head[..100].fill(0);
        let length = name.len().min(100);
        head[..length].copy_from_slice(&name.as_bytes()[..length]);
        let sum = checksum(&head);
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let stream = [&head[..], &[0; 1024]].concat();
        if name.len() <= 100 {
            assert!(matches!(bad(&around(&stream)), ResultsError::Corrupt { offset: 4096, .. }), "{name:?}");
        }
    }
}

#[test]
fn links_and_bombs_are_refused() {
    for kind in *b"12345LKSx" {
        let mut head = entry("x", 0).unwrap();
        head[156] = kind;
        let sum = checksum(&head);
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let error = bad(&around(&[&head[..], &[0; 1024]].concat())).to_string();
        assert!(error.contains("only regular files"), "{error}");
    }
    let error = bad(&around(&[&entry("x", 1 << 50).unwrap()[..], &[0; 1024]].concat())).to_string();
    assert!(error.contains("claims"), "{error}");
    let (two, _) = disk(&[("a", b"1"), ("b", b"2")]);
    let few = unpack(&two, None, ReadLimits { files: 1, ..ReadLimits::default() }).unwrap_err();
    assert!(matches!(few, ResultsError::TooLarge { .. }), "{few}");
    let small = unpack(&two, None, ReadLimits { bytes: 100, ..ReadLimits::default() }).unwrap_err();
    assert!(matches!(small, ResultsError::TooLarge { .. }), "{small}");
}

#[test]
fn another_number_of_files_than_announced_is_refused() {
    let (two, _) = disk(&[("a", b"1"), ("b", b"2")]);
    let error = bad(&around(&two[HEADER..])).to_string();
    assert!(error.contains("2 files, 1 were announced"), "{error}");
}

#[test]
fn the_same_name_twice_is_refused_and_nothing_stays() {
    let (disk, _) = disk(&[("a", b"1"), ("a", b"2")]);
    assert!(matches!(bad(&disk), ResultsError::Io { .. }));
}

#[test]
fn disks_that_are_not_whole_say_what_they_are() {
    let (whole, _) = disk(&[("a", b"1")]);
    assert!(matches!(bad(&[0; 8192]), ResultsError::Empty(_)));
    assert!(matches!(bad(b""), ResultsError::Empty(_)));
    assert!(matches!(bad(b"QFI\xfb...."), ResultsError::Foreign { .. }));
    assert!(matches!(bad(&whole[..4095]), ResultsError::Foreign { .. }));
    assert!(matches!(bad(&whole[..whole.len() - 1]), ResultsError::Corrupt { .. }));
    let begun = Writer::begin(Cursor::new(Vec::new()), 7).unwrap().out.into_inner();
    assert!(matches!(bad(&begun), ResultsError::Unfinished(_)));
    let other = unpack(&whole, Some(8), ReadLimits::default()).unwrap_err();
    assert!(matches!(other, ResultsError::Other { wanted: 8, found: 7, .. }));
    let mut later = whole;
    later[16] = 2;
    assert!(bad(&later).to_string().contains("version 2"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_changed_byte_is_found(at in 0_usize..6144, by in 1_u8..) {
        let (mut whole, _) = disk(&[("tmp/x.log", b"hello")]);
        let json = whole[20] as usize + usize::from(whole[21]) * 256;
        let unused = (JSON_AT + json..HEADER).contains(&at);
        if at < whole.len() && !unused {
            whole[at] ^= by;
            bad(&whole);
        }
    }

    #[test]
    fn any_stream_is_read_or_refused(stream in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut seen = 0;
        let length = stream.len() as u64;
        let _ = entries(&stream[..], length, 10, &mut |_, _, content| {
            seen += io::copy(content, &mut io::sink())?;
            Ok(())
        });
        prop_assert!(seen <= length);
    }
}

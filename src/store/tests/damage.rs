use std::path::Path;

use super::records::sample;
use crate::record::IterationRecord;
use crate::store::{RecordFile, StoreError, write_iteration};

fn read(path: &Path) -> Result<Vec<IterationRecord>, StoreError> {
    RecordFile::open(path)?.records()?.map(|record| record.map(|r| r.record)).collect()
}

/// A damaged file is refused, or what it holds is what was written.
fn check(path: &Path, original: &IterationRecord, what: &str) -> bool {
    match read(path) {
        Ok(records) => {
            assert_eq!(records, std::slice::from_ref(original), "{what}: read something else without a word");
            false
        }
        Err(error) => {
            assert!(
                matches!(error, StoreError::Foreign { .. } | StoreError::Version { .. } | StoreError::Corrupt { .. }),
                "{what}: {error:?}"
            );
            assert!(error.to_string().contains(&*path.to_string_lossy()), "{what}: {error} does not name the file");
            true
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let record = sample(1);
    let whole = std::fs::read(write_iteration(dir.path(), &record).unwrap()).unwrap();
    let path = dir.path().join("cut.db");
    for length in (0..whole.len()).step_by(512).chain([1, 99, 100, whole.len() - 1]) {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(check(&path, &record, &format!("{length} bytes")), "{length} bytes passed for the whole");
    }
}

#[test]
fn no_flipped_bit_changes_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let record = sample(1);
    let whole = std::fs::read(write_iteration(dir.path(), &record).unwrap()).unwrap();
    let path = dir.path().join("flipped.db");
    let (mut flipped, mut refused) = (0, 0);
    for at in (0..256).chain((256..whole.len()).step_by(13)) {
        flipped += 1;
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes).unwrap();
        refused += usize::from(check(&path, &record, &format!("byte {at}")));
    }
    assert!(refused > flipped / 10, "only {refused} of {flipped} flips were noticed");
}

#[test]
fn a_page_of_rubbish_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let record = sample(1);
    let whole = std::fs::read(write_iteration(dir.path(), &record).unwrap()).unwrap();
    let path = dir.path().join("rubbish.db");
    for start in (0..whole.len()).step_by(512) {
        for filler in [0x00, 0xff, 0x0d, 0x05] {
            let mut bytes = whole.clone();
            bytes[start..start + 512].fill(filler);
            std::fs::write(&path, &bytes).unwrap();
            check(&path, &record, &format!("{filler:#x} at {start}"));
        }
    }
}

//! The file a capture is kept in: written beside, renamed when whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::pcapng::{Interface, Totals, Writer};

/// A capture file on its way.
///
/// A write that fails ends the file there, not the capture: what was written so far is kept under a name that says so.
#[derive(Debug)]
pub(super) struct Kept {
    state: State,
    directory: PathBuf,
    stem: String,
    lost: u64,
}

#[derive(Debug)]
enum State {
    Writing(Box<Writer>),
    Failed { written: u64, error: io::Error },
}

/// How a kept file ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// `None` when there is none.
    pub(super) file: Option<PathBuf>,
    /// What went wrong.
    pub(super) problem: Option<String>,
}

impl Kept {
    /// Begins `stem.pcapng` in `directory`.
    pub(super) fn create(directory: &Path, stem: &str, interface: &Interface<'_>) -> io::Result<Self> {
        let file = File::create(beside(directory, stem))?;
        let writer = Box::new(Writer::new(file, interface));
        Ok(Self { state: State::Writing(writer), directory: directory.to_owned(), stem: stem.to_owned(), lost: 0 })
    }

    /// Adds a packet, or counts it as lost.
    pub(super) fn packet(&mut self, at_ns: i64, wire_len: u32, data: &[u8]) {
        match &mut self.state {
            State::Failed { .. } => self.lost += 1,
            State::Writing(writer) => {
                let before = writer.pending() + 1;
                if let Err(error) = writer.packet(at_ns, wire_len, data) {
                    self.lost += before;
                    self.state = State::Failed { written: writer.written(), error };
                }
            }
        }
    }

    /// Removes it.
    pub(super) fn discard(self) {
        let path = beside(&self.directory, &self.stem);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }

    /// Ends the file and gives it its name.
    pub(super) fn finish(self, totals: &Totals) -> Ended {
        let Self { state, directory, stem, mut lost } = self;
        let (error, written) = match state {
            State::Failed { error, written } => (Some(error), written),
            State::Writing(writer) => {
                let pending = writer.pending();
                match writer.finish(totals).and_then(|file| file.sync_all().map_err(|error| (0, error))) {
                    Ok(()) => (None, 0),
                    Err((written, error)) => {
                        lost += pending;
                        (Some(error), written)
                    }
                }
            }
        };
        let name = if error.is_none() { format!("{stem}.pcapng") } else { format!("{stem}.partial.pcapng") };
        let path = directory.join(name);
        let renamed = fs::rename(beside(&directory, &stem), &path);
        let problem = match (error, &renamed) {
            (None, Ok(())) => None,
            (None, Err(error)) => Some(format!("cannot rename the kept file to {}: {error}", path.display())),
            (Some(error), _) => Some(format!(
                "cannot write {}: {error}; it holds the first {written} packets, {lost} are missing",
                path.display()
            )),
        };
        Ended { file: renamed.is_ok().then_some(path), problem }
    }
}

fn beside(directory: &Path, stem: &str) -> PathBuf {
    directory.join(format!(".{stem}.pcapng.tmp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETHERNET: Interface<'static> = Interface { name: "eth0", link_type: 1, snaplen: 96, filter: None };
    const TOTALS: Totals =
        Totals { started_ns: 0, ended_ns: 1, received: None, dropped_kernel: None, dropped_interface: None };

    #[test]
    fn a_file_gets_its_name_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let mut kept = Kept::create(directory.path(), "client1-guest", &ETHERNET).unwrap();
        kept.packet(1, 60, &[0; 60]);
        let path = directory.path().join("client1-guest.pcapng");
        assert!(!path.exists());
        let ended = kept.finish(&TOTALS);
        assert_eq!((ended.file, ended.problem), (Some(path), None));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "something else was left");
    }

    #[test]
    fn a_full_disk_ends_the_file_and_says_how_much_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        // Each write to /dev/full fails with ENOSPC.
        std::os::unix::fs::symlink("/dev/full", beside(directory.path(), "client1-guest")).unwrap();
        for packets in [1, 5000] {
            let mut kept = Kept::create(directory.path(), "client1-guest", &ETHERNET).unwrap();
            for _ in 0..packets {
                kept.packet(1, 1514, &[0; 96]);
            }
            let problem = kept.finish(&TOTALS).problem.unwrap();
            assert!(problem.contains("No space left on device"), "{problem}");
            assert!(problem.contains(&format!("the first 0 packets, {packets} are missing")), "{problem}");
            fs::rename(
                directory.path().join("client1-guest.partial.pcapng"),
                beside(directory.path(), "client1-guest"),
            )
            .unwrap();
        }
    }
}

//! What a worker says, as a stream of bytes: lines of JSON, some of which have a file behind them.
//!
//! Each line begins with [`MARK`]. Before the first one anything may come (a login's banner), after it nothing else may.
//! The stream is read from a file that grows ([`Tail`]): a frame counts when all of it is there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ids::{IterationNumber, Stage};

/// Beginning of each line.
const MARK: &str = "\u{1}vptest-worker ";
/// Version of what follows; both sides are the same build, so that another one is a mistake.
pub(super) const VERSION: u32 = 1;
/// Bytes of a line, at most.
const MOST_LINE: usize = 64 << 10;
/// Bytes before the first line, at most.
const MOST_NOISE: usize = 1 << 20;

/// One thing that a worker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Frame {
    /// First.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Name that the host has for itself.
        host: String,
        /// The host as GNU parallel or Slurm knows it; `None` when neither began this.
        login: Option<String>,
        /// Process number of the worker.
        pid: u32,
        /// Which share it has; 0 when it has none and only sends what was not taken.
        share: u32,
    },
    /// It lives. At least every few seconds.
    Beat {
        /// What it runs; `None` between iterations.
        running: Option<Doing>,
    },
    /// A file of an attempt; its bytes follow.
    File {
        /// Below the campaign's directory: `000007-ba7816bf8f0101.db`, `000007-ba7816bf8f0101.d/client1.pcapng`.
        name: String,
        /// How many bytes follow.
        bytes: u64,
        /// SHA-256 of them, lower-case hex.
        sha256: String,
    },
    /// All files of an attempt were sent.
    Ended {
        /// Which iteration.
        number: IterationNumber,
        /// Which attempt at it.
        attempt: u32,
        /// Will it be tried again at once?
        again: bool,
    },
    /// Something that was not stored with an iteration.
    Note {
        /// What.
        text: String,
    },
    /// Last: all iterations that the worker could run were run.
    End {
        /// Why it left some of them; `None` when it left none.
        left: Option<Left>,
    },
}

/// What a worker does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doing {
    /// Which iteration.
    pub number: IterationNumber,
    /// Which attempt at it.
    pub attempt: u32,
    /// How far it is.
    pub stage: Stage,
}

/// Why a worker left iterations of its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Left {
    /// Somebody wished it.
    Interrupted(String),
    /// It is too late for more.
    Late(String),
    /// One of `[limits]` that is about this host alone.
    Limit(String),
    /// Somebody else has this host now.
    Busy(String),
    /// This host cannot run them.
    Unable(String),
}

impl Frame {
    /// The line, with its end.
    pub(super) fn line(&self) -> String {
        let json = serde_json::to_string(self).expect("a frame is text and numbers");
        format!("{MARK}{json}\n")
    }
}

/// A frame, and where the bytes of its file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) frame: Frame,
    /// Offset of the first byte behind the line.
    pub(super) at: u64,
}

/// Why a stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("cannot read what the worker says: {0}")]
    Io(#[from] io::Error),
    /// What is there is no frame.
    #[error("at byte {at}: {what}")]
    Garbled { at: u64, what: String },
}

/// Reads frames from a file that grows.
#[derive(Debug)]
pub(super) struct Tail {
    file: File,
    /// Where the next frame begins.
    at: u64,
    begun: bool,
}

/// How far a file was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    at: u64,
    begun: bool,
}

impl Tail {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, at: 0, begun: false })
    }

    /// Goes on where another tail of the same file was.
    pub(super) fn open_at(path: &Path, mark: Mark) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, at: mark.at, begun: mark.begun })
    }

    /// How far it was read.
    pub(super) const fn mark(&self) -> Mark {
        Mark { at: self.at, begun: self.begun }
    }

    /// Bytes that are there: a file that is on its way is a sign of life.
    pub(super) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// The file, to read what a frame has behind it.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The next frame that is there as a whole; `None` when there is none yet.
    pub(super) fn next(&mut self) -> Result<Option<Found>, StreamError> {
        if !self.begun && !self.skip_noise()? {
            return Ok(None);
        }
        let (line, whole) = self.line()?;
        if !whole {
            return match line.len() {
                0..MOST_LINE => Ok(None),
                _ => Err(self.garbled("a line without an end")),
            };
        }
        let text = line.strip_prefix(MARK.as_bytes()).ok_or_else(|| self.garbled("no frame begins here"))?;
        let frame: Frame = serde_json::from_slice(text).map_err(|error| self.garbled(&error.to_string()))?;
        let at = self.at + line.len() as u64 + 1;
        let bytes = if let Frame::File { bytes, .. } = &frame { *bytes } else { 0 };
        let end = at.checked_add(bytes).ok_or_else(|| self.garbled("a file without an end"))?;
        if self.file.metadata()?.len() < end {
            return Ok(None);
        }
        self.at = end;
        Ok(Some(Found { frame, at }))
    }

    /// Looks for the first line; says whether it is there.
    fn skip_noise(&mut self) -> Result<bool, StreamError> {
        let mut noise = vec![0; MOST_NOISE + MARK.len()];
        let read = read_at(&self.file, &mut noise, 0)?;
        let found = noise[..read].windows(MARK.len()).position(|window| window == MARK.as_bytes());
        match found {
            Some(at) => {
                self.at = at as u64;
                self.begun = true;
                Ok(true)
            }
            None if read > MOST_NOISE => Err(self.garbled("too much that is no worker's")),
            None => Ok(false),
        }
    }

    /// The line that begins here, without its end, and whether it has one.
    fn line(&self) -> Result<(Vec<u8>, bool), StreamError> {
        let mut line = vec![0; MOST_LINE];
        let read = read_at(&self.file, &mut line, self.at)?;
        line.truncate(read);
        let end = line.iter().position(|&byte| byte == b'\n');
        line.truncate(end.unwrap_or(read));
        Ok((line, end.is_some()))
    }

    fn garbled(&self, what: &str) -> StreamError {
        StreamError::Garbled { at: self.at, what: what.to_owned() }
    }
}

/// Fills as much of the buffer as the file has.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn hello() -> Frame {
        Frame::Hello { version: VERSION, host: "kn1".to_owned(), login: None, pid: 7, share: 3 }
    }

    fn file(bytes: u64) -> Frame {
        Frame::File { name: "a.db".to_owned(), bytes, sha256: "00".to_owned() }
    }

    #[test]
    fn frames_count_when_all_of_them_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stdout");
        let end = Frame::End { left: None };
        let lines = [hello(), file(3), end.clone()].map(|frame| frame.line().into_bytes());
        let whole = [b"Welcome!\n\x01vp", &lines[0][..], &lines[1], b"a\nb", &lines[2]].concat();
        let mut out = File::create(&path).unwrap();
        let mut tail = Tail::open(&path).unwrap();
        let mut found = Vec::new();
        for byte in &whole {
            out.write_all(&[*byte]).unwrap();
            while let Some(one) = tail.next().unwrap() {
                found.push(one);
            }
        }
        let frames: Vec<&Frame> = found.iter().map(|found| &found.frame).collect();
        assert_eq!(frames, [&hello(), &file(3), &end]);
        let at = usize::try_from(found[1].at).unwrap();
        assert_eq!(&whole[at..at + 3], b"a\nb");
    }

    fn first_error(content: &[u8]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stdout");
        std::fs::write(&path, content).unwrap();
        let mut tail = Tail::open(&path).unwrap();
        loop {
            match tail.next() {
                Ok(Some(_)) => {}
                Ok(None) => return String::new(),
                Err(error) => return error.to_string(),
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error_with_its_place() {
        let after = |text: &str| [hello().line().as_bytes(), text.as_bytes()].concat();
        let at = hello().line().len();
        assert_eq!(first_error(&after("ssh: gone\n")), format!("at byte {at}: no frame begins here"));
        assert!(first_error(&after("\u{1}vptest-worker {\"frame\":\"x\"}\n")).contains("unknown variant `x`"));
        let endless = after(&"y".repeat(MOST_LINE));
        assert_eq!(first_error(&endless), format!("at byte {at}: a line without an end"));
        let huge = after(&file(u64::MAX).line());
        assert_eq!(first_error(&huge), format!("at byte {at}: a file without an end"));
        assert_eq!(first_error(&vec![b'n'; MOST_NOISE + 100]), "at byte 0: too much that is no worker's");
        assert_eq!(first_error(b"only a banner\n"), "");
    }
}

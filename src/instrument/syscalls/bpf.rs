//! The BPF program: started, stopped.
//!
//! ```text
//! bpf/     its source and its object
//! load     loads and attaches it
//! tables   what is in its tables at the end
//! ```

mod load;
mod tables;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};

use super::log::Writer;
use super::{Options, TraceError};
use crate::record::{SyscallSource, SyscallTrace};

/// How often the log's ring is looked at.
const LOG_PACE: Duration = Duration::from_millis(10);

/// Why it does not run.
pub(super) enum Failure {
    /// The kernel, or what it was built with.
    Refused(String),
    /// The log.
    Log(TraceError),
}

/// A program that runs.
pub(super) struct Bpf {
    ebpf: Ebpf,
    logging: Option<Logging>,
}

impl Bpf {
    pub(super) fn start(options: &Options, notes: &mut Vec<String>) -> Result<Self, Failure> {
        let mut ebpf = load::load(options, notes)?;
        let logging = match &options.log {
            Some(path) => {
                let ring = ebpf.take_map("entries").ok_or_else(|| Failure::Refused("there is no ring".to_owned()))?;
                let ring = RingBuf::try_from(ring).map_err(load::refused)?;
                Some(Logging::start(ring, Writer::create(path).map_err(Failure::Log)?))
            }
            None => None,
        };
        load::attach(&mut ebpf)?;
        Ok(Self { ebpf, logging })
    }

    pub(super) fn stop(mut self, options: &Options) -> Result<SyscallTrace, TraceError> {
        load::detach(&mut self.ebpf)?;
        let tables = tables::Tables::read(&self.ebpf, options)?;
        if let Some(logging) = self.logging.take() {
            logging.stop()?.finish(&tables.names_of_log())?;
        }
        Ok(SyscallTrace {
            place: options.place,
            scope: options.scope,
            source: SyscallSource::Bpf,
            processes: tables.tally.into_record(),
            losses: tables.losses,
            log: None,
        })
    }
}

/// An error with its causes; the verifier's log is long, its last lines tell.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    let length = text.chars().count();
    if length > 400 { format!("… {}", text.chars().skip(length - 400).collect::<String>()) } else { text }
}

/// The thread that empties the log's ring.
struct Logging {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Result<Writer, std::io::Error>>,
    path: std::path::PathBuf,
}

impl Logging {
    fn start(mut ring: RingBuf<MapData>, mut writer: Writer) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let path = writer.path().to_owned();
        let thread = std::thread::spawn(move || {
            loop {
                // Read before the ring is: nothing comes after the end.
                let last = ended.load(Ordering::Acquire);
                while let Some(entry) = ring.next() {
                    writer.entry(&entry)?;
                }
                if last {
                    return Ok(writer);
                }
                std::thread::park_timeout(LOG_PACE);
            }
        });
        Self { end, thread, path }
    }

    fn stop(self) -> Result<Writer, TraceError> {
        self.end.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let result = self.thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the log's thread panicked")));
        result.map_err(|source| TraceError::Log { path: self.path, source })
    }
}

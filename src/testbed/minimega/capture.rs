//! Captures that minimega takes at machines' taps: all are started before the traffic and all are stopped after it.
//!
//! minimega numbers captures by how many there are, so that one that is started after another was stopped gets the number
//! of a third; from then on they cannot be stopped. Packets reach the file once a second, and what has not when the capture
//! is stopped is lost.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::daemon::Namespace;
use super::error::MinimegaError;
use crate::text::printable;

/// How long after the last packet captures are stopped.
pub const TAIL: Duration = Duration::from_millis(1200);
/// How long stopping may take.
const STOP: Duration = Duration::from_secs(60);
/// Length of a pcap file without a packet.
const PCAP_HEADER: u64 = 24;

/// Where a capture is taken, and where its packets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Name of the machine.
    pub machine: String,
    /// Number of its card, from 0.
    pub card: u32,
    /// An absolute path: minimega looks for others among its files.
    pub file: PathBuf,
}

/// What is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes kept of each packet, from 1.
    pub snaplen: u32,
    /// An expression of libpcap's; `None` for every packet.
    pub filter: Option<String>,
}

/// Captures that run. They go on when this is dropped; [`Running::stop`] ends them.
#[derive(Debug)]
pub struct Running<'a> {
    namespace: &'a Namespace,
    begun: Begun,
}

/// As [`Running`], for those who keep the namespace themselves.
#[derive(Debug)]
pub(super) struct Begun {
    snaplen: u32,
    points: Vec<Point>,
}

/// A finished capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Where it was taken, and its file.
    pub point: Point,
    /// Length of the file.
    pub bytes: u64,
}

fn failed(machine: &str, why: impl Into<String>) -> MinimegaError {
    MinimegaError::Capture { machine: machine.to_owned(), why: why.into() }
}

/// Starts all captures of a namespace. Nothing is left running after an error.
///
/// # Errors
/// [`MinimegaError::Capture`] when some run already, and as [`Namespace::run`].
pub async fn start<'a>(
    namespace: &'a Namespace,
    options: &Options,
    points: Vec<Point>,
) -> Result<Running<'a>, MinimegaError> {
    let _configuring = namespace.configuring().await;
    let before = running(namespace).await?;
    if !before.is_empty() {
        return Err(failed("all", format!("{} are running already, and starting more mixes them up", before.len())));
    }
    if options.snaplen == 0 {
        return Err(failed("all", "snaplen = 0 (from 1; minimega takes 0 for 1600)"));
    }
    for point in &points {
        if !point.file.is_absolute() {
            return Err(failed(&point.machine, format!("the path {} is not absolute", point.file.display())));
        }
    }
    // Both are kept from earlier captures otherwise.
    namespace.run(&["capture", "pcap", "snaplen", &options.snaplen.to_string()]).await?;
    namespace.run(&["capture", "pcap", "filter", options.filter.as_deref().unwrap_or_default()]).await?;
    for point in &points {
        let (card, file) = (point.card.to_string(), point.file.to_string_lossy());
        let started = namespace.run(&["capture", "pcap", "vm", &point.machine, &card, &file]).await;
        if let Err(error) = started {
            if let Err(left) = namespace.run_within(&["clear", "capture"], STOP).await {
                tracing::warn!("captures of {} are left running: {left}", namespace.name());
            }
            return Err(error);
        }
    }
    Ok(Running { namespace, begun: Begun { snaplen: options.snaplen, points } })
}

/// Names of the interfaces that are captured, as minimega has them.
async fn running(namespace: &Namespace) -> Result<Vec<String>, MinimegaError> {
    let rows = namespace.rows(&["capture"], &["interface", "path"]).await?;
    Ok(rows.iter().map(|row| printable(row.field("interface"), 60)).collect())
}

impl Running<'_> {
    /// Waits out the tail after the last packet, stops all captures, and looks what there is.
    ///
    /// # Errors
    /// [`MinimegaError::Capture`] when one goes on or its file is no good, and as [`Namespace::run`].
    pub async fn stop(self, last_packet: Instant) -> Result<Vec<Captured>, MinimegaError> {
        self.begun.stop(self.namespace, last_packet).await
    }

    pub(super) fn begun(self) -> Begun {
        self.begun
    }
}

impl Begun {
    /// As [`Running::stop`].
    pub(super) async fn stop(
        self,
        namespace: &Namespace,
        last_packet: Instant,
    ) -> Result<Vec<Captured>, MinimegaError> {
        tokio::time::sleep_until(last_packet + TAIL).await;
        let stopped = namespace.run_within(&["clear", "capture"], STOP).await;
        match stopped {
            Err(MinimegaError::Refused { text, .. }) => {
                return Err(failed("all", format!("they cannot be stopped until minimega ends: {text}")));
            }
            other => other?,
        };
        let left = running(namespace).await?;
        if !left.is_empty() {
            return Err(failed("all", format!("{} go on after they were stopped", left.join(", "))));
        }
        self.points.into_iter().map(|point| check(point, self.snaplen)).collect()
    }
}

fn check(point: Point, snaplen: u32) -> Result<Captured, MinimegaError> {
    let looked = look(&point.file);
    let (bytes, found) =
        looked.map_err(|error| failed(&point.machine, format!("{}: {error}", point.file.display())))?;
    let why = match found {
        None => Some("its file is no pcap file".to_owned()),
        Some(found) if found != snaplen => {
            Some(format!("snaplen = {snaplen} was asked for, and {found} is in its file"))
        }
        Some(_) if bytes <= PCAP_HEADER => Some("it has seen no packet".to_owned()),
        Some(_) => None,
    };
    match why {
        Some(why) => Err(failed(&point.machine, why)),
        None => Ok(Captured { point, bytes }),
    }
}

/// Length of the file, and the snap length in its header; `None` for no pcap file.
fn look(path: &Path) -> std::io::Result<(u64, Option<u32>)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut header = [0; 24];
    if length < PCAP_HEADER {
        return Ok((length, None));
    }
    file.read_exact(&mut header)?;
    let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
    let snaplen = match u32::from_le_bytes(word(0)) {
        0xa1b2_c3d4 | 0xa1b2_3c4d => Some(u32::from_le_bytes(word(16))),
        0xd4c3_b2a1 | 0x4d3c_b2a1 => Some(u32::from_be_bytes(word(16))),
        _ => None,
    };
    Ok((length, snaplen))
}

//! Opening a capture point with libpcap.

use std::io;
use std::path::PathBuf;

use pcap::{Active, Capture, Device, Precision};

use super::CaptureError;
use super::interface::{inside, receive_drops};
use super::kept::Kept;
use super::pcapng::Interface;
use crate::testbed::CapturePoint;

/// After this many milliseconds the kernel hands over a block of the ring that is not full.
///
/// Without such a limit the last block would never be handed over.
pub(super) const BLOCK_TIMEOUT_MS: i32 = 10;

/// How a point is to be captured.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) snaplen: u32,
    pub(super) ring_bytes: u64,
    pub(super) filter: Option<String>,
    /// Directory and file name without extension.
    pub(super) keep: Option<(PathBuf, String)>,
}

/// A point that is capturing.
pub(super) struct Opened {
    pub(super) handle: Capture<Active>,
    pub(super) link_type: LinkType,
    /// Packets the kernel had counted when the filter was in force: libpcap drops those of them that do not match
    /// after they were counted.
    pub(super) before_filter: u32,
    pub(super) interface_drops: Option<u64>,
    pub(super) kept: Option<Kept>,
}

/// A link-layer type, by its number in pcap files (LINKTYPE_ETHERNET is 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkType(pub u16);

/// Opens the point; from then on packets gather in its ring.
pub(super) fn open(point: &CapturePoint, settings: &Settings) -> Result<Opened, CaptureError> {
    let (handle, interface_drops) = inside(point, || {
        let drops = receive_drops(&point.interface);
        Ok(activate(&point.interface, settings).map(|handle| (handle, drops)))
    })
    .map_err(|error| CaptureError::open(point, error))?
    .map_err(|error| CaptureError::open(point, plain(&error)))?;
    let link_type = LinkType(u16::try_from(handle.get_datalink().0).map_err(|_| {
        CaptureError::open(point, io::Error::other(format!("unknown link type {}", handle.get_datalink().0)))
    })?);
    let (handle, before_filter) = filter(handle, point, settings.filter.as_deref())?;
    let kept = keep(point, settings, link_type)?;
    Ok(Opened { handle, link_type, before_filter, interface_drops, kept })
}

fn activate(interface: &str, settings: &Settings) -> Result<Capture<Active>, pcap::Error> {
    let cannot = |_| pcap::Error::PcapError("snap length or ring size beyond 2 GiB".to_owned());
    // A device made from its name alone: libpcap's list of devices would be a walk through all of them.
    Capture::from_device(Device::from(interface))?
        .precision(Precision::Nano)
        .promisc(true)
        .immediate_mode(false)
        .timeout(BLOCK_TIMEOUT_MS)
        .snaplen(settings.snaplen.try_into().map_err(cannot)?)
        .buffer_size(settings.ring_bytes.try_into().map_err(cannot)?)
        .open()?
        .setnonblock()
}

fn filter(
    mut handle: Capture<Active>,
    point: &CapturePoint,
    expression: Option<&str>,
) -> Result<(Capture<Active>, u32), CaptureError> {
    let Some(expression) = expression else { return Ok((handle, 0)) };
    handle.filter(expression, true).map_err(|error| CaptureError::Filter {
        expression: expression.to_owned(),
        message: plain(&error).to_string(),
    })?;
    let counted = handle.stats().map_err(|error| CaptureError::open(point, plain(&error)))?.received;
    Ok((handle, counted))
}

fn keep(point: &CapturePoint, settings: &Settings, link: LinkType) -> Result<Option<Kept>, CaptureError> {
    let Some((directory, stem)) = &settings.keep else { return Ok(None) };
    let LinkType(link_type) = link;
    let interface =
        Interface { name: &point.interface, link_type, snaplen: settings.snaplen, filter: settings.filter.as_deref() };
    Kept::create(directory, stem, &interface)
        .map(Some)
        .map_err(|source| CaptureError::Keep { path: directory.join(stem), source })
}

/// The text of libpcap's error without the wrapper's prefix.
pub(super) fn plain(error: &pcap::Error) -> io::Error {
    match error {
        pcap::Error::PcapError(text) => io::Error::other(text.trim().to_owned()),
        other => io::Error::other(other.to_string()),
    }
}

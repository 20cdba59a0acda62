//! How long the pages are that ab asks for, and what they are called, with each of its servers.

use super::super::WorkloadError;
use super::super::number::count;
use super::super::page::{self, Page};
use super::super::readings::Readings;
use super::Asked;
use super::report::Report;
use crate::spec::HttpServer;
use crate::units::ByteSize;

/// protonuke draws an image and keeps it in memory.
const LARGEST: ByteSize = ByteSize(1 << 30);

/// What a PNG file of random pixels may have beside them, and as a share of them.
const AROUND: (f64, f64) = (1024.0, 0.01);

/// Length of a page in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Length {
    /// The same for everyone.
    Exactly(u64),
    /// That of an image of so many bytes of pixels.
    Image(u64),
    /// Another one for each request.
    Varies,
}

/// The length of a page from this server.
pub(super) fn of(server: HttpServer, page: Page) -> Length {
    match (server, page) {
        (HttpServer::Protonuke, Page::Root) => Length::Varies,
        (HttpServer::Protonuke, Page::Image(size)) => Length::Image(4 * (size.0 / 4).isqrt().pow(2)),
        (_, Page::Root) => Length::Exactly(page::ROOT.len() as u64),
        (_, Page::Image(size)) => Length::Exactly(size.0),
    }
}

/// protonuke's name of a page. Its `MB` are 2^20 bytes, and it knows no `kB`: bytes mean the same everywhere.
pub(super) fn url(page: Page) -> String {
    match page {
        Page::Root => "/".to_owned(),
        Page::Image(size) => format!("/image.png?size={}B", size.0),
    }
}

/// The image that protonuke has to draw. Errors: one that it cannot.
pub(super) fn drawn(page: Page) -> Result<Option<ByteSize>, WorkloadError> {
    match page {
        Page::Root => Ok(None),
        Page::Image(size) if (4..=LARGEST.0).contains(&size.0) => Ok(Some(size)),
        Page::Image(size) => {
            let why = "protonuke draws images from 4 B (one pixel) to 1 GiB; use server = \"builtin\"".to_owned();
            Err(WorkloadError::Unusable { value: size.to_string(), why })
        }
    }
}

/// Was every page as long as it is to be?
pub(super) fn check(asked: &Asked, expected: Length, report: &Report, readings: &mut Readings) {
    // With `-l` ab takes pages of any length, and says no length: then all of them together must have theirs.
    let found = match report.document_length {
        Some(length) => count(length),
        None => count(report.html_transferred) / count(report.complete),
    };
    let url = &asked.url;
    match expected {
        Length::Varies if report.document_length.is_some() => {
            readings.invalid("ab took pages of one length alone, and protonuke's vary");
        }
        Length::Varies if report.html_transferred == 0 => readings.invalid(format!("{url} came without any content")),
        Length::Exactly(size) if found != count(size) => {
            readings.invalid(format!("{url} is {found} bytes long instead of {size}"));
        }
        Length::Image(pixels) => {
            let (pixels, most) = (count(pixels), count(pixels) * (1.0 + AROUND.1) + AROUND.0);
            if !(pixels..=most).contains(&found) {
                readings.invalid(format!("{url} is {found} bytes long instead of {pixels} to {most}"));
            }
        }
        Length::Varies | Length::Exactly(_) => {}
    }
}

//! `[workload]` with `preset = "protonuke"`.

use std::time::Duration;

use super::parse::positive_duration;
use super::read::{Entry, Section, Sink};
use super::{ProtonukeSpec, Service};
use crate::units::{ByteSize, DURATION_ACCEPTED, parse_duration};

/// Length of a protonuke run that the spec does not name.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// protonuke's own `-u`.
const DEFAULT_MEAN: Duration = Duration::from_secs(1);
/// protonuke's own `-max`.
const DEFAULT_MAX: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(86_400);
/// Largest image: protonuke draws it and keeps it in memory.
const LARGEST_IMAGE: ByteSize = ByteSize(1 << 30);

/// Everything but the further options of client and server.
pub(super) fn read(section: &mut Section<'_>, sink: &mut Sink<'_>) -> ProtonukeSpec {
    let (time, pause) = (section.take("duration"), section.take("mean"));
    let duration = time.as_ref().and_then(|e| positive_duration(e, LONGEST, sink));
    let mean = pause.as_ref().and_then(|e| milliseconds(e, sink));
    if mean.unwrap_or(DEFAULT_MEAN) >= duration.unwrap_or(DEFAULT_DURATION) {
        // The client waits before it does anything.
        match (pause, time) {
            (Some(pause), _) if mean.is_some() => pause.refuse(sink, "less than `duration`, or nothing is done in it"),
            (_, Some(time)) if duration.is_some() => {
                time.refuse(sink, "more than `mean` (1 s where it is not said), or nothing is done in it");
            }
            _ => {}
        }
    }
    let deviation = section.take("deviation").and_then(|e| milliseconds(&e, sink));
    let min = section.take("min").and_then(|e| at_most_a_day(&e, sink));
    let most = section.take("max");
    let max = most.as_ref().and_then(|e| at_most_a_day(e, sink));
    let (min, max) = (min.unwrap_or(Duration::ZERO), max.unwrap_or(DEFAULT_MAX));
    if let Some(entry) = most.filter(|_| max < min) {
        entry.refuse(sink, "at least `min`");
    }
    ProtonukeSpec {
        services: section.take("services").and_then(|e| services(&e, sink)).unwrap_or(vec![Service::Http]),
        duration: duration.unwrap_or(DEFAULT_DURATION),
        mean: mean.unwrap_or(DEFAULT_MEAN),
        deviation: deviation.unwrap_or(Duration::ZERO),
        min,
        max,
        image_size: section.take("image_size").and_then(|e| image_size(&e, sink)),
        times: section.take("times").and_then(|e| e.switch(sink)).unwrap_or(true),
        arguments: Vec::new(),
        server_arguments: Vec::new(),
    }
}

/// One service or a list; sorted, each once.
fn services(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Vec<Service>> {
    let names: Vec<(&str, Service)> = Service::ALL.iter().map(|service| (service.as_str(), *service)).collect();
    let mut found = Vec::new();
    for item in entry.one_or_more() {
        found.push(item.choice(sink, &names)?);
    }
    found.sort_unstable();
    let several = found.len();
    found.dedup();
    if found.is_empty() || found.len() < several {
        entry.refuse(sink, "at least one service, each once");
    } else if found.contains(&Service::Ftp) && found.contains(&Service::Ftps) {
        entry.refuse(
            sink,
            "`\"ftp\"` or `\"ftps\"`: protonuke serves both on port 21, and only one of them can have it",
        );
    }
    Some(found)
}

/// protonuke waits for whole milliseconds and cuts the rest off without a word.
fn milliseconds(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Duration> {
    let duration = entry.quantity_by(sink, DURATION_ACCEPTED, parse_duration)?;
    if duration.subsec_nanos() % 1_000_000 != 0 || duration > LONGEST {
        entry.refuse(sink, "whole milliseconds, at most a day (protonuke has no finer ones)");
        return None;
    }
    Some(duration)
}

fn at_most_a_day(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Duration> {
    let duration = entry.quantity_by(sink, DURATION_ACCEPTED, parse_duration)?;
    if duration > LONGEST {
        entry.refuse(sink, "at most a day");
        return None;
    }
    Some(duration)
}

fn image_size(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<ByteSize> {
    let size: ByteSize = entry.quantity(sink, ByteSize::ACCEPTED)?;
    if size.0 < 4 || size > LARGEST_IMAGE {
        entry.refuse(sink, "a size from 4 B (one pixel) to 1 GiB");
        return None;
    }
    Some(size)
}

//! protonuke's log: the times of requests (`-level info`), and errors.
//!
//! A line is `DATE TIME LEVEL FILE:LINE: TEXT`, coloured; a request's text is `SERVICE … TARGET NUMBERns`.

use super::super::number::{count, whole};
use super::super::readings::Readings;
use crate::ids::Better;
use crate::spec::Service;

/// What a time is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A page, over the service named: from the request to its last byte.
    Page(Service),
    /// An image of a page, likewise.
    Image(Service),
    /// A mail, connection included.
    Mail,
}

impl Kind {
    /// Beginning of the names of its metrics.
    fn name(self) -> String {
        match self {
            Self::Page(service) => format!("{}_page_time", service.as_str()),
            Self::Image(service) => format!("{}_image_time", service.as_str()),
            Self::Mail => "smtp_mail_time".to_owned(),
        }
    }

    /// Does the client's report count these? Images belong to the page they are on.
    pub(super) const fn is_counted(self) -> bool {
        matches!(self, Self::Page(_) | Self::Mail)
    }
}

/// What is logged of a service; nothing for those of which protonuke logs no times, or none that mean anything (ssh: that
/// of writing into its own buffer).
pub(super) fn kinds(service: Service) -> Vec<Kind> {
    match service {
        Service::Http | Service::Https => vec![Kind::Page(service), Kind::Image(service)],
        Service::Smtp => vec![Kind::Mail],
        Service::Ftp | Service::Ftps | Service::Ssh | Service::Irc => Vec::new(),
    }
}

/// What a log says.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Said {
    /// Seconds of each request, in order.
    times: Vec<(Kind, f64)>,
    /// Lines with the level WARN, ERROR or FATAL. What protonuke warns of is no error to it, but not what was asked for: a
    /// mail without TLS.
    pub(super) errors: usize,
    /// The text of the first of them.
    pub(super) first_error: Option<String>,
}

impl Said {
    /// Seconds of all requests of a kind, the shortest first.
    pub(super) fn sorted(&self, kind: Kind) -> Vec<f64> {
        let mut found: Vec<f64> =
            self.times.iter().filter(|(of, _)| *of == kind).map(|(_, seconds)| *seconds).collect();
        found.sort_by(f64::total_cmp);
        found
    }
}

/// Reads a log; what is no line of one, and a last line that was cut off, say nothing.
pub(super) fn read(text: &str) -> Said {
    let mut said = Said::default();
    let whole_lines = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole_lines.lines().map(plain) {
        match level_and_text(&line) {
            Some(("INFO", text)) => said.times.extend(time(text)),
            Some(("WARN" | "ERROR" | "FATAL", text)) => {
                said.errors += 1;
                said.first_error.get_or_insert_with(|| text.to_owned());
            }
            _ => {}
        }
    }
    said
}

/// Without the sequences that colour it.
fn plain(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let rest = part.strip_prefix('[').map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
        text + rest.and_then(|rest| rest.strip_prefix('m')).unwrap_or(part)
    })
}

fn level_and_text(line: &str) -> Option<(&str, &str)> {
    let mut words = line.splitn(4, ' ');
    let (_date, _time, level, rest) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let (place, text) = rest.split_once(": ")?;
    (place.contains(".go:")).then_some((level, text))
}

fn time(text: &str) -> Option<(Kind, f64)> {
    let (service, rest) = text.split_once(' ')?;
    let (rest, nanoseconds) = rest.rsplit_once(' ')?;
    let nanoseconds = whole(nanoseconds.strip_suffix("ns")?).ok()?;
    let service = Service::ALL.into_iter().find(|known| known.as_str() == service)?;
    // The last word is what was asked for; before it stands the host, or protonuke's client in brackets with blanks.
    let target = rest.rsplit(' ').next()?;
    let kind = match service {
        Service::Http | Service::Https if !target.starts_with(service.as_str()) => return None,
        Service::Http | Service::Https if target.ends_with("/image.png") => Kind::Image(service),
        Service::Http | Service::Https => Kind::Page(service),
        Service::Smtp => Kind::Mail,
        _ => return None,
    };
    Some((kind, count(nanoseconds) / 1e9))
}

/// The distribution of sorted times in percents, and those of its points that people compare; all missing without any.
pub(super) fn write(kind: Kind, sorted: &[f64], readings: &mut Readings) {
    let name = kind.name();
    for percent in 0..=100u8 {
        readings.quantile(&name, "s", f64::from(percent) / 100.0, at(sorted, percent));
    }
    let mean = (!sorted.is_empty()).then(|| sorted.iter().sum::<f64>() / count(sorted.len() as u64));
    for (part, value) in [
        ("mean", mean),
        ("min", at(sorted, 0)),
        ("p50", at(sorted, 50)),
        ("p90", at(sorted, 90)),
        ("p99", at(sorted, 99)),
        ("max", at(sorted, 100)),
    ] {
        readings.metric(&format!("{name}_{part}"), "s", Some(Better::Lower), value);
    }
}

/// The smallest value that at least so many percent of all do not exceed (nearest rank).
fn at(sorted: &[f64], percent: u8) -> Option<f64> {
    let rank = (sorted.len() * usize::from(percent)).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_images_and_mails_are_told_apart() {
        let text = "2026/11/29 11:02:56 \x1b[33mINFO http.go:191: \x1b[32mhttp 10.77.0.2 http://10.77.0.2 1500000ns\x1b[0m\n\
            2026/11/29 11:02:56 \x1b[33mINFO http.go:312: \x1b[32mhttp &{0x33f484d24000 <nil> <nil> 0s} http://10.77.0.2/image.png 500000ns\x1b[0m\n\
            2026/11/29 11:03:01 INFO http.go:253: https &{0x1 <nil> <nil> 0s} https://10.77.0.2/7 2000000ns\n\
            2026/11/29 11:03:20 INFO smtp.go:141: smtp 10.77.0.2 4000000ns\n\
            2026/11/29 11:03:20 INFO smtp.go:1";
        let said = read(text);
        let expected = [
            (Kind::Page(Service::Http), 0.0015),
            (Kind::Image(Service::Http), 0.0005),
            (Kind::Page(Service::Https), 0.002),
            (Kind::Mail, 0.004),
        ];
        assert_eq!((said.times.as_slice(), said.errors), (&expected[..], 0));
    }

    #[test]
    fn errors_are_counted_and_what_says_nothing_is_not() {
        let text = "2026/11/29 11:01:32 \x1b[33mERROR http.go:182: \x1b[31mGet \"http://h\": refused\x1b[0m\n\
            2026/11/29 11:01:32 ERROR http.go:182: second\n\
            2026/11/29 11:01:33 \x1b[33mWARN smtp.go:227: \x1b[33mcould not start tls\x1b[0m\n\
            2026/11/29 11:02:41 http: TLS handshake error from 10.77.0.1:36126: EOF\n\
            2026/11/29 11:01:32 INFO http.go:191: http h http://h manyns\n\
            2026/11/29 11:01:32 INFO http.go:191: http h ftp://h 1ns\n\
            goroutine 1 [running]:\n\n\u{1b}\u{1b}[\n";
        let said = read(text);
        assert_eq!((said.times.len(), said.errors), (0, 3));
        assert_eq!(said.first_error.as_deref(), Some("Get \"http://h\": refused"));
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!([0, 25, 26, 50, 99, 100].map(|p| at(&sorted, p)), [1.0, 1.0, 2.0, 2.0, 4.0, 4.0].map(Some));
        assert_eq!(at(&[], 50), None);
    }
}

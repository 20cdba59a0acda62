//! protonuke's reports: blocks of `service<TAB>count<TAB>rate unit/min`, each followed by a blank line.

use super::super::number::{count, decimal, shown, whole};
use crate::spec::Service;

/// One line: a service's count since the start, and its rate since the report before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Report {
    pub(super) service: Service,
    pub(super) count: u64,
    /// As printed, with one decimal.
    pub(super) per_minute: f64,
}

impl Report {
    /// Bounds of the interval that a first report is of, in seconds, from its count and the digits of its rate.
    pub(super) fn seconds(&self) -> (f64, f64) {
        const HALF: f64 = 0.05 + 1e-9;
        let minutes = |rate: f64| count(self.count) / rate * 60.0;
        let most = if self.per_minute > HALF { minutes(self.per_minute - HALF) } else { f64::INFINITY };
        (minutes(self.per_minute + HALF), most)
    }
}

/// All reports that are whole, each with a line for each service in the order of [`Service::ALL`].
///
/// What stands after the last line feed was cut off by the program's end and is left out, as is a last report that lacks
/// lines. Errors: a line that is none of a report, another service, a report before the last that lacks a service.
pub(super) fn read(bytes: &[u8], services: &[Service]) -> Result<Vec<Vec<Report>>, String> {
    let text = String::from_utf8_lossy(bytes);
    let whole_lines = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut reports = Vec::new();
    let mut current: Vec<Report> = Vec::new();
    for text in whole_lines.lines().filter(|line| !line.is_empty()) {
        let report = line(text)?;
        if services.get(current.len()) != Some(&report.service) {
            return Err(format!("its report has the line `{}` where another was to be", shown(text)));
        }
        current.push(report);
        if current.len() == services.len() {
            reports.push(std::mem::take(&mut current));
        }
    }
    Ok(reports)
}

fn line(text: &str) -> Result<Report, String> {
    let refused = |why: String| format!("`{}` is no line of a report: {why}", shown(text));
    // Columns are padded with further tabs where numbers are long.
    let cells: Vec<&str> = text.split('\t').filter(|cell| !cell.is_empty()).collect();
    let &[name, number, rate] = cells.as_slice() else { return Err(refused("it has not three columns".to_owned())) };
    let service = Service::ALL.into_iter().find(|service| service.as_str() == name);
    let service = service.ok_or_else(|| refused(format!("`{}` is no service", shown(name))))?;
    let unit = match service {
        Service::Ssh => " bytes/min",
        Service::Smtp => " mails/min",
        _ => " hits/min",
    };
    let rate = rate.strip_suffix(unit).ok_or_else(|| refused(format!("its rate is not in{unit}")))?;
    let per_minute = decimal(rate).map_err(refused)?;
    if per_minute < 0.0 {
        return Err(refused("its rate is negative".to_owned()));
    }
    Ok(Report { service, count: whole(number).map_err(refused)?, per_minute })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, services: &[Service], expected: Result<&[&[(u64, f64)]], &str>) {
        let found = read(text.as_bytes(), services);
        match (found, expected) {
            (Ok(found), Ok(expected)) => {
                let found: Vec<Vec<(u64, f64)>> = found
                    .iter()
                    .map(|report| report.iter().map(|line| (line.count, line.per_minute)).collect())
                    .collect();
                assert_eq!(found, expected, "{text:?}");
            }
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}, not {expected}"),
            (found, expected) => panic!("{text:?}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn whole_reports_are_read_and_cut_ones_left_out() {
        let http = &[Service::Http][..];
        check("http\t28\t559.9 hits/min\n\n", http, Ok(&[&[(28, 559.9)]]));
        check("http\t28\t559.9 hits/min\n\nhttp\t56\t559.9 hits/min\n\n", http, Ok(&[&[(28, 559.9)], &[(56, 559.9)]]));
        check("http\t28\t559.9 hits/min\n\nhttp\t56\t559.9 hi", http, Ok(&[&[(28, 559.9)]]));
        check("http\t28", http, Ok(&[]));
        check("", http, Ok(&[]));
        let both = &[Service::Http, Service::Ssh][..];
        let text = "http\t12345678\t9.0 hits/min\nssh\t9\t\t1.0 bytes/min\n\n";
        check(text, both, Ok(&[&[(12_345_678, 9.0), (9, 1.0)]]));
        check("http\t1\t9.0 hits/min\n", both, Ok(&[]));
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let http = &[Service::Http][..];
        for (text, why) in [
            ("hello\n", "not three columns"),
            ("http\t28\t559.9 hits/min\textra\n", "not three columns"),
            ("gopher\t28\t559.9 hits/min\n", "`gopher` is no service"),
            ("smtp\t28\t559.9 mails/min\n", "where another was to be"),
            ("http\t28\t559.9 mails/min\n", "not in hits/min"),
            ("http\t-1\t559.9 hits/min\n", "no whole number"),
            ("http\t28\tNaN hits/min\n", "no number"),
            ("http\t28\t+Inf hits/min\n", "no number"),
            ("http\t28\t-1.0 hits/min\n", "negative"),
            ("panic: runtime error\n", "not three columns"),
        ] {
            check(text, http, Err(why));
        }
        check(
            "http\t1\t1.0 hits/min\n\nhttp\t1\t1.0 hits/min\n",
            &[Service::Http, Service::Irc],
            Err("another was to be"),
        );
    }

    #[test]
    fn count_and_rate_tell_the_length_of_the_interval() {
        let report = |count, per_minute| Report { service: Service::Http, count, per_minute };
        let (least, most) = report(28, 559.9).seconds();
        assert!(least < 3.0006 && 3.0003 < most && most - least < 0.001, "{least} to {most}");
        assert_eq!(report(1, 0.0).seconds().1, f64::INFINITY);
    }
}

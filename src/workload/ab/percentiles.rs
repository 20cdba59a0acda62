//! The latency distribution that `ab -e` writes, at the microsecond resolution of ab's clock.

use super::super::number::{count, decimal, shown, whole};

/// The time within which `percent` % of the requests were answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// 0 to 100; 0 is the fastest request, 100 the slowest.
    pub(super) percent: u64,
    /// `None` where ab has no such sample.
    pub(super) seconds: Option<f64>,
}

/// Reads the file; `complete` is the number of requests.
///
/// Between 0 and 100, ab takes element `0.5 + complete · percent / 100` (cut to a whole number) of its sorted times. With
/// 50 requests or fewer that is one past the last for the highest percentages, where ab prints whatever follows in
/// memory: those points are `None`.
pub(super) fn read(text: &str, complete: u64) -> Result<Vec<Point>, String> {
    let mut lines = text.lines();
    if lines.next() != Some("Percentage served,Time in ms") {
        return Err("ab's latency distribution has an unknown heading".to_owned());
    }
    let points: Vec<Point> =
        lines.zip(0..).map(|(line, percent)| point(line, percent, complete)).collect::<Result<_, _>>()?;
    if points.len() != 101 {
        return Err(format!("ab's latency distribution has {} points instead of 101", points.len()));
    }
    let known: Vec<f64> = points.iter().filter_map(|point| point.seconds).collect();
    match known.is_sorted() {
        true => Ok(points),
        false => Err("ab's latency distribution goes down between two points".to_owned()),
    }
}

fn point(line: &str, percent: u64, complete: u64) -> Result<Point, String> {
    let (label, time) = line.split_once(',').ok_or_else(|| unreadable(line))?;
    if whole(label) != Ok(percent) {
        return Err(unreadable(line));
    }
    let exists = match percent {
        0 | 100 => complete > 0,
        _ => 0.5 + count(complete) * count(percent) / 100.0 < count(complete),
    };
    if !exists {
        return Ok(Point { percent, seconds: None });
    }
    let milliseconds = decimal(time).map_err(|_| unreadable(line))?;
    if milliseconds < 0.0 {
        return Err(format!("ab's latency distribution has a negative time, `{}`", shown(line)));
    }
    Ok(Point { percent, seconds: Some(milliseconds / 1000.0) })
}

fn unreadable(line: &str) -> String {
    format!("line `{}` of ab's latency distribution cannot be read", shown(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = include_str!("../../../tests/data/ab/plain.csv");
    const TWENTY: &str = include_str!("../../../tests/data/ab/twenty.csv");
    const ONE: &str = include_str!("../../../tests/data/ab/one.csv");

    #[test]
    fn every_percentage_is_read() {
        let points = read(PLAIN, 2000).unwrap();
        assert_eq!(points.len(), 101);
        assert!(points.iter().all(|point| point.seconds.is_some_and(|s| s > 0.0 && s < 1.0)));
    }

    /// In this real output the points 98 and 99 are garbage that lies below their neighbours.
    #[test]
    fn what_ab_reads_past_its_array_is_left_out() {
        let points = read(TWENTY, 20).unwrap();
        let unknown: Vec<u64> = points.iter().filter(|p| p.seconds.is_none()).map(|p| p.percent).collect();
        assert_eq!(unknown, [98, 99]);
        let points = read(ONE, 1).unwrap();
        let known: Vec<u64> = points.iter().filter(|p| p.seconds.is_some()).map(|p| p.percent).collect();
        assert_eq!(known, (0..50).chain([100]).collect::<Vec<u64>>());
    }

    #[test]
    fn damage_is_an_error() {
        let cut = PLAIN.rsplit_once("\n100,").unwrap().0;
        assert!(read(cut, 2000).unwrap_err().contains("100 points"));
        assert!(read("", 2000).is_err());
        for (from, to) in [("\n7,", "\n8,"), ("\n7,", "\n7;"), ("\n7,", "\n7,x"), ("\n7,", "\n7,-"), ("\n7,", "\n7,9")]
        {
            assert!(read(&PLAIN.replacen(from, to, 1), 2000).is_err(), "{to:?} passed");
        }
    }
}

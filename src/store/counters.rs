//! Counters of kernels: rows, values and rules. Lists of numbers are JSON, so that SQL can read them (`json_each`).

use rusqlite::types::ValueRef;

use super::check::bad;
use super::decode::{Columns, Decoded};
use super::error::BadRecord;
use super::raw::Row;
use super::rows::{count, opt_count, opt_real, opt_text, position, text};
use super::schema::TableId;
use crate::record::{CounterPlace, CounterSeries, CounterSource};

/// Hands over the rows of all tables about them.
pub(super) fn emit<E>(
    places: &[CounterPlace],
    sink: &mut impl FnMut(TableId, &[ValueRef<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    for (i, p) in places.iter().enumerate() {
        let node = p.node.map(|node| node.to_string());
        let times = numbers(p.times_us.iter().map(|time| Some(*time)));
        let row = [
            position(i),
            opt_text(node.as_deref()),
            opt_count(p.interval_ms),
            ValueRef::Integer(p.first_ns),
            text(&times),
            count(p.missed),
            count(p.latest_us),
            opt_count(p.cpu_ns),
        ];
        sink(TableId::CounterPlace, &row)?;
    }
    for (i, p) in places.iter().enumerate() {
        for s in &p.sources {
            let others = (!s.others.is_empty()).then(|| object(&s.others));
            let row = [
                position(i),
                text(&s.name),
                count(s.counters),
                opt_text(s.why.as_deref()),
                opt_text(others.as_deref()),
            ];
            sink(TableId::CounterSource, &row)?;
        }
    }
    for (i, p) in places.iter().enumerate() {
        for s in &p.series {
            let values = numbers(s.values.iter().copied());
            let row = [
                position(i),
                text(&s.name),
                text(&s.unit),
                opt_real(Some(s.scale)),
                ValueRef::Integer(s.gauge.into()),
                text(&values),
            ];
            sink(TableId::CounterSeries, &row)?;
        }
    }
    Ok(())
}

/// Without what stands in the other tables.
pub(super) fn place(row: &Row<'_>) -> Decoded<CounterPlace> {
    let c = &mut Columns::new(row, 2);
    Ok(CounterPlace {
        node: c.node()?,
        interval_ms: c.opt_int()?,
        first_ns: c.int()?,
        times_us: times(c)?,
        missed: c.int()?,
        latest_us: c.int()?,
        cpu_ns: c.opt_int()?,
        sources: Vec::new(),
        series: Vec::new(),
    })
}

fn times(c: &mut Columns<'_>) -> Decoded<Vec<u64>> {
    let all = read_numbers(&c.string()?);
    all.and_then(|all| all.into_iter().collect()).map_or_else(|| c.wrong("list of numbers"), Ok)
}

/// Place, and a source.
pub(super) fn source(row: &Row<'_>) -> Decoded<(usize, CounterSource)> {
    let c = &mut Columns::new(row, 1);
    let (place, name, counters, why) = (c.int()?, c.string()?, c.int()?, c.opt_string()?);
    let others = match c.opt_string()? {
        None => Vec::new(),
        Some(text) => read_object(&text).map_or_else(|| c.wrong("object of numbers"), Ok)?,
    };
    Ok((place, CounterSource { name, counters, why, others }))
}

/// Place, and a series.
pub(super) fn series(row: &Row<'_>) -> Decoded<(usize, CounterSeries)> {
    let c = &mut Columns::new(row, 1);
    let (place, name, unit) = (c.int()?, c.string()?, c.string()?);
    let scale = c.opt_real()?.map_or_else(|| c.wrong("number"), Ok)?;
    let gauge = c.int::<u8>()? != 0;
    let values = read_numbers(&c.string()?).map_or_else(|| c.wrong("list of numbers"), Ok)?;
    Ok((place, CounterSeries { name, unit, scale, gauge, values }))
}

/// Rows of the longest table about them.
pub(super) fn rows(places: &[CounterPlace]) -> usize {
    let sources: usize = places.iter().map(|place| place.sources.len()).sum();
    let series: usize = places.iter().map(|place| place.series.len()).sum();
    sources.max(series).max(places.len())
}

/// Says what is wrong, if anything.
pub(super) fn check(places: &[CounterPlace]) -> Result<(), BadRecord> {
    places.iter().try_for_each(check_place)
}

fn check_place(p: &CounterPlace) -> Result<(), BadRecord> {
    let name = p.node.map_or_else(|| "the host".to_owned(), |node| node.to_string());
    if !p.sources.is_sorted_by(|a, b| a.name < b.name) || !p.series.is_sorted_by(|a, b| a.name < b.name) {
        return bad(format!("counters of {name} are not in order"));
    }
    if p.times_us.is_empty() || !p.times_us.is_sorted() {
        return bad(format!("times of the counters of {name} are not in order"));
    }
    if p.interval_ms == Some(0) {
        return bad(format!("counters of {name} were read every 0 ms"));
    }
    check_numbers(p.times_us.iter().copied().chain([p.missed, p.latest_us]).chain(p.interval_ms).chain(p.cpu_ns))?;
    for s in &p.sources {
        if !s.others.is_sorted_by(|a, b| a.0 < b.0) {
            return bad(format!("counters of {name} from {} are not in order", s.name));
        }
        check_numbers(s.others.iter().filter_map(|(_, grown)| *grown).chain([s.counters]))?;
    }
    for s in &p.series {
        let readings = p.times_us.len() - usize::from(!s.gauge);
        if s.values.len() != readings || !s.scale.is_finite() {
            return bad(format!("series {} of {name} has {} values, not {readings}", s.name, s.values.len()));
        }
        check_numbers(s.values.iter().flatten().copied())?;
    }
    Ok(())
}

fn check_numbers(mut numbers: impl Iterator<Item = u64>) -> Result<(), BadRecord> {
    match numbers.find(|&n| i64::try_from(n).is_err()) {
        Some(n) => bad(format!("a counter is {n}, more than 2^63-1")),
        None => Ok(()),
    }
}

/// `[1,null,2]`
fn numbers(values: impl Iterator<Item = Option<u64>>) -> String {
    serde_json::to_string(&values.collect::<Vec<_>>()).expect("numbers are JSON")
}

/// Only what [`numbers`] writes, so that equal values are equal texts.
fn read_numbers(json: &str) -> Option<Vec<Option<u64>>> {
    let values: Vec<Option<u64>> = serde_json::from_str(json).ok()?;
    (numbers(values.iter().copied()) == json).then_some(values)
}

/// `{"a":1,"b":null}`, in the order given.
fn object(members: &[(String, Option<u64>)]) -> String {
    let member = |(name, value): &(String, Option<u64>)| {
        let name = serde_json::to_string(name).expect("text is JSON");
        format!("{name}:{}", value.map_or_else(|| "null".to_owned(), |value| value.to_string()))
    };
    format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
}

/// Only what [`object`] writes of sorted names.
fn read_object(json: &str) -> Option<Vec<(String, Option<u64>)>> {
    let members: std::collections::BTreeMap<String, Option<u64>> = serde_json::from_str(json).ok()?;
    let members: Vec<_> = members.into_iter().collect();
    (object(&members) == json).then_some(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn lists_are_read_only_as_they_are_written() {
        let values = vec![Some(3), None, Some(0)];
        assert_eq!(numbers(values.iter().copied()), "[3,null,0]");
        assert_eq!(read_numbers("[3,null,0]"), Some(values));
        for bad in ["[3, null,0]", "[-1]", "[1.5]", "{}", "[1", "[18446744073709551616]"] {
            assert_eq!(read_numbers(bad), None, "{bad}");
        }
        let members = vec![("a\"b".to_owned(), None), ("c".to_owned(), Some(7))];
        assert_eq!(object(&members), "{\"a\\\"b\":null,\"c\":7}");
        assert_eq!(read_object(&object(&members)), Some(members));
        for bad in ["{\"b\":1,\"a\":2}", "{\"a\":1,\"a\":2}", "{ }", "[]"] {
            assert_eq!(read_object(bad), None, "{bad}");
        }
    }

    #[test]
    fn series_are_as_long_as_their_times() {
        let place = |gauge, values: &[Option<u64>]| CounterPlace {
            node: Some(NodeId::client(1)),
            interval_ms: Some(100),
            times_us: vec![0, 100, 200],
            first_ns: 0,
            missed: 0,
            latest_us: 0,
            cpu_ns: None,
            sources: Vec::new(),
            series: vec![CounterSeries {
                name: "ctxt".to_owned(),
                unit: "1".to_owned(),
                scale: 1.0,
                gauge,
                values: values.to_vec(),
            }],
        };
        assert!(check(&[place(false, &[Some(1), None])]).is_ok());
        assert!(check(&[place(true, &[Some(1), None, Some(2)])]).is_ok());
        assert!(check(&[place(false, &[Some(1), None, Some(2)])]).is_err());
        assert!(check(&[place(false, &[Some(1), Some(u64::MAX)])]).is_err());
        let disorder = CounterPlace { times_us: vec![0, 200, 100], ..place(false, &[None, None]) };
        assert!(check(&[disorder]).is_err());
    }
}

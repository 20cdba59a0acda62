//! Rows back to the values of a record.

use std::str::FromStr;

use rusqlite::types::ValueRef;

use super::raw::Row;
use super::rows::PART_BYTES;
use super::schema::TABLES;
use crate::ids::{Better, IterationNumber, Level, NodeId, ShortHash, Stage, Vantage};
use crate::record::{
    Capture, Environment, Event, EventLevel, Header, Metric, Moment, Outcome, Quantile, Setting, SizeBin, StageTiming,
    Status,
};

/// Columns of a row, read from left to right. An error names the column by its number.
pub(super) struct Columns<'a> {
    row: &'a Row<'a>,
    next: usize,
}

pub(super) type Decoded<T> = Result<T, String>;

impl<'a> Columns<'a> {
    /// Starts at column `first`.
    pub(super) fn new(row: &'a Row<'a>, first: usize) -> Self {
        Self { row, next: first }
    }

    fn take(&mut self) -> Decoded<ValueRef<'a>> {
        self.next += 1;
        self.row.get(self.next - 1).ok_or_else(|| format!("column {} is missing", self.next))
    }

    pub(super) fn wrong<T>(&self, expected: &str) -> Decoded<T> {
        Err(format!("column {} holds no {expected}", self.next))
    }

    pub(super) fn opt_int<T: TryFrom<i64>>(&mut self) -> Decoded<Option<T>> {
        match self.take()? {
            ValueRef::Null => Ok(None),
            ValueRef::Integer(n) => T::try_from(n).map(Some).or_else(|_| self.wrong("number in its range")),
            _ => self.wrong("integer"),
        }
    }

    pub(super) fn int<T: TryFrom<i64>>(&mut self) -> Decoded<T> {
        self.opt_int()?.map_or_else(|| self.wrong("integer"), Ok)
    }

    /// SQLite keeps whole numbers of a REAL column as integers.
    pub(super) fn opt_real(&mut self) -> Decoded<Option<f64>> {
        match self.take()? {
            ValueRef::Null => Ok(None),
            ValueRef::Real(x) => Ok(Some(x)),
            #[expect(clippy::cast_precision_loss, reason = "SQLite stores a real as an integer only when it is exact")]
            ValueRef::Integer(n) => Ok(Some(n as f64)),
            _ => self.wrong("number"),
        }
    }

    pub(super) fn opt_blob(&mut self) -> Decoded<Option<Vec<u8>>> {
        match self.take()? {
            ValueRef::Null => Ok(None),
            ValueRef::Blob(bytes) => Ok(Some(bytes.to_vec())),
            _ => self.wrong("bytes"),
        }
    }

    pub(super) fn opt_str(&mut self) -> Decoded<Option<&'a str>> {
        match self.take()? {
            ValueRef::Null => Ok(None),
            ValueRef::Text(bytes) => std::str::from_utf8(bytes).map(Some).or_else(|_| self.wrong("UTF-8 text")),
            _ => self.wrong("text"),
        }
    }

    fn str(&mut self) -> Decoded<&'a str> {
        self.opt_str()?.map_or_else(|| self.wrong("text"), Ok)
    }

    pub(super) fn string(&mut self) -> Decoded<String> {
        self.str().map(str::to_owned)
    }

    pub(super) fn opt_string(&mut self) -> Decoded<Option<String>> {
        Ok(self.opt_str()?.map(str::to_owned))
    }

    pub(super) fn parsed<T: FromStr>(&mut self, expected: &str) -> Decoded<T> {
        self.str()?.parse().or_else(|_| self.wrong(expected))
    }

    pub(super) fn named<T>(&mut self, expected: &str, from_name: fn(&str) -> Option<T>) -> Decoded<T> {
        from_name(self.str()?).map_or_else(|| self.wrong(expected), Ok)
    }

    pub(super) fn node(&mut self) -> Decoded<Option<NodeId>> {
        self.opt_str()?.map(str::parse).transpose().or_else(|_| self.wrong("node name"))
    }

    fn stage(&mut self) -> Decoded<Stage> {
        self.named("stage", Stage::from_name)
    }

    fn hash(&mut self) -> Decoded<ShortHash> {
        self.parsed("hash")
    }
}

/// What the iteration table says of one attempt.
#[derive(Debug)]
pub(super) struct IterationRow {
    pub(super) header: Header,
    pub(super) outcome: Outcome,
    /// Hashes of the rows of each table.
    pub(super) parts: Box<[u8; PART_BYTES * TABLES.len()]>,
    /// Hash over these.
    pub(super) sha256: [u8; 32],
}

pub(super) fn iteration(row: &Row<'_>) -> Decoded<IterationRow> {
    let c = &mut Columns::new(row, 1);
    let identity = c.hash()?;
    let number = IterationNumber(c.int()?);
    let tuple = c.hash()?;
    let (repetition, block, attempt) = (c.int()?, c.opt_int()?, c.int()?);
    let (testbed, host) = (c.string()?, c.string()?);
    let status = c.named("status", Status::from_name)?;
    let outcome = outcome(status, c.str()?)?;
    let (started_ns, finished_ns) = (c.int()?, c.opt_int()?);
    let (spec_hash, vptest_version) = (c.hash()?, c.string()?);
    let parts = match c.take()? {
        ValueRef::Blob(bytes) => {
            bytes.to_vec().into_boxed_slice().try_into().or_else(|_| c.wrong("hash for each table"))?
        }
        _ => return c.wrong("hash for each table"),
    };
    let sha256 = match c.take()? {
        ValueRef::Blob(bytes) => bytes.try_into().or_else(|_| c.wrong("SHA-256"))?,
        _ => return c.wrong("SHA-256"),
    };
    let header = Header {
        identity,
        tuple,
        number,
        repetition,
        block,
        attempt,
        testbed,
        host,
        started_ns,
        finished_ns,
        spec_hash,
        vptest_version,
    };
    Ok(IterationRow { header, outcome, parts, sha256 })
}

/// The inverse of [`Outcome::status`] and [`Outcome::reasons`].
fn outcome(status: Status, reasons: &str) -> Decoded<Outcome> {
    let reasons: Vec<String> =
        serde_json::from_str(reasons).map_err(|error| format!("the reasons are no list of texts: {error}"))?;
    outcome_of(status, reasons)
}

/// As [`outcome`], of reasons that are a list already.
pub(super) fn outcome_of(status: Status, reasons: Vec<String>) -> Decoded<Outcome> {
    let stage_and_text = || {
        let [reason] = reasons.as_slice() else { return Err(format!("a {status} iteration has one reason")) };
        let split = reason.split_once(": ").and_then(|(stage, text)| Some((Stage::from_name(stage)?, text.to_owned())));
        split.ok_or_else(|| format!("the reason `{reason}` does not begin with a stage"))
    };
    Ok(match status {
        Status::Complete if reasons.is_empty() => Outcome::Complete,
        Status::Complete => return Err("a complete iteration has reasons".to_owned()),
        Status::Suspect => Outcome::Suspect(reasons),
        Status::Invalid => Outcome::Invalid(reasons),
        Status::Failed => stage_and_text().map(|(stage, error)| Outcome::Failed { stage, error })?,
        Status::TimedOut => stage_and_text().map(|(stage, _)| Outcome::TimedOut { stage })?,
        Status::Interrupted => stage_and_text().map(|(stage, by)| Outcome::Interrupted { stage, by })?,
    })
}

pub(super) fn factor(row: &Row<'_>) -> Decoded<(String, String)> {
    let c = &mut Columns::new(row, 1);
    Ok((c.string()?, c.string()?))
}

pub(super) fn setting(row: &Row<'_>) -> Decoded<Setting> {
    let c = &mut Columns::new(row, 2);
    Ok(Setting {
        node: c.node()?,
        name: c.string()?,
        requested: c.opt_string()?,
        observed: c.opt_string()?,
        ok: match c.opt_int::<i64>()? {
            None => None,
            Some(0) => Some(false),
            Some(1) => Some(true),
            Some(_) => return c.wrong("0 or 1"),
        },
        when: c.named("moment", |name| [Moment::Before, Moment::After].into_iter().find(|m| m.as_str() == name))?,
    })
}

pub(super) fn metric(row: &Row<'_>) -> Decoded<Metric> {
    let c = &mut Columns::new(row, 2);
    Ok(Metric {
        pair: c.opt_int()?,
        node: c.node()?,
        level: c.named("level", Level::from_name)?,
        name: c.string()?,
        unit: c.string()?,
        value: c.opt_real()?,
        better: match c.opt_str()? {
            None => None,
            Some(name) => Some(Better::from_name(name).map_or_else(|| c.wrong("direction"), Ok)?),
        },
    })
}

pub(super) fn quantile(row: &Row<'_>) -> Decoded<Quantile> {
    let c = &mut Columns::new(row, 2);
    Ok(Quantile {
        pair: c.opt_int()?,
        node: c.node()?,
        name: c.string()?,
        unit: c.string()?,
        q: c.opt_real()?.map_or_else(|| c.wrong("number"), Ok)?,
        value: c.opt_real()?,
    })
}

pub(super) fn capture(row: &Row<'_>) -> Decoded<Capture> {
    let c = &mut Columns::new(row, 2);
    Ok(Capture {
        node: c.parsed("node name")?,
        vantage: c.named("vantage", Vantage::from_name)?,
        interface: c.string()?,
        snaplen: c.int()?,
        packets: c.int()?,
        bytes: c.int()?,
        dropped_kernel: c.opt_int()?,
        dropped_interface: c.opt_int()?,
        ring_bytes: c.int()?,
        sizes: Vec::new(),
        file: c.opt_string()?,
        tcp: None,
    })
}

/// Index of the capture, and the bin.
pub(super) fn capture_size(row: &Row<'_>) -> Decoded<(usize, SizeBin)> {
    let c = &mut Columns::new(row, 1);
    Ok((c.int()?, SizeBin { from: c.int()?, to: c.opt_int()?, packets: c.int()? }))
}

pub(super) fn event(row: &Row<'_>) -> Decoded<Event> {
    let c = &mut Columns::new(row, 2);
    let levels = [EventLevel::Info, EventLevel::Warn, EventLevel::Error];
    Ok(Event {
        at_ns: c.int()?,
        stage: c.stage()?,
        level: {
            let name = c.str()?;
            levels.into_iter().find(|l| l.as_str() == name).map_or_else(|| c.wrong("event level"), Ok)?
        },
        text: c.string()?,
    })
}

pub(super) fn stage(row: &Row<'_>) -> Decoded<StageTiming> {
    let c = &mut Columns::new(row, 2);
    Ok(StageTiming { stage: c.stage()?, started_ns: c.int()?, duration_ns: c.opt_int()? })
}

pub(super) fn environment(row: &Row<'_>) -> Decoded<Environment> {
    let c = &mut Columns::new(row, 2);
    Ok(Environment { host: c.string()?, name: c.string()?, value: c.string()? })
}

//! Rows of a stretch of iterations become columns of metrics.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rusqlite::types::ValueRef;

use super::conditions;
use super::dataset::{Iteration, MetricColumn, Reading};
use super::decode::{self, IterationRow};
use super::raw::Row;
use super::repeat::Again;
use super::scan::Visitor;
use super::schema::TableId;
use super::slots::{Slots, VALUE, value};
use crate::ids::{Better, Level, NodeId};
use crate::record::{Capture, JOBS, SENTINEL, SPEC, Setting};

type Wanted<'a> = &'a (dyn Fn(Level, &str, Option<&str>) -> bool + Sync);
type Key = (Level, String, Option<String>);

/// What a stretch of iterations gave.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) attempts: Vec<Iteration>,
    pub(super) columns: Vec<MetricColumn>,
    pub(super) known: BTreeSet<String>,
    pub(super) specs: BTreeSet<String>,
}

impl Loaded {
    /// The iterations of `self`, then those of `other`.
    pub(super) fn append(mut self, other: Self) -> Self {
        let (ours, theirs) = (self.attempts.len(), other.attempts.len());
        let mut at: HashMap<Key, usize> =
            self.columns.iter().enumerate().map(|(i, c)| ((c.level, c.name.clone(), c.role.clone()), i)).collect();
        for column in other.columns {
            let key = (column.level, column.name.clone(), column.role.clone());
            let next = self.columns.len();
            let i = *at.entry(key).or_insert(next);
            if i == next {
                let values = vec![Reading::NotMeasured; ours];
                let seen = if column.seen.is_empty() { Vec::new() } else { vec![None; ours] };
                let (name, role) = (column.name.clone(), column.role.clone());
                let (level, better, units) = (column.level, column.better, BTreeSet::new());
                self.columns.push(MetricColumn { name, level, role, units, better, values, seen });
            }
            let into = &mut self.columns[i];
            into.better = into.better.filter(|_| into.better == column.better);
            into.units.extend(column.units);
            into.values.extend(column.values);
            // What was not seen before this stretch has its places, too.
            if into.seen.is_empty() && !column.seen.is_empty() {
                into.seen = vec![None; ours];
            }
            into.seen.extend(column.seen);
        }
        for column in &mut self.columns {
            column.values.resize(ours + theirs, Reading::NotMeasured);
            if !column.seen.is_empty() {
                column.seen.resize(ours + theirs, None);
            }
        }
        self.attempts.extend(other.attempts);
        self.known.extend(other.known);
        self.specs.extend(other.specs);
        self
    }
}

impl Loaded {
    /// Takes the sentinels out, with their values; `None` when there are none. Both parts have all columns.
    pub(super) fn take_sentinels(&mut self) -> Option<Self> {
        let are: Vec<bool> = self.attempts.iter().map(|attempt| attempt.sentinel).collect();
        if !are.contains(&true) {
            return None;
        }
        let mut columns = Vec::with_capacity(self.columns.len());
        for column in &mut self.columns {
            let seen = if column.seen.is_empty() { Vec::new() } else { divide(&mut column.seen, &are) };
            columns.push(MetricColumn {
                name: column.name.clone(),
                level: column.level,
                role: column.role.clone(),
                units: column.units.clone(),
                better: column.better,
                values: divide(&mut column.values, &are),
                seen,
            });
        }
        let (known, specs) = (self.known.clone(), self.specs.clone());
        Some(Self { attempts: divide(&mut self.attempts, &are), columns, known, specs })
    }
}

/// Takes those out for which `are` holds.
fn divide<T>(items: &mut Vec<T>, are: &[bool]) -> Vec<T> {
    let (taken, kept): (Vec<_>, Vec<_>) = std::mem::take(items).into_iter().zip(are).partition(|(_, are)| **are);
    *items = kept.into_iter().map(|(item, _)| item).collect();
    taken.into_iter().map(|(item, _)| item).collect()
}

/// A column under way: what the current iteration has of it.
struct Column {
    column: MetricColumn,
    betters: BTreeSet<Option<Better>>,
    sum: f64,
    pairs: u32,
    /// Has it a value for each pair?
    per_pair: bool,
    missing: bool,
    seen: BTreeSet<String>,
}

/// What a slot's rows mean.
#[derive(Clone, Copy)]
struct Meaning {
    /// `None` for a metric that was not asked for.
    column: Option<usize>,
    /// The pair, or 0 for one of none.
    pair: u32,
    /// Slots that a unit alone tells apart have the same.
    key: usize,
    /// Does it depend on where packets were looked at?
    placed: bool,
}

/// Makes columns of rows.
pub(super) struct Loader<'a> {
    wanted: Wanted<'a>,
    /// Is it asked where packets were looked at?
    places: bool,
    loaded: Vec<Iteration>,
    slots: Slots,
    meanings: Vec<Meaning>,
    keys: HashMap<(Option<u32>, Option<NodeId>, Level, String), usize>,
    /// For each key the iteration that had it last, from 1.
    last_of_key: Vec<usize>,
    columns: Vec<Column>,
    by_name: HashMap<Key, usize>,
    factors: HashMap<Vec<u8>, Arc<BTreeMap<String, String>>>,
    texts: HashMap<String, Arc<str>>,
    specs: BTreeSet<String>,
    now: Now,
}

/// What was read of the current iteration.
#[derive(Default)]
struct Now {
    head: Option<IterationRow>,
    /// Its factor rows, one after the other.
    factor_key: Vec<u8>,
    values: Vec<(usize, f64)>,
    touched: Vec<usize>,
    placed: Vec<usize>,
    /// How many pairs it has, as far as its factor or any metric tells.
    pairs: u32,
    captures: Vec<Capture>,
    settings: Vec<Setting>,
    jobs: Option<u32>,
    accel: Option<String>,
    image: Option<String>,
    disk: Option<String>,
    sentinel: Option<String>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(wanted: Wanted<'a>, places: bool) -> Self {
        Self {
            wanted,
            places,
            loaded: Vec::new(),
            slots: Slots::default(),
            meanings: Vec::new(),
            keys: HashMap::new(),
            last_of_key: Vec::new(),
            columns: Vec::new(),
            by_name: HashMap::new(),
            factors: HashMap::new(),
            texts: HashMap::new(),
            specs: BTreeSet::new(),
            now: Now::default(),
        }
    }

    pub(super) fn finish(self) -> Loaded {
        let known = self.slots.all().iter().map(|m| m.name.clone()).collect();
        let attempts = self.loaded.len();
        let columns = self.columns.into_iter().map(|mut c| {
            c.column.values.resize(attempts, Reading::NotMeasured);
            if !c.column.seen.is_empty() {
                c.column.seen.resize(attempts, None);
            }
            let better = if c.betters.len() == 1 { c.betters.into_iter().next().flatten() } else { None };
            MetricColumn { better, ..c.column }
        });
        Loaded { columns: columns.collect(), attempts: self.loaded, known, specs: self.specs }
    }

    fn factor(&mut self, row: &Row<'_>) {
        for column in [1, 2] {
            if let Some(ValueRef::Text(bytes)) = row.get(column) {
                self.now.factor_key.extend((bytes.len() as u64).to_le_bytes());
                self.now.factor_key.extend(bytes);
            }
        }
        if let (Some(ValueRef::Text(b"pairs")), Some(ValueRef::Text(value))) = (row.get(1), row.get(2)) {
            let pairs = str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            self.now.pairs = self.now.pairs.max(pairs.unwrap_or_default());
        }
    }

    /// The slot of a row of the metric table, whose value is taken.
    fn metric(&mut self, row: &Row<'_>) -> Result<usize, String> {
        let slot = self.slots.find(row)?;
        if slot == self.meanings.len() {
            let meaning = self.meaning(slot);
            self.meanings.push(meaning);
        }
        self.value(slot, row.get(VALUE).unwrap_or(ValueRef::Null))?;
        Ok(slot)
    }

    fn value(&mut self, slot: usize, cell: ValueRef<'_>) -> Result<(), String> {
        let value = value(cell)?;
        let Meaning { column, pair, key, placed } = self.meanings[slot];
        let number = self.loaded.len() + 1;
        if self.last_of_key[key] == number {
            return Err(format!("metric {} is there twice for the same pair and node", self.slots.metric(slot).name));
        }
        self.last_of_key[key] = number;
        self.now.pairs = self.now.pairs.max(pair);
        let Some(column) = column else { return Ok(()) };
        if placed {
            self.now.placed.push(slot);
        }
        let into = &mut self.columns[column];
        if into.pairs == 0 {
            self.now.touched.push(column);
        }
        into.pairs += 1;
        into.per_pair |= pair > 0;
        match value {
            Some(value) => {
                into.sum += value;
                self.now.values.push((column, value));
            }
            None => into.missing = true,
        }
        Ok(())
    }

    fn meaning(&mut self, slot: usize) -> Meaning {
        let metric = self.slots.metric(slot);
        let role = super::query::role(metric.node);
        let pair = metric.pair.unwrap_or_default();
        let next = self.keys.len();
        let key = *self.keys.entry((metric.pair, metric.node, metric.level, metric.name.clone())).or_insert(next);
        if key == next {
            self.last_of_key.push(0);
        }
        if !(self.wanted)(metric.level, &metric.name, role.as_deref()) {
            return Meaning { column: None, pair, key, placed: false };
        }
        let placed = conditions::depends_on_place(metric);
        let next = self.columns.len();
        let (name, level) = (metric.name.clone(), metric.level);
        let column = *self.by_name.entry((level, name.clone(), role.clone())).or_insert(next);
        if column == next {
            let column = MetricColumn {
                name,
                level,
                role,
                units: BTreeSet::new(),
                better: None,
                values: Vec::new(),
                seen: Vec::new(),
            };
            let betters = BTreeSet::new();
            self.columns.push(Column {
                column,
                betters,
                sum: 0.0,
                pairs: 0,
                per_pair: false,
                missing: false,
                seen: BTreeSet::new(),
            });
        }
        let (into, metric) = (&mut self.columns[column], self.slots.metric(slot));
        into.column.units.insert(metric.unit.clone());
        into.betters.insert(metric.better);
        Meaning { column: Some(column), pair, key, placed }
    }

    fn fact(&mut self, row: &Row<'_>) -> Result<Again, String> {
        let Some(ValueRef::Text(name)) = row.get(3) else { return Err("a fact has no name".to_owned()) };
        let now = &mut self.now;
        let into = match name {
            b"testbed.qemu.accel" => &mut now.accel,
            b"image.id" => &mut now.image,
            b"image.disk" => &mut now.disk,
            name if name == SENTINEL.as_bytes() => &mut now.sentinel,
            _ if name == SPEC.as_bytes() => {
                self.spec(row)?;
                return Ok(Again::Row);
            }
            _ => return Ok(Again::Nothing),
        };
        if into.is_none() {
            *into = Some(decode::environment(row)?.value);
        }
        Ok(Again::Row)
    }

    /// Specs are long, and the same for thousands of iterations.
    fn spec(&mut self, row: &Row<'_>) -> Result<(), String> {
        let known = match row.get(4) {
            Some(ValueRef::Text(text)) => std::str::from_utf8(text).is_ok_and(|text| self.specs.contains(text)),
            _ => false,
        };
        if !known {
            self.specs.insert(decode::environment(row)?.value);
        }
        Ok(())
    }

    fn setting(&mut self, row: &Row<'_>) -> Result<Again, String> {
        match row.get(3) {
            Some(ValueRef::Text(name)) if self.places && conditions::is_offload(name) => {
                self.now.settings.push(decode::setting(row)?);
                Ok(Again::Row)
            }
            Some(ValueRef::Text(name)) if name == JOBS.as_bytes() => {
                let observed = decode::setting(row)?.observed;
                let jobs = observed.as_deref().and_then(|text| text.parse().ok());
                self.now.jobs = Some(jobs.ok_or_else(|| format!("setting {JOBS} is no number"))?);
                Ok(Again::Row)
            }
            _ => Ok(Again::Nothing),
        }
    }

    /// Closes the current iteration's values.
    fn close(&mut self) {
        let before = self.loaded.len();
        for &slot in &self.now.placed {
            let column = self.meanings[slot].column.expect("a slot of a column");
            if let Some(seen) = conditions::seen(&self.now.captures, &self.now.settings, self.slots.metric(slot)) {
                self.columns[column].seen.insert(seen);
            }
        }
        for &at in &self.now.touched {
            let column = &mut self.columns[at];
            column.column.values.resize(before, Reading::NotMeasured);
            // A pair without a row is as unknown as one without a value: the mean of the others is another quantity.
            let short = column.per_pair && !column.pairs.is_multiple_of(self.now.pairs);
            let reading = if column.missing || short {
                Reading::Missing
            } else {
                let n = f64::from(column.pairs);
                // Dividing first keeps the largest numbers from overflowing.
                let divided = || self.now.values.iter().filter(|v| v.0 == at).map(|v| v.1 / n).sum();
                let mean = if column.sum.is_finite() { column.sum / n } else { divided() };
                Reading::Value { mean, pairs: column.pairs }
            };
            column.column.values.push(reading);
            if !column.seen.is_empty() {
                let seen = std::mem::take(&mut column.seen).into_iter().collect::<Vec<_>>().join("; ");
                column.column.seen.resize(before, None);
                column.column.seen.push(Some(intern(&mut self.texts, seen)));
            }
            (column.sum, column.pairs, column.per_pair, column.missing) = (0.0, 0, false, false);
        }
    }

    /// The factors of the current iteration; the same object for the same factors.
    fn factors(&mut self, testbed: &str) -> Result<Arc<BTreeMap<String, String>>, String> {
        let key = &mut self.now.factor_key;
        let rows = key.len();
        key.extend(testbed.as_bytes());
        if let Some(known) = self.factors.get(key) {
            return Ok(Arc::clone(known));
        }
        let mut factors = BTreeMap::new();
        let mut rest = &key[..rows];
        while !rest.is_empty() {
            let (name, value) = (text(&mut rest)?, text(&mut rest)?);
            if factors.insert(name.clone(), value).is_some() {
                return Err(format!("factor {name} is there twice"));
            }
        }
        factors.entry("testbed".to_owned()).or_insert_with(|| testbed.to_owned());
        let factors = Arc::new(factors);
        self.factors.insert(key.clone(), Arc::clone(&factors));
        Ok(factors)
    }
}

/// The next text of a key of factors.
fn text(rest: &mut &[u8]) -> Result<String, String> {
    let bad = || "a factor's name or value is no text".to_owned();
    let (length, tail) = rest.split_first_chunk().ok_or_else(bad)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| bad())?;
    let (text, tail) = tail.split_at_checked(length).ok_or_else(bad)?;
    *rest = tail;
    String::from_utf8(text.to_vec()).map_err(|_| bad())
}

fn intern(texts: &mut HashMap<String, Arc<str>>, text: String) -> Arc<str> {
    match texts.get(&text) {
        Some(known) => Arc::clone(known),
        None => {
            let new: Arc<str> = Arc::from(text.as_str());
            texts.insert(text, Arc::clone(&new));
            new
        }
    }
}

impl Visitor for Loader<'_> {
    fn begin(&mut self, head: IterationRow) -> Result<(), String> {
        super::check::check_header(&head.header, &head.outcome).map_err(|bad| bad.to_string())?;
        self.now.head = Some(head);
        Ok(())
    }

    fn row(&mut self, table: TableId, row: &Row<'_>) -> Result<Again, String> {
        match table {
            TableId::Factor => self.factor(row),
            TableId::Setting => return self.setting(row),
            TableId::Metric => return self.metric(row).map(Again::Cell),
            TableId::Capture => self.now.captures.push(decode::capture(row)?),
            TableId::Environment => return self.fact(row),
            _ => {}
        }
        Ok(Again::Row)
    }

    fn again(&mut self, _: TableId, slot: usize, cell: ValueRef<'_>) -> Result<(), String> {
        self.value(slot, cell)
    }

    fn end(&mut self) -> Result<(), String> {
        let IterationRow { header, outcome, .. } = self.now.head.take().expect("an iteration that began");
        self.close();
        let factors = self.factors(&header.testbed)?;
        let accel = self.now.accel.take().map(|text| intern(&mut self.texts, text));
        let disk = self.now.disk.take();
        let image = self.now.image.take().or(disk).map(|text| intern(&mut self.texts, text));
        let sentinel = self.now.sentinel.take().is_some();
        let jobs = self.now.jobs.take();
        self.loaded.push(Iteration { header, outcome, counts: false, sentinel, factors, jobs, accel, image });
        let now = &mut self.now;
        now.factor_key.clear();
        now.values.clear();
        now.touched.clear();
        now.placed.clear();
        now.pairs = 0;
        now.captures.clear();
        now.settings.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(attempts: usize, columns: &[(&str, Option<&str>)]) -> Loaded {
        let record = crate::store::tests::records::sample(1);
        let factors = Arc::new(BTreeMap::new());
        let attempt = || Iteration {
            header: record.header.clone(),
            outcome: record.outcome.clone(),
            counts: false,
            factors: Arc::clone(&factors),
            jobs: None,
            accel: None,
            image: None,
            sentinel: false,
        };
        let column = |&(name, seen): &(&str, Option<&str>)| MetricColumn {
            name: name.to_owned(),
            level: Level::Network,
            role: None,
            units: BTreeSet::new(),
            better: None,
            values: vec![Reading::Missing; attempts],
            seen: seen.map_or_else(Vec::new, |seen| vec![Some(Arc::from(seen)); attempts]),
        };
        Loaded {
            attempts: (0..attempts).map(|_| attempt()).collect(),
            columns: columns.iter().map(column).collect(),
            known: BTreeSet::new(),
            specs: BTreeSet::new(),
        }
    }

    #[test]
    fn stretches_keep_the_places_of_their_own_iterations() {
        let all = part(2, &[("a", None), ("b", Some("guest"))])
            .append(part(1, &[("b", None)]))
            .append(part(2, &[("a", Some("host")), ("c", Some("host"))]));
        let seen = |name: &str| -> Vec<Option<&str>> {
            let column = all.columns.iter().find(|column| column.name == name).unwrap();
            assert_eq!(column.values.len(), 5);
            column.seen.iter().map(Option::as_deref).collect()
        };
        assert_eq!(seen("a"), [None, None, None, Some("host"), Some("host")]);
        assert_eq!(seen("b"), [Some("guest"), Some("guest"), None, None, None]);
        assert_eq!(seen("c"), [None, None, None, Some("host"), Some("host")]);
        let c = all.columns.iter().find(|column| column.name == "c").unwrap();
        assert_eq!(c.values[..3], [Reading::NotMeasured; 3]);
    }
}

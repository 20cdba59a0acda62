//! A mergeable picture of a distribution: moments, extremes and quantiles in bounded space.
//!
//! Up to [`EXACT`] values are kept as they are. Beyond, each value falls into the bin of its sign, exponent and the first eight
//! bits of its mantissa, and is reported as the bin's end nearer to zero: at most 0.39 % off, and whole numbers up to 512
//! are exact. (DDSketch, Masson et al. 2019, has bins of the same kind; these need no logarithm and merge bit for bit.)
//! The bins depend on the values alone, not on their order or grouping, so merging is associative and commutative.

use std::collections::BTreeMap;

use thiserror::Error;

use super::samples::as_f64;

/// So many values are kept exactly.
pub const EXACT: usize = 128;

/// Mantissa bits that a bin does not tell apart.
const DROPPED_BITS: u32 = 52 - 8;

/// See the module.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sketch {
    count: u64,
    mean: f64,
    /// Sum of squared distances from the mean.
    spread: f64,
    /// Values in ascending order while there are few; empty beyond.
    few: Vec<f64>,
    /// Bin number to count, when there are many.
    bins: BTreeMap<i32, u64>,
    min: f64,
    max: f64,
}

/// Why bytes are no [`Sketch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SketchError {
    /// They end too early, or too late.
    #[error("a stored distribution has the wrong length")]
    Length,
    /// Written by another version.
    #[error("a stored distribution of version {0}, known are 1 and 2")]
    Version(u8),
    /// The parts contradict each other.
    #[error("a stored distribution whose counts do not add up")]
    Contradiction,
}

impl Sketch {
    /// Adds a value; one that is not finite is not counted.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.extremes(value, value);
        self.count += 1;
        let distance = value - self.mean;
        self.mean += distance / as_f64(self.count);
        self.spread += distance * (value - self.mean);
        if self.bins.is_empty() && self.few.len() < EXACT {
            let at = self.few.partition_point(|&other| other < value);
            self.few.insert(at, value);
        } else {
            self.spill();
            *self.bins.entry(bin(value)).or_default() += 1;
        }
    }

    fn extremes(&mut self, min: f64, max: f64) {
        (self.min, self.max) = if self.count == 0 { (min, max) } else { (self.min.min(min), self.max.max(max)) };
    }

    fn spill(&mut self) {
        for value in std::mem::take(&mut self.few) {
            *self.bins.entry(bin(value)).or_default() += 1;
        }
    }

    /// Adds everything `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.extremes(other.min, other.max);
        let (n, m) = (as_f64(self.count), as_f64(other.count));
        let distance = other.mean - self.mean;
        self.count += other.count;
        self.mean = (self.mean * n + other.mean * m) / (n + m);
        self.spread += other.spread + distance * distance * n * m / (n + m);
        let both_few = self.bins.is_empty() && other.bins.is_empty();
        if both_few && self.few.len() + other.few.len() <= EXACT {
            self.few.extend_from_slice(&other.few);
            self.few.sort_by(f64::total_cmp);
            return;
        }
        self.spill();
        for (&number, &count) in &other.bins {
            *self.bins.entry(number).or_default() += count;
        }
        for &value in &other.few {
            *self.bins.entry(bin(value)).or_default() += 1;
        }
    }

    /// Number of values.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Arithmetic mean; `None` without values.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    /// Sample standard deviation (n − 1); `None` below two values.
    pub fn deviation(&self) -> Option<f64> {
        (self.count > 1).then(|| (self.spread.max(0.0) / (as_f64(self.count) - 1.0)).sqrt())
    }

    /// Smallest value; `None` without values.
    pub fn min(&self) -> Option<f64> {
        (self.count > 0).then_some(self.min)
    }

    /// Largest value; `None` without values.
    pub fn max(&self) -> Option<f64> {
        (self.count > 0).then_some(self.max)
    }

    /// The smallest value that at least the share `q` of all values do not exceed (nearest rank); at most 0.39 % nearer to
    /// zero, exact up to 128 values and for whole numbers up to 512. `None` without values.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = super::side::truncated((q.clamp(0.0, 1.0) * as_f64(self.count)).ceil()).clamp(1, self.count);
        if rank == self.count {
            return Some(self.max);
        }
        if !self.few.is_empty() {
            return self.few.get(usize::try_from(rank - 1).ok()?).copied();
        }
        let mut below = 0;
        let (&number, _) = self.bins.iter().find(|&(_, &count)| {
            below += count;
            below >= rank
        })?;
        Some(edge(number).clamp(self.min, self.max))
    }

    /// Compact bytes; see [`Self::from_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        number(&mut bytes, self.count);
        for value in [self.mean, self.spread, self.min, self.max] {
            bytes.extend(value.to_le_bytes());
        }
        write_few(&mut bytes, &self.few);
        let mut before = 0;
        for (&bin, &count) in &self.bins {
            let step = i64::from(bin) - before;
            number(&mut bytes, (step << 1 ^ step >> 63).cast_unsigned());
            number(&mut bytes, count);
            before = i64::from(bin);
        }
        bytes
    }

    /// The inverse of [`Self::to_bytes`].
    ///
    /// # Errors
    /// When the bytes are cut, of another version, or contradict themselves.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SketchError> {
        let (&version, mut rest) = bytes.split_first().ok_or(SketchError::Length)?;
        if version != 1 && version != VERSION {
            return Err(SketchError::Version(version));
        }
        let count = take_number(&mut rest)?;
        let [mean, spread, min, max] =
            [take_real(&mut rest)?, take_real(&mut rest)?, take_real(&mut rest)?, take_real(&mut rest)?];
        let few = if version == 1 { take_reals(&mut rest)? } else { take_few(&mut rest)? };
        let exact = few.len() as u64;
        let bins = take_bins(&mut rest)?;
        let binned = bins.values().try_fold(0_u64, |sum, &count| sum.checked_add(count));
        let sound = [mean, spread, min, max].iter().chain(&few).all(|value| value.is_finite())
            && few.is_sorted()
            && (few.is_empty() || bins.is_empty())
            && binned.and_then(|binned| binned.checked_add(exact)) == Some(count);
        if sound { Ok(Self { count, mean, spread, few, bins, min, max }) } else { Err(SketchError::Contradiction) }
    }
}

/// Of the bytes. Version 1 had every single value as a double.
const VERSION: u8 = 2;

/// Units that single values may be whole numbers of, as parts of 1: counts and bytes, milliseconds and seconds that were
/// measured in microseconds.
const UNITS: [f64; 3] = [1.0, 1e3, 1e6];

/// Single values, ascending: how many; the number of their unit in [`UNITS`] from 1, 0 for doubles as they are; and then, for
/// each distinct value, the difference from the one before (the first: zigzag) times two, plus one if it repeats, and
/// then how often more.
fn write_few(bytes: &mut Vec<u8>, few: &[f64]) {
    number(bytes, few.len() as u64);
    if few.is_empty() {
        return;
    }
    let whole = UNITS.iter().zip(1_u8..).find_map(|(&unit, id)| Some((id, in_units(few, unit)?)));
    let Some((id, whole)) = whole else {
        bytes.push(0);
        few.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        return;
    };
    bytes.push(id);
    let mut before = None;
    for run in whole.chunk_by(|a, b| a == b) {
        let step = before.map_or((run[0] << 1 ^ run[0] >> 63).cast_unsigned(), |before| run[0].abs_diff(before));
        let more = run.len() as u64 - 1;
        number(bytes, step << 1 | u64::from(more > 0));
        if more > 0 {
            number(bytes, more);
        }
        before = Some(run[0]);
    }
}

/// The values as whole numbers of a unit, if that is exactly what they are.
fn in_units(few: &[f64], unit: f64) -> Option<Vec<i64>> {
    const MOST: f64 = 9_007_199_254_740_992.0;
    let whole = |&value: &f64| {
        let scaled = (value * unit).round();
        #[expect(clippy::cast_possible_truncation, reason = "below 2^53, as checked")]
        let number = (scaled.abs() < MOST).then_some(scaled as i64)?;
        (of_unit(number, unit).to_bits() == value.to_bits()).then_some(number)
    };
    few.iter().map(whole).collect()
}

fn of_unit(number: i64, unit: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "written from less than 2^53")]
    let number = number as f64;
    number / unit
}

fn take_few(rest: &mut &[u8]) -> Result<Vec<f64>, SketchError> {
    let count = take_count(rest)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let (&id, after) = rest.split_first().ok_or(SketchError::Length)?;
    *rest = after;
    if id == 0 {
        return (0..count).map(|_| take_real(rest)).collect();
    }
    let unit = *UNITS.get(usize::from(id) - 1).ok_or(SketchError::Contradiction)?;
    let mut few = Vec::with_capacity(count);
    let mut at: Option<i64> = None;
    while few.len() < count {
        let coded = take_number(rest)?;
        let more = if coded & 1 == 1 { take_number(rest)? } else { 0 };
        let step = coded >> 1;
        let next = match at {
            None => (step >> 1).cast_signed() ^ -(step & 1).cast_signed(),
            Some(at) => at.checked_add_unsigned(step).ok_or(SketchError::Contradiction)?,
        };
        let left = (count - few.len()) as u64;
        if more >= left {
            return Err(SketchError::Contradiction);
        }
        few.extend((0..=more).map(|_| of_unit(next, unit)));
        at = Some(next);
    }
    Ok(few)
}

fn take_reals(rest: &mut &[u8]) -> Result<Vec<f64>, SketchError> {
    let count = take_count(rest)?;
    (0..count).map(|_| take_real(rest)).collect()
}

/// How many single values there are.
fn take_count(rest: &mut &[u8]) -> Result<usize, SketchError> {
    let count = take_number(rest)?;
    usize::try_from(count).ok().filter(|&count| count <= EXACT).ok_or(SketchError::Contradiction)
}

/// Number of the bin of a finite value; 0 for zero, negative for negative values.
fn bin(value: f64) -> i32 {
    let magnitude = i32::try_from(value.abs().to_bits() >> DROPPED_BITS).expect("19 bits");
    if value < 0.0 { -magnitude } else { magnitude }
}

/// The bin's end nearer to zero.
fn edge(bin: i32) -> f64 {
    let magnitude = f64::from_bits(u64::from(bin.unsigned_abs()) << DROPPED_BITS);
    if bin < 0 { -magnitude } else { magnitude }
}

fn number(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push(u8::try_from(n & 0x7f).expect("seven bits") | 0x80);
        n >>= 7;
    }
    bytes.push(u8::try_from(n).expect("seven bits"));
}

fn take_number(rest: &mut &[u8]) -> Result<u64, SketchError> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or(SketchError::Length)?;
        *rest = after;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(n);
        }
    }
    Err(SketchError::Length)
}

fn take_real(rest: &mut &[u8]) -> Result<f64, SketchError> {
    let (bytes, after) = rest.split_first_chunk().ok_or(SketchError::Length)?;
    *rest = after;
    Ok(f64::from_le_bytes(*bytes))
}

fn take_bins(rest: &mut &[u8]) -> Result<BTreeMap<i32, u64>, SketchError> {
    let (mut bins, mut at) = (BTreeMap::new(), 0_i64);
    while !rest.is_empty() {
        let step = take_number(rest)?;
        let step = (step >> 1).cast_signed() ^ -(step & 1).cast_signed();
        at = at.checked_add(step).ok_or(SketchError::Contradiction)?;
        let number = i32::try_from(at).map_err(|_| SketchError::Contradiction)?;
        let count = take_number(rest)?;
        if count == 0 || bins.insert(number, count).is_some() {
            return Err(SketchError::Contradiction);
        }
    }
    Ok(bins)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::default();
        values.iter().for_each(|&value| sketch.add(value));
        sketch
    }

    fn merged(mut left: Sketch, right: &Sketch) -> Sketch {
        left.merge(right);
        left
    }

    fn close(left: Option<f64>, right: Option<f64>) -> bool {
        match (left, right) {
            (Some(x), Some(y)) => (x - y).abs() <= 1e-9 * x.abs().max(y.abs()).max(1e-300),
            (x, y) => x == y,
        }
    }

    fn same(left: &Sketch, right: &Sketch) -> bool {
        (left.count, &left.few, &left.bins, left.min, left.max)
            == (right.count, &right.few, &right.bins, right.min, right.max)
            && close(left.mean(), right.mean())
            && close(left.deviation(), right.deviation())
    }

    fn values(most: usize) -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(prop_oneof![0.0..1e6, (0_u32..600).prop_map(f64::from), 1e-6..1e-3], 0..most)
    }

    proptest! {
        #[test]
        fn merging_is_associative_and_commutative(a in values(150), b in values(150), c in values(150)) {
            let (a, b, c) = (of(&a), of(&b), of(&c));
            let left = merged(merged(a.clone(), &b), &c);
            prop_assert!(same(&left, &merged(a.clone(), &merged(b.clone(), &c))));
            prop_assert!(same(&left, &merged(merged(c, &b), &a)));
        }

        #[test]
        fn merging_equals_adding(a in values(300), b in values(300)) {
            prop_assert!(same(&merged(of(&a), &of(&b)), &of(&[a, b].concat())));
        }

        #[test]
        fn quantiles_keep_their_bound(mut all in prop::collection::vec(-1e9..1e9_f64, 1..600), q in 0.0..1.0_f64) {
            let found = of(&all).quantile(q).expect("there are values");
            all.sort_by(f64::total_cmp);
            let enough = |&at: &usize| (at + 1) as f64 >= q * all.len() as f64;
            let right = all[(0..all.len()).find(enough).expect("all are enough")];
            prop_assert!((found - right).abs() <= 0.004 * right.abs(), "{found} for {right}");
            if all.len() <= EXACT {
                prop_assert_eq!(found, right);
            }
        }

        #[test]
        fn bytes_bring_it_back(a in values(400)) {
            let sketch = of(&a);
            prop_assert_eq!(Sketch::from_bytes(&sketch.to_bytes()), Ok(sketch));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(sketch) = Sketch::from_bytes(&bytes) {
                sketch.quantile(0.5);
            }
        }
    }

    #[test]
    fn whole_numbers_of_a_unit_take_few_bytes() {
        let micros: Vec<f64> = (0..100).map(|n| f64::from(1000 + n * 7) / 1e3).collect();
        for (values, most) in [(vec![1460.0; 100], 40), (micros, 140), (vec![-3.0, 0.0, 5.0], 42)] {
            let sketch = of(&values);
            let bytes = sketch.to_bytes();
            assert!(bytes.len() <= most, "{} bytes", bytes.len());
            assert_eq!(Sketch::from_bytes(&bytes), Ok(sketch));
        }
        let odd = of(&[0.1 + 0.2, std::f64::consts::PI, -0.0]);
        assert_eq!(Sketch::from_bytes(&odd.to_bytes()), Ok(odd));
    }

    #[test]
    fn bytes_of_version_1_are_read() {
        let sketch = of(&[2.5, 4.0]);
        let mut bytes = vec![1, 2];
        for value in [sketch.mean, sketch.spread, 2.5, 4.0] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.push(2);
        bytes.extend([2.5_f64, 4.0].into_iter().flat_map(f64::to_le_bytes));
        assert_eq!(Sketch::from_bytes(&bytes), Ok(sketch));
    }

    #[test]
    fn small_whole_numbers_are_exact() {
        let all: Vec<f64> = (0..=512).map(f64::from).collect();
        let sketch = of(&all);
        assert_eq!(sketch.quantile(0.5), Some(256.0));
        assert_eq!((sketch.min(), sketch.max(), sketch.quantile(1.0)), (Some(0.0), Some(512.0), Some(512.0)));
        assert_eq!(sketch.mean(), Some(256.0));
        assert_eq!(of(&[]).quantile(0.5), None);
    }
}

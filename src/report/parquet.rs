//! The table of [`super::export`] as Parquet.
//!
//! Columns have the names and the order of the CSV, and types: whole numbers, texts, and `value` as a double. What is empty in the CSV
//! is NULL: a factor that means nothing on the testbed, a value that could not be measured. A metric that an iteration does not have at
//! all has no row.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};

use super::export::{Export, unit};
use crate::store::{Iteration, MetricColumn, Reading};

/// Rows of a row group at most, but for those of one metric: what is held in memory at a time.
const ROWS: usize = 1 << 18;

/// Why a table cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write Parquet: {0}")]
pub struct Error(#[from] ParquetError);

type Result<T> = std::result::Result<T, Error>;

/// A row: indices of metric and iteration.
type Row = (usize, usize);

/// Writes the table to `to`, metric by metric.
///
/// # Errors
/// When `to` takes no more.
pub fn write<W: Write + Send>(export: &Export<'_>, to: W) -> Result<()> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_created_by(format!("vptest {}", env!("CARGO_PKG_VERSION")))
        .build();
    let mut file = SerializedFileWriter::new(to, schema(&export.factors)?, Arc::new(properties))?;
    let texts = Texts::of(export);
    let mut rows: Vec<Row> = Vec::new();
    for (m, metric) in export.dataset.metrics.iter().enumerate() {
        let has = |&&at: &&usize| !matches!(metric.values[at], Reading::NotMeasured);
        rows.extend(export.iterations.iter().filter(has).map(|&at| (m, at)));
        if rows.len() >= ROWS {
            group(export, &texts, &rows, file.next_row_group()?)?;
            rows.clear();
        }
    }
    if !rows.is_empty() {
        group(export, &texts, &rows, file.next_row_group()?)?;
    }
    file.close()?;
    Ok(())
}

fn schema(factors: &[&str]) -> Result<TypePtr> {
    let column = |name: &str, physical: Physical, logical: Option<LogicalType>, repetition: Repetition| {
        let of = Type::primitive_type_builder(name, physical).with_logical_type(logical).with_repetition(repetition);
        of.build().map(Arc::new)
    };
    let count = Some(LogicalType::integer(32, false));
    let (required, optional) = (Repetition::REQUIRED, Repetition::OPTIONAL);
    let number = |name: &str, repetition| column(name, Physical::INT32, count.clone(), repetition);
    let text = |name: &str, repetition| column(name, Physical::BYTE_ARRAY, Some(LogicalType::String), repetition);
    let mut columns = vec![
        number("iteration", required)?,
        text("identity", required)?,
        number("repetition", required)?,
        number("block", optional)?,
        number("attempt", required)?,
        text("status", required)?,
        text("host", required)?,
        column("started_ns", Physical::INT64, None, required)?,
    ];
    for name in factors {
        columns.push(text(&format!("factor.{name}"), optional)?);
    }
    columns.extend([
        text("level", required)?,
        text("metric", required)?,
        text("role", optional)?,
        text("unit", required)?,
        number("pairs", optional)?,
        column("value", Physical::DOUBLE, None, optional)?,
    ]);
    Ok(Arc::new(Type::group_type_builder("values").with_fields(columns).build()?))
}

/// Texts of iterations and metrics, each made once.
struct Texts {
    /// Of each iteration: identity, status, host and its factors.
    iterations: Vec<Option<OfIteration>>,
    /// Of each metric: level, name, role and unit.
    metrics: Vec<(ByteArray, ByteArray, Option<ByteArray>, ByteArray)>,
}

struct OfIteration {
    identity: ByteArray,
    status: ByteArray,
    host: ByteArray,
    factors: Vec<Option<ByteArray>>,
}

fn bytes(text: &str) -> ByteArray {
    ByteArray::from(text.as_bytes().to_vec())
}

impl Texts {
    fn of(export: &Export<'_>) -> Self {
        let mut iterations: Vec<Option<OfIteration>> = export.dataset.iterations.iter().map(|_| None).collect();
        for &at in &export.iterations {
            let iteration = &export.dataset.iterations[at];
            let factor = |name: &&str| iteration.factors.get(*name).map(|value| bytes(value));
            iterations[at] = Some(OfIteration {
                identity: bytes(&iteration.header.identity.to_string()),
                status: bytes(iteration.outcome.status().as_str()),
                host: bytes(&iteration.header.host),
                factors: export.factors.iter().map(factor).collect(),
            });
        }
        let metric = |metric: &MetricColumn| {
            let role = metric.role.as_deref().map(bytes);
            (bytes(metric.level.as_str()), bytes(&metric.name), role, bytes(&unit(metric)))
        };
        Self { iterations, metrics: export.dataset.metrics.iter().map(metric).collect() }
    }

    fn iteration(&self, at: usize) -> &OfIteration {
        self.iterations[at].as_ref().expect("made for every iteration that is written")
    }
}

/// Columns of a row group, one after the other.
struct Columns<'a, 'r, W: Write + Send> {
    group: SerializedRowGroupWriter<'a, W>,
    rows: &'r [Row],
}

impl<W: Write + Send> Columns<'_, '_, W> {
    fn next(&mut self) -> Result<SerializedColumnWriter<'_>> {
        let next = self.group.next_column()?;
        Ok(next.ok_or_else(|| ParquetError::General("there is no such column".to_owned()))?)
    }

    fn required<T: DataType>(&mut self, value: impl Fn(Row) -> T::T) -> Result<()> {
        let values: Vec<T::T> = self.rows.iter().map(|&row| value(row)).collect();
        let mut column = self.next()?;
        column.typed::<T>().write_batch(&values, None, None)?;
        Ok(column.close()?)
    }

    fn optional<T: DataType>(&mut self, value: impl Fn(Row) -> Option<T::T>) -> Result<()> {
        let all: Vec<Option<T::T>> = self.rows.iter().map(|&row| value(row)).collect();
        let levels: Vec<i16> = all.iter().map(|value| i16::from(value.is_some())).collect();
        let values: Vec<T::T> = all.into_iter().flatten().collect();
        let mut column = self.next()?;
        column.typed::<T>().write_batch(&values, Some(&levels), None)?;
        Ok(column.close()?)
    }
}

fn group<W: Write + Send>(
    export: &Export<'_>,
    texts: &Texts,
    rows: &[Row],
    group: SerializedRowGroupWriter<'_, W>,
) -> Result<()> {
    let iteration = |row: Row| -> &Iteration { &export.dataset.iterations[row.1] };
    let header = |row: Row| &iteration(row).header;
    let reading = |row: Row| match export.dataset.metrics[row.0].values[row.1] {
        Reading::Value { mean, pairs } => Some((mean, pairs)),
        Reading::Missing | Reading::NotMeasured => None,
    };
    let mut columns = Columns { group, rows };
    // Unsigned numbers are stored by their bits.
    columns.required::<Int32Type>(|row| header(row).number.0.cast_signed())?;
    columns.required::<ByteArrayType>(|row| texts.iteration(row.1).identity.clone())?;
    columns.required::<Int32Type>(|row| header(row).repetition.cast_signed())?;
    columns.optional::<Int32Type>(|row| header(row).block.map(u32::cast_signed))?;
    columns.required::<Int32Type>(|row| header(row).attempt.cast_signed())?;
    columns.required::<ByteArrayType>(|row| texts.iteration(row.1).status.clone())?;
    columns.required::<ByteArrayType>(|row| texts.iteration(row.1).host.clone())?;
    columns.required::<Int64Type>(|row| header(row).started_ns)?;
    for factor in 0..export.factors.len() {
        columns.optional::<ByteArrayType>(|row| texts.iteration(row.1).factors[factor].clone())?;
    }
    columns.required::<ByteArrayType>(|row| texts.metrics[row.0].0.clone())?;
    columns.required::<ByteArrayType>(|row| texts.metrics[row.0].1.clone())?;
    columns.optional::<ByteArrayType>(|row| texts.metrics[row.0].2.clone())?;
    columns.required::<ByteArrayType>(|row| texts.metrics[row.0].3.clone())?;
    columns.optional::<Int32Type>(|row| reading(row).map(|(_, pairs)| pairs.cast_signed()))?;
    columns.optional::<DoubleType>(|row| reading(row).map(|(mean, _)| mean))?;
    columns.group.close()?;
    Ok(())
}

//! `vptest export`

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::analyze::{status, unreadable};
use super::exit::{Exit, Failure};
use crate::record::Status;
use crate::report::export::Export;
use crate::store::Database;

/// Write all values as one tidy table, for pandas, R and DuckDB
#[derive(Debug, clap::Args)]
#[command(after_help = "\
One row for each iteration and metric; factors are columns named factor.NAME. Only complete iterations are written unless --include \
says otherwise, each once, as `vptest analyze` counts them; a value is the mean over the pairs of its iteration. docs/export.md has \
snippets for pandas, R and DuckDB.

Examples:
  vptest export > values.csv
  vptest export --db out/merged.db -o values.csv
  vptest export --include suspect,invalid | head")]
pub(super) struct Args {
    /// Database made by `vptest merge`, or one iteration file
    #[arg(long, value_name = "FILE", default_value = "merged.db")]
    db: PathBuf,
    /// Where to write it (default: standard output)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write iterations of this status too
    #[arg(long, value_name = "STATUS,...", value_delimiter = ',', value_parser = status)]
    include: Vec<Status>,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Comma-separated values with a header line (RFC 4180)
    Csv,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let Format::Csv = args.format;
    let failed = |error| unreadable(&args.db, error);
    let mut statuses = vec![Status::Complete];
    statuses.extend(&args.include);
    let dataset = Database::open(&args.db).and_then(|database| database.dataset(&statuses)).map_err(failed)?;
    let left_out = dataset.left_out(None).by_status;
    if !left_out.is_empty() {
        let reasons: Vec<String> = left_out.iter().map(|(status, n)| format!("{n} {status}")).collect();
        eprintln!(
            "left out: {} of {} iterations ({})",
            left_out.values().sum::<u64>(),
            dataset.iterations.len(),
            reasons.join(", ")
        );
    }
    let export = Export::new(&dataset);
    match &args.output {
        None => write(&export, BufWriter::new(std::io::stdout().lock()))?,
        Some(path) => super::report::whole(path, |file| write(&export, BufWriter::new(file)))?,
    }
    Ok(Exit::Done)
}

fn write(export: &Export<'_>, mut to: impl Write) -> std::io::Result<()> {
    to.write_all(export.header().as_bytes())?;
    for lines in export.metrics() {
        to.write_all(lines.as_bytes())?;
    }
    to.flush()
}

//! `vptest export`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::analyze::{status, unreadable};
use super::exit::{Exit, Failure};
use super::nearest;
use crate::record::Status;
use crate::report::export::Export;
use crate::store::{Database, Dataset};

/// Write all values as one tidy table, for pandas, R and DuckDB
#[derive(Debug, clap::Args)]
#[command(after_help = "\
One row for each iteration and metric; factors are columns named factor.NAME. Only complete iterations are written unless --include \
says otherwise, each once, as `vptest analyze` counts them; a value is the mean over the pairs of its iteration. Parquet has the same \
columns with types; what is empty in CSV is NULL there. docs/export.md has snippets for pandas, R and DuckDB.

Examples:
  vptest export > values.csv
  vptest export --db out/merged.db -o values.csv
  vptest export --format parquet -o values.parquet
  vptest export --format parquet --partition-by testbed -o values    values/factor.testbed=netns/part-0.parquet, …
  vptest export --include suspect,invalid | head")]
pub(super) struct Args {
    /// Database made by `vptest merge`, or one iteration file
    #[arg(long, value_name = "FILE", default_value = "merged.db")]
    db: PathBuf,
    /// Where to write it (default: standard output); with --partition-by a directory that is not there yet
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write iterations of this status too
    #[arg(long, value_name = "STATUS,...", value_delimiter = ',', value_parser = status)]
    include: Vec<Status>,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// One file for each value of this factor, in a directory named after it (Hive's layout)
    #[arg(long, value_name = "FACTOR", requires = "output")]
    partition_by: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Comma-separated values with a header line (RFC 4180)
    Csv,
    /// Apache Parquet, compressed with zstd
    #[cfg(feature = "parquet")]
    Parquet,
}

impl Format {
    const fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            #[cfg(feature = "parquet")]
            Self::Parquet => "parquet",
        }
    }
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let failed = |error| unreadable(&args.db, error);
    let mut statuses = vec![Status::Complete];
    statuses.extend(&args.include);
    let dataset = Database::open(&args.db).and_then(|database| database.dataset(&statuses)).map_err(failed)?;
    tell_left_out(&dataset);
    let export = Export::new(&dataset);
    match (&args.output, &args.partition_by) {
        (Some(directory), Some(factor)) => parts(&export, factor, directory, args.format)?,
        (Some(path), None) => super::report::whole(path, |file| write(&export, args.format, file))?,
        (None, _) => write(&export, args.format, std::io::stdout())?,
    }
    Ok(Exit::Done)
}

fn tell_left_out(dataset: &Dataset) {
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
}

fn write(export: &Export<'_>, format: Format, to: impl Write + Send) -> std::io::Result<()> {
    match format {
        Format::Csv => write_csv(export, BufWriter::new(to)),
        #[cfg(feature = "parquet")]
        Format::Parquet => crate::report::parquet::write(export, to).map_err(std::io::Error::other),
    }
}

fn write_csv(export: &Export<'_>, mut to: impl Write) -> std::io::Result<()> {
    to.write_all(export.header().as_bytes())?;
    for lines in export.metrics() {
        to.write_all(lines.as_bytes())?;
    }
    to.flush()
}

/// Directories as Hive lays them out, made beside their place and renamed at the end: all is there or nothing.
fn parts(export: &Export<'_>, factor: &str, directory: &Path, format: Format) -> Result<(), Failure> {
    if !export.factors().contains(&factor) {
        let known: Vec<String> = export.factors().iter().map(|&name| name.to_owned()).collect();
        let hint = match nearest(factor, &known) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("factors: {}", known.join(", ")),
        };
        return Err(Failure::text(Exit::Usage, format!("no iteration that counts has a factor `{factor}`")).hint(hint));
    }
    if std::fs::symlink_metadata(directory).is_ok() {
        let text = format!("{} is there already; parts are written to a directory of their own", directory.display());
        return Err(Failure::text(Exit::Usage, text));
    }
    let failed = |error: std::io::Error| {
        Failure::from(anyhow::Error::new(error).context(format!("cannot write {}", directory.display())))
    };
    let beside = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let making = tempfile::Builder::new().prefix(".vptest-").tempdir_in(beside).map_err(failed)?;
    // A directory within the private one, which has the permissions of any other.
    let made = making.path().join("parts");
    std::fs::create_dir(&made).map_err(failed)?;
    for (value, part) in export.parts(factor) {
        let place = made.join(hive_name(factor, value));
        std::fs::create_dir(&place).map_err(failed)?;
        let file = File::create(place.join(format!("part-0.{}", format.extension()))).map_err(failed)?;
        write(&part, format, &file).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    std::fs::rename(&made, directory).map_err(failed)
}

/// `factor.NAME=VALUE`, with `%` and two digits for what has a meaning in such a name or in a path.
fn hive_name(factor: &str, value: Option<&str>) -> String {
    const NULL: &str = "__HIVE_DEFAULT_PARTITION__";
    let Some(value) = value else { return format!("factor.{}={NULL}", escaped(factor)) };
    // A value of that very name is another one.
    let value = if value == NULL { escaped(value).replacen('_', "%5F", 1) } else { escaped(value) };
    format!("factor.{}={value}", escaped(factor))
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_. ".contains(&byte) || byte >= 0x80;
    let mut bytes = Vec::new();
    for byte in text.bytes() {
        if plain(byte) { bytes.push(byte) } else { bytes.extend(format!("%{byte:02X}").bytes()) }
    }
    String::from_utf8(bytes).expect("whole characters stay, and single bytes become ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_hold_any_value() {
        assert_eq!(hive_name("rate", Some("1 Gbit/s")), "factor.rate=1 Gbit%2Fs");
        assert_eq!(hive_name("a=b", Some("50%\n")), "factor.a%3Db=50%25%0A");
        assert_eq!(hive_name("note", Some("grün")), "factor.note=grün");
        assert_eq!(
            hive_name("driver", Some("__HIVE_DEFAULT_PARTITION__")),
            "factor.driver=%5F_HIVE_DEFAULT_PARTITION__"
        );
        assert_eq!(hive_name("driver", None), "factor.driver=__HIVE_DEFAULT_PARTITION__");
    }
}

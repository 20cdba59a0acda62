//! `vptest merge`

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::exit::{Exit, Failure};
use super::{Format, Verbosity};
use crate::store::{self, MergeProgress, MergeReport, StoreError};

/// Combine iteration files into one database; running it again changes nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Attempts that the output holds already are passed over, so new files can be added at any time, and merged files can be
merged again. A file that is not vptest's, of another version or damaged is named and left out; the rest is merged.

Exit status: 0, or 4 when a file was left out.

Examples:
  vptest merge out/*.db
  vptest merge cluster1.db cluster2.db -o all.db")]
pub(super) struct Args {
    /// Iteration files and merged files
    #[arg(required = true, value_name = "FILE")]
    inputs: Vec<PathBuf>,
    /// Database to write or to add to
    #[arg(short, long, value_name = "FILE", default_value = "merged.db")]
    output: PathBuf,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) fn run(args: &Args, verbosity: Verbosity) -> Result<Exit, Failure> {
    let bar = bar(args.inputs.len(), verbosity);
    let mut progress = |progress: MergeProgress| bar.set_position(progress.done as u64);
    let result = store::merge(&args.inputs, &args.output, &mut progress);
    bar.finish_and_clear();
    let report = result.map_err(failure)?;
    let left_out: Vec<String> = left_out(&report);
    for line in &left_out {
        eprintln!("left out: {line}");
    }
    print(args, &report, &left_out)?;
    Ok(if report.is_clean() { Exit::Done } else { Exit::Unreadable })
}

fn bar(inputs: usize, verbosity: Verbosity) -> ProgressBar {
    if verbosity.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} files  left {eta}").expect("the template is valid");
    ProgressBar::new(inputs as u64).with_style(style)
}

/// The output could not be read or written.
fn failure(error: StoreError) -> Failure {
    let exit = match &error {
        StoreError::Foreign { .. } | StoreError::Version { .. } | StoreError::Corrupt { .. } => Exit::Unreadable,
        _ => Exit::Unsupported,
    };
    Failure::new(exit, error)
}

fn left_out(report: &MergeReport) -> Vec<String> {
    let conflicts = report.conflicts.iter().map(ToString::to_string);
    let chain = |error: &StoreError| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        text
    };
    report.refused.iter().map(chain).chain(conflicts).collect()
}

fn print(args: &Args, report: &MergeReport, left_out: &[String]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let output = args.output.display();
    match args.format {
        Format::Json => writeln!(
            out,
            "{}",
            json!({
                "output": args.output, "files": report.files, "added": report.added, "known": report.known,
                "left_out": left_out,
            })
        ),
        Format::Csv => {
            writeln!(out, "files,added,known,left_out")?;
            writeln!(out, "{},{},{},{}", report.files, report.added, report.known, left_out.len())
        }
        Format::Table => {
            let mut parts = vec![format!("{} added", report.added), format!("{} there already", report.known)];
            if !left_out.is_empty() {
                parts.push(format!("{} files left out", left_out.len()));
            }
            writeln!(out, "{output}: {} of {} files: {}", report.files, args.inputs.len(), parts.join(", "))
        }
    }
}

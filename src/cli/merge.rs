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
Attempts that the output holds already are passed over, so new files can be added at any time, and merged files can be \
merged again; of an iteration file whose attempt is there only the head is read. A file that is not vptest's, of another version or damaged is named and left out; the rest is merged. \
Without any readable file no output is made.

Exit status: 0, 2 when the output has the name of an iteration file, 4 when a file was left out or the output cannot be \
read.

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

/// The output could not be read or written, or must not be.
fn failure(error: StoreError) -> Failure {
    let exit = match &error {
        StoreError::OutputIsIteration { .. } => {
            return Failure::new(Exit::Usage, error).hint("give -o a name of its own: -o merged.db");
        }
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
    let files = report.files + report.own;
    match args.format {
        Format::Json => writeln!(
            out,
            "{}",
            json!({
                "output": args.output, "files": files, "own": report.own, "added": report.added,
                "known": report.known, "repeated": report.repeated, "left_out": left_out,
            })
        ),
        Format::Csv => {
            writeln!(out, "files,added,known,left_out,repeated")?;
            writeln!(out, "{files},{},{},{},{}", report.added, report.known, left_out.len(), report.repeated)
        }
        Format::Table => {
            let mut parts = vec![format!("{} added", report.added), format!("{} there already", report.known)];
            if !left_out.is_empty() {
                parts.push(format!("{} files left out", left_out.len()));
            }
            if report.own > 0 {
                parts.push(format!("{} is the output itself", report.own));
            }
            writeln!(out, "{output}: {files} of {} files: {}", args.inputs.len(), parts.join(", "))?;
            if report.repeated > 0 {
                let what = "were run to completion more than once; the attempt that ended first counts in analysis";
                writeln!(out, "{} iterations {what}", report.repeated)?;
            }
            Ok(())
        }
    }
}

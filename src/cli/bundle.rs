//! `vptest bundle`

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::json;

use super::exit::{Exit, Failure};
use super::{PageFormat, plan_file, report};
use crate::bundle::{
    self, ARTIFACTS, About, Bundle, BundleError, Content, DATABASE, ENVIRONMENT, PLAN, Part, REPORT, SPEC,
};
use crate::plan::Plan;
use crate::record::Status;
use crate::store::{self, AttemptName, Chosen, Circumstances, Database};

/// Put a campaign into one file that can be published, checked and run again
#[derive(Debug, clap::Args)]
#[command(
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true,
    after_help = "\
The bundle is a tar archive compressed with zstd: spec, plan, one database of all attempts, report, environments with versions, \
checksums, and a description that other tools read (RO-Crate 1.1). `tar -xf` unpacks it, `sha256sum -c SHA256SUMS` checks it.

Exit status: 0; 4 when iteration files cannot be read, or when a bundle is not as it was written.

Examples:
  vptest bundle -o study.tar.zst --author 'A. Nobody' --license CC-BY-4.0
  vptest bundle -o study.tar.zst --artifacts        with captures and other files that the spec had kept
  vptest bundle verify study.tar.zst
  vptest rerun study.tar.zst --iter 1-10            on another machine"
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The bundle
    #[arg(short, long, value_name = "FILE", default_value = "study.tar.zst")]
    output: PathBuf,
    /// Directory of the campaign
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Who made it
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
    /// What others may do with it: an SPDX name or an address
    #[arg(long, value_name = "LICENSE")]
    license: Option<String>,
    /// Put in what was kept with the attempts: captures, logs, outputs
    #[arg(long)]
    artifacts: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Read all of a bundle and compare it with its checksums
    Verify {
        /// The bundle
        bundle: PathBuf,
        /// How to print what is in it
        #[arg(long, value_enum, default_value_t = PageFormat::Table)]
        format: PageFormat,
    },
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.command {
        Some(Command::Verify { bundle, format }) => verify(bundle, *format),
        None => make(args),
    }
}

fn make(args: &Args) -> Result<Exit, Failure> {
    let plan = plan_file::read(&args.out)?;
    let attempts = store::scan(&args.out).map_err(anyhow::Error::from)?;
    if attempts.is_empty() {
        let text = format!("nothing has been run in {}", args.out.display());
        return Err(Failure::text(Exit::Usage, text).hint("`vptest run` runs what is planned"));
    }
    let scratch = tempfile::tempdir().context("cannot make a directory for the database")?;
    let database = scratch.path().join(DATABASE);
    let files: Vec<PathBuf> = attempts.iter().map(|name| args.out.join(name.to_string())).collect();
    let merged = store::merge(&files, &database, &mut |_| {}).map_err(anyhow::Error::from)?;
    if let Some(refused) = merged.refused.first() {
        let text =
            format!("{} of {} iteration files cannot be read, the first: {refused}", merged.refused.len(), files.len());
        return Err(Failure::text(Exit::Unreadable, text));
    }
    let page = scratch.path().join(REPORT);
    report::write(&database, &page)?;
    let (about, seconds) = about(args, &plan, &database)?;
    let mut parts = parts(&args.out, &plan, &database, page)?;
    if args.artifacts {
        parts.extend(artifacts(&args.out, attempts.iter())?);
    }
    let directory = args.output.file_name().unwrap_or_default().to_string_lossy();
    let directory = directory.trim_end_matches(".zst").trim_end_matches(".tar").trim_start_matches('.');
    let directory = if directory.is_empty() { "study" } else { directory };
    report::whole(&args.output, |file| bundle::pack(directory, &about, &parts, seconds, file))?;
    let bytes = std::fs::metadata(&args.output).context("cannot look at the bundle")?.len();
    eprintln!("wrote {}: {} attempts, {} files, {bytes} bytes", args.output.display(), attempts.len(), parts.len() + 2);
    Ok(Exit::Done)
}

fn parts(out: &Path, plan: &Plan, database: &Path, page: PathBuf) -> Result<Vec<Part>, Failure> {
    let circumstances = Database::open(database).and_then(|database| database.circumstances());
    let environment = environment(&circumstances.map_err(anyhow::Error::from)?)?;
    let part = |name: &str, content| Part { name: name.to_owned(), content };
    Ok(vec![
        part(SPEC, Content::Bytes(plan.spec_text.clone().into_bytes())),
        part(PLAN, Content::File(plan_file::path(out))),
        part(DATABASE, Content::File(database.to_owned())),
        part(REPORT, Content::File(page)),
        part(ENVIRONMENT, Content::Bytes(environment)),
    ])
}

/// Facts, each with the attempts that had it.
fn environment(circumstances: &Circumstances) -> Result<Vec<u8>, anyhow::Error> {
    let facts = circumstances.facts.iter().filter(|(fact, _)| fact.name != crate::record::SPEC);
    let facts: Vec<_> = facts
        .map(|(fact, attempts)| json!({ "name": fact.name, "place": fact.place, "value": fact.value, "attempts": attempts }))
        .collect();
    let document = json!({ "facts": facts, "not_listed": circumstances.not_listed });
    serde_json::to_vec_pretty(&document).context("cannot write the environments")
}

fn artifacts<'a>(out: &Path, attempts: impl Iterator<Item = &'a AttemptName>) -> Result<Vec<Part>, Failure> {
    let mut parts = Vec::new();
    for attempt in attempts {
        let directory = attempt.artifacts(out);
        if directory.exists() {
            let read = || format!("cannot list {}", directory.display());
            list(out, &directory, &mut parts).with_context(read)?;
        }
    }
    parts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(parts)
}

fn list(out: &Path, directory: &Path, parts: &mut Vec<Part>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            list(out, &path, parts)?;
        } else if kind.is_file() {
            let name = path.strip_prefix(out).unwrap_or(&path).display();
            parts.push(Part { name: format!("{ARTIFACTS}/{name}"), content: Content::File(path.clone()) });
        }
    }
    Ok(())
}

/// What is known besides the files, and the time of the last attempt's end in seconds since 1970.
fn about(args: &Args, plan: &Plan, database: &Path) -> Result<(About, u64), Failure> {
    let dataset =
        Database::open(database).and_then(|database| database.chosen(&Chosen::Named(Vec::new()), &Status::ALL));
    let headers: Vec<_> = dataset.map_err(anyhow::Error::from)?.iterations.into_iter().map(|one| one.header).collect();
    let begin = headers.iter().map(|header| header.started_ns).min();
    let end = headers.iter().filter_map(|header| header.finished_ns).max();
    let mut versions: Vec<String> = headers.iter().map(|header| header.vptest_version.clone()).collect();
    versions.sort();
    versions.dedup();
    let time = |ns: i64| jiff::Timestamp::from_nanosecond(ns.into()).map(|time| time.to_string()).ok();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = end.and_then(|end| u64::try_from(end / 1_000_000_000).ok()).unwrap_or(now);
    let about = About {
        name: plan.spec.name.clone(),
        description: format!(
            "{} iterations of {} tuples on {}, run with vptest",
            headers.len(),
            plan.tuples.len(),
            testbeds(plan)
        ),
        made: jiff::Timestamp::now().to_string(),
        author: args.author.clone(),
        license: args.license.clone(),
        ran: begin.and_then(time).zip(end.and_then(time)),
        versions,
    };
    Ok((about, seconds))
}

fn testbeds(plan: &Plan) -> String {
    let mut names: Vec<&str> = plan.tuples.iter().map(|planned| planned.tuple.testbed()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// A bundle that is whole.
pub(super) fn whole(path: &Path, scratch: &Path) -> Result<Bundle, Failure> {
    let bundle = bundle::verify(path, scratch).map_err(|error| unreadable(path, error))?;
    match bundle.problems.first() {
        None => Ok(bundle),
        Some(first) => {
            let text = format!("{} is not as it was written: {first}", path.display());
            Err(Failure::text(Exit::Unreadable, text).hint("`vptest bundle verify` says all that is wrong"))
        }
    }
}

pub(super) fn unreadable(path: &Path, error: BundleError) -> Failure {
    let exit = match &error {
        BundleError::Io(error) if error.kind() == std::io::ErrorKind::NotFound => Exit::Usage,
        _ => Exit::Unreadable,
    };
    Failure::new(exit, anyhow::Error::new(error).context(format!("{} is no bundle that can be used", path.display())))
}

fn verify(path: &Path, format: PageFormat) -> Result<Exit, Failure> {
    let scratch = tempfile::tempdir().context("cannot make a directory for the database")?;
    let bundle = bundle::verify(path, scratch.path()).map_err(|error| unreadable(path, error))?;
    let mut out = std::io::stdout().lock();
    match format {
        PageFormat::Json => {
            let document = json!({
                "name": bundle.plan.spec.name, "planned": bundle.plan.iterations.len(), "attempts": bundle.attempts,
                "files": bundle.files, "problems": bundle.problems,
            });
            writeln!(out, "{}", serde_json::to_string_pretty(&document).map_err(anyhow::Error::from)?)?;
        }
        PageFormat::Table => {
            let (name, planned) = (&bundle.plan.spec.name, bundle.plan.iterations.len());
            writeln!(out, "{name}: {planned} iterations planned, {} attempts, each verified", bundle.attempts)?;
            for (file, bytes) in &bundle.files {
                writeln!(out, "  {bytes:>14}  {file}")?;
            }
            for problem in &bundle.problems {
                writeln!(out, "wrong: {problem}")?;
            }
            if bundle.problems.is_empty() {
                writeln!(out, "all files are as they were written")?;
            }
        }
    }
    Ok(if bundle.problems.is_empty() { Exit::Done } else { Exit::Unreadable })
}

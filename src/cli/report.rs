//! `vptest report`

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::analyze::{baseline_text, common_margins, status, unreadable, wrong_question};
use super::exit::{Exit, Failure};
use super::looks;
use crate::analysis::{AnalysisError, Question, compare_chains};
use crate::ids::ShortHash;
use crate::record::{Header, Status};
use crate::report::page::build::{Inputs, build};
use crate::report::page::grouping::Grouping;
use crate::report::page::{Model, page};
use crate::spec::Spec;
use crate::store::{Database, Dataset};

/// Make one self-contained HTML page of everything that was measured
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The page needs no network and no server: verdicts first, then every figure (each can be saved as SVG, with its data as CSV), what was \
left out and why, settings and environments, and a methods text for a paper. It can be read without JavaScript, in light, dark, \
print and on a phone. docs/report.md explains what it shows.

Exit status: 0, also when there is nothing to compare: the page then says so; 2 when there is no such factor, 4 when the database \
cannot be read.

Examples:
  vptest report                                      report.html from merged.db
  vptest report --db out/merged.db -o contention.html
  vptest report --by testbed,driver --baseline testbed=netns
  vptest report --include suspect")]
pub(super) struct Args {
    /// Database made by `vptest merge`, or one iteration file
    #[arg(long, value_name = "FILE", default_value = "merged.db")]
    db: PathBuf,
    /// The page
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
    /// Factors that make the groups (default: all that vary)
    #[arg(long, value_name = "FACTOR,...", value_delimiter = ',')]
    by: Vec<String>,
    /// What groups are compared with (default: `baseline` of the spec that was run)
    #[arg(long, value_name = "FACTOR=VALUE")]
    baseline: Option<String>,
    /// Compare with nothing, whatever the spec says
    #[arg(long, conflicts_with = "baseline")]
    no_baseline: bool,
    /// Compare metrics of packet sizes also where packets were looked at in different places or under different offloads
    #[arg(long)]
    allow_unequal_vantage: bool,
    /// Count iterations of this status too
    #[arg(long, value_name = "STATUS,...", value_delimiter = ',', value_parser = status)]
    include: Vec<Status>,
    /// Do not write this question down beside the database (FILE.looks.jsonl), where others see how much was looked at
    #[arg(long)]
    no_record: bool,
    /// Title of the page (default: name of the spec)
    #[arg(long)]
    title: Option<String>,
}

/// Decides on resamples and deals; the same each time.
const SEED: u64 = 1;

/// Writes the page of a database, compared with what its spec says.
pub(super) fn write(db: &Path, output: &Path) -> Result<(), Failure> {
    let args = Args {
        db: db.to_owned(),
        output: output.to_owned(),
        by: Vec::new(),
        baseline: None,
        no_baseline: false,
        allow_unequal_vantage: false,
        include: Vec::new(),
        no_record: true,
        title: None,
    };
    make(&args)
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    make(args)?;
    eprintln!("wrote {}", args.output.display());
    Ok(Exit::Done)
}

fn make(args: &Args) -> Result<(), Failure> {
    let failed = |error| unreadable(&args.db, error);
    let database = Database::open(&args.db).map_err(failed)?;
    let mut statuses = vec![Status::Complete];
    statuses.extend(&args.include);
    statuses.sort_unstable();
    statuses.dedup();
    let dataset = database.dataset(&statuses).map_err(failed)?;
    let mut notes = Vec::new();
    let texts = &dataset.specs;
    let specs: Vec<Spec> = texts.iter().filter_map(|text| Spec::parse(text).ok()).collect();
    if specs.len() < texts.len() {
        let (bad, all) = (texts.len() - specs.len(), texts.len());
        notes.push(format!(
            "{bad} of {all} specs cannot be read by this version: their names, baselines and margins are not known."
        ));
    }
    let (grouping, question) = grouping(args, &dataset, &specs, &mut notes)?;
    let places: BTreeMap<Key<'_>, usize> = dataset
        .iterations
        .iter()
        .zip(&grouping.of)
        .filter_map(|(iteration, group)| Some((key(&iteration.header), (*group)?)))
        .collect();
    let traffic =
        database.traffic(grouping.groups.len(), &|header| places.get(&key(header)).copied()).map_err(failed)?;
    let circumstances = database.circumstances().map_err(failed)?;
    let chains = if database.has_traces().map_err(failed)? {
        let traced = database.traced(&statuses).map_err(failed)?;
        let compared = compare_chains(&traced, &grouping.factors, grouping.baseline.clone(), SEED);
        compared.map_err(|error| notes.push(format!("System calls are not compared: {error}."))).ok()
    } else {
        None
    };
    let margins = common_margins(&specs, &mut notes);
    let mut model = build(&Inputs {
        title: title(args, &specs),
        source: args.db.display().to_string(),
        dataset: &dataset,
        grouping: &grouping,
        traffic: &traffic,
        circumstances: &circumstances,
        chains: chains.as_ref(),
        margins: &margins,
        unequal_vantage: question.unequal_vantage,
        statuses: &statuses,
        seed: SEED,
        notes,
    });
    model.methods.extend(asked_so_far(args, &dataset, &model));
    let page = page(&model);
    whole(&args.output, |file| file.write_all(page.as_bytes()))
}

/// Writes the page's question down; a sentence on all that were asked so far.
fn asked_so_far(args: &Args, dataset: &Dataset, model: &Model) -> Option<String> {
    let include: Vec<&str> = args.include.iter().map(|status| status.as_str()).collect();
    let asked = looks::Asked {
        database: &args.db,
        command: "report",
        question: looks::question([
            ("metrics", "all".to_owned()),
            ("by", args.by.join(",")),
            ("baseline", args.baseline.clone().unwrap_or_default()),
            ("include", include.join(",")),
            ("allow_unequal_vantage", if args.allow_unequal_vantage { "yes".to_owned() } else { String::new() }),
        ]),
        data: dataset.attempts_hash().to_string(),
        contrasts: model.family,
        p_values: model.adjusted,
    };
    let note = looks::note(asked, !args.no_record)?;
    Some(format!("{note} Corrections take the contrasts of this report into account, not those of other questions."))
}

/// Writes a file beside its place and gives it its name at the end: it is whole or absent.
pub(super) fn whole(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::from(anyhow::Error::new(error).context(format!("cannot write {}", path.display())))
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let permissions = Permissions::from_mode(0o666);
    let mut file =
        tempfile::Builder::new().prefix(".vptest-").permissions(permissions).tempfile_in(dir).map_err(failed)?;
    write(file.as_file_mut()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// What tells attempts apart.
fn key(header: &Header) -> Key<'_> {
    (header.identity, header.attempt, header.started_ns, &header.host)
}

type Key<'a> = (ShortHash, u32, i64, &'a str);

fn grouping(
    args: &Args,
    dataset: &Dataset,
    specs: &[Spec],
    notes: &mut Vec<String>,
) -> Result<(Grouping, Question), Failure> {
    let named = args.baseline.as_deref().map(baseline_text).transpose()?;
    let of_spec = || if args.no_baseline { None } else { spec_baseline(specs, notes) };
    let is_named = named.is_some();
    let baseline = named.or_else(of_spec);
    let mut question = Question { by: args.by.clone(), baseline, unequal_vantage: args.allow_unequal_vantage };
    match Grouping::of(dataset, &question) {
        // A baseline that no iteration has keeps nobody from seeing the rest; one that was asked for does.
        Err(error @ AnalysisError::UnknownValue { .. }) if !is_named => {
            notes.push(format!("The baseline of the spec is missing: {error}."));
            question.baseline = None;
            Ok((Grouping::of(dataset, &question).map_err(wrong_question)?, question))
        }
        other => Ok((other.map_err(wrong_question)?, question)),
    }
}

/// The baseline that the specs agree on.
fn spec_baseline(specs: &[Spec], notes: &mut Vec<String>) -> Option<(String, String)> {
    let text = |spec: &Spec| spec.analysis.baseline.as_ref().map(|(factor, value)| (factor.clone(), value.to_string()));
    let mut found: Vec<_> = specs.iter().map(text).collect();
    found.sort();
    found.dedup();
    if found.len() > 1 {
        notes.push("The specs of these iterations name different baselines, so none was used.".to_owned());
    }
    <[_; 1]>::try_from(found).ok().and_then(|[baseline]| baseline)
}

fn title(args: &Args, specs: &[Spec]) -> String {
    if let Some(title) = &args.title {
        return title.clone();
    }
    let mut names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    names.dedup();
    match names.as_slice() {
        [only] => (*only).to_owned(),
        _ => args.db.display().to_string(),
    }
}

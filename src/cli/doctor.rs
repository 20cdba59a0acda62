//! `vptest doctor`

use std::io::Write as _;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::PageFormat;
use super::exit::{Exit, Failure};
use crate::host::userns;
use crate::runner::checks::{self, Check, State};

/// What this host can run, what is missing, and how to get it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every line is the result of trying, not of looking: namespaces, links and captures are made and removed again.

Exit status: 0 when the netns testbed can run ApacheBench here, 3 when it cannot.

Examples:
  vptest doctor
  vptest doctor --format json")]
pub(super) struct Args {
    /// How to print it
    #[arg(long, value_enum, default_value_t = PageFormat::Table)]
    format: PageFormat,
}

#[derive(Serialize)]
struct Report<'a> {
    usable: bool,
    checks: &'a [Check],
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let privilege = userns::enter_if_unprivileged();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let checks = runtime.block_on(checks::all(&privilege));
    let usable = checks.iter().all(|check| check.state != State::Missing);
    let mut out = std::io::stdout().lock();
    match args.format {
        PageFormat::Json => writeln!(
            out,
            "{}",
            serde_json::to_string_pretty(&Report { usable, checks: &checks }).map_err(anyhow::Error::from)?
        )?,
        PageFormat::Table => print(&mut out, &checks, usable)?,
    }
    Ok(if usable { Exit::Done } else { Exit::Unsupported })
}

fn print(out: &mut impl std::io::Write, checks: &[Check], usable: bool) -> std::io::Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    for check in checks {
        let hint = check.hint.as_ref().map(|hint| format!("\n→ {hint}")).unwrap_or_default();
        table.add_row([check.state.as_str().to_owned(), check.name.clone(), format!("{}{hint}", check.found)]);
    }
    writeln!(out, "{table}")?;
    let verdict = if usable { "the netns testbed can run here" } else { "the netns testbed cannot run here yet" };
    writeln!(out, "\n{verdict}")
}

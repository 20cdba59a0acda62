//! The command line: one file for each subcommand. The only part that prints.

mod agent;
mod analyze;
mod bundle;
mod cancel;
mod clean;
mod doctor;
mod exit;
mod export;
mod flows;
mod flows_text;
mod igor;
mod image;
mod linktest;
mod logs;
mod looks;
mod merge;
mod plan_file;
mod probe;
mod progress;
mod report;
mod rerun;
mod run;
mod serve_http;
mod status;
mod sweep;
mod syscalls;
mod trace;
mod worker;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::{Exit, Failure};

/// Runs the same network experiment many times on virtual and physical testbeds and says where they really differ.
#[derive(Debug, Parser)]
#[command(name = "vptest", version, propagate_version = true, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  vptest doctor                               what can this host run?
  vptest sweep sweeps/quickstart.toml         check the spec, write out/plan.json
  vptest run                                  run every iteration that is not complete yet
  vptest merge out/*.db                       one database of all iterations: merged.db
  vptest analyze --metric rps                 compare
  vptest report                               everything on one page: report.html

Exit status: 0 done, 1 some iterations failed or were invalid, 2 wrong usage or spec, 3 this host cannot run it, \
4 stored data cannot be read, 130 interrupted.";

#[derive(Debug, Clone, Copy, clap::Args)]
struct Verbosity {
    /// Show stages and events as they happen (-vv: debugging messages too)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Show errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Sweep(sweep::Args),
    Run(run::Args),
    Status(status::Args),
    Cancel(cancel::Args),
    Logs(logs::Args),
    Merge(merge::Args),
    Analyze(analyze::Args),
    Report(report::Args),
    Export(export::Args),
    Bundle(bundle::Args),
    Rerun(rerun::Args),
    Flows(flows::Args),
    Syscalls(syscalls::Args),
    Igor(igor::Args),
    Image(image::Args),
    Doctor(doctor::Args),
    Clean(clean::Args),
    Agent(agent::Args),
    #[command(hide = true)]
    Linktest(linktest::Args),
    #[command(hide = true)]
    Trace(trace::Args),
    #[command(hide = true)]
    Worker(worker::Args),
    #[command(hide = true)]
    ServeHttp(serve_http::Args),
    #[command(hide = true)]
    ProbeSend(probe::SendArgs),
    #[command(hide = true)]
    ProbeReflect(probe::ReflectArgs),
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Table,
    /// Comma-separated values with a header line (RFC 4180)
    Csv,
    /// One JSON document; docs/json.md describes it
    Json,
}

/// Parses the command line, does what it says, prints what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbosity);
    let result = match cli.command {
        Command::Sweep(args) => sweep::run(&args, cli.verbosity),
        Command::Run(args) => run::run(&args, cli.verbosity),
        Command::Status(args) => status::run(&args),
        Command::Cancel(args) => cancel::run(&args, cli.verbosity),
        Command::Logs(args) => logs::run(&args),
        Command::Merge(args) => merge::run(&args, cli.verbosity),
        Command::Analyze(args) => analyze::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Bundle(args) => bundle::run(&args),
        Command::Rerun(args) => rerun::run(&args, cli.verbosity),
        Command::Flows(args) => flows::run(&args),
        Command::Igor(args) => igor::run(&args),
        Command::Image(args) => image::run(&args, cli.verbosity),
        Command::Doctor(args) => doctor::run(&args),
        Command::Clean(args) => clean::run(&args),
        Command::Agent(args) => agent::run(&args),
        Command::Syscalls(args) => syscalls::run(&args),
        Command::Linktest(args) => linktest::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Worker(args) => worker::run(&args),
        Command::ServeHttp(args) => serve_http::run(&args),
        Command::ProbeSend(args) => probe::run_send(&args),
        Command::ProbeReflect(args) => probe::run_reflect(&args),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) if failure.is_closed_pipe() => Exit::Done.into(),
        Err(failure) => {
            // Standard error may be closed as well; the exit status still tells.
            let _ = writeln!(std::io::stderr().lock(), "{failure}");
            failure.exit.into()
        }
    }
}

/// How something is printed that is no table of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PageFormat {
    /// For people
    Table,
    /// One JSON document; docs/json.md describes it
    Json,
}

/// The known name that is most like the one asked for; `None` when none is much like it.
///
/// Few slips of the finger go before a like beginning: Jaro and Winkler's measure alone finds `rsp` and `rps` too far
/// apart.
fn nearest<'a>(asked: &str, known: &'a [String]) -> Option<&'a str> {
    let most_slips = (asked.chars().count() / 3).max(1);
    let slips = |name: &str| Some(strsim::osa_distance(asked, name)).filter(|&slips| slips <= most_slips);
    let alike = known.iter().map(|name| (slips(name), strsim::jaro_winkler(asked, name), name.as_str()));
    let alike = alike.filter(|(slips, likeness, _)| slips.is_some() || *likeness > 0.75);
    let rank = |slips: Option<usize>| slips.unwrap_or(usize::MAX);
    alike.min_by(|a, b| rank(a.0).cmp(&rank(b.0)).then_with(|| b.1.total_cmp(&a.1))).map(|(_, _, name)| name)
}

fn start_log(verbosity: Verbosity) {
    let level = match (verbosity.quiet, verbosity.verbose) {
        (true, _) => tracing::Level::ERROR,
        (false, 0 | 1) => tracing::Level::WARN,
        (false, 2) => tracing::Level::DEBUG,
        (false, _) => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(colour())
        .without_time()
        .with_target(verbosity.verbose > 1)
        .init();
}

/// Does standard error take colours? Only a terminal does, and not when `NO_COLOR` is set (<https://no-color.org>).
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn a_slip_of_the_finger_finds_its_name() {
        let known = ["cpu_time", "rps", "transfer_rate"].map(str::to_owned);
        assert_eq!(super::nearest("rsp", &known), Some("rps"));
        assert_eq!(super::nearest("tranfser_rate", &known), Some("transfer_rate"));
        assert_eq!(super::nearest("transfer", &known), Some("transfer_rate"));
        assert_eq!(super::nearest("mtu", &known), None);
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}

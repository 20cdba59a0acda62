//! `vptest cancel`

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::exit::{Exit, Failure};
use super::progress::Display;
use super::{Verbosity, plan_file, run};
use crate::dispatch::slurm;
use crate::host::host_name;
use crate::runner::{Canceller, Errand, Options, holders};

/// Between two looks whether those who were told have ended.
const LOOK: Duration = Duration::from_millis(100);
/// How long they may take: an iteration is taken down, and Slurm may have to kill what does not end.
const PATIENCE: Duration = Duration::from_secs(330);

/// End the run of a campaign: what runs is taken down and stored as interrupted, Slurm's queue is left
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Whoever runs the campaign on this host is told to end, as by Ctrl-C. Where nobody does, arrays that `vptest run --on slurm` has \
left in Slurm's queue are taken out of it (those of this campaign alone, by number and name), and what came of them is stored. \
`vptest run` goes on with what is left.

Exit status: 0 also when nothing was running; 3 while an array of the campaign is left in the queue.

Examples:
  vptest cancel
  vptest cancel -o study")]
pub(super) struct Args {
    /// Directory of the campaign
    #[arg(short, long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
}

pub(super) fn run(args: &Args, verbosity: Verbosity) -> Result<Exit, Failure> {
    let plan = plan_file::read(&args.out)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        holders(&args.out)?.into_iter().partition(|(_, host)| *host == host_name());
    for (pid, host) in &elsewhere {
        eprintln!("process {pid} on {host} runs it: `vptest cancel` there tells it to end");
    }
    if !elsewhere.is_empty() {
        let jobs = runtime.block_on(slurm::abandon(&args.out)).map_err(run::dispatch_failure)?;
        jobs.iter().for_each(|job| eprintln!("job {job} of Slurm was cancelled"));
        return Ok(Exit::Done);
    }
    if !here.is_empty() {
        tell(args, &here)?;
    }
    // A coordinator that ended otherwise, or another engine's process, has not seen to them.
    if !slurm::is_left(&args.out) {
        if here.is_empty() {
            eprintln!("nothing is running");
        }
        return Ok(Exit::Done);
    }
    let display = Display::new(verbosity, &plan);
    let (canceller, cancel) = Canceller::new();
    canceller.cancel("vptest cancel");
    let options = Options {
        plan: &plan,
        out: &args.out,
        selection: None,
        again: false,
        retries: 0,
        keep_failed: false,
        jobs: NonZeroUsize::MIN,
        allow_changed_image: false,
        vptest: run::program()?,
        observer: &display,
        cancel,
        errand: Errand::default(),
    };
    let report = runtime.block_on(slurm::cancel(&options)).map_err(run::dispatch_failure)?;
    display.finish();
    let parts: Vec<String> = report.outcomes.iter().map(|(status, count)| format!("{count} {status}")).collect();
    eprintln!("cancelled; came meanwhile: {}", if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") });
    if slurm::is_left(&args.out) {
        let text = "elements of Slurm's have not ended yet, or what they had cannot be stored";
        return Err(Failure::text(Exit::Unsupported, text.to_owned()).hint("`vptest cancel` tries it again"));
    }
    Ok(Exit::Done)
}

/// Asks processes of this host to end, and waits until they have.
fn tell(args: &Args, processes: &[(u32, String)]) -> Result<(), Failure> {
    for (pid, _) in processes {
        if is_vptest(*pid) {
            let number = i32::try_from(*pid).map_err(anyhow::Error::from)?;
            // It may have ended by itself.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(number), nix::sys::signal::Signal::SIGTERM);
            eprintln!("process {pid} was told to end");
        }
    }
    let begun = Instant::now();
    while holders(&args.out)?.iter().any(|holder| processes.contains(holder)) {
        if begun.elapsed() > PATIENCE {
            let text = format!("it has not ended within {} s", PATIENCE.as_secs());
            return Err(Failure::text(Exit::Unsupported, text));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Another process may have got the number of one that has just ended.
fn is_vptest(pid: u32) -> bool {
    let same = |path: &std::path::Path| std::fs::read_link(path).ok();
    let (its, ours) = (same(format!("/proc/{pid}/exe").as_ref()), same("/proc/self/exe".as_ref()));
    // The kernel says so of a program that was built anew meanwhile.
    let is_named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.trim_end_matches(" (deleted)") == "vptest"
    };
    its.is_some_and(|its| Some(&its) == ours.as_ref() || is_named(&its))
}

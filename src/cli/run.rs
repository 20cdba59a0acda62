//! `vptest run`

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};
use super::progress::Display;
use super::{Verbosity, plan_file};
use crate::dispatch::{self, DispatchError, Engine, slurm};
use crate::host::userns::{self, Privilege};
use crate::plan::{Plan, selection};
use crate::record::Status;
use crate::runner::{CampaignError, Cancel, Canceller, Errand, Options, Report};

/// Run iterations of a plan: every one that is not complete yet, or those that --iter names
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vptest run                      all that is left to do, also after an interruption
  vptest run --iter 7             iteration 7 alone
  vptest run --iter 1-100,205     these
  vptest run --retries 2          two more tries at each iteration that fails
  vptest run --jobs 4             four at once, each on a quarter of the CPU cores
  vptest run --on parallel:kn1,root@kn2:2222     on hosts that ssh reaches, one iteration at a time on each
  vptest run --on igor:'que[0-9]+'    on the heads of igor's reservations
  vptest run --on slurm:net       each as an element of an array in Slurm's queue, in the partition `net`
  vptest sweep params.toml --format commands | parallel -j1 --eta

Hosts need ssh without a password, a shell, tar, sha256sum, perl and what the workload needs, but no vptest: it is copied to \
~/.cache/vptest there. docs/scale.md says how iterations are handed out and what happens when a host dies.

With `[stop]` in the spec a tuple is not repeated any more once the means of its metrics are known well enough, by what is stored; iterations that --iter names are run whatever the rule says.

The first Ctrl-C takes the running iteration down and stores it as interrupted; the second leaves at once. \
Without root the netns testbed runs in a user namespace.")]
pub(super) struct Args {
    /// Iterations to run, by number: `7`, `1-100,205`, `990-` (complete ones are skipped)
    #[arg(long, value_name = "N[-M],...")]
    iter: Option<String>,
    /// Directory of the campaign, as given to `vptest sweep`
    #[arg(short, long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Where iterations run: `local`, `parallel:HOST,HOST,…` (over ssh, with GNU parallel), `igor:REGEX` (the first host of each
    /// reservation of that name), `slurm` or `slurm:PARTITION` (an array job; `[slurm]` in the spec says more)
    #[arg(long, value_name = "WHERE")]
    on: Option<String>,
    /// Run on the hosts of this file, one `[user@]host[:port]` in a line
    #[arg(long, value_name = "FILE", conflicts_with = "on")]
    hosts: Option<PathBuf>,
    /// Run the iterations of --iter also when they are complete
    #[arg(long, requires = "iter")]
    again: bool,
    /// Further attempts at once at an iteration that failed, timed out or was invalid
    #[arg(long, value_name = "N", default_value_t = 0)]
    retries: u32,
    /// Leave the testbed of a failed iteration up and say how to look into it
    #[arg(long, conflicts_with_all = ["on", "hosts"])]
    keep_failed: bool,
    /// Run N iterations at once on this host, each on CPU cores that no other one uses (netns, qemu)
    #[arg(long, value_name = "N", default_value = "1", conflicts_with = "hosts")]
    jobs: NonZeroUsize,
    /// Go on although the guests' kernel or programs are others than in the iterations that are complete
    #[arg(long)]
    allow_changed_image: bool,
}

impl Args {
    /// Run these iterations of a campaign, on this host.
    pub(super) fn of(out: &Path, iter: Option<String>) -> Self {
        Self {
            iter,
            out: out.to_owned(),
            on: None,
            hosts: None,
            again: false,
            retries: 0,
            keep_failed: false,
            jobs: NonZeroUsize::MIN,
            allow_changed_image: false,
        }
    }
}

pub(super) fn run(args: &Args, verbosity: Verbosity) -> Result<Exit, Failure> {
    let plan = plan_file::read(&args.out)?;
    let last = u32::try_from(plan.iterations.len()).unwrap_or(u32::MAX);
    let selection = args.iter.as_deref().map(|text| selection::select(text, last));
    let selection = selection.transpose().map_err(|error| Failure::new(Exit::Usage, error))?;
    let engine = engine(args)?;
    if engine.is_some() && args.jobs.get() > 1 {
        let text = format!("--jobs {}: several at once run on this host alone, not with --on", args.jobs);
        return Err(Failure::text(Exit::Usage, text));
    }
    if engine.is_none() {
        if slurm::is_left(&args.out) {
            return Err(queued(&args.out.display().to_string()));
        }
        enter(&plan)?;
    }
    let vptest = program()?;
    let runtime = runtime(args.jobs)?;
    let display = Display::new(verbosity, &plan);
    let (canceller, cancel) = Canceller::new();
    let options = Options {
        plan: &plan,
        out: &args.out,
        selection,
        again: args.again,
        retries: args.retries,
        keep_failed: args.keep_failed,
        jobs: args.jobs,
        allow_changed_image: args.allow_changed_image,
        vptest,
        observer: &display,
        cancel: cancel.clone(),
        errand: Errand::default(),
    };
    let result = runtime.block_on(async {
        let signals = tokio::spawn(watch_signals(canceller, cancel));
        let result = match &engine {
            None => crate::runner::run(&options).await.map_err(failure),
            Some(engine) => dispatch::run(&options, engine).await.map_err(dispatch_failure),
        };
        signals.abort();
        result
    });
    display.finish();
    finish(&result?, verbosity)
}

/// With several jobs one more thread listens for signals: the first waits for the jobs.
fn runtime(jobs: NonZeroUsize) -> std::io::Result<tokio::runtime::Runtime> {
    match jobs.get() {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build(),
    }
}

/// Where iterations run, when it is not here.
fn engine(args: &Args) -> Result<Option<Engine>, Failure> {
    let wrong = |error| Failure::new(Exit::Usage, anyhow::Error::new(error));
    let listed = match args.on.as_deref() {
        None | Some("local") => None,
        Some("slurm") => Some(Engine::Slurm { partition: None }),
        Some(text) => match text.split_once(':') {
            Some(("parallel", list)) => Some(Engine::Hosts(dispatch::from_list(list).map_err(wrong)?)),
            Some(("igor", expression)) => Some(Engine::Hosts(super::igor::heads(expression)?)),
            Some(("slurm", partition)) if slurm::is_partition(partition) => {
                Some(Engine::Slurm { partition: Some(partition.to_owned()) })
            }
            _ => {
                let what = format!(
                    "`--on {text}`: iterations can run on `local`, `parallel:HOST,…`, `igor:REGEX`, `slurm` and `slurm:PARTITION`"
                );
                return Err(Failure::text(Exit::Usage, what));
            }
        },
    };
    let Some(path) = &args.hosts else { return Ok(listed) };
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Exit::Usage, anyhow::Error::new(error).context(format!("cannot read {}", path.display())))
    })?;
    Ok(Some(Engine::Hosts(dispatch::from_file(path, &text).map_err(wrong)?)))
}

/// Gets what the testbeds of a plan need of this process. Must come before any thread starts: only a process of one thread can
/// change its user namespace.
pub(super) fn enter(plan: &Plan) -> Result<(), Failure> {
    let has = |testbed: &str| plan.tuples.iter().any(|planned| planned.tuple.testbed() == testbed);
    if has("netns") {
        let privilege = userns::enter_if_unprivileged().map_err(|error| {
            let hint = error.hint();
            Failure::new(Exit::Unsupported, error).hint(hint)
        })?;
        if privilege == Privilege::UserNamespace && has("physical") {
            let text = "without root, netns runs where no physical node can be reached";
            return Err(Failure::text(Exit::Unsupported, text)
                .hint("run it as root, or the two testbeds in sweeps of their own"));
        }
    }
    Ok(())
}

/// Path of the running program.
pub(super) fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| {
        Failure::new(Exit::Unsupported, anyhow::Error::new(error).context("cannot find the running program"))
    })
}

/// Another engine has iterations of the campaign.
fn queued(out: &str) -> Failure {
    Failure::new(Exit::Usage, DispatchError::Queued(out.to_owned()))
        .hint("`vptest run --on slurm` goes on with them; `vptest cancel` ends them and stores what has come")
}

pub(super) fn dispatch_failure(error: DispatchError) -> Failure {
    match error {
        DispatchError::Campaign(error) => failure(error),
        DispatchError::Queued(out) => queued(&out),
        DispatchError::Slurm(error) => slurm_failure(error),
        DispatchError::NoHost(_) => Failure::new(Exit::Unsupported, error)
            .hint("what came back is stored; `vptest run` with the same words goes on with what is left"),
        DispatchError::Other(_) => Failure::new(Exit::Unsupported, error),
    }
}

fn slurm_failure(error: slurm::SlurmError) -> Failure {
    use slurm::SlurmError as Error;
    let hint = match &error {
        Error::NoProgram(_) => "`--on slurm` needs Slurm's programs on this host, and a `slurm.conf`",
        Error::Unreachable(_) | Error::Silent(_) => {
            "nothing is lost: `vptest run --on slurm` goes on with what is in the queue as soon as Slurm answers (`scontrol ping`)"
        }
        Error::Partition { .. } => {
            "`sinfo` lists the partitions; `[slurm] partition` in the spec or `--on slurm:PARTITION` names one"
        }
        Error::Rejected(_) => "`[slurm]` in the spec has what sbatch was asked for",
        Error::Blind { .. } => {
            "what had come is stored; without `shared = true` in `[slurm]`, such nodes are sent what they need"
        }
        Error::Cancelled { .. } => "what had come is stored; `vptest run --on slurm` goes on with what is left",
        Error::Failed { .. } | Error::Io { .. } => "what had come is stored; `vptest run --on slurm` goes on",
    };
    let exit = match &error {
        Error::Partition { .. } | Error::Rejected(_) => Exit::Usage,
        Error::Cancelled { .. } => Exit::Interrupted,
        _ => Exit::Unsupported,
    };
    Failure::new(exit, error).hint(hint)
}

const DOCTOR: &str = "`vptest doctor` shows what this host can run and what is missing";

fn failure(error: CampaignError) -> Failure {
    match error {
        CampaignError::Unsupported(error) => {
            let hint = error.hint().map_or_else(|| DOCTOR.to_owned(), str::to_owned);
            Failure::new(Exit::Unsupported, error).hint(hint)
        }
        CampaignError::Infeasible(_) => {
            Failure::new(Exit::Usage, error).hint("mend the spec and run `vptest sweep` again")
        }
        CampaignError::Jobs(_) => Failure::new(Exit::Usage, error).hint("without --jobs they run one after the other"),
        CampaignError::Missing(_) => Failure::new(Exit::Unsupported, error).hint(DOCTOR),
        CampaignError::Space(_) => {
            Failure::new(Exit::Unsupported, error).hint("free some room, or plan into another directory with -o")
        }
        CampaignError::Image(_) => Failure::new(Exit::Usage, error).hint(
            "`--allow-changed-image` goes on all the same; `vptest sweep` with another -o begins afresh; --iter N --again \
             runs what is there once more",
        ),
        CampaignError::Stop(_) => Failure::new(Exit::Usage, error)
            .hint("mend `metric` of `[stop]` and run `vptest sweep` again: iterations that were run keep their results"),
        CampaignError::Locked { .. } => {
            Failure::new(Exit::Usage, error).hint("wait for it; beside one on this host, named iterations can be run with --iter")
        }
        CampaignError::Store(_) | CampaignError::Other(_) => Failure::new(Exit::Unsupported, error),
    }
}

/// First signal: stop cleanly. Second: leave at once.
async fn watch_signals(canceller: Canceller, cancel: Cancel) {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds =
        [(SignalKind::interrupt(), "Ctrl-C"), (SignalKind::terminate(), "SIGTERM"), (SignalKind::hangup(), "SIGHUP")];
    let mut streams = Vec::new();
    for (kind, name) in kinds {
        match signal(kind) {
            Ok(stream) => streams.push((stream, name)),
            Err(error) => tracing::warn!("cannot watch for {name}: {error}"),
        }
    }
    loop {
        let waiting = streams.iter_mut().map(|(stream, name)| Box::pin(async move { (stream.recv().await, *name) }));
        let ((received, name), ..) = futures_util::future::select_all(waiting).await;
        if received.is_none() {
            return;
        }
        if cancel.requested().is_some() {
            leave_at_once();
        }
        eprintln!("\n{name}: taking down what runs; once more leaves at once");
        canceller.cancel(name);
    }
}

/// Processes and namespaces of the iteration go with this process; files do not.
#[expect(clippy::exit, reason = "the user asked a second time")]
fn leave_at_once() -> ! {
    eprintln!(
        "left at once: processes and networks of what ran are gone with vptest; scratch files are removed by \
         the next `vptest run` or by `vptest clean`"
    );
    std::process::exit(i32::from(Exit::Interrupted.code()))
}

fn finish(report: &Report, verbosity: Verbosity) -> Result<Exit, Failure> {
    for text in &report.kept {
        eprintln!("kept: {text}");
    }
    for text in &report.leftovers {
        eprintln!("left over: {text}");
    }
    let count = |status| report.outcomes.get(&status).copied().unwrap_or(0);
    if !verbosity.quiet {
        let mut parts: Vec<String> =
            report.outcomes.iter().map(|(status, count)| format!("{count} {status}")).collect();
        let more = [
            (report.complete_before, "complete before"),
            (report.settled, "not needed"),
            (report.elsewhere, "run by others"),
            (report.left, "left to do"),
        ];
        parts.extend(more.iter().filter(|(count, _)| *count > 0).map(|(count, text)| format!("{count} {text}")));
        eprintln!("{}", if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") });
    }
    if let Some(by) = &report.interrupted {
        eprintln!("interrupted by {by}: `vptest run` goes on with what is left");
        return Ok(Exit::Interrupted);
    }
    if let Some(why) = &report.limited {
        eprintln!("ended by a limit: {why}; `vptest run` goes on with what is left");
        return Ok(Exit::SomeFailed);
    }
    if let Some(which) = &report.bound {
        eprintln!(
            "{which}\nwith the same `[slurm]` they would end so again: change it, and `vptest sweep` and `vptest run --on slurm` go on"
        );
        return Ok(Exit::SomeFailed);
    }
    let bad = [Status::Invalid, Status::Failed, Status::TimedOut, Status::Interrupted];
    Ok(if bad.into_iter().all(|status| count(status) == 0) { Exit::Done } else { Exit::SomeFailed })
}

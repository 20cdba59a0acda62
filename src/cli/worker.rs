//! `vptest worker`: not for people. It runs the part of a campaign that a host was given.

use std::path::PathBuf;

use super::exit::{Exit, Failure};
use super::{plan_file, run};
use crate::dispatch::worker::{Round, Work, work};
use crate::runner::Canceller;

/// Run iterations that `vptest run --on` has given to this host
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the campaign on this host
    #[arg(long, value_name = "DIR")]
    place: PathBuf,
    /// Which round
    #[arg(long, value_name = "HEX")]
    round: Round,
    /// Which share of it; without one, only what was not taken yet is sent
    #[arg(long, value_name = "N")]
    share: Option<u32>,
    /// How often it was begun before
    #[arg(long, value_name = "N", default_value_t = 0)]
    restarts: u32,
    /// Exit with status 3 when something may be here that was not sent
    #[arg(long)]
    tell_rest: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let plan = plan_file::read(&args.place)?;
    run::enter(&plan)?;
    let vptest = run::program()?;
    let work_to_do = Work {
        place: args.place.clone(),
        round: args.round.clone(),
        share: args.share,
        restarts: args.restarts,
        vptest,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (canceller, cancel) = Canceller::new();
    let is_whole = runtime.block_on(async {
        let signals = tokio::spawn(watch_signals(canceller.clone()));
        let done = work(&work_to_do, &plan, std::io::stdout(), (canceller, cancel)).await;
        signals.abort();
        done
    })?;
    Ok(if is_whole || !args.tell_rest { Exit::Done } else { Exit::Unsupported })
}

/// The end of the connection comes as SIGHUP.
async fn watch_signals(canceller: Canceller) {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = |kind: SignalKind| async move {
        match signal(kind) {
            Ok(mut stream) => drop(stream.recv().await),
            Err(error) => {
                tracing::warn!("cannot watch for a signal: {error}");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = wait(SignalKind::hangup()) => canceller.cancel("the end of the connection to the coordinator"),
        () = wait(SignalKind::terminate()) => canceller.cancel("SIGTERM"),
        () = wait(SignalKind::interrupt()) => canceller.cancel("SIGINT"),
    }
}

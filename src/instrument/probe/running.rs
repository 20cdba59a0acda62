//! The probes of one iteration: a sender and a reflector for each pair.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::evaluate::{Left, Session, evaluate};
use super::report::ready;
use super::wire::Nonce;
use crate::node::{Command, Exit, Node, NodeError, NodeIoError, Process, Stream};
use crate::record::{Probe, Problem, Weight};
use crate::spec::ProbeSpec;
use crate::testbed::Pair;
use crate::units::format_duration;

/// Most packets of one probe: what its report has room for.
const LIMIT: u32 = 1 << 20;
/// Answers beyond that, to duplicates.
const EXTRA: u32 = 1 << 16;
/// Rows that the series of all pairs may have together.
const MOST_BINS: usize = 1 << 19;
/// How long a process may take until it is ready, or until it has ended.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks, at first and at last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// How much longer than an iteration may last the processes live, if nobody ends them.
const SPARE: Duration = Duration::from_secs(60);

/// Probes that run.
pub struct Running {
    probes: Vec<Started>,
    problems: Vec<Problem>,
}

/// What probes leave behind.
#[derive(Debug, Default)]
pub struct Probed {
    /// One for each pair whose probe was started.
    pub probes: Vec<Probe>,
    /// What went wrong.
    pub problems: Vec<Problem>,
    /// What is worth an event.
    pub notes: Vec<String>,
}

struct Started {
    session: Session,
    sender: Box<dyn Process>,
    reflector: Box<dyn Process>,
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Process(#[from] NodeIoError),
    #[error("there is no random number")]
    Nonce(#[source] std::io::Error),
    #[error("its {what} ended at once: {fate}")]
    Ended { what: &'static str, fate: String },
    #[error("its {what} was not ready after {} s", PATIENCE.as_secs())]
    NotReady { what: &'static str },
}

impl Running {
    /// Starts a probe on each pair; when this returns, each has sent its first packet. Where one cannot be started,
    /// [`Running::finish`] says so. `life` is how long the iteration may last.
    pub async fn start(pairs: &[Pair], spec: &ProbeSpec, life: Duration) -> Self {
        let bins = MOST_BINS / pairs.len().max(1);
        let started = join_all(pairs.iter().map(|pair| Started::start(pair, spec, life + SPARE, bins))).await;
        let mut running = Self { probes: Vec::new(), problems: Vec::new() };
        for (pair, started) in pairs.iter().zip(started) {
            match started {
                Ok(started) => running.probes.push(started),
                Err(error) => running.problems.push(Problem {
                    weight: Weight::Invalid,
                    text: format!("the path probe of pair {} never ran: {:#}", pair.number, anyhow::Error::from(error)),
                }),
            }
        }
        running
    }

    /// The clients have ended: nothing is sent from now on.
    pub fn stop_sending(&mut self) {
        for probe in &mut self.probes {
            if let Err(error) = probe.sender.signal(libc::SIGTERM) {
                tracing::warn!("pair {}: {:#}", probe.session.pair, anyhow::Error::from(error));
            }
        }
    }

    /// Waits for the last packets, ends the processes and reads their reports.
    pub async fn finish(self) -> Probed {
        let mut probed = Probed { problems: self.problems, ..Probed::default() };
        for evaluated in join_all(self.probes.into_iter().map(Started::finish)).await {
            probed.probes.push(evaluated.probe);
            probed.problems.extend(evaluated.problems);
            probed.notes.extend(evaluated.notes);
        }
        probed
    }
}

impl Started {
    async fn start(pair: &Pair, spec: &ProbeSpec, life: Duration, bins: usize) -> Result<Self, StartError> {
        let (client, server) = (pair.client.as_ref(), pair.server.as_ref());
        let nonce = Nonce::random().map_err(StartError::Nonce)?;
        let common = |node: &dyn Node, verb: &str, limit: u32| {
            let argv = [node.vptest(), verb, "--nonce", &nonce.to_string()].map(str::to_owned).to_vec();
            let mut command = Command { argv, ..Command::default() };
            let numbers = [("--size", spec.size), ("--dscp", spec.dscp.into()), ("--limit", limit)];
            command.argv.extend(numbers.iter().flat_map(|(name, n)| [(*name).to_owned(), n.to_string()]));
            command.argv.extend(["--life".to_owned(), format_duration(life)]);
            command
        };
        let mut reflect = common(server, "probe-reflect", LIMIT + EXTRA);
        reflect.argv.extend(["--on".to_owned(), server.address().to_string()]);
        reflect.argv.extend(["--from".to_owned(), client.address().to_string()]);
        let mut reflector = server.spawn(&reflect).await?;
        let port = wait_ready(reflector.as_mut(), "reflector").await?;

        let mut send = common(client, "probe-send", LIMIT);
        send.argv.extend(["--to".to_owned(), std::net::SocketAddr::from((server.address(), port)).to_string()]);
        send.argv.extend(["--from".to_owned(), client.address().to_string()]);
        send.argv.extend(["--interval".to_owned(), format_duration(spec.interval)]);
        send.argv.extend(["--timeout".to_owned(), format_duration(spec.timeout)]);
        let mut sender = client.spawn(&send).await?;
        wait_ready(sender.as_mut(), "sender").await?;
        let session = Session {
            pair: pair.number,
            interval: spec.interval,
            size: spec.size,
            dscp: spec.dscp,
            timeout: spec.timeout,
            max_late: spec.max_late.fraction(),
            here: client.is_here() && server.is_here(),
            series: spec.series.map(|width| (width, bins)),
        };
        Ok(Self { session, sender, reflector })
    }

    async fn finish(mut self) -> super::Evaluated {
        // Again where it was told before: its time begins when it has had it.
        if let Err(error) = self.sender.deliver(libc::SIGTERM).await {
            tracing::warn!("pair {}: {:#}", self.session.pair, anyhow::Error::from(error));
        }
        let sent = ended(self.sender.as_mut(), self.session.timeout + PATIENCE).await;
        let asked = self.reflector.deliver(libc::SIGTERM).await;
        let reflected = match asked {
            Ok(()) => ended(self.reflector.as_mut(), PATIENCE).await,
            Err(error) => End { fate: format!("{:#}", anyhow::Error::from(error)), cpu_ns: None },
        };
        let (sender, reflector) = (self.sender.output(Stream::Out), self.reflector.output(Stream::Out));
        evaluate(
            &self.session,
            Left { output: &sender.bytes, cpu_ns: sent.cpu_ns, fate: &sent.fate },
            Left { output: &reflector.bytes, cpu_ns: reflected.cpu_ns, fate: &reflected.fate },
        )
    }
}

/// How a process ended.
struct End {
    fate: String,
    cpu_ns: Option<u64>,
}

async fn ended(process: &mut dyn Process, limit: Duration) -> End {
    match timeout(limit, process.wait()).await {
        Ok(Ok(exit)) => End { fate: fate(process, &exit), cpu_ns: cpu_ns(&exit) },
        Ok(Err(error)) => End { fate: format!("{:#}", anyhow::Error::from(error)), cpu_ns: None },
        Err(_) => {
            let killed = process.signal(libc::SIGKILL);
            let killed = killed.map_or_else(|error| format!("; {error}"), |()| String::new());
            End { fate: format!("it did not end within {} s{killed}", limit.as_secs()), cpu_ns: None }
        }
    }
}

fn fate(process: &dyn Process, exit: &Exit) -> String {
    let complaint = process.output(Stream::Err).bytes;
    let complaint = String::from_utf8_lossy(&complaint);
    match complaint.lines().next_back() {
        Some(line) => format!("{}: {line}", exit.status),
        None => exit.status.to_string(),
    }
}

fn cpu_ns(exit: &Exit) -> Option<u64> {
    u64::try_from((exit.cpu_user? + exit.cpu_system?).as_nanos()).ok()
}

/// Waits for the first line, which has a port.
async fn wait_ready(process: &mut dyn Process, what: &'static str) -> Result<u16, StartError> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = PAUSES.0;
    loop {
        if let Some(port) = ready(&process.output(Stream::Out).bytes) {
            return Ok(port);
        }
        if Instant::now() >= deadline {
            return Err(StartError::NotReady { what });
        }
        tokio::select! {
            biased;
            exit = process.wait() => {
                let exit = exit?;
                return Err(StartError::Ended { what, fate: fate(process, &exit) });
            }
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 5 / 4).min(PAUSES.1);
    }
}

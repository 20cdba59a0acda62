//! Runs a workload on the nodes of a testbed: servers first, then all clients at once.
//!
//! Dropping any of the futures here, or [`Prepared`], leaves processes behind on the nodes; they end with the testbed.

mod ending;
mod error;
mod ready;
mod running;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use tokio::sync::Semaphore;

pub use error::DriveError;

use self::ending::End;
use self::ready::Condition;
use self::running::{Running, Stopped};
use super::{Client, PairContext, PairCpus, PairOutputs, Parsed, Settling, Workload, WorkloadError};
use crate::host::clock::now_ns;
use crate::ids::{Level, NodeId, Stage};
use crate::node::{Exit, Stream};
use crate::record::{Event, EventLevel, Metric, Quantile, Setting};
use crate::spec::Tuple;
use crate::testbed::Pair;
use crate::verify::ClientRun;

/// Bytes of a fetched file that are read.
const FETCH_LIMIT: u64 = 64 << 20;

/// Pairs whose server files are in memory at the same time.
const WRITERS: usize = 4;

/// What to run where.
#[derive(Clone, Copy)]
pub struct Drive<'a> {
    /// What to run.
    pub workload: &'a dyn Workload,
    /// Values of the iteration.
    pub tuple: &'a Tuple,
    /// On which nodes.
    pub pairs: &'a [Pair],
    /// CPUs of each pair, in the order of `pairs`; `None` leaves the placing to the kernel.
    pub cpus: Option<&'a [PairCpus]>,
}

/// All servers are ready; no client was started.
pub struct Prepared<'a> {
    drive: Drive<'a>,
    sessions: Vec<Session<'a>>,
    events: Vec<Event>,
}

/// What a workload that ran to its end left.
#[derive(Debug, Clone, PartialEq)]
pub struct Driven {
    /// Numbers of the workload; besides `client_cpu` (CPU time of the client per second of its life, as a share of one
    /// CPU) and `server_cpu_time` of each pair, and `start_skew` between the first and the last client.
    pub metrics: Vec<Metric>,
    /// Distributions.
    pub quantiles: Vec<Quantile>,
    /// Why the iteration is invalid; empty when it is not.
    pub invalid: Vec<String>,
    /// What to look at before trusting it.
    pub suspect: Vec<String>,
    /// CPUs that each process was bound to, asked for and read back right after its start.
    pub settings: Vec<Setting>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// When each pair's client started and how it ended.
    pub clients: Vec<ClientRun>,
    /// Wall clock when the first client was about to start, nanoseconds since 1970-01-01 UTC.
    pub clients_started_ns: i64,
    /// Wall clock when the last client had ended.
    pub clients_ended_ns: i64,
}

/// One pair at work.
struct Session<'a> {
    pair: &'a Pair,
    port: u16,
    client: Client,
    server: Option<Server>,
}

/// A server that is up, and how to end it.
struct Server {
    running: Running,
    ends_by_itself: bool,
    stop_signal: i32,
    settling: Option<Settling>,
}

/// What is left of a pair when its client is done.
struct Finished {
    parsed: Parsed,
    client_exit: Option<Exit>,
    server_exit: Option<Exit>,
    events: Vec<Event>,
}

impl<'a> Drive<'a> {
    /// Does everything: [`Drive::prepare`], then [`Prepared::run`].
    pub async fn run(self) -> Result<Driven, DriveError> {
        self.prepare().await?.run(|| ()).await
    }

    /// Writes the servers' files, starts the servers and waits until all of them are ready.
    ///
    /// Every pair's commands are made before anything is started. After an error nothing that was started goes on.
    pub async fn prepare(self) -> Result<Prepared<'a>, DriveError> {
        let begun = Instant::now();
        let ports = self.ports().await?;
        let mut sessions: Vec<Session<'a>> =
            self.pairs.iter().zip(ports).map(|(pair, port)| self.session(pair, port)).collect::<Result<_, _>>()?;
        let writers = Semaphore::new(WRITERS);
        // All are waited for, failures included, so that no server that is just starting is missed below.
        let starts =
            sessions.iter_mut().enumerate().map(|(index, session)| self.start_server(index, session, &writers));
        let failed = join_all(starts).await.into_iter().find_map(Result::err);
        if let Some(error) = failed {
            sessions.iter_mut().for_each(Session::kill_server);
            return Err(error);
        }
        let servers = sessions.iter().filter(|session| session.server.is_some()).count();
        let text = format!("servers ready: {servers}, after {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
        Ok(Prepared { drive: self, sessions, events: vec![event(EventLevel::Info, text)] })
    }

    /// A port for each pair, no two the same where they share a network stack.
    async fn ports(&self) -> Result<Vec<u16>, DriveError> {
        let usual = self.workload.default_port();
        let mut taken = BTreeSet::new();
        let mut ports = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs {
            let mut port = pair.server.port(usual).await?;
            while port != usual && !taken.insert(port) {
                port = pair.server.port(usual).await?;
            }
            ports.push(port);
        }
        Ok(ports)
    }

    fn session(&self, pair: &'a Pair, port: u16) -> Result<Session<'a>, DriveError> {
        let client = self.workload.client(&context(self.tuple, pair, port)).map_err(refused(pair))?;
        Ok(Session { pair, port, client, server: None })
    }

    async fn start_server(
        &self,
        index: usize,
        session: &mut Session<'_>,
        writers: &Semaphore,
    ) -> Result<(), DriveError> {
        let node = session.pair.server.as_ref();
        let turn = writers.acquire().await.expect("the semaphore is never closed");
        let plan =
            self.workload.server(&context(self.tuple, session.pair, session.port)).map_err(refused(session.pair))?;
        let Some(mut plan) = plan else { return Ok(()) };
        for (path, content) in std::mem::take(&mut plan.files) {
            node.put(&path, &content).await?;
        }
        drop(turn);
        let conditions: Vec<Condition> = plan.ready.iter().map(Condition::new).collect::<Result<_, _>>()?;
        for condition in &conditions {
            condition.check_before(node, &running::program(&plan.command)).await?;
        }
        plan.command.cpus = self.cpus(index).map(|cpus| vec![cpus.server]);
        let running = Running::start(node, &plan.command).await?;
        let (ends_by_itself, stop_signal, settling) = (plan.ends_by_itself, plan.stop_signal, plan.settling);
        let server = session.server.insert(Server { running, ends_by_itself, stop_signal, settling });
        for condition in &conditions {
            condition.wait(node, &mut server.running, plan.ready_timeout).await?;
        }
        Ok(())
    }

    fn cpus(&self, index: usize) -> Option<PairCpus> {
        self.cpus.and_then(|all| all.get(index)).copied()
    }
}

impl Prepared<'_> {
    /// Starts all clients at once, waits for them, stops the servers and reads what they all wrote.
    ///
    /// A client that ended badly or was cut off by its time limit is a reason in [`Driven::invalid`]. A server that ended
    /// too early is an error, and so is anything a node could not do.
    /// `clients_ended` is called at the moment when the last client has ended, before anything else is stopped.
    pub async fn run(mut self, clients_ended: impl FnOnce() + Send) -> Result<Driven, DriveError> {
        let result = self.run_clients(clients_ended).await;
        if result.is_err() {
            self.sessions.iter_mut().for_each(Session::kill_server);
        }
        result
    }

    async fn run_clients(&mut self, clients_ended: impl FnOnce() + Send) -> Result<Driven, DriveError> {
        let clients_started_ns = now_ns();
        let (mut clients, starts) = self.start_clients().await?;
        let exits = try_join_all(self.sessions.iter_mut().zip(&mut clients).map(|(s, client)| s.watch(client))).await;
        let clients_ended_ns = now_ns();
        clients_ended();
        let exits = exits.inspect_err(|_| clients.iter_mut().for_each(Running::kill))?;
        let mut settings: Vec<Setting> = clients.iter().map(Running::affinity).collect();
        settings.extend(self.sessions.iter().filter_map(|s| s.server.as_ref()).map(|s| s.running.affinity()));
        let drive = self.drive;
        let ends = self.sessions.iter_mut().zip(&clients).zip(exits);
        let finished = try_join_all(ends.map(|((s, client), exit)| s.finish(drive, client, exit))).await?;
        let mut driven = Driven {
            metrics: vec![start_skew(&starts)],
            quantiles: Vec::new(),
            invalid: Vec::new(),
            suspect: Vec::new(),
            settings,
            events: std::mem::take(&mut self.events),
            clients: Vec::new(),
            clients_started_ns,
            clients_ended_ns,
        };
        for ((pair, finished), started) in drive.pairs.iter().zip(finished).zip(starts) {
            driven.clients.push(ClientRun { node: pair.client.id(), started, exit: finished.client_exit });
            driven.add(pair.number, finished);
        }
        Ok(driven)
    }

    /// Starts the clients as close together as the nodes allow; each with the time since the first was about to start.
    async fn start_clients(&mut self) -> Result<(Vec<Running>, Vec<Duration>), DriveError> {
        let begun = Instant::now();
        for (index, session) in self.sessions.iter_mut().enumerate() {
            session.client.command.cpus = self.drive.cpus(index).map(|cpus| vec![cpus.client]);
        }
        let starts = self.sessions.iter().map(|session| async {
            let client = Running::start(session.pair.client.as_ref(), &session.client.command).await?;
            Ok::<_, DriveError>((client, begun.elapsed()))
        });
        let (mut clients, mut times, mut failed) = (Vec::new(), Vec::new(), None);
        for start in join_all(starts).await {
            match start {
                Ok((client, time)) => {
                    clients.push(client);
                    times.push(time);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            clients.iter_mut().for_each(Running::kill);
            return Err(error);
        }
        Ok((clients, times))
    }
}

impl Session<'_> {
    /// Waits for the client; `None` when its time limit cut it off. A server that ends meanwhile ends the wait.
    async fn watch(&mut self, client: &mut Running) -> Result<Option<Exit>, DriveError> {
        let limit = self.client.time_limit;
        let mut end = self.client.ending.as_ref().map(End::new).transpose()?;
        let status = {
            let limit = async {
                match limit {
                    Some(limit) => tokio::time::sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            let server_end = async {
                match &mut self.server {
                    Some(server) if !server.ends_by_itself => server.running.wait().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::pin!(limit, server_end);
            loop {
                tokio::select! {
                    biased;
                    exit = client.wait() => return exit.map(Some),
                    exit = &mut server_end => break exit?.status,
                    () = &mut limit => return client.stop(libc::SIGTERM).await.map(|_| None),
                    () = End::next_look(end.as_mut()) => {}
                }
                if let Some(signal) = end.as_ref().and_then(|end| end.signal_if_due(client)) {
                    return client.stop(signal).await.map(Stopped::exit);
                }
            }
        };
        Err(self.server_ended(status))
    }

    fn server_ended(&self, status: crate::node::ExitStatus) -> DriveError {
        let server = &self.server.as_ref().expect("only a server that was there can end").running;
        let (node, program, stderr) = (server.node(), server.program().to_owned(), server.complaint());
        DriveError::ServerEnded { node, program, status, when: "before its client was done", stderr }
    }

    /// Fetches, stops the server and reads everything.
    async fn finish(&mut self, drive: Drive<'_>, client: &Running, exit: Option<Exit>) -> Result<Finished, DriveError> {
        let mut events = Vec::new();
        let files = self.fetch().await?;
        let server_settled = self.settle_server(&mut events).await?;
        let server_exit = self.stop_server(&mut events).await?;
        let server = self.server.as_ref().map(|server| &server.running);
        let outputs = PairOutputs {
            client_exit: exit,
            client_out: client.output(Stream::Out),
            client_err: client.output(Stream::Err),
            server_exit,
            server_out: server.map(|server| server.output(Stream::Out)),
            server_err: server.map(|server| server.output(Stream::Err)),
            server_settled,
            files,
        };
        let parsed = drive.workload.parse(&context(drive.tuple, self.pair, self.port), &outputs);
        Ok(Finished { parsed, client_exit: exit, server_exit, events })
    }

    async fn fetch(&self) -> Result<Vec<(String, Vec<u8>)>, DriveError> {
        let node = &self.pair.client;
        let mut files = Vec::new();
        for path in &self.client.fetch {
            if node.exists(path).await? {
                files.push((path.clone(), node.get(path, FETCH_LIMIT).await?));
            }
        }
        Ok(files)
    }

    /// Waits for what the server is still to write; false when that did not come.
    async fn settle_server(&mut self, events: &mut Vec<Event>) -> Result<bool, DriveError> {
        let Some(Server { running, settling: Some(settling), .. }) = &mut self.server else { return Ok(true) };
        let settled = ending::settle(running, settling).await?;
        if !settled {
            let (node, program, limit) = (running.node(), running.program(), settling.limit.as_secs_f64());
            let text =
                format!("{node}: {program} did not write what was waited for after its client's end ({limit} s)");
            events.push(event(EventLevel::Warn, text));
        }
        Ok(settled)
    }

    /// How the server ended; `None` without one, or when it had to be killed.
    async fn stop_server(&mut self, events: &mut Vec<Event>) -> Result<Option<Exit>, DriveError> {
        let Some(server) = &mut self.server else { return Ok(None) };
        if server.ends_by_itself {
            if let Some(exit) = server.running.wait_briefly().await? {
                return Ok(Some(exit));
            }
            let text = format!("{}: {} did not end by itself", server.running.node(), server.running.program());
            events.push(event(EventLevel::Warn, text));
        } else if let Some(exit) = server.running.ended().await? {
            return Err(self.server_ended(exit.status));
        }
        let stopped = server.running.stop(server.stop_signal).await?;
        if stopped == Stopped::Killed {
            let text = format!("{}: {} had to be killed", server.running.node(), server.running.program());
            events.push(event(EventLevel::Warn, text));
        }
        Ok(stopped.exit())
    }

    fn kill_server(&mut self) {
        if let Some(server) = &mut self.server {
            server.running.kill();
        }
    }
}

impl Driven {
    fn add(&mut self, pair: u32, finished: Finished) {
        let Parsed { metrics, quantiles, invalid, suspect } = finished.parsed;
        self.metrics.extend(cpu_per_request(pair, &metrics, finished.client_exit, finished.server_exit));
        self.metrics.extend(metrics);
        self.quantiles.extend(quantiles);
        self.invalid.extend(invalid);
        self.suspect.extend(suspect);
        self.events.extend(finished.events);
        let cpu = finished.client_exit.and_then(cpu_share);
        self.metrics.push(os_metric(NodeId::client(pair), "client_cpu", "1", cpu));
        let server_time = finished.server_exit.and_then(cpu_time).map(|time| time.as_secs_f64());
        self.metrics.push(os_metric(NodeId::server(pair), "server_cpu_time", "s", server_time));
    }
}

/// CPU time of client and server for each request that was answered; nothing for a workload without requests.
fn cpu_per_request(pair: u32, metrics: &[Metric], client: Option<Exit>, server: Option<Exit>) -> Option<Metric> {
    let requests = metrics.iter().find(|metric| metric.name == "complete_requests")?.value;
    let used = client.and_then(cpu_time).zip(server.and_then(cpu_time)).map(|(a, b)| (a + b).as_secs_f64());
    let value = used.zip(requests).filter(|(_, requests)| *requests > 0.0).map(|(used, requests)| used / requests);
    let (name, unit) = ("cpu_per_request".to_owned(), "s".to_owned());
    let better = Some(crate::ids::Better::Lower);
    Some(Metric { pair: Some(pair), node: None, level: Level::Os, name, unit, value, better })
}

/// CPU time per second of life.
fn cpu_share(exit: Exit) -> Option<f64> {
    let wall = exit.wall.as_secs_f64();
    cpu_time(exit).filter(|_| wall > 0.0).map(|time| time.as_secs_f64() / wall)
}

fn cpu_time(exit: Exit) -> Option<Duration> {
    exit.cpu_user.zip(exit.cpu_system).map(|(user, system)| user + system)
}

fn os_metric(node: NodeId, name: &str, unit: &str, value: Option<f64>) -> Metric {
    let (name, unit) = (name.to_owned(), unit.to_owned());
    Metric { pair: Some(node.pair), node: Some(node), level: Level::Os, name, unit, value, better: None }
}

/// Time between the first and the last start.
fn start_skew(starts: &[Duration]) -> Metric {
    let (name, unit) = ("start_skew".to_owned(), "s".to_owned());
    let value = starts.iter().max().zip(starts.iter().min()).map(|(last, first)| (*last - *first).as_secs_f64());
    Metric { pair: None, node: None, level: Level::Os, name, unit, value, better: None }
}

fn event(level: EventLevel, text: String) -> Event {
    Event { at_ns: now_ns(), stage: Stage::Workload, level, text }
}

fn context<'a>(tuple: &'a Tuple, pair: &'a Pair, port: u16) -> PairContext<'a> {
    PairContext {
        pair: pair.number,
        tuple,
        server: pair.server.address(),
        port,
        client_scratch: pair.client.scratch(),
        server_scratch: pair.server.scratch(),
        vptest: pair.server.vptest(),
    }
}

fn refused(pair: &Pair) -> impl FnOnce(WorkloadError) -> DriveError {
    let pair = pair.number;
    move |source| DriveError::Workload { pair, source }
}

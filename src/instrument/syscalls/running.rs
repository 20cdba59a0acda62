//! The tracers of one iteration: one for each kernel.

use std::path::Path;

use super::{Options, Room, Tracer};
use crate::agent::{Client, RemoteTrace, TraceRequest};
use crate::ids::{Level, NodeId};
use crate::node::local::blocking;
use crate::record::{Metric, Problem, SyscallLoss, SyscallScope, SyscallTrace, Weight};
use crate::spec::SyscallSpec;
use crate::testbed::KernelAt;

/// Name of a log that a node writes in its scratch directory.
const LOG: &str = "syscalls.zst";
/// Longest log that is fetched from a node.
const MAX_LOG: u64 = 1 << 30;

/// Tracers that run.
pub struct Running {
    here: Option<Tracer>,
    /// Is what was followed here to be reduced to the workload?
    of_workload: bool,
    remote: Vec<(NodeId, Client, RemoteTrace)>,
    /// Where logs go, and its path below the campaign's directory.
    log: Option<(std::path::PathBuf, String)>,
    /// What is worth an event.
    pub notes: Vec<String>,
    /// Where nothing could be started, and why.
    problems: Vec<Problem>,
}

/// What tracers leave behind.
#[derive(Debug, Default)]
pub struct Traced {
    /// One for each kernel.
    pub traces: Vec<SyscallTrace>,
    /// What went wrong.
    pub problems: Vec<Problem>,
}

impl Running {
    /// Starts a tracer on each kernel; when this returns, no call is missed. Logs are written to `artifacts`. Where a tracer
    /// cannot be started, [`Running::stop`] says so.
    pub async fn start(kernels: Vec<KernelAt>, spec: &SyscallSpec, artifacts: &Path) -> Self {
        let name = artifacts.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = spec.log.then(|| (artifacts.to_owned(), name));
        let mut running =
            Self { here: None, of_workload: false, remote: Vec::new(), log, notes: Vec::new(), problems: Vec::new() };
        for kernel in kernels {
            match kernel {
                KernelAt::Here { workload, nodes } => {
                    let mut options = Options::here(spec.scope, workload);
                    options.nodes = nodes;
                    options.source = spec.source;
                    options.room = room(spec);
                    options.log = running.log.as_ref().map(|(directory, _)| directory.join(log_name(None)));
                    running.start_here(options).await;
                }
                KernelAt::Shared { nodes } => {
                    // There is no PID namespace that all of the workload is in: everything is followed, and sorted out later.
                    let mut options = Options::here(SyscallScope::Node, None);
                    options.nodes = nodes;
                    options.source = spec.source;
                    options.room = room(spec);
                    options.log = running.log.as_ref().map(|(directory, _)| directory.join(log_name(None)));
                    running.of_workload = spec.scope == SyscallScope::Workload;
                    running.start_here(options).await;
                }
                KernelAt::Agent { node, client } => {
                    let log = spec.log.then(|| LOG.to_owned());
                    let request = TraceRequest { node, scope: spec.scope, source: spec.source, room: room(spec), log };
                    match client.trace_syscalls(&request).await {
                        Ok(trace) => {
                            running.notes.extend(trace.notes.iter().map(|note| format!("{node}: {note}")));
                            running.remote.push((node, client, trace));
                        }
                        Err(error) => running.never_ran(format!("{node}: {:#}", anyhow::Error::from(error))),
                    }
                }
            }
        }
        running
    }

    async fn start_here(&mut self, options: Options) {
        match blocking(move || Ok(Tracer::start(options))).await {
            Ok(Ok(tracer)) => {
                self.notes.extend(tracer.notes.iter().cloned());
                self.here = Some(tracer);
            }
            Ok(Err(error)) => self.never_ran(format!("{:#}", anyhow::Error::from(error))),
            Err(error) => self.never_ran(error.to_string()),
        }
    }

    fn never_ran(&mut self, why: String) {
        self.problems
            .push(Problem { weight: Weight::Invalid, text: format!("the tracer of system calls never ran: {why}") });
    }

    /// Ends them all.
    pub async fn stop(self) -> Traced {
        let Self { here, of_workload, remote, log, problems, .. } = self;
        let mut traced = Traced { traces: Vec::new(), problems };
        if let Some(tracer) = here {
            let stopped = blocking(move || Ok(tracer.stop())).await;
            let stopped = stopped.map_err(anyhow::Error::from).and_then(|stopped| Ok(stopped?));
            let log = log.as_ref().map(|(_, name)| format!("{name}/{}", log_name(None)));
            let stopped = stopped.map(|trace| SyscallTrace { log, ..trace });
            traced.add(None, stopped.and_then(|trace| if of_workload { only_workload(trace) } else { Ok(trace) }));
        }
        for (node, client, trace) in remote {
            let mut stopped = trace.stop().await.map_err(anyhow::Error::from);
            if let (Ok(trace), Some((directory, name))) = (&mut stopped, &log) {
                match fetch(&client, &directory.join(log_name(Some(node)))).await {
                    Ok(()) => trace.log = Some(format!("{name}/{}", log_name(Some(node)))),
                    Err(error) => traced.suspect(format!("{node}: its log of system calls is lost: {error:#}")),
                }
            }
            traced.add(Some(node), stopped);
        }
        traced
    }
}

/// What ran in the nodes' networks, without the agents there.
///
/// # Errors
/// When nothing is left: then the kernel does not say which network a process is in.
fn only_workload(mut trace: SyscallTrace) -> anyhow::Result<SyscallTrace> {
    let agent = [crate::agent::THREAD, crate::host::cage::THREAD];
    trace.processes.retain(|process| process.node.is_some() && !agent.contains(&process.name.as_str()));
    trace.scope = SyscallScope::Workload;
    anyhow::ensure!(
        !trace.processes.is_empty(),
        "no call could be told to be one of a node's (this kernel may not say which network a process is in)"
    );
    Ok(trace)
}

impl Traced {
    fn add(&mut self, node: Option<NodeId>, stopped: anyhow::Result<SyscallTrace>) {
        let place = node.map_or_else(String::new, |node| format!("{node}: "));
        match stopped {
            Ok(trace) => {
                self.problems.extend(losses(&place, &trace));
                self.traces.push(trace);
            }
            Err(error) => self.problems.push(Problem {
                weight: Weight::Invalid,
                text: format!("{place}what system calls there were is lost: {error:#}"),
            }),
        }
    }

    fn suspect(&mut self, text: String) {
        self.problems.push(Problem { weight: Weight::Suspect, text });
    }
}

fn room(spec: &SyscallSpec) -> Room {
    let usual = Room::default();
    Room {
        threads: spec.threads.unwrap_or(usual.threads),
        names: spec.names.unwrap_or(usual.names),
        calls: spec.calls.unwrap_or(usual.calls),
        transitions: spec.transitions.unwrap_or(usual.transitions),
        sizes: spec.sizes.unwrap_or(usual.sizes),
        ring: spec.ring.unwrap_or(usual.ring),
    }
}

fn log_name(node: Option<NodeId>) -> String {
    node.map_or_else(|| "syscalls-host.zst".to_owned(), |node| format!("syscalls-{node}.zst"))
}

async fn fetch(client: &Client, target: &Path) -> anyhow::Result<()> {
    let content = client.fetch(LOG, MAX_LOG).await?;
    if let Some(directory) = target.parent() {
        std::fs::create_dir_all(directory)?;
    }
    Ok(std::fs::write(target, content)?)
}

/// What was lost, in one line; nothing where nothing was.
fn losses(place: &str, trace: &SyscallTrace) -> Option<Problem> {
    let lost = trace.lost();
    let sum = |of: fn(&SyscallLoss) -> u64| trace.losses.iter().map(of).sum::<u64>();
    let cpus = trace.losses.iter().filter(|loss| loss.total() > 0).count();
    (lost > 0).then(|| Problem {
        weight: Weight::Suspect,
        text: format!(
            "{place}the tracer of system calls lost {} calls, {} returns, {} transitions, {} errors, {} sizes and {} log \
             entries on {cpus} CPUs; {} calls were counted",
            sum(|l| l.begun),
            sum(|l| l.returned),
            sum(|l| l.steps),
            sum(|l| l.errors),
            sum(|l| l.sizes),
            sum(|l| l.logged),
            trace.calls(),
        ),
    })
}

/// Calls, errors and the time in calls of each node, as metrics of the `os` level. Nothing for nodes of which nothing is
/// known.
pub fn metrics(traces: &[SyscallTrace]) -> Vec<Metric> {
    let mut nodes: Vec<NodeId> = traces.iter().flat_map(|t| &t.processes).filter_map(|p| p.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let mut metrics = Vec::new();
    for node in nodes {
        let processes = || traces.iter().flat_map(|t| &t.processes).filter(|p| p.node == Some(node));
        let calls: u64 = processes().map(|p| p.calls).sum();
        let errors: u64 = processes().flat_map(|p| &p.by_call).map(|c| c.errors).sum();
        let time: u64 = processes().flat_map(|p| &p.by_call).map(|c| c.total_ns).sum();
        for (name, unit, value) in [
            ("syscalls", "1", real(calls)),
            ("syscall_errors", "1", real(errors)),
            ("syscall_time", "s", real(time) / 1e9),
        ] {
            metrics.push(Metric {
                pair: Some(node.pair),
                node: Some(node),
                level: Level::Os,
                name: name.to_owned(),
                unit: unit.to_owned(),
                value: Some(value),
                better: None,
            });
        }
    }
    metrics
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
const fn real(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{SyscallProcess, SyscallSource};

    fn trace(processes: &[(Option<NodeId>, &str)]) -> SyscallTrace {
        let process = |(node, name): &(Option<NodeId>, &str)| SyscallProcess {
            node: *node,
            name: (*name).to_owned(),
            threads: 1,
            calls: 7,
            sequence: 0,
            by_call: Vec::new(),
            transitions: Vec::new(),
            sizes: Vec::new(),
        };
        SyscallTrace {
            place: None,
            scope: SyscallScope::Node,
            source: SyscallSource::Bpf,
            processes: processes.iter().map(process).collect(),
            losses: Vec::new(),
            log: None,
        }
    }

    #[test]
    fn of_a_kernel_that_is_shared_only_the_nodes_count_and_not_their_agents() {
        let client = Some(NodeId::client(1));
        let all = [(client, "ab"), (client, "vptest-agent"), (client, "vptest-cage"), (None, "ab"), (None, "rustc")];
        let reduced = only_workload(trace(&all)).unwrap();
        assert_eq!((reduced.scope, reduced.calls()), (SyscallScope::Workload, 7));
        let error = only_workload(trace(&all[3..])).unwrap_err().to_string();
        assert!(error.starts_with("no call could be told"), "{error}");
    }
}

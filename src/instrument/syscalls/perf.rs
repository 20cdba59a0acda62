//! Every call handed over through the rings of `perf_event_open(2)` and added up here: for kernels that refuse BPF.
//!
//! ```text
//! open     events and their rings
//! record   what is in a ring
//! follow   adds up
//! tracefs  numbers of the tracepoints
//! ```

mod follow;
mod open;
mod record;
mod tracefs;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use self::follow::{Following, Rules};
use self::open::{Event, Ring, What};
use self::record::{Record, Tracepoints};
use super::bpf::Failure;
use super::log::Writer;
use super::{Options, TraceError};
use crate::record::{SyscallLoss, SyscallScope, SyscallSource, SyscallTrace};

/// How often the rings are emptied.
const PACE: Duration = Duration::from_millis(5);

/// Events that are followed.
pub(super) struct Perf {
    cpus: Vec<OfCpu>,
    end: Arc<AtomicBool>,
    thread: JoinHandle<Following>,
}

/// The events of one CPU; their records are in one ring.
struct OfCpu {
    cpu: u32,
    begins: Event,
    returns: Event,
    tasks: Event,
}

impl Perf {
    pub(super) fn start(options: &Options, notes: &mut Vec<String>) -> Result<Self, Failure> {
        let refused = |what: &str, error: std::io::Error| Failure::Refused(format!("{what}: {error}{}", paranoid()));
        let tracepoints = tracefs::tracepoints().map_err(Failure::Refused)?;
        let thread = match (options.scope, options.workload) {
            (SyscallScope::Workload, Some(workload)) => Some(workload.starter),
            _ => None,
        };
        let online = online().map_err(Failure::Refused)?;
        let bytes = usize::try_from(options.room.ring).unwrap_or(1 << 20);
        let mut cpus = Vec::new();
        let mut rings = Vec::new();
        for cpu in online {
            let of = OfCpu::open(tracepoints, thread, cpu);
            let of = of.map_err(|error| refused(&format!("perf_event_open on CPU {cpu}"), error))?;
            let ring = Ring::of(&of.begins, bytes);
            let ring = ring.map_err(|error| refused(&format!("a ring of {bytes} bytes for CPU {cpu}"), error))?;
            of.returns
                .write_to(&of.begins)
                .and_then(|()| of.tasks.write_to(&of.begins))
                .map_err(|error| refused("perf events", error))?;
            cpus.push(of);
            rings.push(ring);
        }
        let log = options.log.as_deref().map(Writer::create).transpose().map_err(Failure::Log)?;
        let own = std::process::id();
        let rules = Rules { own, nodes: options.nodes.clone(), place: options.place };
        let mut following = Following::new(rules, log);
        // Before what is there already is looked up, so that nothing falls between.
        for of in &cpus {
            of.tasks.enable().map_err(|error| refused("perf events", error))?;
        }
        know_threads(&mut following, thread);
        for of in &cpus {
            of.returns.enable().and_then(|()| of.begins.enable()).map_err(|error| refused("perf events", error))?;
        }
        if !counts_losses(&cpus) {
            notes.push("this kernel does not count all events that perf loses: losses are lower bounds".to_owned());
        }
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || read(rings, following, tracepoints, &ended));
        Ok(Self { cpus, end, thread })
    }

    pub(super) fn stop(self, options: &Options) -> Result<SyscallTrace, TraceError> {
        let read = |error: std::io::Error| TraceError::Read(error.to_string());
        for of in &self.cpus {
            of.begins.disable().and_then(|()| of.returns.disable()).and_then(|()| of.tasks.disable()).map_err(read)?;
        }
        self.end.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let following = self.thread.join().map_err(|_| TraceError::Read("the rings' thread panicked".to_owned()))?;
        let mut losses = self.cpus.iter().map(OfCpu::losses).collect::<Result<Vec<_>, _>>().map_err(read)?;
        // Where the kernel does not count, what the rings say is all that is known.
        let lost = if counts_losses(&self.cpus) { 0 } else { following.lost_records };
        let begun = lost + following.lost_calls;
        let (steps, returned) = (following.lost_steps, following.lost_returns);
        if begun + steps + returned > 0 {
            losses.push(SyscallLoss { begun, steps, returned, ..SyscallLoss::default() });
        }
        let logged = |source| TraceError::Log { path: options.log.clone().unwrap_or_default(), source };
        let (tally, log) = following.finish().map_err(logged)?;
        if let Some((log, names)) = log {
            log.finish(&names)?;
        }
        Ok(SyscallTrace {
            place: options.place,
            scope: options.scope,
            source: SyscallSource::Perf,
            processes: tally.into_record(),
            losses,
            log: None,
        })
    }
}

impl OfCpu {
    fn open(tracepoints: Tracepoints, thread: Option<i32>, cpu: u32) -> std::io::Result<Self> {
        Ok(Self {
            cpu,
            begins: Event::open(What::Begins(tracepoints.begins), thread, cpu)?,
            returns: Event::open(What::Returns(tracepoints.returns), thread, cpu)?,
            tasks: Event::open(What::Tasks, thread, cpu)?,
        })
    }

    /// Records about tasks count as calls: without them, calls may stand under another name.
    fn losses(&self) -> std::io::Result<SyscallLoss> {
        let begun = self.begins.lost()?.unwrap_or_default() + self.tasks.lost()?.unwrap_or_default();
        let returned = self.returns.lost()?.unwrap_or_default();
        Ok(SyscallLoss { cpu: Some(self.cpu), begun, returned, ..SyscallLoss::default() })
    }
}

/// Does this kernel count what perf loses (6.0 and later)?
fn counts_losses(cpus: &[OfCpu]) -> bool {
    cpus.iter().all(|of| of.begins.counts_losses())
}

/// Empties the rings until the end.
///
/// What was read in one pass is added up after the next one: a thread's records on another CPU, read too early, are there
/// then. So those of one thread are always in order.
fn read(mut rings: Vec<Ring>, mut following: Following, tracepoints: Tracepoints, ended: &AtomicBool) -> Following {
    let mut waiting: Vec<Record> = Vec::new();
    let mut last = 0;
    loop {
        let end = ended.load(Ordering::Acquire);
        let horizon = last;
        for ring in &mut rings {
            ring.drain(|bytes| {
                if let Some(record) = Record::parse(bytes, tracepoints) {
                    last = last.max(record.at);
                    waiting.push(record);
                }
            });
        }
        waiting.sort_by_key(|record| record.at);
        let ready = if end { waiting.len() } else { waiting.partition_point(|record| record.at <= horizon) };
        waiting.drain(..ready).for_each(|record| following.take(&record));
        if end {
            return following;
        }
        std::thread::park_timeout(PACE);
    }
}

/// Names and network namespaces of the threads that are there: of the one that starts all others, or of all.
fn know_threads(following: &mut Following, starter: Option<i32>) {
    let mut know = |directory: &std::path::Path, thread: u32| {
        // A thread may end while the others are looked at.
        let Ok(text) = std::fs::read(directory.join("comm")) else { return };
        let mut name = [0; 16];
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        name.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        let network = super::namespace_at(directory.join("ns/net")).ok().map(|(_, inode)| inode);
        following.know(thread, name, network);
    };
    if let Some(starter) = starter {
        let thread = u32::try_from(starter).unwrap_or_default();
        return know(std::path::Path::new(&format!("/proc/self/task/{starter}")), thread);
    }
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for process in processes.flatten().filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()) {
        let Ok(threads) = std::fs::read_dir(process.path().join("task")) else { continue };
        for thread in threads.flatten() {
            if let Ok(number) = thread.file_name().to_string_lossy().parse() {
                know(&thread.path(), number);
            }
        }
    }
}

/// CPUs that are online, as `0-3,7`.
fn online() -> Result<Vec<u32>, String> {
    const ONLINE: &str = "/sys/devices/system/cpu/online";
    let text = std::fs::read_to_string(ONLINE).map_err(|error| format!("{ONLINE}: {error}"))?;
    crate::host::cpus::parse_list(&text).ok_or_else(|| format!("{ONLINE} is no list of CPUs: {text:?}"))
}

fn paranoid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").map_or_else(
        |_| " (this kernel has no perf)".to_owned(),
        |level| format!(" (perf_event_paranoid {})", level.trim()),
    )
}

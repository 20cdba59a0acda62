//! The BPF program: loaded, attached, its tables read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuHashMap, RingBuf};
use aya::programs::RawTracePoint;
use aya::{Btf, Ebpf, EbpfLoader};

use super::log::Writer;
use super::tally::{self, Bins, Process, Tally, comm};
use super::{Options, TraceError, kernel_device, namespace_at};
use crate::ids::NodeId;
use crate::record::{SyscallLoss, SyscallScope, SyscallSource, SyscallTrace};

/// The object built from `bpf/syscalls.bpf.c` (`make bpf`).
const OBJECT: &[u8] = include_bytes!("bpf/syscalls.bpf.o");

/// The programs, in the order in which they are attached: no return is looked at before the begins are. Those of ends come
/// first, so that no thread that is known goes unnoticed.
const PROGRAMS: [(&str, &str); 3] =
    [("thread_ends", "sched_process_exit"), ("call_returns", "sys_exit"), ("call_begins", "sys_enter")];

/// How often the log's ring is looked at.
const LOG_PACE: Duration = Duration::from_millis(10);

/// `struct calls` and `struct sizes`: four numbers and 128 bins of 32 bits.
type Row = [u64; 68];
/// `struct name`.
type NameKey = [u64; 3];
/// `struct thread`.
type ThreadRow = [u64; 38];

/// Why it does not run.
pub(super) enum Failure {
    /// The kernel, or what it was built with.
    Refused(String),
    /// The log.
    Log(TraceError),
}

/// A program that runs.
pub(super) struct Bpf {
    ebpf: Ebpf,
    logging: Option<Logging>,
}

impl Bpf {
    pub(super) fn start(options: &Options, notes: &mut Vec<String>) -> Result<Self, Failure> {
        let mut ebpf = load(options, notes)?;
        set_classes(&mut ebpf)?;
        let logging = match &options.log {
            Some(path) => {
                let ring = ebpf.take_map("entries").ok_or_else(|| missing("entries"))?;
                let ring = RingBuf::try_from(ring).map_err(refused)?;
                Some(Logging::start(ring, Writer::create(path).map_err(Failure::Log)?))
            }
            None => None,
        };
        for (program, tracepoint) in PROGRAMS {
            let program: &mut RawTracePoint =
                ebpf.program_mut(program).ok_or_else(|| missing(program))?.try_into().map_err(refused)?;
            program.load().map_err(refused)?;
            program.attach(tracepoint).map_err(refused)?;
        }
        Ok(Self { ebpf, logging })
    }

    pub(super) fn stop(mut self, options: &Options) -> Result<SyscallTrace, TraceError> {
        for (program, _) in PROGRAMS {
            let Some(program) = self.ebpf.program_mut(program) else { continue };
            let program: &mut RawTracePoint = program.try_into().map_err(read)?;
            program.unload().map_err(read)?;
        }
        let names = self.names(options)?;
        let tally = self.tally(&names)?;
        let losses = self.losses()?;
        if let Some(logging) = self.logging.take() {
            let node = |node: &Option<NodeId>| node.map(|node| node.to_string()).unwrap_or_default();
            let names: Vec<_> = names.iter().map(|(id, (n, name))| (*id, name.clone(), node(n))).collect();
            logging.stop()?.finish(&names)?;
        }
        Ok(SyscallTrace {
            place: options.place,
            scope: options.scope,
            source: SyscallSource::Bpf,
            processes: tally.into_record(),
            losses,
            log: None,
        })
    }

    /// Numbers of names: node and name.
    fn names(&self, options: &Options) -> Result<Names, TraceError> {
        let map: HashMap<_, NameKey, u32> = self.map("names")?;
        let mut names = Names::new();
        for row in map.iter() {
            let (key, number) = row.map_err(read)?;
            let bytes = [key[0].to_ne_bytes(), key[1].to_ne_bytes()].concat();
            names.insert(number, (options.node_in(key[2] & u64::from(u32::MAX)), comm(&bytes)));
        }
        Ok(names)
    }

    fn tally(&self, names: &Names) -> Result<Tally, TraceError> {
        let mut tally = Tally::default();
        self.steps(&mut tally, names)?;
        self.calls(&mut tally, names)?;
        self.sizes(&mut tally, names)?;
        self.sequences(&mut tally, names)?;
        Ok(tally)
    }

    fn steps(&self, tally: &mut Tally, names: &Names) -> Result<(), TraceError> {
        let map: PerCpuHashMap<_, u64, u64> = self.map("steps")?;
        for row in map.iter() {
            let (key, counts) = row.map_err(read)?;
            let process = process(tally, names, part(key, 32, 32))?;
            let step = (short(part(key, 16, 16)), short(part(key, 0, 16)));
            *process.steps.entry(step).or_default() += counts.iter().sum::<u64>();
        }
        Ok(())
    }

    fn calls(&self, tally: &mut Tally, names: &Names) -> Result<(), TraceError> {
        let map: PerCpuHashMap<_, u32, Row> = self.map("calls")?;
        for row in map.iter() {
            let (key, values) = row.map_err(read)?;
            let process = process(tally, names, u64::from(key >> 16))?;
            let call = process.calls.entry(short(u64::from(key & 0xffff))).or_default();
            for [returned, errors, total_ns, most_ns, bins @ ..] in values.iter() {
                call.returned += returned;
                call.errors += errors;
                call.total_ns += total_ns;
                call.most_ns = call.most_ns.max(*most_ns);
                add_bins(&mut call.bins, bins);
            }
        }
        let map: PerCpuHashMap<_, u64, u64> = self.map("errors")?;
        for row in map.iter() {
            let (key, counts) = row.map_err(read)?;
            let process = process(tally, names, part(key, 48, 16))?;
            let call = process.calls.entry(short(part(key, 32, 16))).or_default();
            let number = u32::try_from(part(key, 0, 32)).unwrap_or(u32::MAX);
            *call.by_error.entry(number).or_default() += counts.iter().sum::<u64>();
        }
        Ok(())
    }

    fn sizes(&self, tally: &mut Tally, names: &Names) -> Result<(), TraceError> {
        let map: PerCpuHashMap<_, u64, Row> = self.map("sizes")?;
        for row in map.iter() {
            let (key, values) = row.map_err(read)?;
            let process = process(tally, names, part(key, 48, 16))?;
            let kind = u8::try_from(part(key, 0, 32)).unwrap_or(0);
            let sizes = process.sizes.entry((short(part(key, 32, 16)), kind)).or_default();
            for [count, bytes, most, zero, bins @ ..] in values.iter() {
                sizes.count += count;
                sizes.bytes += bytes;
                sizes.most = sizes.most.max(*most);
                sizes.zero += zero;
                add_bins(&mut sizes.bins, bins);
            }
        }
        Ok(())
    }

    /// Of threads that have ended, and of those that still live.
    fn sequences(&self, tally: &mut Tally, names: &Names) -> Result<(), TraceError> {
        let map: PerCpuHashMap<_, u32, [u64; 3]> = self.map("ended")?;
        for row in map.iter() {
            let (key, values) = row.map_err(read)?;
            let process = process(tally, names, u64::from(key))?;
            for [threads, sequence, _] in values.iter() {
                process.threads += threads;
                process.sequence = process.sequence.wrapping_add(*sequence);
            }
        }
        let places: Array<_, ThreadRow> = self.map("places")?;
        let others: HashMap<_, u32, ThreadRow> = self.map("threads")?;
        for row in places.iter().chain(others.iter().map(|row| row.map(|(_, thread)| thread))) {
            living(tally, names, &row.map_err(read)?)?;
        }
        Ok(())
    }

    fn losses(&self) -> Result<Vec<SyscallLoss>, TraceError> {
        let map: PerCpuArray<_, [u64; 6]> = self.map("lost")?;
        let values = map.get(&0, 0).map_err(read)?;
        let loss = |(cpu, [begun, returned, steps, errors, sizes, logged]): (u32, &[u64; 6])| SyscallLoss {
            cpu: Some(cpu),
            begun: *begun,
            returned: *returned,
            steps: *steps,
            errors: *errors,
            sizes: *sizes,
            logged: *logged,
        };
        Ok((0..).zip(values.iter()).map(loss).collect())
    }

    fn map<'a, M>(&'a self, name: &str) -> Result<M, TraceError>
    where
        M: TryFrom<&'a aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self.ebpf.map(name).ok_or_else(|| TraceError::Read(format!("there is no table {name}")))?;
        M::try_from(map).map_err(read)
    }
}

/// Adds what a thread that still lives has not handed over.
fn living(tally: &mut Tally, names: &Names, row: &ThreadRow) -> Result<(), TraceError> {
    let [head, _, sequence, count, _, _, pending @ ..] = row;
    if part(*head, 0, 32) == 0 {
        return Ok(());
    }
    let process = process(tally, names, part(*head, 32, 32))?;
    process.end_sequence(*sequence, *count);
    for pending in pending.iter().filter(|pending| part(**pending, 32, 32) > 0) {
        let step = (short(part(*pending, 16, 16)), short(part(*pending, 0, 16)));
        *process.steps.entry(step).or_default() += part(*pending, 32, 32);
    }
    Ok(())
}

type Names = BTreeMap<u32, (Option<NodeId>, String)>;

fn process<'a>(tally: &'a mut Tally, names: &Names, number: u64) -> Result<&'a mut Process, TraceError> {
    let known = u32::try_from(number).ok().and_then(|number| names.get(&number));
    let (node, name) = known.ok_or_else(|| TraceError::Read(format!("process name {number} is not known")))?;
    Ok(tally.process(*node, name))
}

fn part(key: u64, shift: u32, bits: u32) -> u64 {
    (key >> shift) & ((1 << bits) - 1)
}

fn short(number: u64) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// Two bins of 32 bits in each number.
fn add_bins(bins: &mut Bins, packed: &[u64]) {
    for (pair, packed) in bins.0.chunks_exact_mut(2).zip(packed) {
        let bytes = packed.to_ne_bytes();
        for (bin, bytes) in pair.iter_mut().zip(bytes.chunks_exact(4)) {
            *bin += u64::from(u32::from_ne_bytes(bytes.try_into().expect("four bytes")));
        }
    }
}

fn load(options: &Options, notes: &mut Vec<String>) -> Result<Ebpf, Failure> {
    let own =
        namespace_at("/proc/self/ns/pid").map_err(|error| Failure::Refused(format!("no PID namespace: {error}")))?;
    let workload = options.workload.filter(|_| options.scope == SyscallScope::Workload);
    let types = match Btf::from_sys_fs() {
        Ok(types) => Some(types),
        Err(_) => {
            notes.push(
                "the kernel does not describe its types (/sys/kernel/btf/vmlinux): kinds of descriptors are unknown and \
                 processes belong to no node of several"
                    .to_owned(),
            );
            None
        }
    };
    match load_with(options, types.as_ref(), own, workload) {
        Err(error) if types.is_some() && !is_permission(&error) => {
            notes.push(format!(
                "the kernel's types are others than expected ({}): kinds of descriptors are unknown and processes belong to \
                 no node of several",
                chain(&error)
            ));
            load_with(options, None, own, workload).map_err(refused)
        }
        other => other.map_err(refused),
    }
}

fn load_with(
    options: &Options,
    types: Option<&Btf>,
    own: (u64, u64),
    workload: Option<super::Workload>,
) -> Result<Ebpf, aya::EbpfError> {
    let room = &options.room;
    let [device, inode] = workload.map_or([0, 0], |w| [kernel_device(w.device), w.inode]);
    let (own_device, own_inode, own_number) = (kernel_device(own.0), own.1, std::process::id());
    let (with_types, with_log) = (u32::from(types.is_some()), u32::from(options.log.is_some()));
    let (argument_at, segment_at) = registers();
    let last_place = places(room.threads) - 1;
    // A ring that is not used is as small as it can be.
    let ring = if options.log.is_some() { room.ring } else { 4096 };
    EbpfLoader::new()
        .btf(types)
        .override_global("ns_device", &device, true)
        .override_global("ns_inode", &inode, true)
        .override_global("own_device", &own_device, true)
        .override_global("own_inode", &own_inode, true)
        .override_global("own_number", &own_number, true)
        .override_global("kernel_types", &with_types, true)
        .override_global("with_log", &with_log, true)
        .override_global("last_place", &last_place, true)
        .override_global("argument_at", &argument_at, true)
        .override_global("segment_at", &segment_at, true)
        .map_max_entries("places", places(room.threads))
        .map_max_entries("threads", room.threads)
        .map_max_entries("names", room.names)
        .map_max_entries("ended", room.names)
        .map_max_entries("calls", room.calls)
        .map_max_entries("errors", room.calls)
        .map_max_entries("steps", room.transitions)
        .map_max_entries("sizes", room.sizes)
        .map_max_entries("entries", ring)
        .load(OBJECT)
}

/// Places that are found by a thread's number alone; as many threads again find room elsewhere.
fn places(threads: u32) -> u32 {
    threads.clamp(1, 4096).next_power_of_two()
}

/// Where `pt_regs` has the first argument and the code segment, which tells the 32-bit ABI; 0 for none.
///
/// Source: Linux `arch/x86/include/asm/ptrace.h`, `arch/arm64/include/asm/ptrace.h` (`orig_x0`).
const fn registers() -> (u32, u32) {
    if cfg!(target_arch = "x86_64") { (112, 136) } else { (272, 0) }
}

fn set_classes(ebpf: &mut Ebpf) -> Result<(), Failure> {
    let map = ebpf.map_mut("classes").ok_or_else(|| missing("classes"))?;
    let mut map: Array<_, u8> = map.try_into().map_err(refused)?;
    for (number, class) in tally::classes() {
        map.set(u32::from(number), class, 0).map_err(refused)?;
    }
    Ok(())
}

fn missing(what: &str) -> Failure {
    Failure::Refused(format!("the object has no {what}"))
}

fn refused(error: impl std::error::Error) -> Failure {
    Failure::Refused(chain(&error))
}

fn read(error: impl std::error::Error) -> TraceError {
    TraceError::Read(chain(&error))
}

/// An error with its causes; the verifier's log is long, its last lines tell.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    let length = text.chars().count();
    if length > 400 { format!("… {}", text.chars().skip(length - 400).collect::<String>()) } else { text }
}

fn is_permission(error: &aya::EbpfError) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && error.kind() == std::io::ErrorKind::PermissionDenied
        {
            return true;
        }
        source = error.source();
    }
    false
}

/// The thread that empties the log's ring.
struct Logging {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Result<Writer, std::io::Error>>,
    path: std::path::PathBuf,
}

impl Logging {
    fn start(mut ring: RingBuf<MapData>, mut writer: Writer) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let path = writer.path().to_owned();
        let thread = std::thread::spawn(move || {
            loop {
                // Read before the ring is: nothing comes after the end.
                let last = ended.load(Ordering::Acquire);
                while let Some(entry) = ring.next() {
                    writer.entry(&entry)?;
                }
                if last {
                    return Ok(writer);
                }
                std::thread::park_timeout(LOG_PACE);
            }
        });
        Self { end, thread, path }
    }

    fn stop(self) -> Result<Writer, TraceError> {
        self.end.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let result = self.thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the log's thread panicked")));
        result.map_err(|source| TraceError::Log { path: self.path, source })
    }
}

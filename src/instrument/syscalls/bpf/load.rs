//! Loads the BPF program and attaches it.

use aya::programs::{BtfTracePoint, Program, RawTracePoint};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};

use super::super::{Options, TraceError, Workload, kernel_device, namespace_at, tally};
use super::{Failure, chain};
use crate::record::SyscallScope;

/// The object built from `bpf/syscalls.bpf.c` (`make bpf`).
const OBJECT: &[u8] = include_bytes!("syscalls.bpf.o");

/// The programs and their tracepoints, in the order in which they are attached: no return is looked at before the begins
/// are, and those of ends come first, so that no thread that is known goes unnoticed.
const TYPED: [(&str, &str); 4] = [
    ("thread_ends", "sched_process_exit"),
    ("thread_executes", "sched_process_exec"),
    ("returns_typed", "sys_exit"),
    ("begins_typed", "sys_enter"),
];
/// The same without the kernel's description of its types.
const RAW: [(&str, &str); 4] = [TYPED[0], TYPED[1], ("returns_raw", "sys_exit"), ("begins_raw", "sys_enter")];

/// The kernel's description of its types.
const TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Rows beyond those that are asked for: two CPUs that come at once with the same new call may leave one unused.
const SPARE: u32 = 64;

/// Loads all, so that nothing can be refused but to attach it.
pub(super) fn load(options: &Options, notes: &mut Vec<String>) -> Result<Ebpf, Failure> {
    let what = "kinds of descriptors are unknown and processes belong to no node of several";
    match Btf::parse_file(TYPES, Endianness::default()) {
        Ok(types) => match load_with(options, Some(&types)) {
            Err(error) if !is_permission(error.as_ref()) => {
                let why = chain(error.as_ref());
                notes.push(format!("the kernel's types are others than expected ({why}): {what}"));
            }
            other => return other.map_err(|error| Failure::Refused(chain(error.as_ref()))),
        },
        Err(_) => {
            notes.push(format!("the kernel does not describe its types ({TYPES}): {what}"));
        }
    }
    load_with(options, None).map_err(|error| Failure::Refused(chain(error.as_ref())))
}

/// Attaches what was loaded.
pub(super) fn attach(ebpf: &mut Ebpf) -> Result<(), Failure> {
    let typed = matches!(ebpf.program("begins_typed"), Some(program) if program.fd().is_ok());
    for (name, tracepoint) in if typed { TYPED } else { RAW } {
        match ebpf.program_mut(name) {
            Some(Program::BtfTracePoint(program)) => program.attach().map(drop),
            Some(Program::RawTracePoint(program)) => program.attach(tracepoint).map(drop),
            _ => return Err(Failure::Refused(format!("the object has no {name}"))),
        }
        .map_err(|error| Failure::Refused(format!("the tracepoint {tracepoint}: {}", chain(&error))))?;
    }
    Ok(())
}

/// Takes it off again.
pub(super) fn detach(ebpf: &mut Ebpf) -> Result<(), TraceError> {
    for (_, program) in ebpf.programs_mut().filter(|(_, program)| program.fd().is_ok()) {
        match program {
            Program::BtfTracePoint(program) => program.unload(),
            Program::RawTracePoint(program) => program.unload(),
            _ => Ok(()),
        }
        .map_err(|error| TraceError::Read(chain(&error)))?;
    }
    Ok(())
}

pub(super) fn refused(error: impl std::error::Error) -> Failure {
    Failure::Refused(chain(&error))
}

type AnyError = Box<dyn std::error::Error>;

fn load_with(options: &Options, types: Option<&Btf>) -> Result<Ebpf, AnyError> {
    let own = namespace_at("/proc/self/ns/pid")?;
    let workload = options.workload.filter(|_| options.scope == SyscallScope::Workload);
    let mut ebpf = object(options, types, own, workload)?;
    for (name, tracepoint) in if types.is_some() { TYPED } else { RAW } {
        let program = ebpf.program_mut(name).ok_or_else(|| format!("the object has no {name}"))?;
        match types {
            Some(types) if name.ends_with("_typed") => {
                let program: &mut BtfTracePoint = program.try_into()?;
                program.load(tracepoint, types)?;
            }
            _ => {
                let program: &mut RawTracePoint = program.try_into()?;
                program.load()?;
            }
        }
    }
    Ok(ebpf)
}

fn object(
    options: &Options,
    types: Option<&Btf>,
    own: (u64, u64),
    workload: Option<Workload>,
) -> Result<Ebpf, aya::EbpfError> {
    let room = &options.room;
    let [device, inode] = workload.map_or([0, 0], |w| [kernel_device(w.device), w.inode]);
    let (own_device, own_inode, own_number) = (kernel_device(own.0), own.1, std::process::id());
    let (with_types, with_log) = (u32::from(types.is_some()), u32::from(options.log.is_some()));
    let (argument_at, segment_at) = registers();
    let last_place = places(room.threads) - 1;
    let classes = classes();
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
        .override_global("classes", &classes[..], true)
        .map_max_entries("places", places(room.threads))
        .map_max_entries("threads", room.threads)
        .map_max_entries("names", room.names)
        .map_max_entries("ended", room.names)
        .map_max_entries("call_rows", room.calls)
        .map_max_entries("calls", room.calls + SPARE)
        .map_max_entries("errors", room.calls)
        .map_max_entries("steps", room.transitions)
        .map_max_entries("size_rows", room.sizes)
        .map_max_entries("sizes", room.sizes + SPARE)
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

/// What each call is, by its number.
fn classes() -> [u8; 1024] {
    let mut bits = [0; 1024];
    for (number, class) in tally::classes() {
        bits[usize::from(number)] |= class;
    }
    bits
}

fn is_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(error);
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

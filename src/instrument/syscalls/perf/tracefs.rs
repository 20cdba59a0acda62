//! Numbers of tracepoints.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use super::record::Tracepoints;

/// Where tracefs may be mounted.
const MOUNTED: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Reads them where tracefs is mounted; where it is not, from one that is mounted nowhere.
///
/// # Errors
/// Says what is missing: tracefs or the tracepoints.
pub(super) fn tracepoints() -> Result<Tracepoints, String> {
    if let Some(place) = MOUNTED.into_iter().find(|place| Path::new(place).join("events").is_dir()) {
        return read(Path::new(place), place);
    }
    let mounted = detached().map_err(|error| format!("no tracefs: not mounted, and mounting it fails: {error}"))?;
    read(Path::new(&format!("/proc/self/fd/{}", mounted.as_raw_fd())), "tracefs")
}

fn read(tracefs: &Path, shown: &str) -> Result<Tracepoints, String> {
    let number = |name: &str| {
        let file = format!("events/raw_syscalls/{name}/id");
        let text = std::fs::read_to_string(tracefs.join(&file))
            .map_err(|error| format!("the kernel has no tracepoint raw_syscalls:{name} ({shown}/{file}: {error})"))?;
        text.trim().parse().map_err(|_| format!("{shown}/{file} has no number: {text:?}"))
    };
    Ok(Tracepoints { begins: number("sys_enter")?, returns: number("sys_exit")? })
}

/// Mounts tracefs where nobody sees it; it goes with the descriptor.
fn detached() -> io::Result<OwnedFd> {
    const CREATE: libc::c_uint = 6; // FSCONFIG_CMD_CREATE
    let name: *const libc::c_char = c"tracefs".as_ptr();
    let nothing = std::ptr::null::<libc::c_char>();
    let context = descriptor(libc::SYS_fsopen, [name.addr(), 1, 0, 0, 0])?;
    let fd = usize::try_from(context.as_raw_fd()).unwrap_or_default();
    let create = usize::try_from(CREATE).unwrap_or_default();
    call(libc::SYS_fsconfig, [fd, create, nothing.addr(), nothing.addr(), 0])?;
    descriptor(libc::SYS_fsmount, [fd, 1, 0, 0, 0])
}

#[expect(unsafe_code, reason = "the calls about mounts have no wrapper")]
fn descriptor(number: libc::c_long, arguments: [usize; 5]) -> io::Result<OwnedFd> {
    let fd = call(number, arguments)?;
    // SAFETY: these calls return a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[expect(unsafe_code, reason = "the calls about mounts have no wrapper")]
fn call(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> io::Result<i32> {
    // SAFETY: called only from `detached`, whose pointers are null or to a string that lives for ever.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

//! Processes that are not vptest's children.

use std::io;
use std::os::fd::AsRawFd as _;

use super::child::pidfd_open;

/// Kills a process if it still is what it was. `is_it` looks at it once its number cannot become another process's.
///
/// # Errors
/// When it is not to be killed; one that has ended is no error.
pub fn kill_if(pid: i32, is_it: impl FnOnce() -> bool) -> io::Result<()> {
    let handle = match pidfd_open(pid) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        other => other?,
    };
    if !is_it() {
        return Err(io::Error::other("it is another process by now"));
    }
    let (fd, none) = (handle.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
    // SAFETY: the descriptor is open, and without a `siginfo_t` the kernel reads no memory of this process.
    #[expect(unsafe_code, reason = "neither std nor nix sends signals to descriptors")]
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, none, 0) };
    let error = io::Error::last_os_error();
    if sent == 0 || error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_meant_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        kill_if(pid, || false).unwrap_err();
        assert!(child.try_wait().unwrap().is_none());
        kill_if(pid, || true).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(libc::SIGKILL));
        // The number may be another process's by now.
        kill_if(pid, || false).unwrap();
    }
}

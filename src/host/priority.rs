//! Priority of threads.

#![expect(unsafe_code, reason = "there is no safe call for the priority of a thread")]

use std::io;

/// From now on the calling thread runs only where a CPU has nothing else to do (`SCHED_IDLE`; where the kernel refuses that, at
/// nice 19). It needs no privilege, and without one there is no way back.
///
/// # Errors
/// When the kernel allows neither.
pub fn only_when_idle() -> io::Result<()> {
    // SAFETY: all zeroes is a valid `sched_param`, and the pointer outlives the call.
    let lowered = unsafe {
        let parameters: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters)
    };
    if lowered == 0 {
        return Ok(());
    }
    // SAFETY: plain numbers. For Linux, 0 is the calling thread.
    let niced = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    if niced == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_is_lowered() {
        // SAFETY: a number goes in and a number comes out.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let before = policy();
        let lowered = std::thread::spawn(move || only_when_idle().map(|()| policy())).join().unwrap().unwrap();
        assert!(lowered == libc::SCHED_IDLE || lowered == before);
        assert_eq!(policy(), before);
    }
}

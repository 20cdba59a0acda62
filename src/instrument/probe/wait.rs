//! Waiting for a packet, a time, or the request to end.

use std::io;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

/// What the process calls itself, so that those who follow system calls can tell it from the workload.
const NAME: &std::ffi::CStr = c"vptest-probe";
/// Longest single wait.
const MOST_NS: i64 = 1_000_000_000;

/// Hears SIGTERM and SIGINT instead of being ended by them.
pub(super) struct Waiter {
    signals: SignalFd,
}

impl Waiter {
    pub(super) fn new() -> io::Result<Self> {
        nix::sys::prctl::set_name(NAME)?;
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set.thread_block()?;
        // Without this, timers may be 50 µs late (prctl(2), PR_SET_TIMERSLACK).
        nix::sys::prctl::set_timerslack(1)?;
        Ok(Self { signals: SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// Waits for a packet, and at most so many nanoseconds. Returns whether the process was asked to end.
    pub(super) fn wait(&self, socket: &impl AsFd, ns: i64) -> io::Result<bool> {
        let mut sources =
            [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let ns = ns.clamp(0, MOST_NS);
        match ppoll(&mut sources, Some(TimeSpec::new(ns / MOST_NS, ns % MOST_NS)), None) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.signals.read_signal()?.is_some())
    }
}

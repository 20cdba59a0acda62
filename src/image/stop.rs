//! Ending a build before it is done.
//!
//! A build is one thread with the programs it waits for. Whether it is to end is asked wherever it may take long, which is
//! in many places: so the thread knows it, and it is not handed through all of them.

use std::cell::RefCell;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ImageError;

/// How soon it is seen while a program runs.
const PACE: Duration = Duration::from_millis(50);

/// Ends a build from another thread. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The build ends with [`ImageError::Stopped`], in a second or two.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Stops a build when it is dropped, which does nothing to one that has ended.
#[derive(Debug)]
pub struct StopOnDrop(pub Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

thread_local! {
    static STOP: RefCell<Stop> = RefCell::default();
}

/// Does work that ends when it is told to.
pub(super) fn until<T>(stop: &Stop, work: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    let before = STOP.replace(stop.clone());
    let result = work();
    STOP.set(before);
    result
}

/// # Errors
/// [`ImageError::Stopped`] when the work of this thread is to end.
pub(super) fn check() -> Result<(), ImageError> {
    if STOP.with_borrow(|stop| stop.0.load(Ordering::Relaxed)) { Err(ImageError::Stopped) } else { Ok(()) }
}

/// Waits a moment, for those who look again and again.
pub(super) fn pause() -> Result<(), ImageError> {
    check()?;
    std::thread::sleep(PACE);
    Ok(())
}

/// Runs a program and takes its output; it ends with the work.
///
/// # Errors
/// The inner one says why the program could not be run.
pub(super) fn output(command: &mut Command) -> Result<std::io::Result<Output>, ImageError> {
    check()?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    match child {
        Ok(child) => wait(child),
        Err(error) => Ok(Err(error)),
    }
}

fn wait(child: Child) -> Result<std::io::Result<Output>, ImageError> {
    let pid = i32::try_from(child.id()).ok().map(Pid::from_raw);
    let (sender, ended) = mpsc::channel();
    // It is waited for by another thread, so that its outputs are read meanwhile.
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let mut told = false;
    loop {
        match ended.recv_timeout(PACE) {
            Ok(output) if !told => return Ok(output),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return Err(ImageError::Stopped),
            Err(RecvTimeoutError::Timeout) => {
                if check().is_err() && !told {
                    told = true;
                    // It may have ended just now.
                    let _ = pid.map(|pid| kill(pid, Signal::SIGTERM));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_ends_with_the_work() {
        let stop = Stop::default();
        let guard = StopOnDrop(stop.clone());
        let work = std::thread::spawn(move || until(&stop, || output(Command::new("sleep").arg("1000"))));
        drop(guard);
        assert!(matches!(work.join().unwrap(), Err(ImageError::Stopped)));
        assert!(check().is_ok(), "another thread");
        let out = output(Command::new("sh").args(["-c", "echo hello"])).unwrap().unwrap();
        assert_eq!(out.stdout, b"hello\n");
    }
}

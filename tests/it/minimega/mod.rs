//! minimega and rond: vptest's drivers against a double that misbehaves as the real ones were seen to
//! (`tests/data/minimega`).

pub(crate) mod double;
mod double_rond;
pub(crate) mod guest;
mod letters;
mod machines;
mod phases;
mod protocol;
mod real;
mod rond;
mod testbed;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vptest::testbed::minimega::{Daemon, Limits, MinimegaError, Owner};

use self::double::{Double, Traps};

/// Waits for something that follows within moments.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Of namespaces that no campaign has.
fn owner() -> Owner {
    Owner::of(Path::new("/vptest/tests"))
}

async fn open(double: &Double) -> Arc<Daemon> {
    Daemon::open(&double.socket(), Limits::default()).await.unwrap()
}

/// A double in a process of its own, which can crash.
struct Process {
    place: tempfile::TempDir,
    child: std::process::Child,
}

impl Process {
    /// `at` is the command at which it crashes.
    async fn start(at: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let child = Self::spawn(place.path(), at);
        let socket = place.path().join("minimega");
        // It is there before anybody listens.
        until("that it listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
        Self { place, child }
    }

    fn spawn(place: &Path, at: &str) -> std::process::Child {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "minimega::serve", "--ignored", "--nocapture"])
            .env("VPTEST_DOUBLE", place)
            .env("VPTEST_DOUBLE_CRASH", at)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Not a test: the process of [`Process`], which ends with the one that started it.
#[test]
#[ignore = "serves other tests"]
fn serve() {
    let Some(place) = std::env::var_os("VPTEST_DOUBLE") else { return };
    let at: &'static str = Box::leak(std::env::var("VPTEST_DOUBLE_CRASH").unwrap_or_default().into_boxed_str());
    let traps = Traps { crash_at: Some(at).filter(|at| !at.is_empty()), ..Traps::default() };
    let _shared = double::Shared::serve(Path::new(&place), traps, false);
    let parent = nix::unistd::getppid();
    while nix::unistd::getppid() == parent {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn text(error: &MinimegaError) -> String {
    error.to_string()
}

//! minimega and rond: vptest's drivers against a double that misbehaves as the real ones were seen to
//! (`tests/data/minimega`).

mod contained;
mod double;
mod double_container;
mod double_rond;
mod double_words;
mod guest;
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
        let child = Self::spawn(place.path(), at, &[]);
        Self::listening(place, child).await
    }

    /// One with a network and mounts of its own, whose containers are real. `before` is shell that is run there first.
    async fn with_containers(before: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let script = format!("{before}\nexec \"$@\"");
        let child = Self::spawn(place.path(), "", &["unshare", "--net", "--mount", "sh", "-c", &script, "double"]);
        Self::listening(place, child).await
    }

    async fn listening(place: tempfile::TempDir, child: std::process::Child) -> Self {
        let socket = place.path().join("minimega");
        // It is there before anybody listens.
        until("that it listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
        Self { place, child }
    }

    /// `through` is a command that starts it.
    fn spawn(place: &Path, at: &str, through: &[&str]) -> std::process::Child {
        let own = std::env::current_exe().unwrap();
        let own = own.to_str().unwrap();
        let all: Vec<&str> = through.iter().copied().chain([own]).collect();
        std::process::Command::new(all[0])
            .args(&all[1..])
            .env("VPTEST_DOUBLE_CONTAIN", if through.is_empty() { "" } else { "1" })
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

    fn socket(&self) -> std::path::PathBuf {
        self.place.path().join("minimega")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        double_container::sweep(self.place.path(), self.child.id());
    }
}

/// Not a test: the process of [`Process`], which ends with the one that started it.
#[test]
#[ignore = "serves other tests"]
fn serve() {
    let Some(place) = std::env::var_os("VPTEST_DOUBLE") else { return };
    let at: &'static str = Box::leak(std::env::var("VPTEST_DOUBLE_CRASH").unwrap_or_default().into_boxed_str());
    let contain = std::env::var("VPTEST_DOUBLE_CONTAIN").is_ok_and(|contain| !contain.is_empty());
    let traps = Traps { crash_at: Some(at).filter(|at| !at.is_empty()), contain, ..Traps::default() };
    let _shared = double::Shared::serve(Path::new(&place), traps, false);
    let parent = nix::unistd::getppid();
    while nix::unistd::getppid() == parent {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn text(error: &MinimegaError) -> String {
    error.to_string()
}

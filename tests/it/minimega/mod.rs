//! minimega and rond: vptest's drivers against a double that misbehaves as the real ones were seen to
//! (`tests/data/minimega`).
//!
//! | trap | test |
//! |---|---|
//! | results come with a heartbeat alone | `phases::a_phase_of_all_nodes_is_one_round_trip` |
//! | the counter of responses is raised before the files are there | `phases::a_result_counts_only_when_it_is_whole` |
//! | `cc responses` corrupts bytes, `stdout=` loses lines | `phases::words_and_bytes_arrive_as_they_are`, `traps::nothing_is_sent_…` |
//! | exit status -1 means two things | `traps::a_step_that_a_signal_ended_…` |
//! | a command that hangs blocks all that follow | `phases::a_step_that_hangs_is_ended_…`, `phases::a_client_that_does_nothing_is_given_up` |
//! | output in the background is not returned | `phases::a_step_in_the_background_…` |
//! | commands are replayed to a client that reconnects | `phases::nothing_is_run_twice` |
//! | `exec-once` before its client is there is never run | `phases::nothing_is_posted_for_a_client_that_is_not_there` |
//! | numbers begin anew, old answers stay | `traps::an_old_answer_under_a_number_…`, `rond::results_of_an_earlier_rond_…` |
//! | `cc_active` is late (the double never says true) | `phases::a_phase_of_all_nodes_is_one_round_trip` |
//! | only the last of several files is sent, none overwritten, failures silent | `phases::files_arrive_or_their_absence_is_an_error` |
//! | a missing file is received without an error | `phases::files_that_cannot_be_brought_are_an_error` |
//! | an empty file that is received breaks the client | `phases::files_are_brought_whole_and_empty_ones_break_nothing` |
//! | a client without memory vanishes, or just does nothing | `phases::a_client_that_vanishes_…`, `phases::a_client_that_does_nothing_…` |
//! | names of files lead elsewhere | `phases::a_hostile_node_reaches_nothing_of_the_host` |
//! | commands that end the daemon, `cc mount`, bridge captures, `checkpoint` | `traps::nothing_is_sent_…`, `protocol::a_crash_is_told_…` |
//! | a launch that failed says nothing | `machines::a_launch_that_failed_…`, `traps::a_machine_that_has_quit_…` |
//! | directories of failed launches stay | `machines::a_launch_that_failed_…` |
//! | a driver with a typing error becomes a network, paths are looked for elsewhere | unit tests of `machine.rs` |
//! | names that are taken, configuration that is shared | `machines::a_name_that_is_taken_…`, `machines::configurations_of_two_launches_…` |
//! | options of captures stay | `machines::captures_are_stopped_together_…` |
//! | the last second of a capture is lost | `machines::captures_are_stopped_together_…`, `machines::a_capture_that_lost_everything_…` |
//! | numbers of captures are used twice | `machines::captures_are_never_added_to_others` |
//! | a wrong filter shows only at the start, paths are relative to two places | `machines::a_capture_that_cannot_start_…` |
//! | an existing file is cut, a killed machine stays in the table | `traps::a_file_of_an_earlier_capture_…`, `traps::a_capture_of_a_machine_…` |
//! | a limit that could not be set takes the old one away | `traps::a_limit_counts_only_when_it_is_in_the_table` |
//! | any mention of a namespace makes it | `own::guests_with_a_miniccc_alone_…`, `own::a_namespace_that_was_removed_stays_so` |
//! | rond says no numbers, its filter is everybody's | `rond::commands_are_told_apart_…`, `rond::a_filter_that_somebody_…` |
//! | rond closes at what it cannot parse | `rond::what_it_cannot_parse_…` |
//! | two nodes with one identifier show as one | `rond::nodes_that_share_an_identifier_are_missed` |
//! | `quit` and `kill -9` leave the socket | `traps::a_socket_that_nobody_listens_on_…` |
//! | a namespace of a mesh is on all hosts but its own | `mesh::guests_together_stay_on_their_host`, `mesh::guests_on_two_hosts_…` |
//! | `ns bridge` does nothing for one host, and says nothing | `mesh::guests_on_two_hosts_…` |
//! | what is sent or received stays on the other host | `mesh::guests_on_two_hosts_…` |
//! | the tunnel drops what its network does not take, and says nothing | `afar::a_tunnel_that_is_too_small_…` |
//! | a host that hangs lets all commands over the mesh wait | unit test of `daemon.rs` |
//! | a bridge is made once more for a machine at it that goes | `mesh::the_bridge_between_two_hosts_goes_last` |
//! | a host that is not in the mesh gives no answer, and no error | `mesh::the_double_answers_…`, `mesh::clean_asks_…` |
//! | a daemon that forgets a namespace knows nothing of its other hosts | `mesh::clean_asks_the_other_host_…` |
//! | after `kill -9` | `testbed::what_a_dead_minimega_has_left_…`, `testbed::a_minimega_that_crashes_during_the_launch_…` |
//! | after `quit` and `nuke` | `traps::after_quit_and_nuke_…` |
//! | after `-force` | `traps::a_minimega_that_has_come_since_…` |
//! | after `-recover` | `traps::a_minimega_that_has_recovered_…` |

mod afar;
mod contained;
mod disk;
pub(crate) mod double;
mod double_container;
mod double_machine;
mod double_mesh;
mod double_rond;
mod double_words;
pub(crate) mod guest;
mod letters;
mod machines;
mod mesh;
mod own;
mod phases;
mod protocol;
mod real;
mod rond;
mod testbed;
mod traps;

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

    /// One with a network and mounts of its own, whose machines and containers are real. `before` is shell that is run there first.
    async fn with_containers(before: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let script = format!("{before}\nexec \"$@\"");
        let child = Self::spawn(place.path(), "", &["unshare", "--net", "--mount", "sh", "-c", &script, "double"]);
        Self::listening(place, child).await
    }

    /// The same with a host `kn2` in its mesh, and a tunnel to it that takes packets of so many bytes.
    async fn on_two_hosts(tunnel_mtu: u32) -> Self {
        Self::with_containers(&format!("export VPTEST_DOUBLE_TUNNEL={tunnel_mtu}")).await
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
        double_machine::sweep(self.place.path());
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
    let tunnel_mtu = std::env::var("VPTEST_DOUBLE_TUNNEL").ok().map(|mtu| mtu.parse().unwrap());
    let mesh = if tunnel_mtu.is_some() { vec!["kn2"] } else { vec![] };
    let crash_at = Some(at).filter(|at| !at.is_empty());
    let traps = Traps { crash_at, contain, mesh, tunnel_mtu, ..Traps::default() };
    let _shared = double::Shared::serve(Path::new(&place), traps, false);
    let parent = nix::unistd::getppid();
    while nix::unistd::getppid() == parent {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn text(error: &MinimegaError) -> String {
    error.to_string()
}

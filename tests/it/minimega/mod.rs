//! minimega and rond: vptest's drivers against a double that misbehaves as the real ones were seen to
//! (`tests/data/minimega`).
//!
//! | trap | test |
//! |---|---|
//! | **commands through cc** | |
//! | results come with a heartbeat alone | `phases::a_phase_of_all_nodes_is_one_round_trip`, `traps::cc::any_number_of_steps_…` |
//! | the counter of responses is raised before the files are there | `phases::a_result_counts_only_when_it_is_whole` |
//! | `cc responses` corrupts bytes, `stdout=` and pipes lose lines | `phases::words_and_bytes_arrive_as_they_are`, `traps::nothing_is_sent_…`; a pipe ends the double |
//! | exit status -1 means two things | `traps::cc::a_step_that_a_signal_ended_…` |
//! | a command that hangs blocks all that follow | `phases::a_step_that_hangs_…`, `traps::cc::a_step_that_does_not_heed_…`, `phases::a_client_that_does_nothing_…` |
//! | output in the background is not returned | `phases::a_step_in_the_background_…` |
//! | commands are replayed to a client that reconnects | `phases::nothing_is_run_twice`, `traps::rond::nothing_is_run_twice_on_a_node` |
//! | `exec-once` before its client is there is never run | `phases::nothing_is_posted_for_a_client_that_is_not_there` |
//! | numbers begin anew, old answers stay | `traps::cc::an_old_answer_under_a_number_…`, `rond::results_of_an_earlier_rond_…` |
//! | `cc_active` is late (the double never says true) | `phases::a_phase_of_all_nodes_is_one_round_trip` |
//! | only the last of several files is sent, none overwritten, failures silent | `phases::files_arrive_or_their_absence_is_an_error` |
//! | files are sent from and to anywhere | `traps::nothing_is_sent_…` |
//! | a missing file is received without an error | `phases::files_that_cannot_be_brought_are_an_error` |
//! | an empty file that is received breaks the client | `phases::files_are_brought_whole_and_empty_ones_break_nothing` |
//! | a client without memory vanishes, or just does nothing | `phases::a_client_that_vanishes_…`, `phases::a_client_that_does_nothing_…`; unit tests of `cc/phase.rs` |
//! | a machine that was ended and started again never reports | `traps::nothing_is_sent_…` |
//! | the condition for clients is everybody's and stays | `traps::cc::orders_for_two_nodes_…`, `traps::cc::a_condition_is_taken_back_…` |
//! | names of files lead elsewhere | `phases::a_hostile_node_reaches_nothing_of_the_host` |
//! | commands that end the daemon, `cc mount`, bridge captures, `checkpoint` | `traps::nothing_is_sent_…`, `protocol::a_crash_is_told_…` |
//! | **launching** | |
//! | a launch that failed says nothing | `machines::a_launch_that_failed_…`, `traps::launch::a_machine_that_has_quit_…` |
//! | a launch that fails takes seconds | `traps::launch::what_takes_long_…` |
//! | directories of failed launches stay | `machines::a_launch_that_failed_…` |
//! | a driver with a typing error becomes a network, paths are looked for elsewhere | `traps::launch::a_card_that_qemu_does_not_have_…`, unit tests of `machine.rs` |
//! | names that are taken, configuration that is shared | `machines::a_name_that_is_taken_…`, `machines::configurations_of_two_launches_…` |
//! | containers need cgroups of version 1, and fail over old directories | `contained::without_cgroups_…`, `contained::what_cannot_be_launched_…` |
//! | a namespace is not cleared while a launch is under way | `traps::launch::a_namespace_is_cleared_again_…` |
//! | **captures and limits** | |
//! | options of captures stay | `machines::captures_are_stopped_together_…`, `traps::captures::a_file_with_another_snap_length_…` |
//! | the last second of a capture is lost | `machines::captures_are_stopped_together_…`, `machines::a_capture_that_lost_everything_…`, `traps::two_campaigns::a_whole_iteration_…` |
//! | numbers of captures are used twice | `machines::captures_are_never_added_to_others` |
//! | and by namespaces that share a bridge | `traps::captures::captures_of_two_namespaces_…`, `traps::two_campaigns::minimega_captures_for_one_…`, `traps::two_campaigns::a_run_is_refused_…` |
//! | a wrong filter shows only at the start, paths are relative to two places | `machines::a_capture_that_cannot_start_…` |
//! | an existing file is cut, a killed machine stays in the table | `traps::captures::a_file_of_an_earlier_capture_…`, `traps::captures::a_capture_of_a_machine_…` |
//! | a limit that could not be set takes the old one away | `traps::launch::a_limit_counts_only_when_it_is_in_the_table` |
//! | any mention of a namespace makes it | `own::guests_with_a_miniccc_alone_…`, `own::a_namespace_that_was_removed_stays_so` |
//! | **rond** | |
//! | rond says no numbers, its filter is everybody's | `rond::commands_are_told_apart_…`, `rond::a_filter_that_somebody_…`, `traps::rond::orders_of_somebody_else_…` |
//! | rond closes at what it cannot parse | `rond::what_it_cannot_parse_…` |
//! | two nodes with one identifier show as one | `rond::nodes_that_share_an_identifier_are_missed` |
//! | a client's identifier and file names lead elsewhere | `traps::rond::an_identifier_that_leads_elsewhere_…` |
//! | a rond that was started anew counts from 1 | `traps::rond::another_rond_is_told_…`, `rond::results_of_an_earlier_rond_…` |
//! | `quit` and `kill -9` leave the socket | `traps::rond::a_socket_that_nobody_listens_on_…` |
//! | **meshes** | |
//! | a namespace of a mesh is on all hosts but its own | `mesh::guests_together_stay_on_their_host`, `mesh::guests_on_two_hosts_…` |
//! | `ns bridge` does nothing for one host, and says nothing | `mesh::guests_on_two_hosts_…` |
//! | what is sent or received stays on the other host | `mesh::guests_on_two_hosts_…` |
//! | the tunnel drops what its network does not take, and says nothing | `afar::a_tunnel_that_is_too_small_…` |
//! | a host that hangs lets all commands over the mesh wait | unit test of `daemon.rs` |
//! | a bridge is made once more for a machine at it that goes | `mesh::the_bridge_between_two_hosts_goes_last` |
//! | a host that is not in the mesh gives no answer, and no error | `mesh::the_double_answers_…`, `mesh::clean_asks_…` |
//! | a daemon that forgets a namespace knows nothing of its other hosts | `mesh::clean_asks_the_other_host_…` |
//! | **what stays** | |
//! | after `kill -9` | `testbed::what_a_dead_minimega_has_left_…`, `testbed::a_minimega_that_crashes_during_the_launch_…`, `contained::what_two_that_were_killed_…` |
//! | names of taps begin anew | `traps::taps::a_dead_machines_tap_…`, `traps::taps::after_a_boot_…`, `traps::taps::by_an_old_journal_…` |
//! | after `clear namespace` | `machines::only_namespaces_of_this_user_…`, `traps::taps::a_tap_that_minimega_leaves_…` |
//! | after `quit` and `nuke` | `traps::after::after_quit_and_nuke_…` |
//! | after `-force` | `traps::after::a_minimega_that_has_come_since_…` |
//! | after `-recover` | `traps::after::a_minimega_that_has_recovered_…` |

mod afar;
mod contained;
mod disk;
pub(crate) mod double;
mod double_capture;
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
    /// Name of its socket.
    name: &'static str,
}

impl Process {
    /// `at` is the command at which it crashes.
    async fn start(at: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let child = Self::spawn(place.path(), at, &[]);
        Self::listening(place, child, "minimega").await
    }

    /// A rond.
    async fn rond() -> Self {
        let place = tempfile::tempdir().unwrap();
        let child = Self::command(place.path(), "", &[]).env("VPTEST_DOUBLE_ROND", "1").spawn().unwrap();
        Self::listening(place, child, "rond").await
    }

    /// It is killed, and another one of its kind takes its place.
    async fn again(&mut self) {
        self.end();
        std::fs::remove_file(self.socket()).unwrap();
        let rond = if self.name == "rond" { "1" } else { "" };
        self.child = Self::command(self.place.path(), "", &[]).env("VPTEST_DOUBLE_ROND", rond).spawn().unwrap();
        self.listens().await;
    }

    async fn listens(&self) {
        // It is there before anybody listens.
        until("that it listens", || std::os::unix::net::UnixStream::connect(self.socket()).is_ok()).await;
    }

    /// One with a network and mounts of its own, whose machines and containers are real. `before` is shell that is run there first.
    async fn with_containers(before: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let script = format!("{before}\nexec \"$@\"");
        let child = Self::spawn(place.path(), "", &["unshare", "--net", "--mount", "sh", "-c", &script, "double"]);
        Self::listening(place, child, "minimega").await
    }

    /// The same with a host `kn2` in its mesh, and a tunnel to it that takes packets of so many bytes.
    async fn on_two_hosts(tunnel_mtu: u32) -> Self {
        Self::with_containers(&format!("export VPTEST_DOUBLE_TUNNEL={tunnel_mtu}")).await
    }

    async fn listening(place: tempfile::TempDir, child: std::process::Child, name: &'static str) -> Self {
        let process = Self { place, child, name };
        process.listens().await;
        process
    }

    fn spawn(place: &Path, at: &str, through: &[&str]) -> std::process::Child {
        Self::command(place, at, through).spawn().unwrap()
    }

    /// `through` is a command that starts it.
    fn command(place: &Path, at: &str, through: &[&str]) -> std::process::Command {
        let own = std::env::current_exe().unwrap();
        let own = own.to_str().unwrap();
        let all: Vec<&str> = through.iter().copied().chain([own]).collect();
        let mut command = std::process::Command::new(all[0]);
        command
            .args(&all[1..])
            .env("VPTEST_DOUBLE_CONTAIN", if through.is_empty() { "" } else { "1" })
            .args(["--exact", "minimega::serve", "--ignored", "--nocapture"])
            .env("VPTEST_DOUBLE", place)
            .env("VPTEST_DOUBLE_CRASH", at)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        command
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    fn socket(&self) -> std::path::PathBuf {
        self.place.path().join(self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let network = double_capture::network_of(self.child.id());
        self.end();
        double_capture::sweep(network);
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
    let is_set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let (contain, rond) = (is_set("VPTEST_DOUBLE_CONTAIN"), is_set("VPTEST_DOUBLE_ROND"));
    let tunnel_mtu = std::env::var("VPTEST_DOUBLE_TUNNEL").ok().map(|mtu| mtu.parse().unwrap());
    let mesh = if tunnel_mtu.is_some() { vec!["kn2"] } else { vec![] };
    let crash_at = Some(at).filter(|at| !at.is_empty());
    let traps = Traps { crash_at, contain, mesh, tunnel_mtu, ..Traps::default() };
    let _shared = double::Shared::serve(Path::new(&place), traps, rond);
    let parent = nix::unistd::getppid();
    while nix::unistd::getppid() == parent {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn text(error: &MinimegaError) -> String {
    error.to_string()
}

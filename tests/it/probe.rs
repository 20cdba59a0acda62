//! The path probe: over a relay that loses, doubles and holds known packets, in namespaces, in guests, and beside irtt and
//! ping.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::Connection;
use vptest::instrument::probe::{Evaluated, Left, Nonce, Session, evaluate};
use vptest::record::{ProbeClock, ProbePath, ProbeWay};

use crate::campaign::{Campaign, VPTEST};
use crate::need::{program, root};
use crate::{paths, qemu};

/// One of the two processes.
struct End {
    child: Child,
    out: BufReader<ChildStdout>,
    said: Vec<u8>,
    port: u16,
}

impl End {
    /// Starts it, and waits for its first line.
    fn start(verb: &str, nonce: Nonce, arguments: &[&str]) -> Self {
        let mut command = Command::new(VPTEST);
        command.args([verb, "--nonce", &nonce.to_string()]).args(arguments).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut said = Vec::new();
        out.read_until(b'\n', &mut said).unwrap();
        let line: serde_json::Value = serde_json::from_slice(&said).unwrap();
        let port = u16::try_from(line["ready"]["port"].as_u64().unwrap()).unwrap();
        Self { child, out, said, port }
    }

    fn reflector(nonce: Nonce) -> Self {
        Self::start("probe-reflect", nonce, &["--on", "127.0.0.1", "--from", "127.0.0.1"])
    }

    /// One that ends by itself after so many packets.
    fn sender(nonce: Nonce, port: u16, packets: u32, interval: &str) -> Self {
        let (to, packets) = (format!("127.0.0.1:{port}"), packets.to_string());
        let arguments = ["--from", "127.0.0.1", "--timeout", "500 ms", "--to", &to, "--interval", interval];
        Self::start("probe-send", nonce, &[&arguments[..], &["--limit", &packets]].concat())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end; what it printed, and how it ended.
    fn end(mut self) -> (Vec<u8>, String) {
        self.out.read_to_end(&mut self.said).unwrap();
        (self.said, self.child.wait().unwrap().to_string())
    }
}

fn together(session: &Session, sender: End, reflector: End) -> Evaluated {
    let sender = sender.end();
    reflector.signal(Signal::SIGTERM);
    let reflector = reflector.end();
    evaluate(session, left(&sender), left(&reflector))
}

fn left((output, fate): &(Vec<u8>, String)) -> Left<'_> {
    Left { output, cpu_ns: None, fate }
}

fn session(interval: Duration) -> Session {
    Session {
        pair: 1,
        interval,
        size: 64,
        dscp: 0,
        timeout: Duration::from_millis(500),
        // This machine is busy with other tests.
        max_late: 1.0,
        here: true,
        series: None,
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop,
    Twice,
    /// Until so many others have passed.
    Hold(usize),
}

type Fates = fn(usize) -> Fate;

/// Forwards packets between one client and a server, in user space.
struct Relay {
    port: u16,
    socket: Arc<UdpSocket>,
    server: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    fn start(server: u16, there: Fates, back: Fates) -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let server = SocketAddr::from(([127, 0, 0, 1], server));
        let stop = Arc::new(AtomicBool::new(false));
        let port = socket.local_addr().unwrap().port();
        let thread = std::thread::spawn({
            let (socket, stop) = (Arc::clone(&socket), Arc::clone(&stop));
            move || forward(&socket, server, &stop, there, back)
        });
        Self { port, socket, server, stop, thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // It looks at the mark when a packet comes; an empty one is forwarded to nobody.
        let _ = self.socket.send_to(&[], ("127.0.0.1", self.port));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn forward(socket: &UdpSocket, server: SocketAddr, stop: &AtomicBool, there: Fates, back: Fates) {
    let mut ways = [Way::new(there), Way::new(back)];
    let mut client = None;
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            // The server of a packet is gone.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(error) => panic!("{error}"),
        };
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let back = from == server;
        if !back {
            client = Some(from);
        }
        let to = if back { client.unwrap() } else { server };
        for packet in ways[usize::from(back)].pass(&buffer[..length]) {
            socket.send_to(&packet, to).unwrap();
        }
    }
}

struct Way {
    fates: Fates,
    seen: usize,
    held: Vec<(usize, Vec<u8>)>,
}

impl Way {
    fn new(fates: Fates) -> Self {
        Self { fates, seen: 0, held: Vec::new() }
    }

    /// What leaves when this packet comes.
    fn pass(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let fate = (self.fates)(self.seen);
        self.seen += 1;
        let mut leaves = match fate {
            Fate::Pass => vec![packet.to_vec()],
            Fate::Drop => Vec::new(),
            Fate::Twice => vec![packet.to_vec(); 2],
            Fate::Hold(others) => {
                self.held.push((self.seen + others, packet.to_vec()));
                return Vec::new();
            }
        };
        let (due, held) = std::mem::take(&mut self.held).into_iter().partition(|(at, _)| *at <= self.seen);
        self.held = held;
        leaves.extend(Vec::into_iter(due).map(|(_, packet)| packet));
        leaves
    }
}

fn counts(path: &ProbePath) -> [u64; 5] {
    [path.sent, path.received, path.lost, path.duplicated, path.reordered].map(Option::unwrap)
}

fn problems(evaluated: &Evaluated) -> Vec<&str> {
    evaluated.problems.iter().map(|problem| problem.text.as_str()).collect()
}

#[test]
fn a_path_with_known_faults_is_told_exactly() {
    paths::on_one_cpu();
    let nonce = Nonce::random().unwrap();
    let reflector = End::reflector(nonce);
    let there = |k: usize| match k {
        10 | 50 | 51 => Fate::Drop,
        20 | 70 => Fate::Twice,
        30 => Fate::Hold(1),
        40 => Fate::Hold(4),
        _ => Fate::Pass,
    };
    let back = |k: usize| match k {
        5 | 100 => Fate::Drop,
        60 => Fate::Twice,
        80 => Fate::Hold(1),
        _ => Fate::Pass,
    };
    let relay = Relay::start(reflector.port, there, back);
    // What is not of the session gets no answer, and counts for nothing.
    for stranger in [&[0; 64][..], b"", &[0xff; 2000]] {
        relay.socket.send_to(stranger, relay.server).unwrap();
    }
    let sender = End::sender(nonce, relay.port, 200, "2 ms");
    let all = together(&session(Duration::from_millis(2)), sender, reflector);
    assert_eq!(problems(&all), ["the path probe of pair 1: it ended before the clients, after 200 packets"]);
    let probe = &all.probe;
    assert_eq!(counts(probe.path(ProbeWay::ToServer)), [200, 197, 3, 2, 2]);
    assert_eq!(counts(probe.path(ProbeWay::ToClient)), [199, 197, 2, 1, 1]);
    assert_eq!(counts(probe.path(ProbeWay::RoundTrip)), [200, 195, 5, 3, 3]);
    let [Some(client), Some(server)] = &probe.ends else { panic!("{:?}", probe.ends) };
    assert_eq!((client.foreign, server.foreign), (0, 3));
    assert_eq!((client.sent_stamped_late, server.sent_stamped_late), (0, 0), "the kernel said when they left");
    assert_eq!(probe.clock, ProbeClock::Shared);
    // The held packet waited for four others, which came every 2 ms.
    let delay = |way| probe.path(way).delay.as_ref().unwrap();
    assert!(delay(ProbeWay::ToServer).max >= 0.006, "{}", delay(ProbeWay::ToServer).max);
    assert!(delay(ProbeWay::ToServer).min > 0.0 && delay(ProbeWay::ToClient).min > 0.0);
    assert!(delay(ProbeWay::RoundTrip).max >= delay(ProbeWay::ToServer).max);
    let schedule = probe.schedule.as_ref().unwrap();
    assert_eq!(schedule.slots, 200 + schedule.missed);
}

#[test]
fn a_reflector_that_dies_is_told_and_its_losses_are_not() {
    let nonce = Nonce::random().unwrap();
    let reflector = End::reflector(nonce);
    let sender = End::sender(nonce, reflector.port, 40, "5 ms");
    reflector.signal(Signal::SIGKILL);
    let reflector = reflector.end();
    let all = evaluate(&session(Duration::from_millis(5)), left(&sender.end()), left(&reflector));
    let text = problems(&all).join("\n");
    assert!(text.contains("its reflector left no report: signal: 9"), "{text}");
    assert!(text.contains("nobody listened where the reflector was"), "{text}");
    let lost = all.probe.paths.each_ref().map(|path| path.lost);
    assert_eq!(lost, [None, None, None], "the path lost nothing");
    assert_eq!(all.probe.path(ProbeWay::RoundTrip).sent, Some(40));
}

#[test]
fn sessions_do_not_mix() {
    let (one, other) = (Nonce::random().unwrap(), Nonce::random().unwrap());
    let reflector = End::reflector(one);
    let right = End::sender(one, reflector.port, 20, "5 ms");
    let wrong = End::sender(other, reflector.port, 30, "5 ms");
    wrong.end();
    let all = together(&session(Duration::from_millis(5)), right, reflector);
    assert_eq!(counts(all.probe.path(ProbeWay::RoundTrip))[..3], [20, 20, 0]);
    assert_eq!(all.probe.ends[1].as_ref().unwrap().foreign, 30);
}

/// Every tenth packet is lost on its way there.
fn every_tenth(k: usize) -> Fate {
    if k % 10 == 5 { Fate::Drop } else { Fate::Pass }
}

#[test]
fn irtt_sees_the_same_loss() {
    if !program("irtt") {
        return;
    }
    paths::on_one_cpu();
    let pass = |_: usize| Fate::Pass;
    let mut server = Command::new("irtt");
    // A free port, which somebody else may take in between: then the server ends, and the test with it.
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    server.args(["server", "-b", &format!("127.0.0.1:{port}")]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = server.spawn().unwrap();
    let mut out = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening") && !line.contains(&port.to_string()) {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "irtt ended");
    }
    let relay = Relay::start(port, every_tenth, pass);
    let arguments = ["client", "-Q", "-i", "10ms", "-d", "1s", "-o", "-", &format!("127.0.0.1:{}", relay.port)];
    let irtt = Command::new("irtt").args(arguments).output().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    let irtt: serde_json::Value = serde_json::from_slice(&irtt.stdout).unwrap();
    let of_irtt = |name: &str| irtt["stats"][name].as_u64().unwrap();
    drop(relay);

    let nonce = Nonce::random().unwrap();
    let reflector = End::reflector(nonce);
    let relay = Relay::start(reflector.port, every_tenth, pass);
    let sender = End::sender(nonce, relay.port, u32::try_from(of_irtt("packets_sent")).unwrap(), "10 ms");
    let all = together(&session(Duration::from_millis(10)), sender, reflector);
    let round = all.probe.path(ProbeWay::RoundTrip);
    // irtt's greeting goes through the relay as well, so that another packet of each ten is lost.
    assert!(round.received.unwrap().abs_diff(of_irtt("packets_received")) <= 1, "{round:?}");
    assert_eq!(all.probe.path(ProbeWay::ToServer).lost, round.lost);
    assert_eq!(all.probe.path(ProbeWay::ToClient).lost, Some(0));
    // irtt's times are the processes' own, so that they hold the wait for a processor too.
    let shortest = irtt["stats"]["rtt"]["min"].as_f64().unwrap() / 1e9;
    let ours = round.delay.as_ref().unwrap().min;
    assert!(ours > 0.0 && ours < shortest * 3.0, "{ours} s, irtt {shortest} s");
}

fn only<T: rusqlite::types::FromSql>(db: &Connection, sql: &str) -> T {
    db.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// A sweep whose probe never casts doubt for want of a processor, and whose checks of this busy host are off.
fn sweep(factors: &str, workload: &str, probe: &str) -> Campaign {
    Campaign::planned(&format!(
        "name = \"probed\"\nrepetitions = 1\ntimeout = \"60 s\"\n[factors]\ntestbed = \"netns\"\n{factors}\n\
         [workload]\n{workload}\n[instrument.probe]\nmax_late = \"100 %\"\n{probe}\n\
         [verify]\nforeign_cpu = \"off\"\nsteal = \"off\"\nclient_cpu = \"off\"\nvantage_difference = \"off\"\n"
    ))
}

#[test]
fn a_clean_path_in_namespaces_loses_nothing_and_its_delays_add_up() {
    if !(root() && program("ping")) {
        return;
    }
    // ping has a path of its own kind beside the probe's: echoes are answered by the kernel.
    let ping = "preset = \"command\"\nclient = [\"ping\", \"-n\", \"-i\", \"0.02\", \"-c\", \"60\", \"{server}\"]\n\
                [[workload.metric]]\nname = \"ping_min\"\nunit = \"ms\"\nregex = 'rtt min/avg/max/mdev = ([0-9.]+)/'";
    let campaign = sweep("instrument = [true, false]", ping, "series = \"100 ms\"");
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.statuses(), ["complete", "complete"], "{:?}", campaign.outcomes());
    for file in campaign.files() {
        let db = Connection::open(campaign.out().join(file)).unwrap();
        let off = "SELECT count(*) FROM factor WHERE name = 'instrument' AND value IN ('off', 'false')";
        if only::<i64>(&db, off) == 1 {
            assert_eq!(only::<i64>(&db, "SELECT count(*) FROM probe"), 0);
            assert_eq!(only::<i64>(&db, "SELECT count(*) FROM metric WHERE name LIKE 'probe%'"), 0);
            continue;
        }
        assert_eq!(only::<String>(&db, "SELECT clock || clock_error_ns FROM probe"), "shared0");
        assert_eq!(only::<i64>(&db, "SELECT count(DISTINCT boot_id) FROM probe_end"), 1);
        let whole = "SELECT count(*) FROM probe_path WHERE sent > 50 AND received = sent AND lost = 0 AND late = 0 AND \
                     duplicated = 0 AND delay_count = sent AND delay_min > 0 AND ipdv_count = sent - 1 AND jitter > 0";
        assert_eq!(only::<i64>(&db, whole), 3);
        let mean = |way: &str| only::<f64>(&db, &format!("SELECT delay_mean FROM probe_path WHERE way = '{way}'"));
        let (ways, round) = (mean("to_server") + mean("to_client"), mean("round_trip"));
        assert!((ways - round).abs() < 1e-9, "{ways} {round}: both read one clock");
        let unsent = "SELECT slots - missed - errors - (SELECT max(sent) FROM probe_path) FROM probe";
        assert_eq!(only::<i64>(&db, unsent), 0);
        let series = "SELECT max(abs(more)) FROM (SELECT sum(s.sent) - p.sent AS more FROM probe_series s JOIN probe_path p \
                      USING (way) GROUP BY way)";
        assert_eq!(only::<i64>(&db, series), 0);
        let metric = |name: &str| only::<f64>(&db, &format!("SELECT value FROM metric WHERE name = '{name}'"));
        assert_eq!((metric("probe_loss"), metric("probe_duplicated")), (0.0, 0.0));
        // Neither has more than a few microseconds of work on an idle path; both wait for a busy processor.
        let (ping, probe) = (metric("ping_min") / 1e3, metric("probe_rtt_min"));
        assert!(probe < ping * 5.0 && ping < probe * 50.0, "probe {probe} s, ping {ping} s");
    }
}

#[test]
fn a_full_queue_is_seen_in_its_direction() {
    if !(root() && program("iperf3")) {
        return;
    }
    let flood = "preset = \"iperf3\"\nprotocol = \"udp\"\nbitrate = \"20 Mbit/s\"\nduration = \"2 s\"";
    let campaign = sweep("rate = \"5 Mbit/s\"", flood, "size = 1400");
    let said = campaign.vptest(&["run"]);
    let files = campaign.files();
    let db = Connection::open(campaign.out().join(&files[0])).unwrap();
    let lost = |way: &str| only::<i64>(&db, &format!("SELECT lost FROM probe_path WHERE way = '{way}'"));
    assert!(lost("to_server") > 0, "{}{}", said.out, said.err);
    assert_eq!(lost("to_client"), 0);
    assert_eq!(lost("round_trip"), lost("to_server"));
    let median = |way: &str| only::<f64>(&db, &format!("SELECT delay_p50 FROM probe_path WHERE way = '{way}'"));
    assert!(median("to_server") > median("to_client"));
}

#[test]
fn packets_that_fit_no_frame_make_it_invalid() {
    if !root() {
        return;
    }
    let campaign = sweep("mtu = 500", "preset = \"command\"\nclient = [\"sleep\", \"0.2\"]", "size = 600");
    campaign.expect(1, &["run"]);
    let (_, _, status, reasons) = &campaign.outcomes()[0];
    assert!(status == "invalid" && reasons.contains("it sent nothing"), "{status} {reasons}");
    assert!(reasons.contains("Message too long"), "{reasons}");
    let db = Connection::open(campaign.out().join(&campaign.files()[0])).unwrap();
    assert_eq!(only::<Option<f64>>(&db, "SELECT value FROM metric WHERE name = 'probe_loss'"), None);
}

#[test]
fn guests_have_clocks_of_their_own() {
    if !qemu::guests() {
        return;
    }
    let more = "[instrument.probe]\nmax_late = \"100 %\"";
    let campaign = qemu::sweep("", &qemu::command("[\"sleep\", \"2\"]"), more);
    let said = campaign.command(&["run"]).env("VPTEST_CACHE", qemu::cache()).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    let (status, reasons) = qemu::outcome(&campaign);
    assert!(["complete", "suspect"].contains(&status.as_str()), "{status} {reasons} {said}");
    assert!(!reasons.contains("probe"), "{reasons}");
    let db = Connection::open(campaign.out().join(&campaign.files()[0])).unwrap();
    assert_eq!(only::<String>(&db, "SELECT clock FROM probe"), "unsynchronised");
    assert_eq!(only::<Option<i64>>(&db, "SELECT clock_error_ns FROM probe"), None);
    assert_eq!(only::<i64>(&db, "SELECT count(DISTINCT boot_id) FROM probe_end WHERE synchronised = 0"), 2);
    let one_way = "SELECT count(*) FROM probe_path WHERE way <> 'round_trip' AND delay_count IS NULL AND late IS NULL AND \
                   sent > 20 AND lost IS NOT NULL AND jitter > 0";
    assert_eq!(only::<i64>(&db, one_way), 2, "{reasons}");
    let round = "SELECT count(*) FROM probe_path WHERE way = 'round_trip' AND delay_count = received AND received > 20 AND \
                 delay_min BETWEEN 1e-5 AND 0.5";
    assert_eq!(only::<i64>(&db, round), 1);
}

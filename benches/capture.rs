//! What a capture costs the workload it observes, beside tcpdump in the same run.
//!
//! `cargo bench --bench capture -- MODE [REPETITIONS [REQUESTS [PART OF A NAME]]]`, as root, with nginx, ab, iperf3, tcpdump and ip.
//! Modes: `requests` (ab against nginx over one veth pair, variants interleaved), `gigabit` (iperf3 at 1 Gbit/s:
//! what is dropped), `pps` (what the ring and the statistics keep up with: small packets as fast as one thread can send
//! them, and full-size ones at 1 Gbit/s, over one veth pair), `open` (what starting and stopping costs), `snapshot` (what reading the host's counters costs),
//! `engine` (packets per second that the TCP statistics of one point take on one core; needs no root).
//! Without a mode it does nothing, so that `cargo bench` stays usable without root.
//!
//! Requests per second need a quiet machine. CPU time per request, which the kernel counts in nanoseconds and which
//! includes the soft interrupts run on behalf of ab and nginx, can be compared on a busy one too; on two saturated
//! CPUs the two ratios are the same.

#![expect(unsafe_code, reason = "sending many packets with one system call has no safe wrapper")]

use std::error::Error;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vptest::host::namespace::Namespace;
use vptest::ids::{NodeId, Vantage};
use vptest::instrument::capture::{
    Analysed, Captures, FlowOptions, FlowSinks, LinkType, NoSink, PacketSink, Stopped, available_memory, ring_bytes,
};
use vptest::instrument::host::Snapshot;
use vptest::spec::CaptureSpec;
use vptest::testbed::{CapturePoint, CaptureSource};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let number = |index: usize, default: u32| arguments.get(index).map_or(Ok(default), |word| word.parse());
    match arguments.first().map(String::as_str) {
        Some("requests") => requests(number(1, 7)?, number(2, 100_000)?, arguments.get(3).map_or("", String::as_str)),
        Some("pps") => pps(number(1, 3)?, number(2, 100_000)?),
        Some("gigabit") => gigabit(number(1, 3)?),
        Some("open") => open(number(1, 5)?),
        Some("snapshot") => snapshot(number(1, 20)?),
        Some("engine") => {
            engine(number(1, 3)?, number(2, 100_000)?);
            Ok(())
        }
        _ => {
            eprintln!(
                "usage: cargo bench --bench capture -- requests|gigabit|pps|open|snapshot|engine [REPETITIONS [REQUESTS]]"
            );
            Ok(())
        }
    }
}

/// Two namespaces joined by a veth pair: 10.9.0.1 on `c0` and 10.9.0.2 on `s0`.
struct Link {
    client: Arc<Namespace>,
    server: Arc<Namespace>,
}

impl Link {
    fn new() -> Result<Self> {
        let (client, server) = (Arc::new(Namespace::new()?), Arc::new(Namespace::new()?));
        let target = format!("/proc/{}/fd/{}", std::process::id(), server.as_fd().as_raw_fd());
        run(&client, &["ip", "link", "add", "c0", "type", "veth", "peer", "name", "s0", "netns", &target])?;
        for (namespace, interface, address) in [(&client, "c0", "10.9.0.1/24"), (&server, "s0", "10.9.0.2/24")] {
            run(namespace, &["ip", "addr", "add", address, "dev", interface])?;
            run(namespace, &["ip", "link", "set", interface, "up"])?;
            run(namespace, &["ip", "link", "set", "lo", "up"])?;
        }
        Ok(Self { client, server })
    }

    fn points(&self) -> [CapturePoint; 2] {
        let point = |namespace: &Arc<Namespace>, vantage, interface: &str| CapturePoint {
            node: NodeId::client(1),
            vantage,
            interface: interface.to_owned(),
            source: CaptureSource::Live { namespace: Some(Arc::clone(namespace)) },
        };
        [point(&self.client, Vantage::Guest, "c0"), point(&self.server, Vantage::Host, "s0")]
    }
}

fn spawn(namespace: &Namespace, argv: &[&str]) -> Result<Child> {
    let start = || {
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    Ok(namespace.run(start)?)
}

fn run(namespace: &Namespace, argv: &[&str]) -> Result<String> {
    let output = spawn(namespace, argv)?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{argv:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// A child that is ended when it goes out of scope.
struct Ended(Child);

impl Ended {
    fn end(&mut self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).expect("process numbers are small");
        let _ = kill(Pid::from_raw(pid), signal);
        let _ = self.0.wait();
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.end(Signal::SIGTERM);
    }
}

fn nginx(link: &Link, directory: &Path) -> Result<Ended> {
    let at = directory.display();
    let config = format!(
        "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;\nevents {{ worker_connections 1024; }}\n\
         http {{ access_log off; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
         uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\nserver {{ listen 80; location / {{ return 200 \"hello\\n\"; }} }} }}\n"
    );
    let path = directory.join("nginx.conf");
    fs::write(&path, config)?;
    let server = Ended(spawn(&link.server, &["nginx", "-c", path.to_str().ok_or("path")?])?);
    let deadline = Instant::now() + Duration::from_secs(10);
    while run(&link.client, &["ab", "-q", "-n", "1", "http://10.9.0.2/"]).is_err() {
        if Instant::now() > deadline {
            return Err("nginx did not answer".into());
        }
    }
    Ok(server)
}

fn requests_per_second(link: &Link, count: u32) -> Result<f64> {
    let text = run(&link.client, &["ab", "-q", "-c", "10", "-n", &count.to_string(), "http://10.9.0.2/"])?;
    let line = text.lines().find_map(|line| line.strip_prefix("Requests per second:")).ok_or("no rate from ab")?;
    Ok(line.split_ascii_whitespace().next().ok_or("no rate from ab")?.parse()?)
}

/// Seconds a process has run.
fn run_time(child: &Child) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/schedstat", child.id()))?;
    let nanoseconds: u64 = text.split(' ').next().ok_or("empty schedstat")?.parse()?;
    Ok(nanoseconds as f64 / 1e9)
}

fn cpu_seconds(who: UsageWho) -> Result<f64> {
    let usage = getrusage(who)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn spec() -> CaptureSpec {
    CaptureSpec {
        snaplen: 96,
        vantage: vec![Vantage::Guest],
        statistics: true,
        connections: false,
        keep: false,
        filter: None,
        ring: None,
    }
}

#[derive(Clone, Copy)]
enum Variant {
    Off,
    Ours {
        points: usize,
        keep: bool,
        ring: Option<u64>,
    },
    /// With TCP statistics.
    Tcp {
        points: usize,
    },
    Tcpdump {
        points: usize,
        snap: bool,
    },
}

const VARIANTS: [(&str, Variant); 11] = [
    ("off", Variant::Off),
    ("vptest, 1 point", Variant::Ours { points: 1, keep: false, ring: None }),
    ("tcpdump -s 96 -w, 1 point", Variant::Tcpdump { points: 1, snap: true }),
    ("tcpdump -w, 1 point", Variant::Tcpdump { points: 1, snap: false }),
    ("vptest, 2 points", Variant::Ours { points: 2, keep: false, ring: None }),
    ("tcpdump -s 96 -w, 2 points", Variant::Tcpdump { points: 2, snap: true }),
    ("vptest, TCP, 1 point", Variant::Tcp { points: 1 }),
    ("vptest, TCP, 2 points", Variant::Tcp { points: 2 }),
    ("vptest, 1 point, kept", Variant::Ours { points: 1, keep: true, ring: None }),
    ("vptest, 1 point, 4 MiB", Variant::Ours { points: 1, keep: false, ring: Some(4 << 20) }),
    ("vptest, 1 point, 16 MiB", Variant::Ours { points: 1, keep: false, ring: Some(16 << 20) }),
];

/// What one run of ab came to.
struct Run {
    /// Requests per second.
    rate: f64,
    /// CPU seconds of ab and nginx.
    workload: f64,
    /// CPU seconds of whoever captured.
    capture: f64,
    note: String,
}

impl Run {
    fn cpu(&self) -> f64 {
        self.workload + self.capture
    }
}

/// Rate, and CPU seconds of ab and nginx.
fn workload(link: &Link, server: &Ended, count: u32) -> Result<(f64, f64)> {
    let used = || Ok::<_, Box<dyn Error>>(cpu_seconds(UsageWho::RUSAGE_CHILDREN)? + run_time(&server.0)?);
    let before = used()?;
    let rate = requests_per_second(link, count)?;
    Ok((rate, used()? - before))
}

fn measure(link: &Link, server: &Ended, variant: Variant, count: u32, directory: &Path) -> Result<Run> {
    match variant {
        Variant::Off => {
            let (rate, workload) = workload(link, server, count)?;
            Ok(Run { rate, workload, capture: 0.0, note: String::new() })
        }
        Variant::Ours { points, keep, ring } => {
            let spec = CaptureSpec { keep, ring, ..spec() };
            let captures = Captures::start(&link.points()[..points], &spec, Some(directory))?;
            let before = cpu_seconds(UsageWho::RUSAGE_SELF)?;
            let (rate, workload) = workload(link, server, count)?;
            let stopped = captures.stop();
            let capture = cpu_seconds(UsageWho::RUSAGE_SELF)? - before;
            let packets: Vec<_> = stopped.captures.iter().map(|c| (c.packets, c.dropped_kernel)).collect();
            Ok(Run { rate, workload, capture, note: format!("(packets, drops) {packets:?} {:?}", stopped.problems) })
        }
        Variant::Tcp { points } => {
            let captures = start_tcp(&link.points()[..points])?;
            let before = cpu_seconds(UsageWho::RUSAGE_SELF)?;
            let (rate, workload) = workload(link, server, count)?;
            let during = cpu_seconds(UsageWho::RUSAGE_SELF)? - before;
            let begin = Instant::now();
            let Analysed { captures, paths, problems, effort, .. } = captures.stop().analyse();
            let (ended, capture) = (begin.elapsed(), cpu_seconds(UsageWho::RUSAGE_SELF)? - before);
            let packets: Vec<_> = captures
                .iter()
                .map(|c| (c.packets, c.dropped_kernel, c.tcp.as_ref().map(|tcp| tcp.connections)))
                .collect();
            let effort = effort.map(|effort| (effort.packets, effort.peak >> 20));
            let lost: Vec<_> = paths.iter().flat_map(|path| path.directions.each_ref().map(|way| way.counts)).collect();
            let lost: Vec<_> = lost.iter().map(|counts| counts.map(|counts| (counts.both, counts.lost))).collect();
            let note = format!(
                "(packets, drops, connections) {packets:?} CPU during {during:.3} s, end {ended:?} {capture:.3} s; (idle, \
                 forced, after), MiB {effort:?}; (both, lost) {lost:?} {problems:?}"
            );
            // What is analysed after the workload costs it nothing.
            Ok(Run { rate, workload, capture: during, note })
        }
        Variant::Tcpdump { points, snap } => {
            let mut running = Vec::new();
            for point in &link.points()[..points] {
                running.push(tcpdump(link, point, snap, directory)?);
            }
            let capture = |all: &[Ended]| all.iter().map(|child| run_time(&child.0)).sum::<Result<f64>>();
            let before = capture(&running)?;
            let (rate, workload) = workload(link, server, count)?;
            let capture = capture(&running)? - before;
            let mut note = String::new();
            for child in &mut running {
                child.end(Signal::SIGINT);
                let mut text = String::new();
                if let Some(mut stderr) = child.0.stderr.take() {
                    std::io::Read::read_to_string(&mut stderr, &mut text)?;
                }
                note += &text.lines().filter(|line| !line.contains("listening")).collect::<Vec<_>>().join(", ");
            }
            Ok(Run { rate, workload, capture, note })
        }
    }
}

fn tcpdump(link: &Link, point: &CapturePoint, snap: bool, directory: &Path) -> Result<Ended> {
    let file = directory.join(format!("{}.pcap", point.interface));
    let mut argv = vec!["tcpdump", "-i", &point.interface, "-w", file.to_str().ok_or("path")?];
    if snap {
        argv.extend(["-s", "96"]);
    }
    let namespace = if point.interface == "c0" { &link.client } else { &link.server };
    let child = Ended(spawn(namespace, &argv)?);
    // tcpdump writes the file's header once it captures.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !file.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(200));
    Ok(child)
}

/// Of the variants, those whose names hold `only`, and the run without capture.
fn requests(repetitions: u32, count: u32, only: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let link = Link::new()?;
    let server = nginx(&link, directory.path())?;
    requests_per_second(&link, count)?;
    let variants: Vec<_> =
        VARIANTS.iter().enumerate().filter(|(i, (name, _))| *i == 0 || name.contains(only)).map(|(_, v)| *v).collect();
    let mut runs: Vec<Vec<Run>> = variants.iter().map(|_| Vec::new()).collect();
    for repetition in 1..=repetitions {
        for (index, (name, variant)) in variants.iter().enumerate() {
            let files = tempfile::tempdir_in(directory.path())?;
            // tcpdump gives up root and writes as its own user.
            fs::set_permissions(files.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
            let run = measure(&link, &server, *variant, count, files.path())?;
            let (cpu, capture) = (run.cpu() * 1e6 / f64::from(count), run.capture);
            println!(
                "{repetition} {name:28} {:7.0}/s {cpu:6.1} µs CPU each, capture {capture:.3} s {}",
                run.rate, run.note
            );
            runs[index].push(run);
        }
    }
    println!("\nmedian of {repetitions}, ab -n {count} -c 10:");
    for (on, (name, _)) in runs.iter().zip(variants) {
        let pairs = || on.iter().zip(&runs[0]);
        let rate = median(pairs().map(|(on, off)| on.rate / off.rate).collect());
        let cpu = median(pairs().map(|(on, off)| off.cpu() / on.cpu()).collect());
        let workload = median(on.iter().map(|run| run.workload * 1e6 / f64::from(count)).collect());
        println!(
            "{name:28} requests/s on ÷ off {rate:.3}, CPU per request off ÷ on {cpu:.3} ({workload:.1} µs ab and nginx)"
        );
    }
    Ok(())
}

fn flow_options(points: usize) -> FlowOptions {
    let available = available_memory();
    FlowOptions {
        statistics: true,
        connections: false,
        mtu: Some(1500),
        points,
        available,
        hold: None,
        fault_after: None,
    }
}

fn start_tcp(points: &[CapturePoint]) -> Result<Captures<vptest::instrument::capture::Flows>> {
    let mut sinks = FlowSinks::new(points, &vec![flow_options(points.len()); points.len()]);
    Ok(Captures::start_with(points, &spec(), None, |point, link| sinks.next(point, link))?)
}

/// Frames of one connection: who sends, flags, sequence and acknowledgement number, payload.
const SCRIPT: [(bool, u8, u32, u32, u16); 10] = [
    (true, 2, 0, 0, 0),
    (false, 18, 0, 1, 0),
    (true, 16, 1, 1, 0),
    (true, 24, 1, 1, 80),
    (false, 16, 1, 81, 0),
    (false, 24, 1, 81, 150),
    (false, 17, 151, 81, 0),
    (true, 16, 81, 152, 0),
    (true, 17, 81, 152, 0),
    (false, 16, 152, 82, 0),
];

/// Ten requests at a time, each on a connection of its own, as ab makes them: frame and length on the wire.
fn frames(connections: u32) -> Vec<([u8; 66], u32)> {
    let mut all = Vec::new();
    for group in 0..connections / 10 {
        for (step, number) in SCRIPT.iter().flat_map(|step| (0..10).map(move |i| (step, group * 10 + i))) {
            let &(client, flags, seq, ack, payload) = step;
            let mut frame = [0; 66];
            frame[12] = 8;
            frame[14] = 0x45;
            frame[16..18].copy_from_slice(&(52 + payload).to_be_bytes());
            frame[23] = 6;
            let [_, _, high, low] = (number / 60_000).to_be_bytes();
            let ends = [[10, high, low, 1], [10, 0, 0, 2]];
            let port = u16::try_from(number % 60_000 + 1024).unwrap_or(1).to_be_bytes();
            let ports = [port, 80_u16.to_be_bytes()];
            let (from, to) = if client { (0, 1) } else { (1, 0) };
            frame[26..30].copy_from_slice(&ends[from]);
            frame[30..34].copy_from_slice(&ends[to]);
            frame[34..36].copy_from_slice(&ports[from]);
            frame[36..38].copy_from_slice(&ports[to]);
            frame[38..42].copy_from_slice(&seq.to_be_bytes());
            frame[42..46].copy_from_slice(&ack.to_be_bytes());
            (frame[46], frame[47]) = (0x80, flags);
            frame[48..50].copy_from_slice(&500_u16.to_be_bytes());
            frame[54..58].copy_from_slice(&[1, 1, 8, 10]);
            all.push((frame, 66 + u32::from(payload)));
        }
    }
    all
}

fn engine(repetitions: u32, connections: u32) {
    let frames = frames(connections);
    let point = CapturePoint {
        node: NodeId::client(1),
        vantage: Vantage::Guest,
        interface: "c0".to_owned(),
        source: CaptureSource::Live { namespace: None },
    };
    for _ in 0..repetitions {
        let counting = feed(&mut NoSink, &frames);
        let mut flows = FlowSinks::new(std::slice::from_ref(&point), &[flow_options(1)]).next(&point, LinkType(1));
        let before = cpu_seconds(UsageWho::RUSAGE_SELF).unwrap_or(f64::NAN);
        let copying = feed(&mut flows, &frames);
        let begin = Instant::now();
        flows.end();
        let captures = vec![capture(&point, frames.len() as u64)];
        let stopped =
            Stopped { captures, problems: Vec::new(), whole: vec![true], sinks: vec![flows], nodes: Vec::new() };
        let Analysed { captures, problems, effort, .. } = stopped.analyse();
        let ended = begin.elapsed();
        let cpu = cpu_seconds(UsageWho::RUSAGE_SELF).unwrap_or(f64::NAN) - before;
        let rate = |time: f64| frames.len() as f64 / time / 1e6;
        println!(
            "{} packets: copied at {:.2} M/s (without {:.0} M/s), all CPU {:.2} M/s, end {ended:?}, {} connections, {:?} \
             {problems:?}",
            frames.len(),
            rate(copying.as_secs_f64()),
            rate(counting.as_secs_f64()),
            rate(cpu),
            captures[0].tcp.as_ref().map_or(0, |tcp| tcp.connections),
            effort.map(|effort| effort.packets),
        );
    }
}

fn capture(point: &CapturePoint, packets: u64) -> vptest::record::Capture {
    vptest::record::Capture {
        node: point.node,
        vantage: point.vantage,
        interface: point.interface.clone(),
        snaplen: 96,
        packets,
        bytes: 0,
        dropped_kernel: Some(0),
        dropped_interface: Some(0),
        ring_bytes: 0,
        sizes: Vec::new(),
        file: None,
        tcp: None,
    }
}

/// A socket that sends whole frames through an interface of the calling thread's namespace.
fn frame_socket(interface: &str) -> std::io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    let index = nix::net::if_::if_nametoindex(interface)?;
    // SAFETY: the descriptor is new and ours; an address is a plain structure, its length is right.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let socket = std::os::fd::OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("17");
        address.sll_ifindex = index.cast_signed();
        let length = u32::try_from(size_of::<libc::sockaddr_ll>()).expect("20 bytes");
        match libc::bind(fd, (&raw const address).cast(), length) {
            0 => Ok(socket),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

/// Sends frames, each as long as it is on the wire if `full`, at no more than `per_second`; returns how many and for how long.
fn flood(namespace: &Namespace, frames: &[([u8; 66], u32)], full: bool, per_second: f64) -> Result<(u64, f64)> {
    const BATCH: usize = 64;
    let padded: Vec<Vec<u8>> = frames
        .iter()
        .map(|(frame, wire)| {
            let mut bytes = frame.to_vec();
            bytes.resize(if full { *wire as usize } else { 66 }, 0);
            bytes
        })
        .collect();
    let work = || {
        let socket = frame_socket("c0")?;
        let begin = Instant::now();
        let mut sent = 0_u64;
        for batch in padded.chunks(BATCH) {
            while sent as f64 > per_second * begin.elapsed().as_secs_f64() {
                std::hint::spin_loop();
            }
            let mut parts: Vec<libc::iovec> = batch
                .iter()
                .map(|bytes| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() })
                .collect();
            let mut messages: Vec<libc::mmsghdr> = parts
                .iter_mut()
                .map(|part| {
                    // SAFETY: all zeroes is a valid header without address and control data.
                    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                    message.msg_hdr.msg_iov = part;
                    message.msg_hdr.msg_iovlen = 1;
                    message
                })
                .collect();
            let mut at = 0;
            while at < messages.len() {
                let rest = &mut messages[at..];
                let length = u32::try_from(rest.len()).expect("at most a batch");
                // SAFETY: the headers point at buffers that outlive the call.
                let count = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), length, 0) };
                at += usize::try_from(count).map_err(|_| std::io::Error::last_os_error())?;
            }
            sent += batch.len() as u64;
        }
        Ok((sent, begin.elapsed().as_secs_f64()))
    };
    Ok(namespace.run(work)?)
}

fn pps(repetitions: u32, connections: u32) -> Result<()> {
    let link = Link::new()?;
    let small = frames(connections);
    let large: Vec<_> = small.iter().map(|(frame, _)| (*frame, 1514)).collect();
    // 1 Gbit/s with preamble, checksum and gap.
    let gigabit = 1e9 / 8.0 / (1514.0 + 24.0);
    let points = &link.points()[1..];
    for (name, frames, full, rate) in [("small", &small, false, f64::INFINITY), ("1 Gbit/s", &large, true, gigabit)] {
        for tcp in [false, true] {
            for _ in 0..repetitions {
                let before = cpu_seconds(UsageWho::RUSAGE_SELF)?;
                let sender = cpu_seconds(UsageWho::RUSAGE_CHILDREN)?;
                let (sent, taken, during, captures) = if tcp {
                    let captures = start_tcp(points)?;
                    let (sent, taken) = flood(&link.client, frames, full, rate)?;
                    let during = cpu_seconds(UsageWho::RUSAGE_SELF)? - before;
                    (sent, taken, during, captures.stop().analyse().captures)
                } else {
                    let captures = Captures::start(points, &spec(), None)?;
                    let (sent, taken) = flood(&link.client, frames, full, rate)?;
                    let during = cpu_seconds(UsageWho::RUSAGE_SELF)? - before;
                    (sent, taken, during, captures.stop().captures)
                };
                let capture = &captures[0];
                println!(
                    "{name}{}: {sent} sent at {:.0} packets/s, {:.0} Mbit/s; {} captured, drops {:?}; CPU while sending \
                     {:.2} s in {taken:.2} s with the sender ({sender:.2}), {:?} connections",
                    if tcp { " TCP" } else { "" },
                    sent as f64 / taken,
                    capture.bytes as f64 * 8.0 / taken / 1e6,
                    capture.packets,
                    (capture.dropped_kernel, capture.dropped_interface),
                    during,
                    capture.tcp.as_ref().map(|tcp| tcp.connections),
                );
            }
        }
    }
    Ok(())
}

fn feed(sink: &mut impl PacketSink, frames: &[([u8; 66], u32)]) -> Duration {
    let begin = Instant::now();
    for (at, (frame, wire_len)) in (1_700_000_000_000_000_000..).step_by(2000).zip(frames) {
        sink.packet(at, *wire_len, std::hint::black_box(frame));
    }
    begin.elapsed()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn gigabit(repetitions: u32) -> Result<()> {
    let link = Link::new()?;
    for shape in ["none", "tbf"] {
        if shape == "tbf" {
            run(
                &link.client,
                &["tc", "qdisc", "add", "dev", "c0", "root", "tbf", "rate", "1gbit", "burst", "1mb", "latency", "50ms"],
            )?;
        }
        for options in [["-b", "1G"].as_slice(), &["-u", "-b", "1G", "-l", "1400"], &["-u", "-b", "1G", "-l", "100"]] {
            for _ in 0..repetitions {
                let _server = Ended(spawn(&link.server, &["iperf3", "-s", "-1", "--forceflush"])?);
                while !run(&link.server, &["ss", "-ltnH", "sport", "=", "5201"])?.contains("5201") {}
                let captures = Captures::start(&link.points(), &spec(), None)?;
                let before = cpu_seconds(UsageWho::RUSAGE_SELF)?;
                run(&link.client, &[["iperf3", "-c", "10.9.0.2", "-t", "3"].as_slice(), options].concat())?;
                let stopped = captures.stop();
                let cpu = cpu_seconds(UsageWho::RUSAGE_SELF)? - before;
                let counts: Vec<_> = stopped.captures.iter().map(|c| (c.packets, c.bytes, c.dropped_kernel)).collect();
                println!(
                    "{shape} {options:?}: (packets, bytes, drops) {counts:?} CPU {cpu:.3} s {:?}",
                    stopped.problems
                );
            }
        }
    }
    Ok(())
}

fn open(repetitions: u32) -> Result<()> {
    let link = Link::new()?;
    let all = link.points();
    for (count, ring) in [(1, None), (2, None), (2, Some(4 << 20)), (80, None), (80, Some(4 << 20))] {
        let points: Vec<_> = all.iter().cycle().take(count).cloned().collect();
        let spec = CaptureSpec { ring, ..spec() };
        let bytes = ring_bytes(count, ring, available_memory());
        for _ in 0..repetitions {
            let begin = Instant::now();
            let captures = Captures::start(&points, &spec, None)?;
            let started = begin.elapsed();
            let begin = Instant::now();
            let stopped = captures.stop();
            let ended = begin.elapsed();
            println!("{count} points of {bytes} bytes: start {started:?}, stop {ended:?} {:?}", stopped.problems);
        }
    }
    Ok(())
}

fn snapshot(repetitions: u32) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..repetitions {
        let begin = Instant::now();
        let snapshot = Snapshot::take();
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        drop(snapshot);
    }
    println!("snapshot of the host: median {:.3} ms of {repetitions}", median(times));
    Ok(())
}

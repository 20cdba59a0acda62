//! Set-up and tear-down of one pair: the testbed `netns` beside the ways people do it by hand, in one run and
//! interleaved, so that the machine's moods hit all alike. Needs root. `netns_setup [ROUNDS] [STEADY]`
//!
//! All build the same: two namespaces and a third with a bridge, two veth pairs, addresses, a token bucket of 1 Gbit/s in
//! each direction, and sg, tso, gso, gro off at all four ends.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vptest::spec::{Tuple, Value};
use vptest::testbed::netns::Netns;
use vptest::testbed::{Request, Testbed as _};
use vptest::units::Rate;

/// Set-up and tear-down of one round.
type Taken = (Duration, Duration);

/// One way to do it; `None` when that failed.
type Way<'a> = Box<dyn Fn() -> Option<Taken> + 'a>;

const NAMES: [&str; 3] = ["vpbench-h", "vpbench-c", "vpbench-s"];
const TBF: &str = "root tbf rate 1gbit burst 250000 limit 3375000";

fn main() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<usize>().ok());
    let (rounds, steady) = (numbers.next().unwrap_or(40), numbers.next().unwrap_or(300));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ours = |pairs| runtime.block_on(ours(pairs));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/mininet_pair.py");
    let mut ways: Vec<(&str, Way<'_>)> = vec![
        ("vptest", Box::new(|| Some(ours(1)))),
        ("ip -batch", Box::new(|| Some(batch()))),
        ("ip, tc, ethtool", Box::new(|| Some(one_by_one()))),
    ];
    if mininet(&script).is_some() {
        ways.push(("Mininet", Box::new(|| mininet(&script))));
    } else {
        println!("Mininet cannot run here: `/usr/bin/python3 {}` fails", script.display());
    }
    let mut taken: Vec<Vec<Taken>> = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for (way, times) in ways.iter().zip(&mut taken) {
            times.extend(way.1());
            await_quiet();
        }
    }
    println!(
        "{rounds} rounds; milliseconds: set-up + tear-down median, p95 · set-up median · tear-down median · ratio"
    );
    let base = quantile(&taken[0], 0.5, |(up, down)| up + down);
    for ((name, _), times) in ways.iter().zip(&taken) {
        let both = quantile(times, 0.5, |(up, down)| up + down);
        println!(
            "{name:16} {:8.2} {:8.2} · {:8.2} · {:8.2} · {:6.1}",
            both,
            quantile(times, 0.95, |(up, down)| up + down),
            quantile(times, 0.5, |(up, _)| up),
            quantile(times, 0.5, |(_, down)| down),
            both / base,
        );
    }
    in_a_row("vptest", steady, || ours(1));
    in_a_row("ip -batch", steady.min(100), batch);
    for pairs in [1, 10, 40] {
        let times: Vec<Taken> = (0..10).map(|_| (ours(pairs), await_quiet()).0).collect();
        let (up, down) = (quantile(&times, 0.5, |(up, _)| up), quantile(&times, 0.5, |(_, down)| down));
        println!("vptest, {pairs} pairs: set-up {up:.2} ms, tear-down {down:.2} ms (medians of 10)");
    }
}

/// N in a row, with the kernel's own removal, which goes on in the background, included.
fn in_a_row(name: &str, count: usize, round: impl Fn() -> Taken) {
    await_quiet();
    let held = holdings();
    let begun = Instant::now();
    let times: Vec<Taken> = (0..count).map(|_| round()).collect();
    let issued = begun.elapsed();
    let waited = await_quiet();
    println!(
        "{name}, {count} in a row: median {:.2} ms, p95 {:.2} ms, worst {:.2} ms; {:.2} ms each until the kernel had removed the last ({} ms after it was dropped)",
        quantile(&times, 0.5, |(up, down)| up + down),
        quantile(&times, 0.95, |(up, down)| up + down),
        quantile(&times, 1.0, |(up, down)| up + down),
        (issued + waited).as_secs_f64() * 1e3 / f64::from(u32::try_from(count).unwrap_or(u32::MAX)),
        waited.as_millis(),
    );
    println!("    descriptors and children before: {held:?}, after: {:?}", holdings());
}

/// Open descriptors, and children that nobody waited for.
fn holdings() -> (usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let of_thread = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let children = std::fs::read_dir("/proc/self/task")
        .map_or(0, |tasks| tasks.flatten().map(|task| of_thread(task).split_whitespace().count()).sum());
    (descriptors, children)
}

async fn ours(pairs: i64) -> Taken {
    // In memory, so that a slow disk does not show.
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let rate = Rate::from_bits_per_second(1_000_000_000).expect("not zero");
    let values = [("pairs", Value::Integer(pairs)), ("rate", Value::Rate(rate)), ("offload", Value::Bool(false))];
    let tuple =
        Tuple::new(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>());
    let request = Request {
        tuple,
        number: 1,
        attempt: 1,
        scratch: scratch.path().to_owned(),
        campaign: scratch.path().to_owned(),
        vptest: "/bin/true".into(),
        programs: Vec::new(),
        notice: Default::default(),
    };
    let begun = Instant::now();
    let mut instance = Netns::default().launch(&request).await.expect("a testbed");
    let up = begun.elapsed();
    let begun = Instant::now();
    let teardown = instance.teardown().await;
    drop(instance);
    assert!(teardown.left.is_empty(), "{teardown:?}");
    (up, begun.elapsed())
}

/// One process for each command, as in most scripts.
fn one_by_one() -> Taken {
    let [h, c, s] = NAMES;
    let begun = Instant::now();
    for name in NAMES {
        run(&format!("ip netns add {name}"));
    }
    run(&format!("ip -n {h} link add br1 type bridge"));
    run(&format!("ip -n {h} link set br1 up"));
    for (port, node, address) in [("c1", c, "10.1.0.1/24"), ("s1", s, "10.1.0.2/24")] {
        run(&format!("ip -n {h} link add {port} type veth peer name eth0 netns {node}"));
        run(&format!("ip -n {h} link set {port} master br1 up"));
        run(&format!("ip -n {node} link set lo up"));
        run(&format!("ip -n {node} link set eth0 up"));
        run(&format!("ip -n {node} addr add {address} dev eth0"));
        run(&format!("tc -n {h} qdisc add dev {port} {TBF}"));
    }
    offloads_off();
    let up = begun.elapsed();
    let begun = Instant::now();
    for name in NAMES {
        run(&format!("ip netns del {name}"));
    }
    (up, begun.elapsed())
}

/// One process for each tool and namespace.
fn batch() -> Taken {
    let [h, c, s] = NAMES;
    let begun = Instant::now();
    feed("ip -batch -", &NAMES.map(|name| format!("netns add {name}")));
    let links = ["link add br1 type bridge".to_owned(), "link set br1 up".to_owned()];
    let ports = [("c1", c), ("s1", s)].map(|(port, node)| {
        format!("link add {port} type veth peer name eth0 netns {node}\nlink set {port} master br1 up")
    });
    feed(&format!("ip -n {h} -batch -"), &[links, ports].concat());
    for (node, address) in [(c, "10.1.0.1/24"), (s, "10.1.0.2/24")] {
        let lines = ["link set lo up", "link set eth0 up", &format!("addr add {address} dev eth0")].map(str::to_owned);
        feed(&format!("ip -n {node} -batch -"), &lines);
    }
    feed(&format!("tc -n {h} -batch -"), &["c1", "s1"].map(|port| format!("qdisc add dev {port} {TBF}")));
    offloads_off();
    let up = begun.elapsed();
    let begun = Instant::now();
    feed("ip -batch -", &NAMES.map(|name| format!("netns del {name}")));
    (up, begun.elapsed())
}

/// ethtool has no batch mode.
fn offloads_off() {
    let [h, c, s] = NAMES;
    for (namespace, interface) in [(c, "eth0"), (s, "eth0"), (h, "c1"), (h, "s1")] {
        run(&format!("ip netns exec {namespace} ethtool -K {interface} gro off gso off tso off sg off"));
    }
}

/// The script builds it once and prints the seconds set-up and tear-down took, its own start not included.
fn mininet(script: &Path) -> Option<Taken> {
    let output = Command::new("/usr/bin/python3").arg(script).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (up, down) = text.trim().split_once(' ')?;
    Some((Duration::from_secs_f64(up.parse().ok()?), Duration::from_secs_f64(down.parse().ok()?)))
}

fn run(line: &str) {
    feed(line, &[]);
}

fn feed(line: &str, input: &[String]) {
    let mut words = line.split(' ');
    let mut child = Command::new(words.next().expect("a program"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("a program that is installed");
    let mut stdin = child.stdin.take().expect("its standard input");
    stdin.write_all(input.join("\n").as_bytes()).expect("it reads");
    drop(stdin);
    assert!(child.wait().expect("it ends").success(), "{line} failed");
}

/// Waits until the kernel has worked off its queue of dead namespaces, and returns how long that took.
///
/// A marker is put at its end: an interface that lives here loses its peer when the peer's namespace has been removed.
fn await_quiet() -> Duration {
    let begun = Instant::now();
    run("ip netns add vpbench-m");
    run("ip link add vpbench type veth peer name eth0 netns vpbench-m");
    run("ip netns del vpbench-m");
    while Path::new("/sys/class/net/vpbench").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    begun.elapsed()
}

/// In milliseconds.
fn quantile(times: &[Taken], q: f64, of: impl Fn(Taken) -> Duration) -> f64 {
    let mut all: Vec<f64> = times.iter().map(|&time| of(time).as_secs_f64() * 1e3).collect();
    all.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = (q * (all.len() as f64 - 1.0)).round() as usize;
    all[index]
}

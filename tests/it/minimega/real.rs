//! Against a minimega that runs here. `VPTEST_MINIMEGA` is the path of its command socket (the usual one without it).
//!
//! Machines need a kernel and an initramfs with a miniccc: `VPTEST_MINIMEGA_KERNEL` and `VPTEST_MINIMEGA_INITRD`. It must
//! have an interface for each card and take `vmname=` and `vmip=` from the kernel's command line; sweeps in them need `ab`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use vptest::agent::{InterfaceSetup, NetworkSetup};
use vptest::ids::NodeId;
use vptest::image;
use vptest::testbed::minimega::capture::{self, Options, Point};
use vptest::testbed::minimega::cc::{
    Channel, GUEST_FILES, Mailbox, Member, MinimegaHead, Phase, Sent, Step, StepStatus, Timing,
};
use vptest::testbed::minimega::guest::{self, Hardware};
use vptest::testbed::minimega::machine::{self, Boot, Kind, Machine, Nic, Plan};
use vptest::testbed::minimega::{DEFAULT_SOCKET, Daemon, Limits, Namespace, Owner};

use vptest::units::{ByteSize, Rate};

use super::text;
use crate::campaign::Campaign;
use crate::need::{self, need};
use crate::qemu::outcome;

const LONG: Duration = Duration::from_secs(60);

fn socket() -> Option<PathBuf> {
    let socket = std::env::var_os("VPTEST_MINIMEGA").map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from);
    need("minimega", std::os::unix::net::UnixStream::connect(&socket).is_ok()).then_some(socket)
}

fn guest() -> Option<(String, String)> {
    let path = |name: &str| std::env::var(name).ok().filter(|path| Path::new(path).is_file());
    let both = path("VPTEST_MINIMEGA_KERNEL").zip(path("VPTEST_MINIMEGA_INITRD"));
    if need("minimega", both.is_some()) { both } else { None }
}

/// One whose machines are here, also where minimega is in a mesh.
async fn namespace(socket: &Path) -> Arc<Namespace> {
    let daemon = open_real(socket).await;
    let namespace = daemon.fresh_namespace(&super::owner()).await.unwrap();
    namespace.run(&["ns", "del-hosts", "all"]).await.unwrap();
    namespace.run(&["ns", "add-hosts", &daemon.host]).await.unwrap();
    Arc::new(namespace)
}

async fn gone(namespace: &Namespace) {
    let failures = namespace.remove().await;
    assert!(failures.is_empty(), "{failures:?}");
    assert!(!namespace.daemon().namespaces().await.unwrap().contains(&namespace.name().to_owned()));
    assert!(!namespace.files().exists());
}

fn plan(name: &str, number: u32, (kernel, initrd): (String, String)) -> Plan {
    let arguments = format!("console=ttyS0 quiet vmname={name} vmip=10.0.0.{number}/24");
    let arguments = arguments.split(' ').map(str::to_owned).collect();
    let boot = Boot::Kernel { kernel, initrd, arguments };
    let kind = Kind::Kvm { boot, qemu: None, cpu: None, ports: vec![], snapshot: true, console: None, results: vec![] };
    let driver = Some("virtio-net-pci".to_owned());
    let nics = vec![Nic { bridge: None, vlan: "LAN".to_owned(), mac: format!("52:54:00:00:01:{number:02x}"), driver }];
    Plan { name: name.to_owned(), kind, memory_mib: 256, vcpus: 1, nics }
}

#[tokio::test]
async fn the_real_one_speaks_as_the_double_does() {
    let Some(socket) = socket() else { return };
    let namespace = namespace(&socket).await;
    for word in ["$HOME", "http://10.0.0.1/x", "a  b", "c\"d", "e'f", "g\\h", "#i", "$$ $?", "file:/x", "ä\t", ""] {
        assert_eq!(namespace.run(&["echo", word]).await.unwrap().text(), word);
    }
    let error = namespace.run(&["bogus"]).await.unwrap_err();
    assert!(error.is_unknown_command(), "{error}");
    assert!(namespace.daemon().peer().pid.is_some());
    assert_eq!(machine::machines(&namespace).await.unwrap(), []);
    gone(&namespace).await;
}

#[tokio::test]
async fn a_real_launch_that_fails_is_found() {
    let Some(socket) = socket() else { return };
    let namespace = namespace(&socket).await;
    let files = ("/no/such/kernel".to_owned(), "/no/such/initrd".to_owned());
    let mut plan = plan("a", 1, files);
    if let Kind::Kvm { boot, .. } = &mut plan.kind {
        *boot = Boot::Disk("/no/such.qcow2".to_owned());
    }
    let error = machine::launch(&namespace, &[plan.clone()]).await.unwrap_err();
    assert!(text(&error).starts_with("machine a: it is ERROR and not BUILDING: "), "{error}");
    assert!(text(&error).contains("/no/such.qcow2"), "{error}");
    plan.name = "b".to_owned();
    plan.nics[0].driver = Some("foo-net".to_owned());
    machine::launch(&namespace, &[plan]).await.unwrap_err();
    let place = |machine: &Machine| namespace.daemon().base.join(machine.id.to_string());
    let places: Vec<PathBuf> = machine::machines(&namespace).await.unwrap().iter().map(place).collect();
    assert!(!places.is_empty());
    gone(&namespace).await;
    assert!(places.iter().all(|place| !place.exists()), "{places:?}");
}

/// Two machines through all that is done with them.
#[tokio::test]
async fn real_machines_do_phases_and_are_captured() {
    let Some((socket, guest)) = socket().zip(guest()) else { return };
    let namespace = namespace(&socket).await;
    // Whatever fails, nothing stays.
    let done = tokio::spawn(work(Arc::clone(&namespace), guest)).await;
    gone(&namespace).await;
    done.unwrap();
}

async fn work(namespace: Arc<Namespace>, guest: (String, String)) {
    let plans = [plan("client1", 1, guest.clone()), plan("server1", 2, guest)];
    let machines = machine::launch(&namespace, &plans).await.unwrap();
    let names: Vec<String> = machines.iter().map(|machine| machine.name.clone()).collect();
    machine::start(&namespace, &names).await.unwrap();
    let member = |machine: &Machine| Member {
        node: machine.name.clone(),
        uuid: machine.uuid.clone(),
        files: GUEST_FILES.to_owned(),
    };
    let members: Vec<Member> = machines.iter().map(member).collect();
    let channel = Channel::new(Arc::new(MinimegaHead::new(Arc::clone(&namespace))), Timing::default());
    let begun = Instant::now();
    channel.await_clients(&members, Duration::from_secs(180)).await.unwrap();
    eprintln!("clients after {:?}", begun.elapsed());

    let place = tempfile::tempdir().unwrap();
    let points: Vec<Point> = names
        .iter()
        .map(|name| Point { machine: name.clone(), card: 0, file: place.path().join(format!("{name}.pcap")) })
        .collect();
    let options = Options { snaplen: 200, filter: Some("icmp".to_owned()) };
    let captures = capture::start(&namespace, &options, points).await.unwrap();

    let words = ["$HOME", "a'b\"c\\", "http://10.0.0.1/x", "stdout=foo", ""];
    let printf: Vec<&str> = ["printf", "%s|"].iter().chain(&words).copied().collect();
    let steps = vec![
        Step::of(printf, LONG),
        Step::of(["sh", "-c", "head -c 300000 /dev/urandom >/tmp/out; : >/tmp/empty; exit 3"], LONG),
        Step::of(["sleep", "1000"], Duration::from_secs(2)),
        Step::of(["ping", "-c", "3", "10.0.0.2"], LONG),
    ];
    let send = vec![Sent { path: "/tmp/dir/sent".to_owned(), mode: 0o644, content: vec![7; 200_000] }];
    let fetch = ["/tmp/out", "/tmp/empty", "/tmp/dir/sent"].map(str::to_owned).to_vec();
    let client = Phase { send, steps, fetch };
    let server = Phase { steps: vec![Step::of(["hostname"], LONG)], ..Phase::default() };
    let jobs = [(members[0].clone(), client), (members[1].clone(), server)];
    let begun = Instant::now();
    let outcomes = channel.run(&jobs, place.path()).await.unwrap();
    eprintln!("a round trip with files after {:?}", begun.elapsed());
    let last = Instant::now();
    let report = &outcomes[0].report;
    let expected: String = words.iter().map(|word| format!("{word}|")).collect();
    assert_eq!(report.steps[0].stdout, expected.as_bytes());
    assert_eq!(report.steps[1].status, Some(StepStatus::Exit(3)));
    assert_eq!(report.steps[2].status, Some(StepStatus::TimedOut), "{report:?}");
    assert_eq!(report.steps[3].status, Some(StepStatus::Exit(0)), "{report:?}");
    assert_eq!(outcomes[1].report.steps[0].stdout, b"server1\n");
    let lengths: Vec<u64> = outcomes[0].files.iter().map(|path| path.metadata().unwrap().len()).collect();
    assert_eq!(lengths, [300_000, 0, 200_000]);

    let captured = captures.stop(last).await.unwrap();
    // Three requests and three replies at each tap: 98 bytes and 16 for each packet's header, and 24 before.
    assert_eq!(captured.iter().map(|captured| captured.bytes).collect::<Vec<_>>(), [708, 708]);

    // A second phase, after the first has left its files.
    let again = Phase { steps: vec![Step::of(["cat", "/proc/uptime"], LONG)], ..Phase::default() };
    let begun = Instant::now();
    channel.run(&[(members[1].clone(), again)], place.path()).await.unwrap();
    eprintln!("a round trip after {:?}", begun.elapsed());
    assert_eq!(channel.round_trips(), 2);
}

/// vptest is sent to a guest of busybox and miniccc, and its agent talks by letters through `cc`.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_guest_with_miniccc_has_an_agent_by_letters() {
    let Some((socket, guest)) = socket().zip(guest()) else { return };
    let namespace = namespace(&socket).await;
    let done = tokio::spawn(letters(Arc::clone(&namespace), guest)).await;
    gone(&namespace).await;
    done.unwrap();
}

async fn letters(namespace: Arc<Namespace>, guest: (String, String)) {
    // vptest is there twice for a moment, in memory.
    let plan = Plan { memory_mib: 1024, ..plan("client1", 1, guest) };
    let machine = machine::launch(&namespace, &[plan]).await.unwrap().remove(0);
    machine::start(&namespace, std::slice::from_ref(&machine.name)).await.unwrap();
    let member = Member { node: machine.name.clone(), uuid: machine.uuid.clone(), files: GUEST_FILES.to_owned() };
    let channel = Arc::new(Channel::new(Arc::new(MinimegaHead::new(namespace)), Timing::default()));
    channel.await_clients(std::slice::from_ref(&member), Duration::from_secs(180)).await.unwrap();
    let bundle = image::Bundle::of(Path::new(crate::campaign::VPTEST)).unwrap();
    let begun = Instant::now();
    let mailbox = Mailbox::open(&channel, &member, &bundle).await.unwrap();
    eprintln!("an agent after {:?}, {} MB sent", begun.elapsed(), bundle.tar.len() >> 20);
    let client = &mailbox.client;
    let (begun, before) = (Instant::now(), mailbox.turns());
    for _ in 0..20 {
        assert!(client.exists("/proc/uptime").await.unwrap());
    }
    eprintln!("20 questions after {:?} and {} letters", begun.elapsed(), mailbox.turns() - before);
    let bytes = vec![7; 3_000_000];
    client.put("x", 0o600, bytes.len() as u64, &bytes[..]).await.unwrap();
    let mut back = Vec::new();
    client.get("x", 1 << 30, &mut back).await.unwrap();
    assert!(back == bytes);
    eprintln!("clock: {:?}", client.clock(16).await.unwrap());
    mailbox.close().await;
}

/// vptest's own image: the agent answers on a port of the machine's, without a miniccc.
#[tokio::test]
async fn the_agent_of_a_real_machine_is_reached_and_its_link_is_limited() {
    let Some(socket) = socket() else { return };
    if !need("minimega", image::default_cache().is_ok()) {
        return;
    }
    let namespace = namespace(&socket).await;
    let done = tokio::spawn(agents(Arc::clone(&namespace))).await;
    gone(&namespace).await;
    done.unwrap();
}

/// A sweep from the plan to the stored record, twice the guests of a pair.
#[tokio::test]
async fn a_sweep_runs_on_a_real_minimega() {
    let Some(socket) = socket() else { return };
    if !need::root() || !need::program("ab") || !need::program("nginx") {
        return;
    }
    let campaign = Campaign::planned(&format!(
        "name = \"real\"\nrepetitions = 1\ntimeout = \"400 s\"\n\n[factors]\ntestbed = \"minimega-kvm\"\n\
         driver = \"e1000\"\npairs = 2\npinning = true\noffload = \"off\"\nrate = \"50 Mbit/s\"\n\
         request = {{ url = \"/\", count = 50 }}\n\n[workload]\npreset = \"ab\"\nserver = \"nginx\"\n\n\
         [capture]\nvantage = [\"guest\", \"host\"]\n\n\
         [verify]\nforeign_cpu = \"off\"\nsteal = \"off\"\nclient_cpu = \"off\"\n\n\
         [testbed.minimega]\nsocket = \"{}\"\n",
        socket.display()
    ));
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.statuses(), ["complete"]);
    let database = rusqlite::Connection::open(campaign.out().join(&campaign.files()[0])).unwrap();
    let count = |query: &str| -> i64 { database.query_row(query, [], |row| row.get(0)).unwrap() };
    assert_eq!(count("SELECT count(*) FROM setting WHERE ok = 0"), 0);
    for (name, at_least) in
        [("host.rate", 4), ("host.tso", 4), ("tso", 4), ("memory", 4), ("driver", 4), ("vcpu_cpus", 4)]
    {
        let query = format!("SELECT count(*) FROM setting WHERE name = '{name}' AND ok = 1 AND observed IS NOT NULL");
        assert!(count(&query) >= at_least, "{name}");
    }
    assert_eq!(count("SELECT count(*) FROM setting WHERE name = 'accel' AND observed IS NULL"), 0);
    assert_eq!(count("SELECT count(*) FROM capture WHERE packets > 0 AND dropped_kernel = 0"), 8);
    assert_eq!(count("SELECT count(*) FROM metric WHERE name = 'rps' AND value > 0"), 2);
    none_of(&socket, &campaign).await;
}

/// A pair of guests of the other tests' image, with busybox and miniccc and ApacheBench: nothing of vptest's is in it.
fn own_campaign(socket: &Path, (kernel, initrd): (String, String), minimega: &str, more: &str) -> Campaign {
    Campaign::planned(&format!(
        "name = \"own\"\nrepetitions = 1\ntimeout = \"500 s\"\n\n[factors]\ntestbed = \"minimega-kvm\"\n\
         driver = \"virtio-net-pci\"\nmemory = \"1 GiB\"\noffload = \"off\"\nrate = \"50 Mbit/s\"\n\
         request = {{ url = \"/\", count = 50 }}\n\n[workload]\npreset = \"ab\"\n\n\
         [capture]\nvantage = [\"guest\", \"host\"]\n\n{more}\
         [verify]\nforeign_cpu = \"off\"\nsteal = \"off\"\nclient_cpu = \"off\"\n\n\
         [testbed.minimega]\nsocket = \"{}\"\nkernel = \"{kernel}\"\ninitrd = \"{initrd}\"\n{minimega}\n\
         append = [\"console=ttyS0\", \"quiet\", \"ipv6.disable_ipv6=1\", \"vmname=own\"]\nboot_timeout = \"300 s\"\n",
        socket.display()
    ))
}

fn own_sweep(socket: &Path, guest: (String, String), reach: &str) {
    let campaign = own_campaign(socket, guest, &format!("reach = \"{reach}\""), "[instrument.counters]\n\n");
    campaign.expect(0, &["run"]);
    assert_eq!(outcome(&campaign), ("complete".to_owned(), "[]".to_owned()));
    let database = rusqlite::Connection::open(campaign.out().join(&campaign.files()[0])).unwrap();
    let count = |query: &str| -> i64 { database.query_row(query, [], |row| row.get(0)).unwrap() };
    assert_eq!(count("SELECT count(*) FROM setting WHERE ok = 0"), 0);
    assert_eq!(count("SELECT count(*) FROM capture WHERE packets > 0 AND dropped_kernel = 0"), 4);
    assert_eq!(count("SELECT count(*) FROM metric WHERE name = 'rps' AND value > 0"), 1);
    let facts = "SELECT count(*) FROM environment WHERE name IN ('image.id', 'image.initrd')";
    assert_eq!(count(facts), 2);
    let mut trips = database
        .prepare("SELECT host, CAST(value AS INTEGER) FROM environment WHERE name = 'testbed.cc.round_trips'")
        .unwrap();
    let trips: Vec<(String, i64)> =
        trips.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    eprintln!("round trips by {reach}: {trips:?}");
    assert_eq!(trips.len(), 2);
    let most = if reach == "port" { 1 } else { 200 };
    assert!(trips.iter().all(|(_, trips)| (1..=most).contains(trips)), "{trips:?}");
}

#[tokio::test]
async fn guests_of_ones_own_image_run_a_sweep_by_letters() {
    let Some((socket, guest)) = socket().zip(guest()) else { return };
    if need::root() {
        own_sweep(&socket, guest, "cc");
    }
}

/// minimega captures at the taps and counts no drops, which is why the iteration is suspect, and for nothing else.
#[tokio::test]
async fn taps_that_the_real_minimega_captures_are_in_the_record() {
    let Some((socket, guest)) = socket().zip(guest()) else { return };
    if !need::root() {
        return;
    }
    let campaign = own_campaign(&socket, guest, "capture = \"minimega\"", "");
    campaign.expect(0, &["run"]);
    let (status, reasons) = outcome(&campaign);
    let reasons: Vec<String> = serde_json::from_str(&reasons).unwrap();
    let said = |node: &str, whose: &str| {
        let (begin, end) = (format!("capture of {node} (host, "), format!("the {whose}'s drops could not be read"));
        reasons.iter().any(|reason| reason.starts_with(&begin) && reason.ends_with(&end))
    };
    let places = [("client1", "kernel"), ("client1", "interface"), ("server1", "kernel"), ("server1", "interface")];
    assert!(places.iter().all(|(node, whose)| said(node, whose)) && reasons.len() == 4, "{status}: {reasons:?}");
    assert_eq!(status, "suspect");
    let database = rusqlite::Connection::open(campaign.out().join(&campaign.files()[0])).unwrap();
    let count = |query: &str| -> i64 { database.query_row(query, [], |row| row.get(0)).unwrap() };
    assert_eq!(count("SELECT count(*) FROM setting WHERE ok = 0"), 0);
    assert_eq!(count("SELECT count(*) FROM capture WHERE vantage = 'guest' AND dropped_kernel = 0"), 2);
    assert_eq!(count("SELECT count(*) FROM capture WHERE vantage = 'host' AND dropped_kernel IS NULL"), 2);
    // Every connection is whole in all four places, the last one too, whose packets come just before the end.
    assert_eq!(count("SELECT count(*) FROM tcp WHERE connections = 50 AND complete = 50"), 4);
    let fact = "SELECT count(*) FROM environment WHERE name = 'testbed.minimega.capture' AND value LIKE 'minimega, %'";
    assert_eq!(count(fact), 1);
    none_of(&socket, &campaign).await;
}

/// Nothing of this campaign is in minimega or noted; others have theirs meanwhile.
async fn none_of(socket: &Path, campaign: &Campaign) {
    let owner = Owner::of(&campaign.out());
    assert!(open_real(socket).await.namespaces_of(&owner).await.unwrap().is_empty());
    assert!(!campaign.out().join(".minimega").exists());
}

/// Two pairs of containers from the directory that vptest makes.
#[tokio::test]
async fn real_containers_run_a_sweep() {
    let Some(socket) = socket() else { return };
    let cgroups = Path::new("/sys/fs/cgroup/freezer/tasks").exists();
    if !need::root() || !need::program("ab") || !need("cgroup1", cgroups) {
        return;
    }
    let campaign = Campaign::planned(&format!(
        "name = \"containers\"\nrepetitions = 1\ntimeout = \"200 s\"\n\n[factors]\ntestbed = \"minimega-container\"\n\
         pairs = 2\nvcpus = 2\nmemory = \"200 MiB\"\npinning = true\noffload = \"off\"\nmtu = 1400\n\
         rate = \"50 Mbit/s\"\nrequest = {{ url = \"/image.png?size=200kB\", count = 20 }}\n\n\
         [workload]\npreset = \"ab\"\n\n[capture]\nvantage = [\"guest\", \"host\"]\n\n\
         [verify]\nforeign_cpu = \"off\"\nsteal = \"off\"\nclient_cpu = \"off\"\n\n\
         [testbed.minimega]\nsocket = \"{}\"\n",
        socket.display()
    ));
    campaign.expect(0, &["run"]);
    assert_eq!(outcome(&campaign), ("complete".to_owned(), "[]".to_owned()));
    let database = rusqlite::Connection::open(campaign.out().join(&campaign.files()[0])).unwrap();
    let count = |query: &str| -> i64 { database.query_row(query, [], |row| row.get(0)).unwrap() };
    assert_eq!(count("SELECT count(*) FROM setting WHERE requested IS NOT NULL AND ok IS NOT 1"), 0);
    // Four containers, before and after the workload.
    super::contained::assert_in_force(&database, "2", 8);
    assert_eq!(count("SELECT count(*) FROM setting WHERE name = 'container_cpus' AND ok = 1"), 8);
    assert_eq!(count("SELECT count(*) FROM capture WHERE dropped_kernel = 0"), 8);
    assert_eq!(count("SELECT count(*) FROM tcp WHERE connections = 20 AND complete = 20"), 8);
    assert_eq!(count("SELECT count(*) FROM metric WHERE name = 'rps' AND value > 0 AND pair IS NOT NULL"), 2);
    assert_eq!(count("SELECT count(*) FROM environment WHERE name = 'testbed.cc.round_trips'"), 0);
    none_of(&socket, &campaign).await;
    // Their first processes have the name of the namespace among their words.
    let owner = Owner::of(&campaign.out());
    let commands = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = commands.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    let left: Vec<String> = commands.filter(|command| command.split('\0').any(|word| owner.owns(word))).collect();
    assert_eq!(left, [] as [String; 0]);
}

/// Guests of the same image that make a file of some 20 MB and keep their captures; how long bringing it has taken, and a digest of
/// the file.
fn large_sweep(socket: &Path, (kernel, initrd): &(String, String), disk: &str) -> (Duration, Vec<u8>) {
    use sha2::Digest as _;
    let campaign = Campaign::planned(&format!(
        r#"
name = "large"
repetitions = 1
timeout = "900 s"

[factors]
testbed = "minimega-kvm"
driver = "virtio-net-pci"
memory = "1 GiB"

[workload]
preset = "command"
server = ["sh", "-c", "exec {{vptest}} serve-http --listen {{server}}:{{port}}"]
ready = {{ tcp = 80 }}
client = ["sh", "-c", "seq 1 2700000 > large; ab -n 20 'http://{{server}}:{{port}}/image.png?size=100kB'"]
keep = ["large"]

[capture]
vantage = ["guest"]
keep = true

[verify]
foreign_cpu = "off"
steal = "off"
client_cpu = "off"

[testbed.minimega]
socket = "{}"
kernel = "{kernel}"
initrd = "{initrd}"
reach = "cc"
append = ["console=ttyS0", "quiet", "ipv6.disable_ipv6=1", "vmname=own"]
boot_timeout = "300 s"
{disk}
"#,
        socket.display()
    ));
    campaign.expect(0, &["run"]);
    // On a busy host, letters tell clocks only roughly, which is said.
    let (status, reasons) = outcome(&campaign);
    let reasons: Vec<String> = serde_json::from_str(&reasons).unwrap();
    let roughly = |reason: &String| reason.starts_with("the clock of ") && reason.contains(" is known to ");
    assert!(["complete", "suspect"].contains(&status.as_str()) && reasons.iter().all(roughly), "{status}: {reasons:?}");
    let database = rusqlite::Connection::open(campaign.out().join(&campaign.files()[0])).unwrap();
    let one = |query: &str| -> i64 { database.query_row(query, [], |row| row.get(0)).unwrap() };
    assert_eq!(one("SELECT count(*) FROM capture WHERE packets > 20 AND file LIKE '%.pcapng'"), 2);
    let files = "SELECT count(*) FROM environment WHERE name = 'testbed.minimega.result_disk.files' AND value = ";
    let of_disk = [one(&format!("{files}'2' AND host = 'client1'")), one(&format!("{files}'1' AND host = 'server1'"))];
    assert_eq!(of_disk, if disk.is_empty() { [0, 0] } else { [1, 1] });
    let took = one("SELECT duration_ns FROM stage WHERE name = 'collect'");
    let kept = campaign.out().join(campaign.files()[0].replace(".db", ".d")).join("client1/large");
    (Duration::from_nanos(took.try_into().unwrap()), sha2::Sha256::digest(std::fs::read(kept).unwrap()).to_vec())
}

#[tokio::test]
async fn large_files_of_real_guests_come_over_a_disk() {
    let Some((socket, guest)) = socket().zip(guest()) else { return };
    if !need::root() || !need::program("qemu-img") {
        return;
    }
    let (by_disk, content) = large_sweep(&socket, &guest, "result_disk = \"1 GiB\"");
    let (by_letters, same) = large_sweep(&socket, &guest, "");
    eprintln!("collecting some 20 MB took {by_disk:?} over the disk and {by_letters:?} by letters");
    assert!(content == same);
}

/// Their miniccc starts the agent, once; it then answers at its port.
#[tokio::test]
async fn guests_of_ones_own_image_run_a_sweep_at_a_port() {
    let Some((socket, guest)) = socket().zip(guest()) else { return };
    if need::root() {
        own_sweep(&socket, guest, "port");
    }
}

/// Client here, server on the host of `VPTEST_MINIMEGA_MESH`, which has the image under the same path.
#[tokio::test]
async fn guests_on_two_hosts_run_a_sweep() {
    let other = std::env::var("VPTEST_MINIMEGA_MESH").ok();
    let Some(((socket, (kernel, initrd)), other)) = socket().zip(guest()).zip(other.clone()) else {
        need("minimega-mesh", other.is_some());
        return;
    };
    if !need::root() {
        return;
    }
    let campaign = Campaign::planned(&format!(
        "name = \"mesh\"\nrepetitions = 1\ntimeout = \"500 s\"\n\n[factors]\ntestbed = \"minimega-kvm\"\n\
         colocated = \"off\"\ndriver = \"virtio-net-pci\"\nmemory = \"1 GiB\"\nmtu = 1400\noffload = \"off\"\n\
         rate = \"50 Mbit/s\"\nrequest = {{ url = \"/\", count = 50 }}\n\n[workload]\npreset = \"ab\"\n\n\
         [capture]\nvantage = [\"guest\"]\n\n\
         [verify]\nforeign_cpu = \"off\"\nsteal = \"off\"\nclient_cpu = \"off\"\n\n\
         [testbed.minimega]\nsocket = \"{}\"\nkernel = \"{kernel}\"\ninitrd = \"{initrd}\"\nreach = \"cc\"\n\
         append = [\"console=ttyS0\", \"quiet\", \"ipv6.disable_ipv6=1\", \"vmname=own\"]\n\
         boot_timeout = \"300 s\"\n",
        socket.display()
    ));
    campaign.expect(0, &["run"]);
    let (status, reasons) = outcome(&campaign);
    let reasons: Vec<String> = serde_json::from_str(&reasons).unwrap();
    // minimega counts no drops, and letters take long on a busy host.
    let expected = |reason: &String| reason.contains("drops could not be read") || reason.starts_with("the clock of ");
    assert!(
        ["suspect", "complete"].contains(&status.as_str()) && reasons.iter().all(expected),
        "{status}: {reasons:?}"
    );
    let database = rusqlite::Connection::open(campaign.out().join(&campaign.files()[0])).unwrap();
    let count = |query: &str| -> i64 { database.query_row(query, [], |row| row.get(0)).unwrap() };
    assert_eq!(count("SELECT count(*) FROM setting WHERE ok = 0"), 0);
    for name in ["host.rate", "host.mtu", "host.sg", "host.tso", "host.gso", "host.gro", "memory"] {
        let query = format!("SELECT count(DISTINCT node) FROM setting WHERE name = '{name}' AND ok = 1");
        assert_eq!(count(&query), 2, "{name}");
    }
    assert_eq!(count("SELECT count(*) FROM capture WHERE packets > 0"), 2);
    assert_eq!(count("SELECT count(*) FROM metric WHERE name = 'rps' AND value > 0"), 1);
    let host = format!(
        "SELECT count(*) FROM environment WHERE name = 'testbed.minimega.host_of_servers' AND value = '{other}'"
    );
    assert_eq!(count(&host), 1);
    let daemon = open_real(&socket).await;
    assert!(daemon.namespaces_of(&Owner::of(&campaign.out())).await.unwrap().is_empty());
    for line in [&["bridge"][..], &["mesh", "send", &other, "bridge"]] {
        let bridges = daemon.run(&vptest::testbed::minimega::Line::of(line)).await.unwrap();
        let rows = bridges.table(&["bridge"]).unwrap();
        assert!(rows.iter().all(|row| !row.field("bridge").starts_with("vpt-")), "{rows:?}");
    }
    assert!(!campaign.out().join(".minimega").exists());
}

async fn open_real(socket: &Path) -> Arc<Daemon> {
    Daemon::open(socket, Limits::default()).await.unwrap()
}

async fn agents(namespace: Arc<Namespace>) {
    let request = image::Request {
        kernel: image::KernelChoice::Full,
        programs: vec![],
        vptest: PathBuf::from(crate::campaign::VPTEST),
        cache: image::default_cache().unwrap(),
    };
    let image = tokio::task::spawn_blocking(move || image::build(&request, &mut |_| {})).await.unwrap().unwrap();
    let hardware = Hardware {
        driver: "e1000".to_owned(),
        vcpus: 2,
        memory: ByteSize(384 << 20),
        modules: vec![],
        arguments: image::tcg_arguments().split_whitespace().map(str::to_owned).collect(),
        qemu: None,
        cpu: None,
    };
    let nodes = [NodeId::client(1), NodeId::server(1)];
    let plans = nodes.map(|node| guest::plan(node, &image, &hardware, None));
    machine::launch(&namespace, &plans).await.unwrap();
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let machines = machine::start(&namespace, &names).await.unwrap();
    let begun = Instant::now();
    let mut clients = Vec::new();
    for machine in &machines {
        let client = guest::reach(namespace.daemon(), machine, Duration::from_secs(180)).await.unwrap();
        assert_eq!(client.hello().cpus, Some(2));
        clients.push(client);
    }
    eprintln!("agents after {:?}", begun.elapsed());
    for (number, (client, node)) in (1..).zip(clients.iter().zip(nodes)) {
        let setup = NetworkSetup {
            modules: vec![],
            interfaces: vec![InterfaceSetup {
                mac: Some(guest::mac(node)),
                name: "eth0".to_owned(),
                address: Some((IpAddr::V4(Ipv4Addr::new(10, 1, 0, number)), 24)),
                mtu: None,
                offload: Some(false),
            }],
            tunnel: None,
            routes: vec![],
            sysctls: vec![],
        };
        client.configure(&setup).await.unwrap();
    }
    for name in &names {
        guest::limit_rate(&namespace, name, 0, Rate::from_bits_per_second(8_000_000).unwrap()).await.unwrap();
    }
    // The link may take a while to come up.
    let server = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));
    let begun = Instant::now();
    while !clients[0].walk(server, 3).await.unwrap().1 {
        assert!(begun.elapsed() < LONG, "no way to the server");
    }
}

//! `[storage]`: which files are kept beside those of iterations, compressed, and once.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::campaign::{Campaign, FAKE};
use super::need;
use super::qemu::wait_until;
use super::real::SmallDisk;

/// Two tuples of `ab` against nginx, which refuses the requests of the second, with captures.
fn captured(storage: &str) -> Option<Campaign> {
    let is_there = need::root() && ["ab", "nginx", "zstd", "tcpdump"].iter().all(|name| need::program(name));
    is_there.then(|| {
        Campaign::planned(&format!(
            r#"
name = "stored"
repetitions = 2
order = "sequential"

[factors]
testbed = "netns"
method = ["GET", "PUT"]
count = 100

[workload]
preset = "ab"
server = "nginx"
arguments = ["-m", "{{method}}"]

[capture]
keep = true

[verify]
foreign_cpu = "off"
client_cpu = "off"
steal = "off"

[storage]
{storage}
"#
        ))
    })
}

/// Kept files of each iteration, by its number; of the last attempt.
fn kept(campaign: &Campaign) -> BTreeMap<u32, Vec<String>> {
    let of = |name: &String| {
        let directory = campaign.out().join(name.replace(".db", ".d"));
        let mut all = Vec::new();
        list(&directory, &directory, &mut all);
        all.sort();
        (name[..6].parse().unwrap(), all)
    };
    campaign.files().iter().map(of).collect()
}

fn list(directory: &Path, root: &Path, all: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => list(&path, root, all),
            false => all.push(path.strip_prefix(root).unwrap().display().to_string()),
        }
    }
}

/// A kept file of the iteration file `index`, in the order of names.
fn path(campaign: &Campaign, index: usize, name: &str) -> PathBuf {
    campaign.out().join(campaign.files()[index].replace(".db", ".d")).join(name)
}

/// Texts of one column of the iteration file `index`.
fn column(campaign: &Campaign, index: usize, sql: &str) -> Vec<Option<String>> {
    let db = rusqlite::Connection::open(campaign.out().join(&campaign.files()[index])).unwrap();
    let mut statement = db.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn events(campaign: &Campaign, index: usize) -> String {
    let sql = "SELECT level || ': ' || text FROM event WHERE stage = 'store'";
    column(campaign, index, sql).into_iter().flatten().collect::<Vec<_>>().join("\n")
}

fn output(program: &str, arguments: &[&str], file: &Path) -> Vec<u8> {
    let output = Command::new(program).args(arguments).arg(file).output().unwrap();
    assert!(output.status.success(), "{program} {}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    output.stdout
}

const BOTH: [&str; 2] = ["client1-guest.pcapng", "server1-guest.pcapng"];

#[test]
fn captures_of_invalid_iterations_are_kept_and_those_of_others_are_said_to_be_dropped() {
    let Some(campaign) = captured("captures = \"problems\"") else { return };
    campaign.expect(1, &["run"]);
    assert_eq!(campaign.statuses(), ["complete", "complete", "invalid", "invalid"], "{:?}", campaign.outcomes());
    let kept = kept(&campaign);
    assert!(kept[&1].is_empty() && kept[&2].is_empty(), "{kept:?}");
    assert!(BOTH.iter().all(|name| kept[&3].contains(&(*name).to_owned())), "{kept:?}");
    assert_eq!(kept[&3], kept[&4]);
    let files = |index| column(&campaign, index, "SELECT file FROM capture");
    assert_eq!(files(0), [None, None]);
    assert!(files(2).iter().flatten().all(|file| campaign.out().join(file).is_file()));
    let said = events(&campaign, 0);
    let expected = format!("info: not kept, as storage.captures = \"problems\" says: {}, {}; ", BOTH[0], BOTH[1]);
    assert!(said.contains(&expected), "{said}");
    assert!(!events(&campaign, 2).contains("not kept"), "{}", events(&campaign, 2));
    // The directory of an attempt that keeps nothing is gone as well.
    assert!(!path(&campaign, 0, "").exists());
}

/// Two repetitions in a namespace of a client that pings the server and never ends, with captures.
fn endless(storage: &str, timeout: &str) -> Option<Campaign> {
    let is_there = need::root() && ["ping", "tcpdump"].iter().all(|name| need::program(name));
    is_there.then(|| {
        Campaign::planned(&format!(
            r#"
name = "endless"
repetitions = 2
order = "sequential"
timeout = "{timeout}"

[factors]
testbed = "netns"

[workload]
preset = "command"
client = ["sh", "-c", "ping -c 3 -i 0.1 {{server}} && exec sleep 600"]

[capture]
keep = true

[verify]
foreign_cpu = "off"
steal = "off"

[storage]
captures = {storage}
"#
        ))
    })
}

/// The captures of the iteration file `index` are kept, are whole, and hold what the record counts: what was pinged, and no TCP.
fn expect_pings(campaign: &Campaign, index: usize) {
    let files = column(campaign, index, "SELECT file FROM capture ORDER BY node");
    let packets = column(campaign, index, "SELECT CAST(packets AS TEXT) FROM capture ORDER BY node");
    assert_eq!((files.len(), packets.len()), (2, 2));
    for (file, packets) in files.iter().zip(packets) {
        let path = campaign.out().join(file.as_ref().unwrap());
        let shown = String::from_utf8(output("tcpdump", &["-nr"], &path)).unwrap();
        assert_eq!(shown.matches("ICMP echo re").count(), 6, "{shown}");
        assert_eq!(Some(shown.lines().count().to_string()), packets);
    }
    assert_eq!(column(campaign, index, "SELECT CAST(count(*) AS TEXT) FROM tcp"), [Some("0".to_owned())]);
}

#[test]
fn captures_of_attempts_that_time_out_while_they_measure_are_kept_when_a_rule_says_so() {
    let Some(campaign) = endless("\"problems\"", "5 s") else { return };
    campaign.expect(1, &["run", "--iter", "1"]);
    assert_eq!(campaign.statuses(), ["timed_out"], "{:?}", campaign.outcomes());
    assert_eq!(kept(&campaign)[&1], BOTH);
    expect_pings(&campaign, 0);
    let Some(campaign) = endless("\"first 1\"", "5 s") else { return };
    campaign.expect(1, &["run"]);
    assert_eq!(campaign.statuses(), ["timed_out"; 2], "{:?}", campaign.outcomes());
    assert_eq!((&kept(&campaign)[&1][..], &kept(&campaign)[&2][..]), (&BOTH.map(str::to_owned)[..], &[][..]));
    assert!(!path(&campaign, 1, "").exists(), "something half is left");
}

#[test]
fn captures_of_an_attempt_that_is_interrupted_while_it_measures_are_kept() {
    let Some(campaign) = endless("\"problems\"", "5 min") else { return };
    let mut child = campaign.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let running = campaign.out().join(".running");
    wait_until("the workload", || {
        assert!(child.try_wait().unwrap().is_none(), "vptest ended before: {:?}", campaign.outcomes());
        let marks = std::fs::read_dir(&running).into_iter().flatten().flatten();
        marks.map(|mark| std::fs::read_to_string(mark.path()).unwrap_or_default()).any(|text| text.contains("workload"))
    });
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(campaign.statuses(), ["interrupted"], "{:?}", campaign.outcomes());
    assert_eq!(kept(&campaign)[&1], BOTH);
    let files = column(&campaign, 0, "SELECT file FROM capture");
    assert_eq!(files.len(), 2);
    for file in files {
        output("tcpdump", &["-nr"], &campaign.out().join(file.unwrap()));
    }
}

#[test]
fn compressed_captures_are_read_as_they_are() {
    let rules = "captures = [\"problems\", \"first 1\"]\ncompress = \"zstd\"\nlevel = 12";
    let Some(campaign) = captured(rules) else { return };
    campaign.expect(0, &["run", "--iter", "1-2"]);
    let compressed = BOTH.map(|name| format!("{name}.zst"));
    let kept = kept(&campaign);
    assert_eq!((&kept[&1][..], &kept[&2][..]), (&compressed[..], &[][..]));
    for (index, name) in compressed.iter().enumerate() {
        let path = path(&campaign, 0, name);
        let recorded = column(&campaign, 0, "SELECT file FROM capture ORDER BY node");
        assert_eq!(recorded[index].as_ref().map(|file| campaign.out().join(file)), Some(path.clone()));
        // The usual tools unpack and read all of it.
        let plain = campaign.path().join("plain.pcapng");
        std::fs::write(&plain, output("zstd", &["-dc"], &path)).unwrap();
        assert!(path.metadata().unwrap().len() < plain.metadata().unwrap().len());
        let packets = column(&campaign, 0, "SELECT CAST(packets AS TEXT) FROM capture ORDER BY node")[index].clone();
        let lines = output("tcpdump", &["-nr"], &plain).iter().filter(|&&byte| byte == b'\n').count();
        assert_eq!(Some(lines.to_string()), packets);
        let flows = |path: &Path| campaign.expect(0, &["flows", "--format", "csv", path.to_str().unwrap()]).out;
        let strip = |text: String, path: &Path| text.replace(path.to_str().unwrap(), "FILE");
        let found = strip(flows(&path), &path);
        assert_eq!(found, strip(flows(&plain), &plain));
        assert!(found.lines().count() > 100, "one connection for each request");
    }
    let logs = campaign.expect(0, &["logs", "--iter", "1"]);
    assert!(logs.out.contains("kept: ") && logs.out.contains("client1-guest.pcapng.zst"), "{}", logs.out);
    assert!(logs.out.contains("compressed 2 files with zstd: "), "{}", logs.out);
}

#[test]
fn none_drops_captures_and_says_so_and_all_keeps_everything_as_it_is() {
    let Some(campaign) = captured("captures = \"none\"") else { return };
    campaign.expect(0, &["run", "--iter", "1"]);
    assert!(kept(&campaign)[&1].is_empty());
    assert!(events(&campaign, 0).contains("storage.captures = \"none\""));
    let Some(campaign) = captured("captures = \"all\"") else { return };
    campaign.expect(0, &["run", "--iter", "1"]);
    assert_eq!(kept(&campaign)[&1], BOTH);
    assert_eq!(events(&campaign, 0), "");
}

#[test]
fn logs_of_system_calls_have_a_rule_and_are_compressed_once() {
    if !super::syscalls::bpf() {
        return;
    }
    let spec = |events: &str| {
        let fake =
            FAKE.replace("testbed = \"fake\"", "testbed = \"netns\"").replace("workers = [1, 10]", "workers = 1");
        let client = r#"client = ["sh", "-c", "head -c 3000000 /dev/zero | wc -c; echo rps 1"]"#;
        let fake = fake.replace(r#"client = ["sample", "rps", "1000", "10"]"#, client);
        format!("{fake}\n[instrument.syscalls]\nlog = true\n[storage]\nevents = {events}\ncompress = \"zstd\"\n")
    };
    let recorded = |campaign: &Campaign| column(campaign, 0, "SELECT log FROM syscall_trace");
    let dropping = Campaign::planned(&spec("\"problems\""));
    dropping.expect(0, &["run", "--iter", "1"]);
    assert_eq!(dropping.statuses(), ["complete"], "{:?}", dropping.outcomes());
    assert_eq!((recorded(&dropping), kept(&dropping)[&1].len()), (vec![None], 0));
    let said = events(&dropping, 0);
    assert!(said.contains("not kept, as storage.events = \"problems\" says: syscalls-"), "{said}");
    let keeping = Campaign::planned(&spec("[\"problems\", \"first 1\"]"));
    keeping.expect(0, &["run", "--iter", "1"]);
    let [Some(log)] = &recorded(&keeping)[..] else { panic!("{:?}", recorded(&keeping)) };
    assert!(log.ends_with(".zst") && !log.ends_with(".zst.zst"), "{log}");
    assert!(keeping.out().join(log).metadata().unwrap().len() > 4096, "small files are not compressed anyway");
    let calls = keeping.expect(0, &["syscalls", keeping.out().join(log).to_str().unwrap()]).out;
    assert!(calls.contains("write"), "{calls}");
}

/// `repetitions` of one tuple whose client leaves `content` (a command of sh) in the file `page`.
fn leaving(repetitions: u32, content: &str, storage: &str) -> String {
    let command = format!(
        "client = [\"sh\", \"-c\", \"{content} > page; echo $$ > own; echo rps 1\"]\nkeep = [\"page\", \"own\"]"
    );
    FAKE.replace(r#"client = ["sample", "rps", "1000", "10"]"#, &command)
        .replace("workers = [1, 10]", "workers = 1")
        // What it writes is all that it does.
        .replace("[verify]\n", "[verify]\nclient_cpu = \"off\"\n")
        .replace("repetitions = 3", &format!("repetitions = {repetitions}"))
        + &format!("\n[storage]\n{storage}\n")
}

#[test]
fn equal_outputs_are_one_file_compressed_or_not() {
    if !need::program("zstd") {
        return;
    }
    for (more, name) in [("", "client1/page"), ("compress = \"zstd\"", "client1/page.zst")] {
        let spec = leaving(3, "seq 10000", &format!("deduplicate = true\n{more}"));
        let campaign = Campaign::planned(&spec);
        campaign.expect(0, &["run"]);
        let inodes: Vec<_> = (0..3).map(|index| path(&campaign, index, name).metadata().unwrap()).collect();
        assert!(inodes.iter().all(|file| file.ino() == inodes[0].ino() && file.nlink() == 3), "{inodes:?}");
        assert_eq!(path(&campaign, 0, "client1/own").metadata().unwrap().nlink(), 1, "not worth it");
        assert!(events(&campaign, 1).contains("linked to that: 1 file, "), "{}", events(&campaign, 1));
        let expected: String = (1..=10_000).map(|n| format!("{n}\n")).collect();
        let content = match more {
            "" => std::fs::read(path(&campaign, 2, name)).unwrap(),
            _ => output("zstd", &["-dc"], &path(&campaign, 2, name)),
        };
        assert!(content == expected.as_bytes());
        // A copy without the links is a campaign as well, and goes on with links of its own.
        let copied = Campaign::new(&spec.replace("repetitions = 3", "repetitions = 5"));
        let status = Command::new("cp").arg("-r").arg(campaign.out()).arg(copied.path()).status().unwrap();
        assert!(status.success());
        copied.expect(0, &["sweep", "params.toml"]);
        std::fs::remove_dir_all(campaign.out()).unwrap();
        copied.expect(0, &["run"]);
        assert_eq!(copied.statuses(), ["complete"; 5]);
        let links: Vec<u64> = (0..5).map(|index| path(&copied, index, name).metadata().unwrap().nlink()).collect();
        assert_eq!(links.iter().filter(|&&links| links == 3).count(), 3, "{links:?}");
    }
}

#[test]
fn a_bundle_of_linked_files_is_read_by_the_usual_tools() {
    if !need::program("zstd") || !need::program("tar") {
        return;
    }
    let campaign = Campaign::planned(&leaving(3, "seq 300000", "deduplicate = true"));
    campaign.expect(0, &["run"]);
    campaign.expect(0, &["bundle", "-o", "study.tar.zst", "--artifacts"]);
    let verified = campaign.expect(0, &["bundle", "verify", "study.tar.zst"]);
    assert_eq!(verified.out.matches("/client1/page\n").count(), 3, "{}", verified.out);
    let unpack = "tar --zstd -xf study.tar.zst && cd study && sha256sum -c --strict --quiet SHA256SUMS";
    let status = Command::new("sh").args(["-c", unpack]).current_dir(campaign.path()).status().unwrap();
    assert!(status.success());
    let pages = campaign.files().into_iter().map(|name| name.replace(".db", ".d/client1/page"));
    let links: Vec<u64> =
        pages.map(|page| campaign.path().join("study/artifacts").join(page).metadata().unwrap().nlink()).collect();
    assert_eq!(links, [3; 3]);
}

#[test]
fn retried_attempts_of_the_first_repetitions_are_kept_and_sentinels_have_a_count_of_their_own() {
    let fault = "[[testbed.fake.fault]]\nstage = \"teardown\"\nkind = \"error\"\niterations = [1]\nattempts = 1\n";
    let spec = leaving(2, "seq 10000", "outputs = \"first 1\"") + "\n[sentinel]\nevery = 1\n";
    let campaign = Campaign::planned(&(spec + fault));
    campaign.expect(0, &["run", "--retries", "1"]);
    let outcomes: Vec<_> = campaign.outcomes().into_iter().map(|(number, attempt, ..)| (number, attempt)).collect();
    assert_eq!(outcomes, [(1, 1), (1, 2), (2, 1), (3, 1), (4, 1), (5, 1)]);
    assert_eq!(campaign.statuses()[..2], ["failed", "complete"]);
    // Sentinels are iterations 1, 3 and 5, repetitions of the tuple 2 and 4. The attempt failed after its files were there.
    let there: Vec<bool> = (0..6).map(|index| path(&campaign, index, "client1/page").exists()).collect();
    assert_eq!(there, [true, true, true, false, false, false]);
}

#[test]
fn after_kill_9_in_the_middle_of_compressing_nothing_is_half_there() {
    if !need::program("zstd") {
        return;
    }
    let spec = leaving(1, "head -c 16M /dev/urandom", "compress = \"zstd\"\nlevel = 19");
    let campaign = Campaign::planned(&spec);
    let mut child = campaign.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut half = Vec::new();
    wait_until("compressing", || {
        assert!(child.try_wait().unwrap().is_none(), "vptest ended before: {:?}", campaign.outcomes());
        half.clear();
        list(&campaign.out(), &campaign.out(), &mut half);
        half.iter().any(|name| name.ends_with(".zst.tmp"))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(campaign.files().is_empty());
    assert!(half.iter().any(|name| name.ends_with(".d/client1/page")), "the original is there: {half:?}");
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.statuses(), ["interrupted", "complete"]);
    assert!(!path(&campaign, 0, "").exists(), "what an attempt left that died");
    assert_eq!(kept(&campaign)[&1], ["client1/own", "client1/page.zst"]);
    output("zstd", &["-t"], &path(&campaign, 1, "client1/page.zst"));
}

#[test]
fn a_disk_that_is_full_leaves_the_file_as_it_is() {
    if !need::root() {
        return;
    }
    let campaign = Campaign::new("");
    let out = campaign.out();
    let big = out.join("big");
    let keep = format!("keep = [\"{}\"]", big.display());
    let command = format!("head -c 14M /dev/urandom > {}; true", big.display());
    let spec = leaving(1, &command, "compress = \"zstd\"").replace("keep = [\"page\", \"own\"]", &keep);
    std::fs::write(campaign.path().join("params.toml"), spec).unwrap();
    // Room for it and the kept one, and not for another. At the beginning 32 MB must be free.
    let _disk = SmallDisk::mount(&out, "40m");
    campaign.expect(0, &["sweep", "params.toml"]);
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.statuses(), ["complete"], "{:?}", campaign.outcomes());
    let said = events(&campaign, 0);
    assert!(said.starts_with("warn: cannot compress client1/") && said.contains("No space left"), "{said}");
    let all = kept(&campaign);
    let [name] = &all[&1][..] else { panic!("{all:?}") };
    assert!(std::fs::read(path(&campaign, 0, name)).unwrap() == std::fs::read(&big).unwrap());
}

#[test]
fn a_rule_for_files_that_are_never_written_is_told() {
    let campaign = Campaign::new(&format!("{FAKE}\n[storage]\ncaptures = \"first 3\"\n"));
    let said = campaign.expect(0, &["sweep", "params.toml"]);
    assert!(said.err.contains("`storage.captures` says which files stay, but none are written"), "{}", said.err);
    let campaign = Campaign::new(&format!("{FAKE}\n[storage]\noutputs = \"first\"\n"));
    let said = campaign.expect(2, &["sweep", "params.toml"]);
    assert!(said.err.contains("`storage.outputs` cannot be `\"first\"`"), "{}", said.err);
}

//! Campaigns on the `netns` testbed with real programs, as their users run them.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use rusqlite::Connection;

use super::campaign::{Campaign, VPTEST, said};
use super::need::{self, need};

/// Two tuples, one repetition: ab against the built-in server over 100 Mbit/s.
const REAL: &str = r#"
name        = "real"
repetitions = 1
timeout     = "60 s"

[factors]
testbed = "netns"
rate    = "100 Mbit/s"
offload = ["on", "off"]
request = { url = "/image.png?size=100kB", count = 20 }

[workload]
preset = "ab"

[capture]
vantage = ["guest", "host"]

# Other tests run at the same time.
[verify]
foreign_cpu = "off"
steal       = "off"
client_cpu  = "off"
"#;

/// What a host has that an iteration could leave behind: links and mounts (a named namespace is a mount).
pub(crate) fn host() -> BTreeSet<String> {
    let ip = |arguments: &[&str]| {
        let output = Command::new("ip").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let links = ip(&["-o", "link"]).into_iter().map(|line| line.split(':').nth(1).unwrap_or_default().to_owned());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    // Other tests, which run at the same time, mount small disks and keep testbeds; what is looked at here does neither.
    let own = |line: &&str| !line.contains("/.tmp") && !line.contains("/run/netns/");
    links.chain(mounts.lines().filter(own).map(str::to_owned)).collect()
}

/// Processes whose command line has `text` in it.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path().join("cmdline");
        let line = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
        found.extend(line.ok().filter(|line| line.contains(text)));
    }
    found
}

fn tools() -> bool {
    need::root() && need::program("ab") && need::program("ip")
}

fn only<T: rusqlite::types::FromSql>(db: &Connection, sql: &str) -> T {
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_real_sweep_measures_reads_back_and_captures() {
    if !tools() {
        return;
    }
    let campaign = Campaign::planned(REAL);
    let before = host();
    campaign.expect(0, &["run"]);
    assert_eq!(host(), before);
    assert_eq!(campaign.statuses(), ["complete", "complete"]);
    for name in campaign.files() {
        let db = Connection::open(campaign.out().join(&name)).unwrap();
        assert_eq!(only::<f64>(&db, "SELECT value FROM metric WHERE name = 'complete_requests'"), 20.0);
        // 20 × 100 kB at 100 Mbit/s take at least 0.16 s.
        assert!(only::<f64>(&db, "SELECT value FROM metric WHERE name = 'rps'") < 125.0);
        assert_eq!(only::<i64>(&db, "SELECT count(*) FROM setting WHERE requested IS NOT NULL AND ok IS NOT 1"), 0);
        let offloads = "SELECT count(*) FROM setting WHERE name IN ('tso', 'host.tso') AND ok = 1";
        assert_eq!(only::<i64>(&db, offloads), 8, "two ends of two links, before and after");
        assert_eq!(only::<i64>(&db, "SELECT count(*) FROM capture WHERE packets > 100 AND dropped_kernel = 0"), 4);
        assert!(only::<i64>(&db, "SELECT count(*) FROM quantile") >= 100);
        assert_eq!(only::<i64>(&db, "SELECT count(*) FROM stage"), 8);
        assert!(only::<String>(&db, "SELECT value FROM environment WHERE name = 'spec'").contains("\"real\""));
    }
    // Without offloads no packet is larger than the link's MTU; with them there are super-segments.
    let largest = |offload: &str| {
        let sizes = campaign.files().iter().find_map(|name| {
            let db = Connection::open(campaign.out().join(name)).unwrap();
            let value: String = only(&db, "SELECT value FROM factor WHERE name = 'offload'");
            (value == offload).then(|| only::<i64>(&db, "SELECT max(from_bytes) FROM capture_size"))
        });
        sizes.unwrap()
    };
    assert!(largest("off") <= 1514, "{}", largest("off"));
    assert!(largest("on") > 1514, "{}", largest("on"));
    campaign.assert_clean();
}

#[test]
fn killed_in_any_stage_it_leaves_the_host_as_it_was_and_the_next_run_goes_on() {
    if !tools() {
        return;
    }
    for stage in ["preflight", "launch", "verify", "instrument", "workload", "collect", "teardown", "store"] {
        let campaign = Campaign::planned(REAL);
        let before = host();
        let mut child = campaign.command(&["-v", "run"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = lines.find(|line| line.as_ref().unwrap().ends_with(&format!("iteration 1: {stage}")));
        assert!(said.is_some(), "the stage {stage} never began");
        child.kill().unwrap();
        child.wait().unwrap();
        // The end of the last process is not the end of the kernel's work on what it held.
        let directory = campaign.path().to_str().unwrap().to_owned();
        wait_until(|| processes_with(&directory).is_empty());
        assert_eq!(host(), before, "after {stage}");

        campaign.expect(0, &["run"]);
        let complete = campaign.statuses().iter().filter(|status| *status == "complete").count();
        assert_eq!(complete, 2, "{stage}: {:?}", campaign.outcomes());
        campaign.assert_clean();
        assert_eq!(host(), before, "after {stage} and the next run");
    }
}

/// Waits for something that other processes or the kernel will do, at most ten seconds.
pub(crate) fn wait_until(mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed().as_secs() < 10, "it did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn without_root_it_runs_in_a_user_namespace() {
    let unprivileged = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
        command
    };
    let usable = need::root()
        && need::program("setpriv")
        && unprivileged("unshare").args(["-Ur", "true"]).status().is_ok_and(|status| status.success());
    if !need("netns", usable) || !tools() {
        return;
    }
    let campaign = Campaign::new(REAL);
    std::fs::set_permissions(campaign.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let program = campaign.path().join("vptest");
    std::fs::copy(VPTEST, &program).unwrap();
    for arguments in [&["sweep", "params.toml"][..], &["run"]] {
        let mut command = unprivileged(program.to_str().unwrap());
        let said = said(command.args(arguments).current_dir(campaign.path()).output().unwrap());
        assert_eq!(said.code, Some(0), "{arguments:?}: {}{}", said.out, said.err);
    }
    assert_eq!(campaign.statuses(), ["complete", "complete"]);
    campaign.assert_clean();
}

#[test]
fn pinning_load_routers_and_iperf3_work_together() {
    if !tools() || !need::program("iperf3") || !need::program("stress-ng") {
        return;
    }
    let spec = REAL
        .replace(
            "offload = [\"on\", \"off\"]",
            "pinning = true\nstress_cpu = 1\nhops = [\"A\", \"B\"]\nmtu = 1400\npairs = 2",
        )
        .replace("request = { url = \"/image.png?size=100kB\", count = 20 }", "")
        .replace("preset = \"ab\"", "preset = \"iperf3\"\nduration = \"1 s\"");
    let campaign = Campaign::planned(&spec);
    campaign.expect(0, &["run"]);
    let name = &campaign.files()[0];
    let db = Connection::open(campaign.out().join(name)).unwrap();
    let status: (String, String) =
        db.query_row("SELECT status, reasons FROM iteration", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(status.0, "complete", "{}", status.1);
    let mtu = |condition: &str| {
        only::<i64>(&db, &format!("SELECT count(*) FROM setting WHERE name LIKE '%mtu' AND {condition}"))
    };
    assert!(mtu("observed = '1400' AND ok = 1") >= 16);
    assert_eq!(mtu("ok IS NOT 1"), 0);
    let rates = "SELECT count(*) FROM metric WHERE name LIKE 'throughput%' AND value > 5e7 AND value < 1e8";
    assert!(only::<i64>(&db, rates) >= 2);
}

#[test]
fn a_failed_testbed_can_be_kept_looked_into_and_cleaned_away() {
    if !tools() {
        return;
    }
    let spec = REAL.replace("offload = [\"on\", \"off\"]", "").replace(
        "[workload]\npreset = \"ab\"",
        "[workload]\npreset = \"command\"\nclient = [\"false\"]\n[[workload.metric]]\nname = \"x\"\nunit = \"1\"\nregex = '(x)'\nrequired = false",
    );
    let campaign = Campaign::planned(&spec.replace("vantage = [\"guest\", \"host\"]", "vantage = []"));
    let said = campaign.expect(1, &["run", "--keep-failed"]);
    assert_eq!(campaign.statuses(), ["invalid"]);
    assert!(said.err.contains("kept:"), "{}", said.err);
    let names = Command::new("ip").arg("netns").output().unwrap();
    let names = String::from_utf8(names.stdout).unwrap();
    let client = names.lines().find(|name| name.starts_with("vptest-") && name.contains("client1")).unwrap();
    let client = client.split(' ').next().unwrap();
    let address = Command::new("ip").args(["-n", client, "-br", "address", "show", "eth0"]).output().unwrap();
    assert!(String::from_utf8(address.stdout).unwrap().contains("10."), "{client} has no address");
    campaign.expect(0, &["clean"]);
    let names = Command::new("ip").arg("netns").output().unwrap();
    assert!(!String::from_utf8(names.stdout).unwrap().contains(client));
}

#[test]
fn two_campaigns_at_once_do_not_meet() {
    if !tools() {
        return;
    }
    let campaigns = [Campaign::planned(REAL), Campaign::planned(REAL)];
    let children =
        campaigns.each_ref().map(|campaign| campaign.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap());
    for child in children {
        let said = said(child.wait_with_output().unwrap());
        assert_eq!(said.code, Some(0), "{}", said.err);
    }
    for campaign in &campaigns {
        assert_eq!(campaign.statuses(), ["complete", "complete"]);
    }
}

#[test]
fn a_missing_program_is_named_with_its_package_before_anything_runs() {
    let campaign = Campaign::planned(REAL);
    let mut command = campaign.command(&["run"]);
    let said = said(command.env("PATH", "/nonexistent").output().unwrap());
    assert_eq!(said.code, Some(3), "{}", said.err);
    assert!(said.err.contains("ab") && said.err.contains("apache2-utils"), "{}", said.err);
    assert!(campaign.files().is_empty());
}

/// A small file system, taken away at the end.
pub(crate) struct SmallDisk<'a> {
    path: &'a std::path::Path,
}

impl<'a> SmallDisk<'a> {
    pub(crate) fn mount(path: &'a std::path::Path, size: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("size={size}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).status().unwrap();
        assert!(status.success());
        Self { path }
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(self.path).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_is_foreseen_or_ends_the_run_without_a_half_file() {
    if !need::root() {
        return;
    }
    let fake = super::campaign::FAKE;
    let campaign = Campaign::new(fake);
    let out = campaign.out();
    {
        let _disk = SmallDisk::mount(&out, "8m");
        campaign.expect(0, &["sweep", "params.toml"]);
        let said = campaign.expect(3, &["run"]);
        assert!(said.err.contains("not enough room"), "{}", said.err);
    }
    let fill = r#"client = ["sh", "-c", "head -c 100M /dev/zero > ../../../fill; echo rps 1"]"#;
    let spec = fake.replace(r#"client = ["sample", "rps", "1000", "10"]"#, fill);
    std::fs::write(campaign.path().join("params.toml"), spec).unwrap();
    let _disk = SmallDisk::mount(&out, "40m");
    campaign.expect(0, &["sweep", "params.toml"]);
    let said = campaign.expect(3, &["run"]);
    assert!(said.err.contains("No space left"), "{}", said.err);
    assert!(campaign.files().is_empty());
    std::fs::remove_file(out.join("fill")).unwrap();
    campaign.assert_clean();
}

//! Bad input: one clear error that names the place, the value and the accepted form; the right exit status; nothing
//! half-written.

use std::io::Read as _;
use std::process::{Command, Stdio};

use super::campaign::{Campaign, FAKE, said};
use super::need;

/// Plans a spec that must be refused with status 2 and all of these texts.
fn refused(spec: impl AsRef<[u8]>, texts: &[&str]) {
    let campaign = Campaign::new("");
    std::fs::write(campaign.path().join("params.toml"), spec).unwrap();
    let said = campaign.expect(2, &["sweep", "params.toml"]);
    for text in texts {
        assert!(said.err.contains(text), "`{text}` is not in:\n{}", said.err);
    }
    assert!(said.out.is_empty(), "{}", said.out);
    assert!(!campaign.out().exists(), "something was written");
}

#[test]
fn mistakes_of_a_spec_are_shown_at_their_places() {
    refused(FAKE.replace("repetitions", "repetitons"), &["params.toml:3:1", "repetitons", "repetitions"]);
    refused(FAKE.replace("= 3", "= \"three\""), &["params.toml:3:", "three", "whole number"]);
    refused(FAKE.replace("= 3", "= 0"), &["params.toml:3:", "`0`"]);
    refused(FAKE.replace("[1, 10]", "[]"), &["params.toml:8:", "workers"]);
    refused(FAKE.replace("[1, 10]", "[1, 10, 1]"), &["params.toml:8:", "workers", "twice"]);
    refused(FAKE.replace("workers = [1, 10]", "rate = \"10 Mbyte\""), &["params.toml:8:", "10 Mbyte", "Mbit/s"]);
    refused(FAKE.replace("seed        = 1", "seed = 1\nseed = 2"), &["params.toml:5:", "seed"]);
    refused(format!("{FAKE}\n[analysis]\nbaseline = {{ workers = 7 }}\n"), &["baseline", "7"]);
    refused(b"name = \"\xff\"", &["UTF-8"]);
    let qemu = |more: &str| format!("name = \"x\"\n[workload]\npreset = \"ab\"\n[testbed.qemu]\n{more}\n");
    refused(qemu("access = \"ssh\""), &["params.toml:5:", "only beside `disk`"]);
    refused(qemu("disk = \"d\"\naccess = \"shh\""), &["shh", "`\"ssh\"`"]);
    refused(qemu("disk = \"d\"\n[testbed.qemu.ssh]\nuser = \"x\""), &["only beside `access = \"ssh\"`"]);
    let ssh = |more: &str| qemu(&format!("disk = \"d\"\naccess = \"ssh\"\n[testbed.qemu.ssh]\n{more}"));
    refused(ssh("user = \"-oProxyCommand=x\""), &["params.toml:8:", "the name of a user"]);
    refused(ssh("host_key = \"/etc/key.pub\""), &["ssh_host_ed25519_key.pub"]);
    let physical = |more: &str| format!("name = \"x\"\n[workload]\npreset = \"ab\"\n[testbed.physical]\n{more}\n");
    refused(physical("way = \"telnet\""), &["params.toml:5:", "telnet", "`\"rond\"`"]);
    refused(
        physical("way = \"rond\"\nuser = \"me\""),
        &["params.toml:6:1", "`testbed.physical.user` means nothing with `way = \"rond\"`", "`way = \"ssh\"` alone"],
    );
    refused(physical("rond = \"/tmp/x\""), &["params.toml:5:1", "means nothing with `way = \"ssh\"`"]);
    refused(physical("way = \"rond\"\nrond = \"x\""), &["params.toml:6:", "an absolute path of at most 107 bytes"]);
    refused(physical("way = \"rond\"\nfiles = \"/a*\""), &["params.toml:6:", "letters, digits"]);
    refused("name = ", &["params.toml:1:"]);
    refused("", &["name"]);
}

#[test]
fn several_mistakes_are_all_shown() {
    let spec =
        FAKE.replace("repetitions = 3", "repetitions = 0").replace("[1, 10]", "[\"x\"]").replace("regex", "regexp");
    refused(spec, &["repetitions", "workers", "regexp"]);
}

#[test]
fn a_trillion_tuples_are_refused_with_their_number() {
    let thousand: Vec<String> = (1..=1000).map(|n| n.to_string()).collect();
    let values = thousand.join(",");
    let factors: String =
        ["alpha", "beta", "gamma", "delta"].iter().map(|name| format!("{name} = [{values}]\n")).collect();
    refused(FAKE.replace("workers = [1, 10]", &factors), &["1000"]);
}

#[test]
fn what_cannot_be_run_is_refused_when_the_plan_is_made() {
    let spec = |factors: &str, workload: &str| {
        format!("name = \"x\"\n[factors]\ntestbed = \"netns\"\n{factors}\n[workload]\npreset = \"ab\"\n{workload}\n")
    };
    refused(spec("", "arguments = [\"-n\", \"5\"]"), &["-n", "count"]);
    refused(spec("url = \"/nope\"", ""), &["/nope"]);
    refused(spec("pairs = [1, 300]", ""), &["300", "255", "pairs = 300"]);
    refused(spec("rate = \"12345677 bit/s\"", ""), &["12345677 bit/s"]);
    refused(spec("", "[capture]\nfilter = \"tcp porrt\""), &["tcp porrt"]);
    refused(spec("", "").replace("netns", "physical"), &["no pair of nodes", "[[testbed.physical.nodes]]"]);
    // What only another testbed cannot do is no mistake here.
    let campaign = Campaign::new(&spec("pairs = 300", "").replace("netns", "fake"));
    campaign.expect(0, &["sweep", "params.toml"]);
}

#[test]
fn a_spec_that_is_not_there_is_named() {
    let campaign = Campaign::new("");
    let said = campaign.expect(2, &["sweep", "nothing.toml"]);
    assert!(said.err.contains("nothing.toml"), "{}", said.err);
    let said = campaign.expect(2, &["sweep", "."]);
    assert!(said.err.contains("cannot read"), "{}", said.err);
}

#[test]
fn another_sweep_in_the_same_directory_is_refused_unless_asked_for() {
    let campaign = Campaign::planned(FAKE);
    let other = FAKE.replace("\"fake\"\nrep", "\"other\"\nrep");
    std::fs::write(campaign.path().join("params.toml"), other).unwrap();
    let said = campaign.expect(2, &["sweep", "params.toml"]);
    assert!(said.err.contains("holds the sweep `fake`"), "{}", said.err);
    campaign.expect(0, &["sweep", "params.toml", "--replace"]);
}

#[test]
fn foreign_and_damaged_databases_are_left_out_by_name_and_the_rest_is_merged() {
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run"]);
    let files = campaign.files();
    let foreign = campaign.out().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t(a); PRAGMA user_version = 1").unwrap();
    std::fs::write(campaign.out().join("text.db"), "no database").unwrap();
    let whole = std::fs::read(campaign.out().join(&files[0])).unwrap();
    std::fs::write(campaign.out().join(&files[0]), &whole[..whole.len() / 2]).unwrap();
    let mut arguments = vec!["merge".to_owned(), "out/foreign.db".to_owned(), "out/text.db".to_owned()];
    arguments.extend(files.iter().map(|name| format!("out/{name}")));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = campaign.expect(4, &arguments);
    for name in ["foreign.db", "text.db", files[0].as_str()] {
        assert!(said.err.contains(name), "{name} is not in {}", said.err);
    }
    assert!(said.out.contains("5 added"), "{}", said.out);
    let said = campaign.expect(0, &["analyze", "--metric", "rps", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let counts: u64 = json["groups"].as_array().unwrap().iter().map(|group| group["n"].as_u64().unwrap()).sum();
    assert_eq!(counts, 5);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let campaign = Campaign::new(&FAKE.replace("repetitions = 3", "repetitions = 100000"));
    let mut child = campaign
        .command(&["-q", "sweep", "params.toml", "--dry-run", "--format", "csv"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let said = said(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
}

#[test]
fn a_port_in_use_a_server_that_dies_and_one_that_never_gets_ready_are_failures_that_say_so() {
    let server = |command: &str, ready: &str| {
        let spec = FAKE.replace("[1, 10]", "1").replace("repetitions = 3", "repetitions = 1").replace(
            "client = [",
            &format!("server = {command}\nready = {ready}\nready_timeout = \"300 ms\"\nclient = ["),
        );
        let campaign = Campaign::planned(&spec);
        campaign.expect(1, &["run"]);
        let outcomes = campaign.outcomes();
        assert_eq!(outcomes[0].2, "failed", "{}", outcomes[0].3);
        outcomes[0].3.clone()
    };
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let reason = server("[\"sleep\", \"100\"]", &format!("{{ tcp = {port} }}"));
    assert!(reason.contains(&port.to_string()), "{reason}");
    let reason = server("[\"sh\", \"-c\", \"echo broken >&2; exit 3\"]", "{ file = \"ready\" }");
    assert!(reason.contains("exit status 3") && reason.contains("broken"), "{reason}");
    let reason = server("[\"sleep\", \"100\"]", "{ output = \"listening\" }");
    assert!(reason.contains("sleep") && reason.contains("server1"), "{reason}");
}

#[test]
fn an_out_directory_that_cannot_be_written_is_named() {
    let campaign = Campaign::new(FAKE);
    std::fs::write(campaign.out(), "a file").unwrap();
    let said = campaign.expect(3, &["sweep", "params.toml"]);
    assert!(said.err.contains("out"), "{}", said.err);
}

#[test]
fn names_with_blanks_quotes_and_line_ends_are_only_names() {
    let campaign = Campaign::new(FAKE);
    let odd = "an 'odd' \"name\"\n$(touch x)";
    campaign.expect(0, &["sweep", "params.toml", "-o", odd]);
    let commands = campaign.expect(0, &["sweep", "params.toml", "-o", odd, "--format", "commands"]).out;
    let path = std::path::Path::new(super::campaign::VPTEST).parent().unwrap();
    let path = format!("{}:{}", path.display(), std::env::var("PATH").unwrap());
    let status = Command::new("sh").args(["-ec", &commands]).env("PATH", path).current_dir(campaign.path()).status();
    assert!(status.unwrap().success());
    assert!(!campaign.path().join("x").exists());
    let files = std::fs::read_dir(campaign.path().join(odd)).unwrap();
    assert_eq!(files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "db")).count(), 6);
}

#[test]
fn without_privileges_and_without_user_namespaces_the_host_is_said_to_be_unable() {
    if !need::root() || !need::program("setpriv") {
        return;
    }
    let campaign = Campaign::planned(&FAKE.replace("\"fake\"\nworkers", "\"netns\"\nworkers"));
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(campaign.path(), open).unwrap();
    let program = campaign.path().join("vptest");
    std::fs::copy(super::campaign::VPTEST, &program).unwrap();
    // A process limit of user namespaces that is used up, in a user namespace of its own so that it binds nobody else.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all \
                  --ambient-caps=-all --no-new-privs \"$0\" doctor";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", script]).arg(&program).current_dir(campaign.path());
    let said = said(command.output().unwrap());
    assert_eq!(said.code, Some(3), "{}{}", said.out, said.err);
    assert!(said.out.contains("MISSING"), "{}", said.out);
}

#[test]
fn a_merge_into_an_iteration_file_is_refused_and_one_of_nothing_makes_no_file() {
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run", "--iter", "1-2"]);
    let files: Vec<String> = campaign.files().iter().map(|name| format!("out/{name}")).collect();
    let before = std::fs::read(campaign.path().join(&files[0])).unwrap();
    // As the shell makes it of `-o out/*.db`.
    let said = campaign.expect(2, &["merge", "-o", &files[0], &files[1]]);
    assert!(said.err.contains(&files[0]) && said.err.contains("hint: give -o a name of its own"), "{}", said.err);
    assert_eq!(std::fs::read(campaign.path().join(&files[0])).unwrap(), before);

    campaign.expect(4, &["merge", "absent.db", "-o", "mm.db"]);
    assert!(!campaign.path().join("mm.db").exists());
    campaign.expect(0, &["merge", &files[0], "-o", "mm.db"]);
    let said = campaign.expect(0, &["merge", "mm.db", "-o", "mm.db"]);
    assert!(said.out.contains("1 of 1 files") && said.out.contains("the output itself"), "{}", said.out);
}

//! A campaign in a directory of its own, and the life of campaigns on the `fake` testbed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The program under test.
pub(crate) const VPTEST: &str = env!("CARGO_BIN_EXE_vptest");

/// A directory with a spec, removed at the end.
pub(crate) struct Campaign {
    directory: TempDir,
}

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Campaign {
    /// With this text as `params.toml`.
    pub(crate) fn new(spec: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("params.toml"), spec).unwrap();
        Self { directory }
    }

    /// With a plan written already.
    pub(crate) fn planned(spec: &str) -> Self {
        let campaign = Self::new(spec);
        let said = campaign.vptest(&["sweep", "params.toml"]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        campaign
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.path().join("out")
    }

    /// A command in the campaign's directory.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(VPTEST);
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn vptest(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().unwrap())
    }

    /// Runs a command that must end with this status.
    pub(crate) fn expect(&self, code: i32, arguments: &[&str]) -> Said {
        let said = self.vptest(arguments);
        assert_eq!(said.code, Some(code), "vptest {arguments:?}\n{}{}", said.out, said.err);
        said
    }

    /// Names of the iteration files, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.out()) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".db") && !name.starts_with('.')).collect();
        names.sort();
        names
    }

    /// Number, attempt, status and reasons of every iteration file, sorted by number and attempt.
    pub(crate) fn outcomes(&self) -> Vec<(u32, u32, String, String)> {
        let mut all: Vec<_> = self
            .files()
            .iter()
            .map(|name| {
                let db = rusqlite::Connection::open(self.out().join(name)).unwrap();
                db.query_row("SELECT number, attempt, status, reasons FROM iteration", [], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })
                .unwrap()
            })
            .collect();
        all.sort();
        all
    }

    /// Statuses by number and attempt.
    pub(crate) fn statuses(&self) -> Vec<String> {
        self.outcomes().into_iter().map(|(_, _, status, _)| status).collect()
    }

    /// Nothing but the plan and iteration files may be left: no marks, scratch files or half-written files.
    pub(crate) fn assert_clean(&self) {
        let mut left = Vec::new();
        for entry in std::fs::read_dir(self.out()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !(name == "plan.json"
                || name == ".running"
                || name == ".heads"
                || (name.ends_with(".db") && !name.starts_with('.')))
            {
                left.push(name);
            }
        }
        if let Ok(entries) = std::fs::read_dir(self.out().join(".running")) {
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            left.extend(names.filter(|name| name != "campaign.lock" && name != "where.lock"));
        }
        assert!(left.is_empty(), "left over: {left:?}");
    }
}

pub(crate) fn said(output: Output) -> Said {
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Two tuples, three repetitions, no processes: values drawn around 1000.
pub(crate) const FAKE: &str = r#"
name        = "fake"
repetitions = 3
seed        = 1

[factors]
testbed = "fake"
workers = [1, 10]

[workload]
preset = "command"
client = ["sample", "rps", "1000", "10"]

# Other tests run at the same time.
[verify]
foreign_cpu = "off"
steal       = "off"

[[workload.metric]]
name   = "rps"
unit   = "1/s"
better = "higher"
regex  = 'rps ([0-9.]+)'
"#;

#[test]
fn the_four_commands_work_bare_one_after_the_other() {
    let campaign = Campaign::new(FAKE);
    let said = campaign.expect(0, &["sweep", "params.toml"]);
    assert!(said.out.contains("6 iterations"), "{}", said.out);
    campaign.expect(0, &["run", "--iter", "1"]);
    assert_eq!(campaign.statuses(), ["complete"]);
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.statuses(), ["complete"; 6]);
    let mut merge = campaign.command(&["merge"]);
    merge.args(campaign.files().iter().map(|name| format!("out/{name}")));
    assert_eq!(said_code(merge), Some(0));
    let said = campaign.expect(0, &["analyze", "--metric", "rps"]);
    assert!(said.out.contains("workers"), "{}", said.out);
    campaign.assert_clean();
}

fn said_code(mut command: Command) -> Option<i32> {
    command.status().unwrap().code()
}

#[test]
fn a_second_run_has_nothing_to_do_and_a_grown_spec_runs_only_what_is_new() {
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run"]);
    let before = campaign.files();
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.files(), before);

    let grown = FAKE.replace("[1, 10]", "[1, 10, 20]");
    std::fs::write(campaign.path().join("params.toml"), grown).unwrap();
    campaign.expect(0, &["sweep", "params.toml"]);
    campaign.expect(0, &["run"]);
    let after = campaign.files();
    assert_eq!(after.len(), 9);
    assert!(before.iter().all(|name| after.contains(name)));
}

#[test]
fn another_workload_is_another_identity() {
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run"]);
    std::fs::write(campaign.path().join("params.toml"), FAKE.replace("\"1000\"", "\"2000\"")).unwrap();
    campaign.expect(0, &["sweep", "params.toml"]);
    campaign.expect(0, &["run"]);
    assert_eq!(campaign.files().len(), 12);
}

#[test]
fn chosen_iterations_are_run_and_complete_ones_only_on_request() {
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run", "--iter", "2-3,6"]);
    let numbers: Vec<u32> = campaign.outcomes().iter().map(|outcome| outcome.0).collect();
    assert_eq!(numbers, [2, 3, 6]);
    campaign.expect(0, &["run", "--iter", "3"]);
    assert_eq!(campaign.files().len(), 3);
    campaign.expect(0, &["run", "--iter", "3", "--again"]);
    let attempts: Vec<(u32, u32)> = campaign.outcomes().iter().map(|outcome| (outcome.0, outcome.1)).collect();
    assert_eq!(attempts, [(2, 1), (3, 1), (3, 2), (6, 1)]);
    let said = campaign.expect(2, &["run", "--iter", "7"]);
    assert!(said.err.contains("the plan has 1 to 6"), "{}", said.err);
    let said = campaign.expect(2, &["run", "--iter", "1,x"]);
    assert!(said.err.contains("`x` is no iteration"), "{}", said.err);
}

#[test]
fn lists_that_overlap_run_each_iteration_once() {
    let campaign = Campaign::planned(FAKE);
    let start = |_| campaign.command(&["run", "--iter", "1-6"]).stderr(Stdio::piped()).spawn().unwrap();
    let children: Vec<_> = (0..3).map(start).collect();
    for child in children {
        let said = said(child.wait_with_output().unwrap());
        assert_eq!(said.code, Some(0), "{}", said.err);
    }
    assert_eq!(campaign.statuses(), ["complete"; 6]);
    campaign.assert_clean();
}

#[test]
fn without_a_plan_or_with_a_wrong_one_nothing_runs() {
    let campaign = Campaign::new(FAKE);
    let said = campaign.expect(2, &["run"]);
    assert!(said.err.contains("there is no plan in out"), "{}", said.err);
    std::fs::create_dir(campaign.out()).unwrap();
    for text in ["", "{}", "[1,2]", "not json", "{\"vptest_plan\":999}"] {
        std::fs::write(campaign.out().join("plan.json"), text).unwrap();
        let said = campaign.expect(4, &["run"]);
        assert!(said.err.contains("plan.json"), "{text}: {}", said.err);
    }
    assert!(campaign.files().is_empty());
}

#[test]
fn the_commands_of_a_plan_run_by_themselves() {
    let campaign = Campaign::new(FAKE);
    let said = campaign.expect(0, &["sweep", "params.toml", "--format", "commands"]);
    assert_eq!(said.out.lines().count(), 6);
    let bin = Path::new(VPTEST).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for line in said.out.lines() {
        let status = Command::new("sh").args(["-c", line]).env("PATH", &path).current_dir(campaign.path()).status();
        assert!(status.unwrap().success(), "{line}");
    }
    assert_eq!(campaign.statuses(), ["complete"; 6]);
}

#[test]
fn results_are_found_and_named_when_a_metric_is_not() {
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run"]);
    let mut merge = campaign.command(&["merge"]);
    merge.args(campaign.files().iter().map(|name| format!("out/{name}")));
    assert_eq!(said_code(merge), Some(0));
    let said = campaign.expect(2, &["analyze", "--metric", "rpz"]);
    assert!(said.err.contains("rpz") && said.err.contains("rps"), "{}", said.err);
}

#[test]
fn status_counts_what_is_done_and_what_is_left() {
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run", "--iter", "1-2"]);
    let said = campaign.expect(0, &["status"]);
    assert!(said.out.contains("complete") && said.out.contains("left"), "{}", said.out);
    let said = campaign.expect(0, &["status", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json["planned"], 6);
    assert_eq!(json["complete"], 2);
    assert_eq!(json["left"], 4);
}

/// The campaign's files merged.
fn merge_all(campaign: &Campaign) {
    let files: Vec<String> = campaign.files().iter().map(|name| format!("out/{name}")).collect();
    let mut arguments = vec!["merge"];
    arguments.extend(files.iter().map(String::as_str));
    campaign.expect(0, &arguments);
}

#[test]
fn an_iteration_that_was_run_again_counts_once() {
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run"]);
    campaign.expect(0, &["run", "--iter", "1", "--again"]);
    assert_eq!(campaign.files().len(), 7);
    merge_all(&campaign);
    let said = campaign.expect(0, &["analyze", "--metric", "rps", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let counts: Vec<_> = json["groups"].as_array().unwrap().iter().map(|group| group["n"].as_u64()).collect();
    assert_eq!(counts, [Some(3), Some(3)]);
    assert_eq!(json["left_out"]["superseded"], 1);
    assert_eq!(json["left_out"]["total"], 0);
}

#[test]
fn when_no_iteration_counts_that_is_what_is_said() {
    let server = "server = [\"false\"]\nready = { file = \"ready\" }\nclient = [";
    let campaign = Campaign::planned(&FAKE.replace("client = [", server));
    campaign.expect(1, &["run"]);
    merge_all(&campaign);
    let said = campaign.expect(1, &["analyze", "--metric", "rps", "--by", "workers", "--format", "csv"]);
    assert!(said.err.contains("none of 6 iterations counts (6 failed)"), "{}", said.err);
    assert!(said.err.contains("vptest status") && said.out.is_empty(), "{}{}", said.err, said.out);
}

#[test]
fn suspect_iterations_alone_are_nothing_to_compare_until_they_are_included() {
    let campaign = Campaign::new("");
    let out = campaign.path().join("in");
    std::fs::create_dir(&out).unwrap();
    let mut arguments = vec!["merge".to_owned()];
    for number in 1..=2 {
        let mut record = super::store::record(number);
        record.outcome = vptest::record::Outcome::Suspect(vec!["drops".to_owned()]);
        record.factors = vec![("mtu".to_owned(), "1500".to_owned())];
        record.metrics = vec![vptest::record::Metric {
            pair: None,
            node: None,
            level: vptest::ids::Level::Application,
            name: "rps".to_owned(),
            unit: "1/s".to_owned(),
            value: Some(f64::from(number)),
            better: None,
        }];
        arguments.push(vptest::store::write_iteration(&out, &record).unwrap().display().to_string());
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    campaign.expect(0, &arguments);
    for further in [&[][..], &["--by", "mtu"], &["--by", "mtu", "--baseline", "mtu=1500"], &["--format", "json"]] {
        let said = campaign.expect(1, &[&["analyze", "--metric", "rps"], further].concat());
        assert!(said.err.contains("none of 2 iterations counts (2 suspect)"), "{}", said.err);
        assert!(said.err.contains("hint: `--include suspect` counts them too"), "{}", said.err);
        assert!(said.out.is_empty(), "{}", said.out);
    }
    let said = campaign.expect(2, &["analyze", "--metric", "rsp"]);
    assert!(said.err.contains("did you mean `rps`?"), "{}", said.err);
    campaign.expect(0, &["analyze", "--metric", "rps", "--by", "mtu", "--include", "suspect"]);
}

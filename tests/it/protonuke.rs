//! Workload `protonuke`, and ab against its server, on the testbed `netns`: with the program itself where it is in
//! `PATH`, and with a stand-in that says what the real one said.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rusqlite::Connection;

use super::campaign::{Campaign, VPTEST};
use super::need;

const SPEC: &str = r#"
name        = "nuke"
repetitions = 1
timeout     = "90 s"
[factors]
testbed = "netns"
[workload]
preset    = "protonuke"
duration  = "3 s"
mean      = "100 ms"
deviation = "10 ms"
image_size = "10 kB"
# Other tests run at the same time.
[verify]
foreign_cpu = "off"
steal       = "off"
client_cpu  = "off"
"#;

const AB: &str = r#"
name        = "nuke"
repetitions = 1
timeout     = "90 s"
[factors]
testbed = "netns"
url     = ["/", "/image.png?size=16kB"]
count   = 50
workers = 2
[workload]
preset = "ab"
server = "protonuke"
[verify]
foreign_cpu = "off"
steal       = "off"
client_cpu  = "off"
"#;

/// A directory with the stand-in under protonuke's name.
fn stand_in(behaviour: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for (name, content) in [
        ("protonuke", include_str!("../data/protonuke/stand-in")),
        ("http.out", include_str!("../data/protonuke/http.out")),
        ("http.err", include_str!("../data/protonuke/http.err")),
        ("http.server.out", include_str!("../data/protonuke/http.server.out")),
        ("behaviour", behaviour),
    ] {
        std::fs::write(path(name), content).unwrap();
    }
    std::fs::set_permissions(path("protonuke"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink(VPTEST, path("vptest")).unwrap();
    directory
}

/// Runs a sweep with this directory first in `PATH`, where there is one; status and reasons of each iteration.
fn run(spec: &str, first: Option<&Path>, code: i32) -> (Campaign, Vec<(String, String)>) {
    let campaign = Campaign::planned(spec);
    let mut command = campaign.command(&["run"]);
    if let Some(first) = first {
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", first.display()));
    }
    let said = command.output().unwrap();
    assert_eq!(said.status.code(), Some(code), "{}", String::from_utf8_lossy(&said.stderr));
    campaign.assert_clean();
    let outcomes = campaign.outcomes().into_iter().map(|(_, _, status, reasons)| (status, reasons)).collect();
    (campaign, outcomes)
}

fn stored(campaign: &Campaign, file: usize) -> Connection {
    Connection::open(campaign.out().join(&campaign.files()[file])).unwrap()
}

fn metric(db: &Connection, name: &str) -> Option<f64> {
    db.query_row("SELECT value FROM metric WHERE name = ?1", [name], |row| row.get(0)).unwrap()
}

fn tools() -> bool {
    need::root() && need::program("ab") && need::program("ip")
}

fn version(db: &Connection) -> String {
    db.query_row("SELECT value FROM environment WHERE name = 'protonuke.version'", [], |row| row.get(0)).unwrap()
}

/// What protonuke's servers leave in the directory for temporary files when nobody tells them another.
fn keys() -> BTreeSet<std::ffi::OsString> {
    let names = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("protonuke_")).collect()
}

#[test]
fn protonuke_itself_is_measured() {
    if !(need::root() && need::program("ip") && need::program("protonuke")) {
        return;
    }
    let before = keys();
    let (campaign, outcomes) = run(SPEC, None, 0);
    assert_eq!(outcomes, [("complete".to_owned(), "[]".to_owned())]);
    let db = stored(&campaign, 0);
    let [attempts, rate, served] = ["http_attempts", "http_rate", "http_served"].map(|name| metric(&db, name).unwrap());
    // One each 100 ms, and the time each takes.
    assert!((3.0..=31.0).contains(&attempts), "{attempts}");
    assert!((rate - attempts / 3.0).abs() < 0.1 * rate, "{rate}");
    // Each page has an image, and the walk went on for a moment after the report.
    assert!(served >= 2.0 * attempts - 1.0, "{served} of {attempts}");
    assert!(metric(&db, "http_page_time_p50").unwrap() > 0.0);
    assert!(metric(&db, "http_image_time_max").unwrap() >= metric(&db, "http_image_time_min").unwrap());
    assert_eq!(version(&db).len(), "sha256 ".len() + 64);
    let several = SPEC.replace("preset ", "services = [\"smtp\", \"https\", \"irc\"]\npreset ");
    let (campaign, outcomes) = run(&several, None, 0);
    assert_eq!(outcomes, [("complete".to_owned(), "[]".to_owned())]);
    let db = stored(&campaign, 0);
    for name in ["smtp_mails", "https_attempts", "irc_hits", "smtp_mail_time_p50", "https_page_time_mean"] {
        assert!(metric(&db, name).unwrap() > 0.0, "{name}");
    }
    assert_eq!(keys().difference(&before).count(), 0, "{:?}", keys());
}

#[test]
fn ab_measures_protonuke_itself() {
    if !(tools() && need::program("protonuke")) {
        return;
    }
    let (campaign, outcomes) = run(AB, None, 0);
    assert_eq!(outcomes, vec![("complete".to_owned(), "[]".to_owned()); 2]);
    let mut lengths: Vec<Option<f64>> =
        (0..2).map(|file| metric(&stored(&campaign, file), "document_length")).collect();
    lengths.sort_by(|a, b| a.partial_cmp(b).unwrap());
    // Pages vary, so that none has the length of all; an image is its pixels and what PNG has around them.
    assert_eq!(lengths[0], None);
    assert!((15_876.0..17_100.0).contains(&lengths[1].unwrap()), "{lengths:?}");
}

#[test]
fn what_protonuke_says_becomes_metrics() {
    if !tools() {
        return;
    }
    let program = stand_in("as recorded");
    let (campaign, outcomes) = run(SPEC, Some(program.path()), 0);
    assert_eq!(outcomes, [("complete".to_owned(), "[]".to_owned())]);
    let db = stored(&campaign, 0);
    assert_eq!(metric(&db, "http_attempts"), Some(28.0));
    assert_eq!(metric(&db, "http_rate"), Some(559.9 / 60.0));
    assert_eq!(metric(&db, "http_served"), Some(52.0));
    let quantiles = "SELECT count(*) FROM quantile WHERE name = 'http_page_time' AND value IS NOT NULL";
    assert_eq!(db.query_row(quantiles, [], |row| row.get::<_, i64>(0)).unwrap(), 101);
    assert_eq!(version(&db).len(), "sha256 ".len() + 64);
    let (campaign, outcomes) = run(AB, Some(program.path()), 0);
    assert_eq!(outcomes, vec![("complete".to_owned(), "[]".to_owned()); 2]);
    assert_eq!(metric(&stored(&campaign, 0), "complete_requests"), Some(50.0));
}

#[test]
fn what_goes_wrong_with_protonuke_is_no_result() {
    if !tools() {
        return;
    }
    for (behaviour, status, reason) in [
        ("server says nothing", "invalid", "protonuke's server did not report after its client had ended"),
        ("client garbage", "invalid", "protonuke's client: `garbage` is no line of a report"),
        ("client ends early", "invalid", "protonuke's client ended without a report"),
        ("client killed", "invalid", "protonuke ended with signal 9"),
        ("does not listen", "timed_out", ""),
    ] {
        let program = stand_in(behaviour);
        let spec = if status == "timed_out" { SPEC.replace("\"90 s\"", "\"8 s\"") } else { SPEC.to_owned() };
        let (campaign, outcomes) = run(&spec, Some(program.path()), 1);
        assert_eq!(outcomes[0].0, status, "{behaviour}: {}", outcomes[0].1);
        assert!(outcomes[0].1.contains(reason), "{behaviour}: {}", outcomes[0].1);
        let zero = "SELECT count(*) FROM metric WHERE name LIKE 'http%' AND value = 0";
        assert_eq!(stored(&campaign, 0).query_row(zero, [], |row| row.get::<_, i64>(0)).unwrap(), 0, "{behaviour}");
    }
}

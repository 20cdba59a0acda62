//! Files of the nodes that a workload names are kept with its results.

use super::campaign::Campaign;
use super::need;

fn keeps_files_on(testbed: &str) {
    let campaign = Campaign::planned(&format!(
        r#"
name = "kept"
repetitions = 1

[factors]
testbed = "{testbed}"
size = 7

[workload]
preset = "command"
server = ["sh", "-c", "echo up > log; exec sleep 600"]
ready = {{ file = "{{scratch}}/log" }}
client = ["sh", "-c", "mkdir -p deep; echo hello > deep/out.7; echo x > not-asked-for; truncate -s 2G huge"]
keep = ["deep/out.{{size}}", "gone", "huge"]
keep_server = ["{{scratch}}/log"]

[verify]
foreign_cpu = "off"
steal = "off"
"#
    ));
    campaign.expect(0, &["run"]);
    let outcomes = campaign.outcomes();
    let (_, _, status, reasons) = &outcomes[0];
    assert_eq!(status, "suspect", "{reasons}");
    assert!(reasons.contains("client1: cannot keep gone: it is not there"), "{reasons}");
    assert!(reasons.contains("client1: cannot keep huge: ") && reasons.contains("larger than"), "{reasons}");
    let kept = campaign.out().join(campaign.files()[0].replace(".db", ".d"));
    assert_eq!(std::fs::read_to_string(kept.join("client1/deep/out.7")).unwrap(), "hello\n");
    assert_eq!(std::fs::read_to_string(kept.join("server1/log")).unwrap(), "up\n");
    let names = |of: &str| std::fs::read_dir(kept.join(of)).unwrap().count();
    assert_eq!((names(""), names("client1"), names("client1/deep"), names("server1")), (2, 1, 1, 1));
    let db = rusqlite::Connection::open(campaign.out().join(&campaign.files()[0])).unwrap();
    let said = "SELECT count(*) FROM event WHERE text LIKE '%kept%bytes'";
    assert_eq!(db.query_row(said, [], |row| row.get::<_, i64>(0)).unwrap(), 2);
}

#[test]
fn files_of_plain_processes_are_kept() {
    keeps_files_on("fake");
}

#[test]
fn files_of_namespaces_are_kept() {
    if need::root() {
        keeps_files_on("netns");
    }
}

//! `vptest igor`, with recorded reservations and a program that stands for igor.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use predicates::prelude::predicate;

fn vptest() -> Command {
    Command::new(super::campaign::VPTEST)
}

/// Reservations around now: two in force, one of hosts that are taken until later.
fn reservations(place: &Path) -> PathBuf {
    let now = jiff::Timestamp::now().as_second();
    let one = |name: &str, start: i64, hosts: &str| {
        let end = start + 3600;
        format!(
            r#""{name}":{{"ResName":"{name}","Owner":"root","StartTime":{start},"EndTime":{end},"Hosts":[{hosts}]}}"#
        )
    };
    let all = [
        one("que2", now - 60, r#""kn4","kn5""#),
        one("que1", now - 60, r#""kn1","kn2","kn3""#),
        one("que3", now + 1800, r#""kn4","kn5""#),
    ];
    let path = place.join("reservations.json");
    std::fs::write(&path, format!("{{{}}}", all.join(","))).unwrap();
    path
}

#[test]
fn heads_and_nodes_are_those_of_reservations_in_force() {
    let place = tempfile::tempdir().unwrap();
    let from = reservations(place.path());
    let run = |words: &[&str]| vptest().arg("igor").args(words).arg("--from").arg(&from).assert();
    run(&["heads", "que[0-9]+"]).success().stdout("kn1,kn4\n");
    run(&["nodes", "que1"]).success().stdout("kn1,kn2,kn3\n");
    run(&["show"]).success().stdout(predicate::str::contains("kn4,kn5  (later)\n"));
    let none = "error: no reservation in force has a name that is `que3`";
    run(&["heads", "que3"]).code(1).stdout("").stderr(predicate::str::contains(none));
    run(&["heads", "que"]).code(1).stdout("");
    run(&["heads", "que.*", "--owner", "root"]).success().stdout("kn1,kn4\n");
    run(&["heads", "que.*", "--owner", "bob"]).code(1).stderr(predicate::str::contains("no reservation of bob"));
    let text = std::fs::read_to_string(&from).unwrap();
    vptest().args(["igor", "nodes", "que2", "--from", "-"]).write_stdin(text).assert().success().stdout("kn4,kn5\n");
}

#[test]
fn what_is_no_list_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.json");
    std::fs::write(&path, "{\"status\":\"error\",\"message\":\"no token\"}").unwrap();
    let odd = |hosts: &str| {
        let text =
            format!(r#"{{"a":{{"ResName":"a","Owner":"r","StartTime":0,"EndTime":9999999999,"Hosts":{hosts}}}}}"#);
        vptest().args(["igor", "heads", "a", "--from", "-"]).write_stdin(text).assert()
    };
    odd("null").code(1).stdout("").stderr(predicate::str::contains("names no hosts of the reservation a"));
    odd(r#"["-oProxyCommand=x"]"#).code(2).stderr(predicate::str::contains("is no name of a host"));
    odd(r#"["a,b"]"#).code(2).stdout("");
    let run = |path: &Path| vptest().args(["igor", "show", "--from"]).arg(path).assert();
    run(&path).code(2).stderr(predicate::str::contains("x.json: no reservations of igor: igor says: no token"));
    run(&place.path().join("none")).code(2).stderr(predicate::str::contains("cannot read"));
    vptest().args(["igor", "heads", "("]).assert().code(2);
    vptest().args(["igor", "reserve", "a", "--count", "0", "--profile", "p"]).assert().code(2);
    vptest().args(["igor", "reserve", "a", "--count", "1"]).assert().code(2);
    let missing = vptest().args(["igor", "show", "--igor", "/no/such/igor"]).assert().code(3);
    missing.stderr(predicate::str::contains("program `/no/such/igor` not found"));
}

#[test]
fn a_reservation_that_begins_later_is_not_had() {
    let place = tempfile::tempdir().unwrap();
    let from = reservations(place.path());
    let igor = place.path().join("igor");
    // It makes what it is asked for when it finds the kernel, and ends only what there is.
    let script = format!(
        "#!/bin/sh\ncase \"$1 $2 $3\" in\n'show -t=false -json') exec cat {};;\n'sub -r que'?) test -f k;;\n'del que2 ') ;;\n\
         *) echo \"2026/11/22 21:18:52 FATAL x.go:1: strange: $*\" >&2; exit 1;;\nesac\n",
        from.display()
    );
    std::fs::write(place.path().join("k"), "").unwrap();
    std::fs::write(&igor, script).unwrap();
    std::fs::set_permissions(&igor, std::fs::Permissions::from_mode(0o755)).unwrap();
    let reserve = |name: &str| {
        let words = ["igor", "reserve", name, "--hosts", "kn[4-5]", "--kernel", "k", "--initrd", "i", "--igor"];
        // Names of files are those where it is called from, and so is that of igor.
        vptest().args(words).arg("./igor").current_dir(place.path()).assert()
    };
    reserve("que2").success().stdout(predicate::str::contains("kn4,kn5\n"));
    reserve("que3").code(1).stdout("").stderr(predicate::str::contains("reservation que3 begins only at"));
    vptest().args(["igor", "release", "que2", "--igor"]).arg(&igor).assert().success().stdout("");
    let other = vptest().args(["igor", "release", "que9", "--igor"]).arg(&igor).assert();
    other.code(1).stderr(predicate::str::contains("strange: del que9"));
}

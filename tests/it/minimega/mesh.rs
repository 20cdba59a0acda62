//! A minimega with other hosts in its mesh: machines go where they are to go, guests there are reached, and nothing stays
//! there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vptest::spec::{GuestBoot, Tuple, Value};
use vptest::testbed::minimega::leftovers::{self, Kept};
use vptest::testbed::minimega::{Daemon, MinimegaKvm};
use vptest::testbed::{Request, Testbed as _, TestbedError};

use super::double::{HERE, Traps};
use super::own::{LONG, Lab};
use super::testbed::{held, is_empty, noted};
use super::{open, until};

fn in_mesh(hosts: &[&'static str]) -> Lab {
    Lab::new(Traps { mesh: hosts.to_vec(), ..Traps::default() })
}

fn request(lab: &Lab, colocated: bool) -> Request {
    let factors = [("colocated", Value::Switch(colocated)), ("mtu", Value::Integer(1400))];
    let tuple = Tuple::new(factors.map(|(name, value)| (name.to_owned(), value)).into());
    Request { tuple, ..lab.campaign.request() }
}

fn testbed(lab: &Lab, hosts: Option<[&str; 2]>) -> MinimegaKvm {
    lab.testbed_with(lab.by_cc(), LONG, hosts)
}

/// Why it does not come up: the double's machines have no taps.
async fn failure(lab: &Lab, colocated: bool, hosts: Option<[&str; 2]>) -> String {
    let error = testbed(lab, hosts).launch(&request(lab, colocated)).await.err().expect("it has no taps");
    format!("{:#}", anyhow::Error::from(error))
}

/// Directories of vptest's namespaces among a host's files.
fn left(lab: &Lab, host: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(lab.double.shared.files_at(host)).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vptest-"))).collect()
}

/// Numbers of the commands that have these parts in this order.
fn heard(lab: &Lab, parts: &[&str]) -> Vec<usize> {
    let has = |line: &str| {
        let mut rest = line;
        parts.iter().all(|part| match rest.split_once(part) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    };
    let all = lab.double.heard();
    all.iter().enumerate().filter(|(_, line)| has(line)).map(|(number, _)| number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_on_two_hosts_get_agents_by_letters() {
    let lab = in_mesh(&["kn2"]);
    let why = failure(&lab, false, None).await;
    // Both agents have answered by then.
    assert!(why.contains("find the tap of client1"), "{why}");
    let one = |parts: &[&str]| {
        let found = heard(&lab, parts);
        assert_eq!(found.len(), 1, "{parts:?} in {:?}", lab.double.heard());
        found[0]
    };
    // A namespace for the network, one for each node.
    let joined = one(&["ns bridge vpt-", " gre"]);
    // Without RSTP, after which the tunnel is made anew.
    for host in ["bridge", "mesh send kn2 bridge"] {
        let at = |rest: &str| {
            lab.double.heard().iter().position(|line| line.starts_with(&format!("{host} {rest}"))).unwrap()
        };
        let order = [at("config vpt-"), at("notunnel vpt-"), at("tunnel gre vpt-")];
        assert!(order.is_sorted() && order[0] > joined, "{order:?}");
    }
    let net = |node: &str| format!("//link1,52:54:00:00:01:{node},virtio-net-pci");
    let (client, server) = (one(&["vm config net vpt-", &net("01")]), one(&["vm config net vpt-", &net("02")]));
    assert!(joined < client && joined < server);
    let line = |number: usize| lab.double.heard()[number].clone();
    let network =
        |number: usize| line(number).split("vm config net ").nth(1).unwrap().split(",52:").next().unwrap().to_owned();
    assert_eq!(network(client), network(server));
    let namespace = |number: usize| line(number).split(' ').nth(1).unwrap().to_owned();
    // Once more where it is removed.
    let on = |number: usize, host: &str| {
        let pinned = heard(&lab, &[&namespace(number), "ns add-hosts"]);
        pinned[0] < number && pinned.iter().all(|pinned| line(*pinned).ends_with(&format!(" {host}")))
    };
    assert!(on(client, HERE) && on(server, "kn2") && namespace(client) != namespace(server));
    // Letters to the other host are no files on the way there.
    assert!(heard(&lab, &[&namespace(server), "cc send", ".t1"]).is_empty());
    assert!(!heard(&lab, &[&namespace(client), "cc send", ".t1"]).is_empty());
    // What is said to one of them is not said to the other, and its letters are taken from the other host's files.
    assert!(!heard(&lab, &[&namespace(server), "file stream", "out.1"]).is_empty());
    assert!(heard(&lab, &[&namespace(client), "file stream"]).is_empty());
    assert!(is_empty(&lab.double) && lab.campaign.is_clean());
    lab.remove_files().await;
    until("the agents' end", || lab.agents() == 0).await;
    for host in [HERE, "kn2"] {
        assert_eq!(left(&lab, host), [] as [PathBuf; 0], "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_together_stay_on_their_host() {
    let lab = in_mesh(&["kn2", "kn3"]);
    let why = failure(&lab, true, None).await;
    assert!(why.contains("find the tap of client1"), "{why}");
    let (pinned, launched) = (heard(&lab, &["ns add-hosts "]), heard(&lab, &["vm launch"]));
    // When it comes, and when it goes.
    assert_eq!((pinned.len(), launched.len()), (2, 2));
    assert!(lab.double.heard()[pinned[0]].ends_with(HERE) && pinned[0] < launched[0]);
    // Hosts that have no part in it are not asked: one of them might hang.
    assert!(heard(&lab, &["mesh send"]).is_empty(), "{:?}", lab.double.heard());
    assert!(is_empty(&lab.double));
}

#[tokio::test]
async fn hosts_that_are_not_there_are_refused_before_anything_is_started() {
    for (mesh, hosts, expected) in [
        (&[][..], None, "has found no other host"),
        (&["kn2", "kn3"], None, "which two hosts of the mesh are meant is not known, for it has vm, kn2, kn3"),
        (&["kn2"], Some(["vm", "kn9"]), "kn9 is not in minimega's mesh, which has vm, kn2"),
    ] {
        let lab = in_mesh(mesh);
        let error = testbed(&lab, hosts).preflight(&request(&lab, false)).await.unwrap_err();
        assert!(matches!(error, TestbedError::Unsupported { .. }), "{error:?}");
        assert!(error.to_string().contains(expected) && error.hint().is_some(), "{error}");
        assert!(is_empty(&lab.double));
    }
    let lab = in_mesh(&["kn2", "kn3"]);
    testbed(&lab, Some(["kn3", "vm"])).preflight(&request(&lab, false)).await.unwrap();
}

#[tokio::test]
async fn an_image_that_is_another_one_there_is_refused() {
    let lab = in_mesh(&["kn2"]);
    testbed(&lab, None).preflight(&request(&lab, false)).await.unwrap();
    let GuestBoot::Kernel { initrd, .. } = &lab.boot else { unreachable!("it is one") };
    let there = lab.double.shared.directory.join("hosts/kn2/root").join(initrd.trim_start_matches('/'));
    std::fs::create_dir_all(there.parent().unwrap()).unwrap();
    std::fs::write(&there, "another").unwrap();
    let error = testbed(&lab, None).preflight(&request(&lab, false)).await.unwrap_err();
    let expected =
        format!("guests on kn2 cannot boot {initrd}: what is in it is not what is in the file of this name here");
    assert_eq!(error.to_string(), expected);
    // Guests that stay here do not need it.
    testbed(&lab, None).preflight(&request(&lab, true)).await.unwrap();
}

/// The minimega that made it was started anew, and the other host still has the machines.
#[tokio::test]
async fn clean_asks_the_other_host_too() {
    let lab = in_mesh(&["kn2"]);
    let daemon = open(&lab.double).await;
    let name = left_on(&lab, &daemon, &["kn2"]).await;
    let files = lab.double.shared.files_at("kn2").join(&name);
    std::fs::create_dir_all(&files).unwrap();
    lab.double.state().namespaces.remove(&name);
    held(&lab.campaign, 0).await;
    // As long as it is not in the mesh, nobody knows what it has.
    lab.double.traps(|traps| traps.mesh.clear());
    let done = leftovers::clean(lab.campaign.path(), Kept::Goes).await.unwrap();
    assert!(done.left.iter().any(|line| line.contains("unknown host: `kn2`")), "{done:?}");
    assert!(done.left.iter().any(|line| line.contains("kn2 has not answered: it is not in the mesh")), "{done:?}");
    assert!(files.exists() && !lab.campaign.is_clean());
    held(&lab.campaign, 0).await;
    lab.double.traps(|traps| traps.mesh.push("kn2"));
    let done = leftovers::clean(lab.campaign.path(), Kept::Goes).await.unwrap();
    assert_eq!((done.removed, done.left), (vec![format!("namespace {name} of minimega")], vec![]));
    assert!(!files.exists() && lab.campaign.is_clean() && is_empty(&lab.double));
}

/// Otherwise minimega makes the bridge once more for each machine that goes.
#[tokio::test]
async fn the_bridge_between_two_hosts_goes_last() {
    let lab = in_mesh(&["kn2"]);
    let daemon = open(&lab.double).await;
    let link = left_on(&lab, &daemon, &[HERE, "kn2"]).await;
    for host in [HERE, "kn2", HERE, "kn2"] {
        left_on(&lab, &daemon, &[host]).await;
    }
    held(&lab.campaign, 0).await;
    let done = leftovers::clean(lab.campaign.path(), Kept::Goes).await.unwrap();
    assert_eq!((done.removed.len(), done.left), (5, vec![]));
    let cleared = heard(&lab, &["clear namespace"]);
    assert_eq!(cleared.len(), 5);
    assert!(lab.double.heard()[cleared[4]].ends_with(&link));
}

/// A namespace on these hosts that a dead run has left; its name.
async fn left_on(lab: &Lab, daemon: &Arc<Daemon>, hosts: &[&str]) -> String {
    let mut journal = noted(daemon, &lab.campaign).await;
    journal.entry.hosts = hosts.iter().map(|&host| host.to_owned()).collect();
    journal.keep().unwrap();
    journal.entry.namespace.clone()
}

/// What was recorded with two real ones, as far as the double has it too.
#[test]
fn the_double_answers_as_the_recorded_mesh_does() {
    let lab = in_mesh(&["kn2"]);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minimega/mesh.jsonl");
    let mut compared = 0;
    for text in std::fs::read_to_string(data).unwrap().lines() {
        let one: serde_json::Value = serde_json::from_str(text).unwrap();
        if one["label"] != "same" {
            continue;
        }
        let answer: serde_json::Value = serde_json::from_str(one["responses"][0].as_str().unwrap()).unwrap();
        let recorded = answer["Resp"].as_array().unwrap();
        let said = ask(&lab, one["request"].as_str().unwrap());
        let said = said["Resp"].as_array().unwrap();
        let shape = |response: &serde_json::Value| {
            let data = &response["Data"];
            let kind = (data.is_null(), data.is_array(), data.is_string());
            (response["Host"].clone(), response["Error"].clone(), response["Header"].clone(), kind)
        };
        assert_eq!(said.iter().map(shape).collect::<Vec<_>>(), recorded.iter().map(shape).collect::<Vec<_>>(), "{one}");
        compared += 1;
    }
    assert!(compared >= 10, "{compared}");
}

fn ask(lab: &Lab, request: &str) -> serde_json::Value {
    use std::io::{BufRead as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(lab.double.socket()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    std::io::BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

//! The results disk of virtual machines, with real QEMUs: the double starts them as minimega does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use vptest::agent::{AgentError, Client, ResultsDisk, SMALL};
use vptest::ids::NodeId;
use vptest::image;
use vptest::testbed::minimega::disk::{Disk, Purpose};
use vptest::testbed::minimega::guest::{self, Hardware};
use vptest::testbed::minimega::{Namespace, machine};
use vptest::units::ByteSize;

use super::double::{Double, Traps};
use super::{Process, open, owner};
use crate::campaign::{Campaign, said};
use crate::disk;
use crate::need;
use crate::qemu::{cache, databases, guests, only, outcome, wanted};

const LONG: Duration = Duration::from_secs(180);

fn tools() -> bool {
    guests() && ["qemu-img", "unshare", "ip", "tcpdump"].into_iter().all(need::program)
}

/// A guest without a card, with a results disk.
struct Guest {
    client: Client,
    disk: Arc<Disk>,
    place: tempfile::TempDir,
    namespace: Arc<Namespace>,
    _double: Double,
}

impl Guest {
    async fn boot(size: ByteSize) -> Self {
        let double = Double::start(Traps { contain: true, ..Traps::default() });
        let place = tempfile::tempdir().unwrap();
        let image = tokio::task::spawn_blocking(|| image::build(&wanted(), &mut |_| {})).await.unwrap().unwrap();
        let hardware = Hardware {
            driver: "virtio-net-pci".to_owned(),
            vcpus: 1,
            memory: ByteSize(512 << 20),
            modules: vec![],
            arguments: image::tcg_arguments().split_whitespace().map(str::to_owned).collect(),
            qemu: None,
            cpu: None,
        };
        let daemon = open(&double).await;
        let namespace = Arc::new(daemon.fresh_namespace(&owner()).await.unwrap());
        let layer = Disk::create(place.path(), "client1", Purpose::Files, size).await.unwrap();
        let plan = guest::plan(NodeId::client(1), &image, &hardware, None);
        let mut plan = plan.with_results(vec![layer]);
        plan.nics.clear();
        machine::launch(&namespace, &[plan]).await.unwrap();
        let machine = machine::start(&namespace, &["client1".to_owned()]).await.unwrap().remove(0);
        let client = guest::reach(namespace.daemon(), &machine, LONG).await.unwrap();
        let disk = Arc::new(Disk::of(&namespace, "client1", place.path(), Purpose::Files, size));
        client.attach(Arc::clone(&disk) as _, None).await.unwrap();
        Self { client, disk, place, namespace, _double: double }
    }

    async fn put(&self, name: &str, content: &[u8]) -> String {
        self.client.put(name, 0o600, content.len() as u64, content).await.unwrap();
        format!("{}/{name}", self.client.hello().scratch)
    }

    fn layer(&self, number: u32) -> PathBuf {
        self.place.path().join(format!("client1.results.{number}.qcow2"))
    }
}

/// Bytes that do not repeat.
fn content(length: usize, seed: u8) -> Vec<u8> {
    let blocks = (0_u64..).flat_map(|number| {
        let hash: [u8; 32] = Sha256::digest([&number.to_le_bytes()[..], &[seed]].concat()).into();
        hash
    });
    blocks.take(length).collect()
}

fn chain(error: AgentError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_come_over_the_disk_and_are_what_they_were() {
    if !tools() {
        return;
    }
    let guest = Guest::boot(ByteSize(16 << 20)).await;
    let (client, into) = (&guest.client, tempfile::tempdir().unwrap());
    let small = content(1000, 1);
    let path = guest.put("small", &small).await;
    client.bring(&path, 1 << 30, &into.path().join("small")).await.unwrap();
    assert!(std::fs::read(into.path().join("small")).unwrap() == small);
    assert_eq!((guest.disk.used(), guest.layer(1).exists()), ((0, 0), false), "it went through the channel");

    // One after the other, each in a layer of its own, and into memory as well.
    let mut files = Vec::new();
    for seed in [2, 3] {
        let large = content(usize::try_from(SMALL).unwrap() + 4097 * usize::from(seed), seed);
        files.push((guest.put(&format!("large{seed}"), &large).await, large));
    }
    for (number, (path, large)) in (0..).zip(&files) {
        let target = into.path().join(format!("large{number}"));
        client.bring(path, 1 << 30, &target).await.unwrap();
        assert!(std::fs::read(&target).unwrap() == *large);
        assert!(guest.layer(number + 1).exists());
    }
    assert!(client.fetch(&files[0].0, 1 << 30).await.unwrap() == files[0].1);
    let bytes: usize = [&files[0], &files[1], &files[0]].iter().map(|(_, large)| large.len()).sum();
    assert_eq!(guest.disk.used(), (3, bytes as u64));
    // Two at once take turns.
    let (one, other) = (into.path().join("one"), into.path().join("other"));
    let (first, second) = tokio::join!(client.bring(&files[0].0, 0, &one), client.bring(&files[1].0, 0, &other));
    first.unwrap();
    second.unwrap();
    assert!(std::fs::read(one).unwrap() == files[0].1 && std::fs::read(other).unwrap() == files[1].1);

    // A name that the disk cannot hold goes through the channel.
    let name = "n".repeat(200);
    let path = guest.put(&name, &files[0].1).await;
    client.bring(&path, 1 << 30, &into.path().join("long")).await.unwrap();
    assert!(std::fs::read(into.path().join("long")).unwrap() == files[0].1);
    let left = std::fs::read_dir(guest.place.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<String> = left.map(|name| name.into_string().unwrap()).collect();
    assert!(left.iter().all(|name| name.starts_with("client1.results.")), "{left:?}");
    assert!(guest.namespace.remove().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn small_and_spoilt_disks_say_what_is_wrong_and_leave_nothing() {
    if !tools() {
        return;
    }
    let guest = Guest::boot(ByteSize(6 << 20)).await;
    let (client, into) = (&guest.client, tempfile::tempdir().unwrap());
    let target = into.path().join("x");
    let path = guest.put("huge", &content(7 << 20, 1)).await;
    let error = client.bring(&path, 1 << 30, &target).await.unwrap_err();
    assert!(matches!(error, AgentError::SmallDisk { .. }), "{error:?}");
    let (text, needed) = (chain(error), (7 << 20) + 4096 + 512 + 1024);
    assert!(text.contains("`result_disk` = 6291456 B in `[testbed.minimega]`"), "{text}");
    assert!(text.contains(&path) && text.contains(&format!("{needed} bytes are needed")), "{text}");
    assert!(text.contains(" has 6291456"), "{text}");

    let large = content(5 << 20, 2);
    let path = guest.put("large", &large).await;
    let receipt = client.archive(std::slice::from_ref(&path)).await.unwrap();
    // The guest has written it out; a bit of it is turned in the file.
    let mut image = std::fs::read(guest.layer(0)).unwrap();
    let middle = &large[3 << 20..(3 << 20) + 32];
    let at = image.windows(middle.len()).position(|window| window == middle).expect("it is in the file");
    image[at] ^= 1;
    overwrite(&guest.layer(0), at as u64, image[at]);
    let error = guest.disk.read(&receipt, into.path()).await.unwrap_err().to_string();
    assert!(error.contains("the checksum of the results is another"), "{error}");
    // One of an earlier call.
    let earlier = vptest::agent::ArchiveReceipt { nonce: receipt.nonce ^ 1, ..receipt };
    client.archive(std::slice::from_ref(&path)).await.unwrap();
    let error = guest.disk.read(&earlier, into.path()).await.unwrap_err().to_string();
    assert!(error.contains("results number "), "{error}");
    // One that tells another checksum than the disk has.
    let receipt = client.archive(std::slice::from_ref(&path)).await.unwrap();
    let other = vptest::agent::ArchiveReceipt { sha256: earlier.sha256.replace(['0', '1'], "2"), ..receipt };
    let error = guest.disk.read(&other, into.path()).await.unwrap_err().to_string();
    assert!(error.contains("is not the one that the node told"), "{error}");
    assert_eq!(std::fs::read_dir(into.path()).unwrap().count(), 0);

    // QEMU cannot make the next layer: its name is taken by a directory.
    std::fs::create_dir(guest.layer(4)).unwrap();
    let error = client.bring(&path, 1 << 30, &target).await.unwrap_err();
    assert!(matches!(&error, AgentError::Disk { path: of, .. } if *of == path), "{error:?}");
    let text = chain(error);
    assert!(text.contains("QEMU does not leave the disk's file"), "{text}");
    // That was no end of it.
    std::fs::remove_dir(guest.layer(4)).unwrap();
    client.bring(&path, 1 << 30, &target).await.unwrap();
    assert!(std::fs::read(&target).unwrap() == large);
    assert!(guest.namespace.remove().await.is_empty());
}

fn overwrite(path: &Path, at: u64, byte: u8) {
    use std::os::unix::fs::FileExt as _;
    std::fs::File::options().write(true).open(path).unwrap().write_all_at(&[byte], at).unwrap();
}

/// A sweep whose nodes make files of all sizes, from the plan to the stored record.
fn sweep(double: &Process, disk: &str) -> Campaign {
    // Other tests, and the translator itself, keep this host busy.
    let campaign = Campaign::planned(&format!(
        r#"
name = "disks"
repetitions = 1
timeout = "300 s"

[factors]
testbed = "minimega-kvm"
driver = "virtio-net-pci"
memory = "512 MiB"

[workload]
preset = "command"
server = ["sh", "-c", "seq 2 900000 > deep.log; exec {{vptest}} serve-http --listen {{server}}:{{port}}"]
ready = {{ tcp = 80 }}
client = ["sh", "-c", "seq 1 1200000 > large; seq 1 10 > small; ab -n 5 'http://{{server}}:{{port}}/image.png?size=100kB'"]
keep = ["large", "small"]
keep_server = ["{{scratch}}/deep.log"]

[testbed.minimega]
socket = "{}"
programs = ["ab", "seq", "sh"]
boot_timeout = "200 s"
append = [{}]
{disk}

[capture]
vantage = ["guest"]
keep = true

[verify]
foreign_cpu = "off"
steal = "off"
client_cpu = "off"
"#,
        double.socket().display(),
        image::tcg_arguments().split_whitespace().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", "),
    ));
    let ran = said(campaign.command(&["run"]).env("VPTEST_CACHE", cache()).output().unwrap());
    assert_eq!(ran.code, Some(0), "{}{}{:?}", ran.out, ran.err, campaign.outcomes());
    assert_eq!(outcome(&campaign), ("complete".to_owned(), "[]".to_owned()));
    assert!(!campaign.out().join(".minimega").exists());
    campaign
}

/// How many packets each kept capture has, and how many were captured.
fn packets(campaign: &Campaign) -> Vec<(i64, i64)> {
    let (db, out) = (&databases(campaign)[0], campaign.out());
    let mut rows = db.prepare("SELECT file, packets FROM capture ORDER BY node").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap);
    let rows: Vec<(String, i64)> = rows.collect();
    let listed = |(file, packets): (String, i64)| {
        let output = std::process::Command::new("tcpdump").args(["-nn", "-r"]).arg(out.join(file)).output().unwrap();
        (String::from_utf8(output.stdout).unwrap().lines().count().try_into().unwrap(), packets)
    };
    rows.into_iter().map(listed).collect()
}

/// What it has kept: names and checksums.
fn kept(campaign: &Campaign) -> Vec<(String, Vec<u8>)> {
    let directory = campaign.out().join(campaign.files()[0].replace(".db", ".d"));
    let files = ["client1/large", "client1/small", "server1/deep.log"];
    let digest = |name: &str| Sha256::digest(std::fs::read(directory.join(name)).unwrap()).to_vec();
    files.iter().map(|name| ((*name).to_owned(), digest(name))).collect()
}

fn metrics(campaign: &Campaign) -> Vec<String> {
    let db = &databases(campaign)[0];
    let mut rows = db.prepare("SELECT level || name || coalesce(node, pair, 0) FROM metric ORDER BY 1").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_sweep_keeps_the_same_with_and_without_a_disk() {
    if !tools() {
        return;
    }
    let double = Process::with_containers("").await;
    let (without, with) = (sweep(&double, ""), sweep(&double, "result_disk = \"64 MiB\""));
    let lines = |from: u32, to: u32| (from..=to).map(|n| format!("{n}\n")).collect::<String>();
    let expected = kept(&without);
    assert_eq!(expected[0].1, Sha256::digest(lines(1, 1_200_000)).to_vec());
    assert_eq!(kept(&with), expected);
    assert_eq!(metrics(&with), metrics(&without));
    for campaign in [&with, &without] {
        let packets = packets(campaign);
        assert!(packets.len() == 2 && packets.iter().all(|(kept, all)| kept == all && *all > 10), "{packets:?}");
    }
    let facts = |campaign: &Campaign, which: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM environment WHERE name LIKE 'testbed.minimega.result_disk{which}");
        only(&databases(campaign)[0], &sql)
    };
    assert_eq!((facts(&without, "%'"), facts(&with, "%'")), (0, 5));
    for (node, bytes) in [("client1", lines(1, 1_200_000).len()), ("server1", lines(2, 900_000).len())] {
        // Both are larger than what goes through the channel, and the third file is not; the other one is the packets.
        assert_eq!(facts(&with, &format!(".files' AND host = '{node}' AND value = '2'")), 1, "{node}");
        let more = format!(".bytes' AND host = '{node}' AND CAST(value AS INTEGER) > {bytes}");
        assert_eq!(facts(&with, &more), 1, "{node}");
    }
}

/// `sync` of these guests leaves a mark at the end of their disks.
#[tokio::test]
async fn guests_whose_disks_stay_write_them_out_before_they_go() {
    if !tools() || !disk::tools() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (image, over) =
        (disk::built(&["ab", "dd"], wanted().vptest), |name, text| disk::over(place.path(), name, text));
    over("init", "#!/bin/sh\nexec /bin/vptest agent --init\n");
    // There is more room on the disk than its file system has files for.
    let mark = "#!/bin/sh\nread sectors </sys/block/vda/size\necho written-out | dd of=/dev/vda bs=512 conv=sync,fsync seek=$((sectors - 1))\n";
    over("usr/local/sbin/sync", mark);
    let raw = disk::disk(place.path(), &image);
    let own = ["client1", "server1"].map(|node| place.path().join(format!("{node}.raw")));
    for path in &own {
        std::fs::copy(&raw, path).unwrap();
    }
    let marked = |path: &PathBuf| {
        let content = std::fs::read(path).unwrap();
        content[content.len() - 512..].starts_with(b"written-out")
    };
    assert!(!own.iter().any(marked));
    let double = Process::with_containers("").await;
    let campaign = Campaign::planned(&format!(
        "name = \"disks\"\nrepetitions = 1\ntimeout = \"300 s\"\n\n[factors]\ntestbed = \"minimega-kvm\"\n\
         driver = \"virtio-net-pci\"\nmemory = \"400 MiB\"\nrequest = {{ url = \"/\", count = 5 }}\n\n\
         [workload]\npreset = \"ab\"\n\n[testbed.minimega]\nsocket = \"{}\"\ndisk = \"{}/{{node}}.raw\"\n\
         snapshot = false\nboot_timeout = \"200 s\"\n\n\
         [verify]\nforeign_cpu = \"off\"\nsteal = \"off\"\nclient_cpu = \"off\"\n",
        double.socket().display(),
        place.path().display(),
    ));
    let ran = said(campaign.command(&["run"]).output().unwrap());
    assert_eq!(ran.code, Some(0), "{}{}{:?}", ran.out, ran.err, campaign.outcomes());
    assert_eq!(outcome(&campaign), ("complete".to_owned(), "[]".to_owned()));
    assert!(own.iter().all(marked) && !marked(&raw));
}

/// It is looked for before minimega is.
#[test]
fn a_host_without_the_tool_of_disks_is_told() {
    let campaign = Campaign::planned(
        "name = \"tool\"\n[factors]\ntestbed = \"minimega-kvm\"\n[workload]\npreset = \"ab\"\n\
         [testbed.minimega]\nsocket = \"/nosuch\"\nresult_disk = \"1 GiB\"\n",
    );
    let place = tempfile::tempdir().unwrap();
    let program = |name: &str| std::os::unix::fs::symlink("/bin/true", place.path().join(name)).unwrap();
    let run = || said(campaign.command(&["run"]).env("PATH", place.path()).output().unwrap());
    program("ab");
    let without = run();
    assert_eq!(without.code, Some(3), "{}{}", without.out, without.err);
    let told = without.err.contains("qemu-img not found: `result_disk` in `[testbed.minimega]` needs it");
    assert!(told && without.err.contains("apt-get install qemu-utils"), "{}", without.err);
    // With any program of that name it is minimega that is missing.
    program("qemu-img");
    let with = run();
    assert!(with.code == Some(3) && with.err.contains("no minimega can be used"), "{}{}", with.out, with.err);
}

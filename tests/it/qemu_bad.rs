//! What can go wrong with guests and their host: each with a reason, and nothing left behind.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use vptest::node;
use vptest::spec::{Reuse, TestbedSpec, Tuple, Value};
use vptest::testbed::qemu::Qemu;
use vptest::testbed::{Instance, Notice, Request, Testbed as _, TestbedError};
use vptest::units::ByteSize;

use super::campaign::{Campaign, VPTEST, said};
use super::need::{need, program};
use super::qemu::{
    AB, SMALL, cache, command, databases, guests, only, outcome, qemus, qemus_in, run, sweep, wait_until,
};

/// A guest's agent of another making: it greets as version 9.1 with protocol 7.
const OTHER_AGENT: &str = r#"#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
cd /lib/modules/*
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_console; do
    insmod $module.ko
done
until set -- /dev/vport*p* && [ -c "$1" ]; do :; done
# A port has its file a moment before the kernel lets it be opened.
until command exec 3<>"$1"; do :; done
until dd bs=40 count=1 of=/hello <&3 2>/dev/null && [ "$(stat -c %s /hello)" = 40 ]; do :; done
text='{"version":"9.1"}'
nonce=$(tail -c 16 /hello | head -c 8 | od -An -tu1)
set -- 0 118 112 116 101 115 116 45 97 103 101 110 116 13 10 255 7 0 0 0 ${#text} 0 0 0 $nonce
hash=-3750763034362895579
answer=
for byte; do
    hash=$(((hash ^ byte) * 1099511628211))
    answer="$answer\\$(printf %03o $byte)"
done
for shift in 0 8 16 24 32 40 48 56; do
    answer="$answer\\$(printf %03o $(((hash >> shift) & 255)))"
done
echo "another agent answers"
printf "$answer$text" >&3
sleep 1000
"#;

#[test]
fn an_agent_of_another_protocol_is_named_with_both_versions() {
    if !guests() || !program("cpio") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("bin")).unwrap();
    std::fs::write(directory.path().join("bin/vptest"), OTHER_AGENT).unwrap();
    let archive = "chmod 755 bin/vptest && echo bin/vptest | cpio -o -H newc --quiet";
    let archive = Command::new("sh").args(["-c", archive]).current_dir(directory.path()).output().unwrap();
    assert!(archive.status.success());
    // What comes later in an initramfs replaces what was there before.
    let image = vptest::image::build(&super::qemu::wanted(), &mut |_| {}).unwrap();
    let mut initramfs = std::fs::read(&image.initramfs).unwrap();
    initramfs.extend(archive.stdout);
    let path = directory.path().join("initramfs");
    std::fs::write(&path, initramfs).unwrap();
    let more = format!("[testbed.qemu]\narguments = [\"-initrd\", \"{}\"]", path.display());
    let campaign = sweep(SMALL, AB, &more);
    run(&campaign, 1);
    let (status, reasons) = outcome(&campaign);
    assert_eq!(status, "failed");
    let versions = format!("the agent is vptest 9.1 with protocol 7; this is vptest {}", env!("CARGO_PKG_VERSION"));
    assert!(reasons.contains("launch") && reasons.contains(&versions), "{reasons}");
    assert!(reasons.contains("another agent answers"), "no console in {reasons}");
    wait_until("the end of the other guest", || qemus(&campaign).is_empty());
}

#[test]
fn a_guest_that_fills_its_disk_says_so() {
    if !guests() {
        return;
    }
    let fill = command("[\"sh\", \"-c\", \"dd if=/dev/zero of=full bs=1M status=none\"]");
    let campaign = sweep("", &fill, "");
    run(&campaign, 1);
    let (status, reasons) = outcome(&campaign);
    assert_eq!(status, "invalid", "{reasons}");
    assert!(
        reasons.contains("sh ended with exit status 1") && reasons.contains("No space left on device"),
        "{reasons}"
    );
    // The agent and everything after the workload went on.
    let read = "SELECT count(*) FROM setting WHERE name = 'mtu' AND when_read = 'after' AND observed IS NOT NULL";
    assert!(only::<i64>(&databases(&campaign)[0], read) >= 2);
    assert!(qemus(&campaign).is_empty());
}

/// A request for guests, with one more factor.
fn request(scratch: &Path, number: u32, factor: Option<(&str, Value)>) -> Request {
    let accel = ("accel".to_owned(), Value::Text("tcg".to_owned()));
    let more = factor.map(|(name, value)| (name.to_owned(), value));
    std::fs::create_dir_all(scratch).unwrap();
    Request {
        tuple: Tuple::new(BTreeMap::from_iter(std::iter::once(accel).chain(more))),
        number,
        attempt: 1,
        scratch: scratch.to_owned(),
        campaign: scratch.to_owned(),
        vptest: VPTEST.into(),
        programs: vec!["ab".to_owned()],
        notice: Notice::default(),
    }
}

fn reused(instance: &dyn Instance) -> String {
    instance.environment().into_iter().find(|fact| fact.name == "testbed.reused").unwrap().value
}

/// Turns a bit of the last file on a results disk as soon as the guest has written all of it.
fn spoil(disk: &Path) {
    const HEADER: u64 = 4096;
    let mut file = std::fs::File::options().read(true).write(true).open(disk).unwrap();
    let mut head = vec![0; 4096];
    loop {
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_exact(&mut head).unwrap();
        if String::from_utf8_lossy(&head).contains("\"whole\":true") {
            break;
        }
        std::thread::yield_now();
    }
    file.seek(SeekFrom::Start(HEADER + 512 + 1000)).unwrap();
    file.write_all(b"!").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn full_and_spoilt_disks_have_names_and_guests_that_died_while_they_were_kept_are_replaced() {
    if !guests() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let spec = TestbedSpec { reuse: Reuse::Tuple, ..TestbedSpec::default() };
    let testbed = Qemu::with_cache(&spec, cache());
    let first = request(&scratch.path().join("1"), 1, None);
    testbed.preflight(&first).await.unwrap();
    let mut instance = testbed.launch(&first).await.unwrap();
    let client = std::sync::Arc::clone(&instance.pairs()[0].client);

    let argv = ["sh", "-c", "mkdir /small && mount -t tmpfs -o size=1m none /small"].map(str::to_owned).to_vec();
    let mut made = client.spawn(&node::Command { argv, ..node::Command::default() }).await.unwrap();
    assert!(made.wait().await.unwrap().status.success());
    let error = client.put("/small/file", &vec![1; 2 << 20]).await.unwrap_err();
    let node::NodeError::Io { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.raw_os_error(), Some(libc::ENOSPC), "{error:?}");
    client.put("/small/file", b"fits").await.unwrap();
    assert_eq!(client.get("/small/file", 100).await.unwrap(), b"fits");

    client.put("large", &vec![7; 8 << 20]).await.unwrap();
    let disk = first.scratch.join("client1.results");
    let spoiler = std::thread::spawn(move || spoil(&disk));
    let into = tempfile::tempdir().unwrap();
    let error = instance.collect(client.id(), &[format!("{}/large", client.scratch())], into.path()).await.unwrap_err();
    spoiler.join().unwrap();
    assert!(
        matches!(&error, TestbedError::Guest { what, .. } if what.contains("checksum of the results")),
        "{error:?}"
    );
    assert_eq!(std::fs::read_dir(into.path()).unwrap().count(), 0);

    drop(client);
    assert_eq!(instance.teardown().await.left, Vec::<String>::new());
    let kept = qemus_in(scratch.path());
    assert_eq!(kept.len(), 2);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(kept[0]), nix::sys::signal::Signal::SIGKILL).unwrap();
    let second = request(&scratch.path().join("2"), 2, None);
    testbed.preflight(&second).await.unwrap();
    let mut instance = testbed.launch(&second).await.unwrap();
    assert_eq!(reused(instance.as_ref()), "0");
    let new = qemus_in(scratch.path());
    assert!(new.len() == 2 && kept.iter().all(|pid| !new.contains(pid)), "{kept:?} {new:?}");
    assert_eq!(instance.teardown().await.left, Vec::<String>::new());

    // Guests of another tuple that need all the memory: those that are kept go, before anything is refused.
    let much = request(&scratch.path().join("3"), 3, Some(("memory", Value::Size(ByteSize(2 << 40)))));
    let error = testbed.preflight(&much).await.unwrap_err();
    assert!(error.to_string().contains("available on this host"), "{error}");
    assert_eq!(qemus_in(scratch.path()), Vec::<i32>::new());
    testbed.close().await;
}

/// Runs a campaign with nothing in `PATH` but these programs.
fn run_with(campaign: &Campaign, programs: &[&str], cache: &Path, apt: Option<&Path>) -> super::campaign::Said {
    let bin = campaign.path().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    for program in programs {
        let found = vptest::workload::find_in_path(program).unwrap();
        let _ = std::fs::remove_file(bin.join(program));
        std::os::unix::fs::symlink(found, bin.join(program)).unwrap();
    }
    let mut command = campaign.command(&["run"]);
    command.env("PATH", bin).env("VPTEST_CACHE", cache).stdin(Stdio::null());
    if let Some(apt) = apt {
        command.env("APT_CONFIG", apt);
    }
    said(command.output().unwrap())
}

#[test]
fn without_qemu_or_without_a_kernel_the_run_ends_with_a_hint() {
    if !guests() || !need("apt", vptest::workload::find_in_path("apt-cache").is_some()) {
        return;
    }
    let campaign = sweep("", &command("[\"sh\", \"-c\", \"true\"]"), "");
    let said = run_with(&campaign, &["sh"], &cache(), None);
    assert_eq!(said.code, Some(3), "{}", said.err);
    assert!(said.err.contains("qemu-system-x86_64 not found"), "{}", said.err);
    assert!(said.err.contains("hint: apt-get install qemu-system-x86"), "{}", said.err);

    let empty = campaign.path().join("cache");
    let lists = campaign.path().join("lists");
    std::fs::create_dir(&lists).unwrap();
    let apt = campaign.path().join("apt.conf");
    let text = format!(
        "Dir::State::lists \"{}\";\nDir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n",
        lists.display()
    );
    std::fs::write(&apt, text).unwrap();
    let said =
        run_with(&campaign, &["sh", "qemu-system-x86_64", "apt-cache", "apt-get", "dpkg-deb"], &empty, Some(&apt));
    assert_eq!(said.code, Some(3), "{}", said.err);
    assert!(said.err.contains("no image for the guests"), "{}", said.err);
    assert!(said.err.contains("run `apt-get update` as root"), "{}", said.err);
    // Nothing was run, so nothing is said to have been.
    assert!(campaign.files().is_empty());
    campaign.assert_clean();
}

#[test]
fn load_can_run_in_the_guests_and_files_come_over_the_disk() {
    if !guests() || !program("stress-ng") {
        return;
    }
    let count = "echo workers $(grep -l '^stress-ng-cpu' /proc/[0-9]*/comm | wc -l); yes | head -c 3000000 > out";
    let metric = "[[workload.metric]]\nname = \"workers\"\nunit = \"1\"\nregex = 'workers ([0-9]+)'";
    let workload =
        format!("preset = \"command\"\nclient = [\"sh\", \"-c\", \"{count}\"]\nkeep = [\"out\", \"{{scratch}}/gone\"]");
    let more = format!("{metric}\n\n[testbed.qemu]\nstress = \"guest\"");
    let campaign = sweep("stress_cpu = 2\nmemory = \"400 MiB\"", &workload, &more);
    run(&campaign, 0);
    let db = &databases(&campaign)[0];
    assert_eq!(only::<f64>(db, "SELECT value FROM metric WHERE name = 'workers'"), 2.0, "as the guest counts them");
    for node in ["client1", "server1"] {
        let of_node = format!("name = 'stress_workers' AND node = '{node}' AND observed = '2' AND ok = 1");
        let count: i64 = only(db, &format!("SELECT count(*) FROM setting WHERE {of_node}"));
        assert_eq!(count, 2, "{node}, before and after");
    }
    let (status, reasons) = outcome(&campaign);
    assert_eq!(status, "suspect", "{reasons}");
    assert!(reasons.contains("client1: cannot keep") && reasons.contains("/gone: it is not there"), "{reasons}");
    let files = campaign.out().join(campaign.files()[0].replace(".db", ".d"));
    let kept = std::fs::read(files.join("client1/out")).unwrap();
    assert!(kept.len() == 3_000_000 && kept.chunks(2).all(|pair| pair == b"y\n"));
    assert!(!files.join("server1").exists());
}

#[test]
fn a_campaign_whose_image_changed_is_not_gone_on_with_unasked() {
    if !guests() {
        return;
    }
    let more = "[testbed.qemu]\nprograms = [\"./tool\"]";
    let spec = std::fs::read_to_string(sweep(SMALL, AB, more).path().join("params.toml")).unwrap();
    let campaign = Campaign::planned(&spec.replace("repetitions = 1", "repetitions = 2"));
    let tool = |text: &str| {
        std::fs::write(campaign.path().join("tool"), text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(campaign.path().join("tool"), mode).unwrap();
    };
    let vptest = |arguments: &[&str]| said(campaign.command(arguments).env("VPTEST_CACHE", cache()).output().unwrap());
    tool("#!/bin/sh\necho one\n");
    assert_eq!(vptest(&["run", "--iter", "1"]).code, Some(0));
    let before: String = only(&databases(&campaign)[0], "SELECT value FROM environment WHERE name = 'image.base_id'");

    tool("#!/bin/sh\necho another\n");
    let refused = vptest(&["run"]);
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(refused.err.contains("iteration 1 was run in guests of another image"), "{}", refused.err);
    assert!(refused.err.contains(&before) && refused.err.contains("--allow-changed-image"), "{}", refused.err);
    assert_eq!(campaign.files().len(), 1);

    let allowed = vptest(&["run", "--allow-changed-image"]);
    assert_eq!(allowed.code, Some(0), "{}", allowed.err);
    assert!(allowed.err.contains("in guests of another image"), "{}", allowed.err);
    let after: String = only(&databases(&campaign)[1], "SELECT value FROM environment WHERE name = 'image.base_id'");
    assert!(before != after && refused.err.contains(&after), "{after}: {}", refused.err);
}

//! Files, through the channel and over a disk for results.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vptest::agent::{AgentError, Client, FailureKind, Limits, ResultsDisk as _, SMALL, results};

use super::{Agent, Image, Pattern, failure, until};
use crate::need::{program, root};

#[tokio::test]
async fn files_of_256_mib_come_and_go_whole() {
    let (agent, client) = Agent::connect().await;
    let length = 256 << 20;
    let sent = client.put("big", 0o600, length, Pattern { at: 0, length }).await.unwrap();
    assert_eq!(sent.bytes, length);
    let sum = Command::new("sha256sum").arg(agent.path("big")).output().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(&sent.sha256));
    let back = client.get(&agent.path("big"), length, tokio::io::sink()).await.unwrap();
    assert_eq!(back, sent);
    let peak = agent.peak_memory();
    assert!(peak < 100 << 20, "the agent needed {peak} bytes for a file that it only passes on");
    assert_eq!(agent.files(), 1, "something else was left");
}

#[tokio::test]
async fn files_are_there_whole_or_not_at_all() {
    let (agent, client) = Agent::connect().await;
    let short = client.put("x", 0o644, 10, &b"short"[..]).await.unwrap_err();
    assert!(matches!(short, AgentError::Here { .. }), "{short:?}");
    let long = client.put("x", 0o644, 3, &b"longer"[..]).await.unwrap_err();
    assert!(matches!(long, AgentError::Here { .. }), "{long:?}");
    let nowhere = client.put("no/such/place", 0o644, 1, &b"1"[..]).await.unwrap_err();
    assert_eq!(failure(&nowhere), FailureKind::NotFound);
    until("the call to be given up", || agent.files() == 0).await;
    client.put("x", 0o644, 5, &b"hello"[..]).await.unwrap();
    client.put("x", 0o755, 0, tokio::io::empty()).await.unwrap();
    assert_eq!(fs::read(agent.path("x")).unwrap(), b"");

    let mut content = Vec::new();
    fs::write(agent.path("y"), b"12345").unwrap();
    client.get("y", 5, &mut content).await.unwrap();
    assert_eq!(content, b"12345");
    assert_eq!(failure(&client.get("y", 4, &mut content).await.unwrap_err()), FailureKind::TooLarge);
    assert_eq!(failure(&client.get("z", 4, &mut content).await.unwrap_err()), FailureKind::NotFound);
    assert_eq!(failure(&client.get("/dev/zero", 4, &mut content).await.unwrap_err()), FailureKind::Invalid);
    assert!(client.exists("y").await.unwrap() && !client.exists("z").await.unwrap());

    let paths = ["/proc/uptime", "z", "y", "/proc"].map(str::to_owned);
    let files = client.read_files(&paths, 4096).await.unwrap();
    assert!(files[0].as_ref().is_some_and(|uptime| !uptime.is_empty()));
    assert_eq!(files[1..], [None, Some(b"12345".to_vec()), None]);
    let paths = ["y".to_owned()];
    assert_eq!(failure(&client.read_files(&paths, 4).await.unwrap_err()), FailureKind::TooLarge);
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_one() {
    if !root() || !program("mount") {
        return;
    }
    let (agent, client) = Agent::connect().await;
    let directory = agent.path("small");
    fs::create_dir(&directory).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs", &directory]).status().unwrap();
    assert!(mounted.success());
    let length = 64 << 20;
    let error = client.put("small/x", 0o644, length, Pattern { at: 0, length }).await.unwrap_err();
    let left = fs::read_dir(&directory).unwrap().count();
    assert!(Command::new("umount").arg(&directory).status().unwrap().success());
    assert_eq!((failure(&error), left), (FailureKind::NoSpace, 0));
    assert!(client.exists("small").await.unwrap(), "the conversation goes on");
}

#[tokio::test]
async fn results_travel_over_a_disk() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    let (agent, output, input) = Agent::start(&["--results", disk.to_str().unwrap()]);
    let client = Client::connect(output, input, Limits::default()).await.unwrap();
    let into = directory.path().join("into");
    fs::create_dir(&into).unwrap();
    let limits = results::ReadLimits::default();
    let empty = results::read(&disk, None, limits, &into).unwrap_err();
    assert!(matches!(empty, results::ResultsError::Empty(_)), "{empty}");
    fs::create_dir(agent.path("logs")).unwrap();
    fs::write(agent.path("logs/a"), vec![1; 100_000]).unwrap();
    fs::write(agent.path("b"), b"two").unwrap();
    let receipt = client.archive(&["logs".to_owned(), "b".to_owned()]).await.unwrap();
    let files = results::read(&disk, Some(receipt.nonce), limits, &into).unwrap();
    assert_eq!(files.iter().map(|file| file.bytes).collect::<Vec<_>>(), [100_000, 3]);
    assert_eq!(fs::read(&files[0].path).unwrap(), vec![1; 100_000]);
    assert!(files[0].name.ends_with("/logs/a"));
    let missing = client.archive(&["nothing".to_owned()]).await.unwrap_err();
    assert_eq!(failure(&missing), FailureKind::NotFound);
    fs::write(agent.path("c"), vec![2; 100]).unwrap();
    fs::remove_file(&disk).unwrap();
    assert_eq!(failure(&client.archive(&["c".to_owned()]).await.unwrap_err()), FailureKind::NotFound);
}

#[tokio::test]
async fn large_files_come_over_a_disk_that_is_attached_and_small_ones_do_not() {
    let place = tempfile::tempdir().unwrap();
    let disk = place.path().join("disk");
    fs::write(&disk, "").unwrap();
    let (agent, output, input) = Agent::start(&["--results", disk.to_str().unwrap()]);
    let client = Client::connect(output, input, Limits::default()).await.unwrap();
    let (at, of) = (|name: &str| place.path().join(name), |seed, length| vec![seed; length]);
    let (small, large) = (of(1, 1000), of(2, usize::try_from(SMALL).unwrap() + 1));
    fs::write(agent.path("small"), &small).unwrap();
    fs::write(agent.path("large"), &large).unwrap();
    // Without a disk as well.
    client.bring("large", 1 << 30, &at("before")).await.unwrap();
    assert!(fs::read(at("before")).unwrap() == large && disk.metadata().unwrap().len() == 0);
    let spoil = AtomicBool::new(false);
    let image = Arc::new(Image { disk: disk.clone(), place: tempfile::tempdir().unwrap(), spoil });
    client.attach(image.clone(), None).await.unwrap();
    client.bring("small", 1 << 30, &at("one")).await.unwrap();
    assert!(fs::read(at("one")).unwrap() == small && disk.metadata().unwrap().len() < SMALL);
    client.bring("large", 1 << 30, &at("two")).await.unwrap();
    assert!(fs::read(at("two")).unwrap() == large && disk.metadata().unwrap().len() > SMALL);
    assert!(client.fetch("large", 1 << 30).await.unwrap() == large);
    assert_eq!(failure(&client.fetch("large", SMALL).await.unwrap_err()), FailureKind::TooLarge);
    // What is too large is not read: it would be found spoilt.
    fs::write(agent.path("larger"), of(3, usize::try_from(SMALL).unwrap() + 1000)).unwrap();
    image.spoil.store(true, Ordering::Relaxed);
    assert_eq!(failure(&client.fetch("larger", SMALL + 100).await.unwrap_err()), FailureKind::TooLarge);
    image.spoil.store(false, Ordering::Relaxed);
    assert_eq!(failure(&client.fetch("larger", SMALL + 999).await.unwrap_err()), FailureKind::TooLarge);
    assert_eq!(client.fetch("larger", SMALL + 1000).await.unwrap().len() as u64, SMALL + 1000);
    assert_eq!(failure(&client.bring("gone", 1 << 30, &at("three")).await.unwrap_err()), FailureKind::NotFound);
    // Nothing is written over, and what could not be brought is not there.
    let error = client.bring("small", 1 << 30, &at("one")).await.unwrap_err();
    assert!(matches!(error, AgentError::Here { .. }) && !at("three").exists(), "{error:?}");
    let error = client.bring("larger", 1 << 30, &at("two")).await.unwrap_err();
    assert!(matches!(error, AgentError::Disk { .. }) && fs::read(at("two")).unwrap() == large, "{error:?}");
    assert_eq!(fs::read_dir(image.place()).unwrap().count(), 0);
    fs::remove_file(&disk).unwrap();
    assert_eq!(failure(&client.attach(image, None).await.unwrap_err()), FailureKind::NotFound);
}

/// Their length is not what the kernel says of them.
#[tokio::test]
async fn files_of_unknown_length_go_through_the_channel() {
    const SYMBOLS: &str = "/proc/kallsyms";
    let place = tempfile::tempdir().unwrap();
    let disk = place.path().join("disk");
    fs::write(&disk, "").unwrap();
    let (_agent, output, input) = Agent::start(&["--results", disk.to_str().unwrap()]);
    let client = Client::connect(output, input, Limits::default()).await.unwrap();
    let spoil = AtomicBool::new(false);
    let image = Arc::new(Image { disk, place: tempfile::tempdir().unwrap(), spoil });
    client.attach(image, None).await.unwrap();
    // 4096 bytes are said, and a few come.
    for path in [SYMBOLS, "/sys/devices/system/cpu/online"] {
        let error = client.archive(&[path.to_owned()]).await.unwrap_err();
        assert_eq!(failure(&error), FailureKind::Invalid, "{error}");
    }
    let symbols = fs::read(SYMBOLS).unwrap();
    let small = usize::try_from(SMALL).unwrap();
    if symbols.len() <= small {
        eprintln!("skipped: the symbols of this kernel are few");
        return;
    }
    let target = place.path().join("symbols");
    client.bring(SYMBOLS, 1 << 30, &target).await.unwrap();
    // Those of modules come and go, at the end.
    let brought = fs::read(&target).unwrap();
    assert!(brought.len() > small && brought[..small] == symbols[..small]);
    let fetched = client.fetch(SYMBOLS, 1 << 30).await.unwrap();
    assert!(fetched.len() > small && fetched[..small] == symbols[..small]);
    assert_eq!(failure(&client.fetch(SYMBOLS, SMALL + 1).await.unwrap_err()), FailureKind::TooLarge);
}

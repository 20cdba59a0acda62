//! Captures of an agent.

use std::fs;
use std::io::{self, Write as _};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::unix::pipe;
use vptest::agent::{CaptureEnd, CaptureRequest, Client, FailureKind, NetworkSetup, ResultsDisk as _};
use vptest::host::namespace::Namespace;
use vptest::ids::{NodeId, Vantage};
use vptest::instrument::capture::{Captures, FlowOptions, FlowSinks};
use vptest::record::{Capture, Problem, Weight};
use vptest::spec::CaptureSpec;
use vptest::testbed::{CapturePoint, CaptureSource};

use super::{Image, LONG, agent_with, failure, in_namespace, until};
use crate::need::{program, root};

fn capture_request(keep: bool) -> CaptureRequest {
    CaptureRequest {
        node: NodeId::client(1),
        vantage: Vantage::Guest,
        interface: "lo".to_owned(),
        on_disk: None,
        snaplen: 128,
        filter: None,
        ring: None,
        headers: true,
        hold: None,
        captures: 1,
        keep,
    }
}

/// Sends `count` datagrams over the loopback interface of the namespace.
fn chatter(namespace: &Namespace, count: u64) {
    let send = || {
        let receiver = UdpSocket::bind(("127.0.0.1", 0))?;
        let sender = UdpSocket::bind(("127.0.0.1", 0))?;
        let to = receiver.local_addr()?;
        (0..count).try_for_each(|_| sender.send_to(&[7; 100], to).map(drop))
    };
    namespace.run(send).unwrap();
}

/// A TCP connection that carries `bytes` over the loopback interface of the namespace.
fn talk(namespace: &Namespace, bytes: usize) {
    let talk = || {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        let mut client = std::net::TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        let reader = std::thread::spawn(move || io::copy(&mut server, &mut io::sink()));
        client.write_all(&vec![1; bytes])?;
        drop(client);
        reader.join().unwrap().map(drop)
    };
    namespace.run(talk).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_streams_and_brings_its_statistics_home() {
    if !root() || !program("ip") || !program("tcpdump") {
        return;
    }
    let (namespace, _agent, client) = in_namespace().await;
    client.configure(&NetworkSetup::default()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("lo.pcapng");
    let file = fs::File::create(&kept).unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let copied = std::thread::spawn(move || io::copy(&mut { reader }, &mut { file }).unwrap());
    let keep = pipe::Sender::from_owned_fd(OwnedFd::from(writer)).unwrap();
    let (sender, mut headers) = tokio::sync::mpsc::channel(4);
    let received = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(bytes) = headers.recv().await {
            all.extend(bytes);
        }
        all
    });
    let mut capture = client.capture(&capture_request(true), Some(Box::new(keep)), Some(sender)).await.unwrap();
    chatter(&namespace, 5000);
    talk(&namespace, 100_000);
    let counted = tokio::time::timeout(LONG, async {
        while capture.progress().packets < 5000 {
            assert!(capture.changed().await, "the capture has ended");
        }
    });
    counted.await.expect("news of the packets while it runs");
    until("packets while it runs", || fs::metadata(&kept).unwrap().len() > 0).await;
    assert_eq!(capture.link(), 1);
    let CaptureEnd { capture: record, problems, holding, .. } = capture.stop().await.unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!((record.dropped_kernel, record.dropped_interface), (Some(0), Some(0)));
    assert!(record.packets > 5000 && record.tcp.is_none());
    let headers = received.await.unwrap();
    // 16 bytes and at least the IP header of each.
    let rest = headers.len() as u64 - record.packets * (16 + 34);
    assert!(rest > 0 && rest < record.packets * 34, "{} bytes of {} packets", headers.len(), record.packets);
    assert_eq!(holding.unwrap().early, 0, "there was room for all of them");
    copied.join().unwrap();
    let output = Command::new("tcpdump").args(["-nn", "-r"]).arg(&kept).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count() as u64, record.packets);

    let missing = CaptureRequest { interface: "eth9".to_owned(), ..capture_request(false) };
    let error = client.capture(&missing, None, None).await.unwrap_err();
    assert!(error.to_string().contains("eth9"), "{error}");
    let bad = CaptureRequest { filter: Some("tcp prot 80".to_owned()), ..capture_request(false) };
    assert_eq!(failure(&client.capture(&bad, None, None).await.unwrap_err()), FailureKind::Invalid);
}

/// One point of an agent, which keeps packets; what came of it.
async fn keep_packets(namespace: &Arc<Namespace>, client: &Client, directory: &Path) -> (Capture, Vec<Problem>) {
    let point = CapturePoint {
        node: NodeId::client(1),
        vantage: Vantage::Guest,
        interface: "lo".to_owned(),
        source: CaptureSource::Agent(client.clone()),
    };
    let spec = CaptureSpec {
        snaplen: 128,
        vantage: vec![Vantage::Guest],
        statistics: false,
        connections: false,
        keep: true,
        filter: None,
        ring: None,
    };
    let started = {
        let directory = directory.to_owned();
        move || Captures::start(&[point], &spec, Some(&directory))
    };
    let captures = tokio::task::spawn_blocking(started).await.unwrap().unwrap();
    talk(namespace, 1 << 20);
    let stopped = tokio::task::spawn_blocking(move || captures.stop()).await.unwrap();
    let [capture] = <[_; 1]>::try_from(stopped.captures).unwrap();
    (capture, stopped.problems)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_that_are_kept_on_a_disk_come_when_their_capture_ends() {
    if !root() || !program("ip") || !program("tcpdump") {
        return;
    }
    let (namespace, _other, _) = in_namespace().await;
    let place = tempfile::tempdir().unwrap();
    let [files, packets] = ["files", "packets"].map(|name| place.path().join(name));
    fs::write(&files, "").unwrap();
    fs::write(&packets, "").unwrap();
    let arguments = ["--results", files.to_str().unwrap(), "--packets", packets.to_str().unwrap()];
    let (_agent, client) = agent_with(&namespace, &arguments).await;
    client.configure(&NetworkSetup::default()).await.unwrap();
    let image = |disk: &Path, spoil| {
        Arc::new(Image { disk: disk.to_owned(), place: tempfile::tempdir().unwrap(), spoil: AtomicBool::new(spoil) })
    };
    let (of_files, of_packets) = (image(&files, false), image(&packets, false));
    client.attach(of_files, Some(of_packets.clone())).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (capture, problems) = keep_packets(&namespace, &client, directory.path()).await;
    assert!(problems.is_empty(), "{problems:?}");
    let kept = directory.path().join("client1-guest.pcapng");
    let named = format!("{}/client1-guest.pcapng", directory.path().file_name().unwrap().to_str().unwrap());
    assert_eq!(capture.file, Some(named));
    let output = Command::new("tcpdump").args(["-nn", "-r"]).arg(&kept).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count() as u64, capture.packets);
    assert!(capture.packets > 10 && packets.metadata().unwrap().len() > kept.metadata().unwrap().len());
    assert_eq!(fs::read_dir(of_packets.place()).unwrap().count(), 0);

    // What is not what the agent has written is no capture.
    of_packets.spoil.store(true, Ordering::Relaxed);
    let directory = tempfile::tempdir().unwrap();
    let (capture, problems) = keep_packets(&namespace, &client, directory.path()).await;
    let [Problem { weight: Weight::Suspect, text }] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(text.starts_with("packets of client1 ") && text.contains("were kept and are lost: "), "{text}");
    assert!(text.contains("the checksum of the results is another"), "{text}");
    assert!(capture.packets > 10 && capture.file.is_none());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// A file system of one page.
struct OnePage(tempfile::TempDir);

impl OnePage {
    fn mount() -> Self {
        let place = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4k", "tmpfs"]).arg(place.path()).status().unwrap();
        assert!(mounted.success());
        Self(place)
    }
}

impl Drop for OnePage {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_be_made_whole_costs_the_packets_and_not_the_record() {
    if !root() || !program("ip") || !program("mount") {
        return;
    }
    // There is room for the beginning alone.
    let full = OnePage::mount();
    let disk = full.0.path().join("packets");
    fs::write(&disk, "").unwrap();
    let (namespace, _other, _) = in_namespace().await;
    let (_agent, client) = agent_with(&namespace, &["--packets", disk.to_str().unwrap()]).await;
    client.configure(&NetworkSetup::default()).await.unwrap();
    let (sender, mut headers) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    let received = tokio::spawn(async move {
        let mut bytes = 0;
        while let Some(piece) = headers.recv().await {
            bytes += piece.len() as u64;
        }
        bytes
    });
    let request = CaptureRequest { on_disk: Some(7), ..capture_request(false) };
    let capture = client.capture(&request, None, Some(sender)).await.unwrap();
    talk(&namespace, 1 << 20);
    let CaptureEnd { capture: record, packets, holding, .. } = capture.stop().await.unwrap();
    assert!(record.packets > 10 && holding.is_some(), "{record:?}");
    assert!(received.await.unwrap() >= record.packets * (16 + 34), "all headers have come");
    let packets = packets.unwrap();
    let problem = packets.problem.unwrap();
    let said = problem.starts_with("cannot write packets to ") && problem.contains("No space left");
    assert!(packets.receipt.is_none() && said, "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_points_are_captured_beside_local_ones() {
    if !root() || !program("ip") {
        return;
    }
    let (namespace, agent, client) = in_namespace().await;
    client.configure(&NetworkSetup::default()).await.unwrap();
    let point = |vantage, source| CapturePoint { node: NodeId::client(1), vantage, interface: "lo".to_owned(), source };
    let points = [
        point(Vantage::Guest, CaptureSource::Agent(client.clone())),
        point(Vantage::Host, CaptureSource::Live { namespace: Some(Arc::clone(&namespace)) }),
    ];
    let spec = CaptureSpec {
        snaplen: 128,
        vantage: vec![Vantage::Guest, Vantage::Host],
        statistics: true,
        connections: true,
        keep: true,
        filter: None,
        ring: None,
    };
    let flows = FlowOptions {
        statistics: true,
        connections: true,
        mtu: Some(1500),
        points: 2,
        available: None,
        hold: None,
        fault_after: None,
    };
    let directory = tempfile::tempdir().unwrap();
    let start = |points: Vec<CapturePoint>, spec: CaptureSpec, directory: &Path| {
        let directory = directory.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut sinks = FlowSinks::new(&points, &vec![flows; points.len()]);
            Captures::start_with(&points, &spec, Some(&directory), |point, link| sinks.next(point, link))
        })
    };
    let captures = start(points.to_vec(), spec.clone(), directory.path()).await.unwrap().unwrap();
    talk(&namespace, 1 << 20);
    chatter(&namespace, 100);
    let stopped = tokio::task::spawn_blocking(move || captures.stop()).await.unwrap();
    let analysed = stopped.analyse();
    assert!(analysed.problems.is_empty(), "{:?}", analysed.problems);
    let [mut remote, mut local] = <[_; 2]>::try_from(analysed.captures).unwrap();
    let base = directory.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(remote.file.take(), Some(format!("{base}/client1-guest.pcapng")));
    assert_eq!(local.file.take(), Some(format!("{base}/client1-host.pcapng")));
    // The same packets of the same interface. Their times differ: the kernel takes one for each ring.
    let (there, here) = (remote.tcp.as_ref().unwrap(), local.tcp.as_ref().unwrap());
    assert_eq!((remote.packets, remote.bytes, &remote.sizes), (local.packets, local.bytes, &local.sizes));
    assert_eq!((remote.node, remote.vantage, remote.snaplen), (NodeId::client(1), Vantage::Guest, 128));
    assert_eq!((&there.directions, there.complete), (&here.directions, here.complete));
    assert_eq!((there.mtu, there.rows.len(), there.statistics.len()), (here.mtu, 1, here.statistics.len()));
    assert_eq!((there.rows[0].a, there.rows[0].b), (here.rows[0].a, here.rows[0].b));

    let bad = CaptureSpec { filter: Some("tcp prot 80".to_owned()), ..spec.clone() };
    let error = start(points[..1].to_vec(), bad, directory.path()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("`tcp prot 80`"), "{error}");

    let captures = start(points.to_vec(), spec, directory.path()).await.unwrap().unwrap();
    drop(agent);
    client.lost().await;
    let stopped = tokio::task::spawn_blocking(move || captures.stop()).await.unwrap();
    assert_eq!((stopped.captures.len(), stopped.nodes.len()), (1, 0));
    let [problem] = stopped.problems.as_slice() else { panic!("{:?}", stopped.problems) };
    assert_eq!(problem.weight, Weight::Invalid);
    assert!(problem.text.starts_with("capture of client1 (guest, lo) is lost: "), "{}", problem.text);
}

//! Guests of an image of one's own: they boot what they were to, and get their agent through miniccc. The double's guests run
//! what they are told to on this host, so that only their taps are missing.

use std::path::PathBuf;
use std::time::Duration;

use vptest::spec::{GuestBoot, GuestImage, GuestReach, MinimegaSpec, TestbedSpec};
use vptest::testbed::minimega::{MinimegaError, MinimegaKvm};
use vptest::testbed::{Testbed as _, TestbedError};

use super::double::{Double, Traps};
use super::testbed::{Campaign, is_empty};
use super::{guest, open, owner, until};

pub(super) struct Lab {
    pub(super) double: Double,
    pub(super) campaign: Campaign,
    /// Kernel and initramfs, which nobody boots.
    pub(super) boot: GuestBoot,
}

impl Lab {
    pub(super) fn new(traps: Traps) -> Self {
        let (double, campaign) = (Double::start(Traps { same_files: true, ..traps }), Campaign::new());
        let file = |name: &str| {
            let path = campaign.path().join(name);
            std::fs::write(&path, name).unwrap();
            path.to_string_lossy().into_owned()
        };
        let boot = GuestBoot::Kernel { kernel: file("vmlinuz"), initrd: file("initrd") };
        Self { double, campaign, boot }
    }

    pub(super) fn files(&self) -> PathBuf {
        guest::shared_files(&self.double.shared)
    }

    pub(super) fn by_cc(&self) -> GuestReach {
        GuestReach::Cc { files: Some(self.files().to_string_lossy().into_owned()) }
    }

    fn testbed(&self, reach: GuestReach, boot: Duration) -> MinimegaKvm {
        self.testbed_with(reach, boot, None)
    }

    /// The same, with the hosts that the spec names.
    pub(super) fn testbed_with(&self, reach: GuestReach, boot: Duration, hosts: Option<[&str; 2]>) -> MinimegaKvm {
        let hosts = hosts.map(|hosts| hosts.map(str::to_owned));
        let image = Some(GuestImage { boot: self.boot.clone(), reach });
        let socket = Some(self.double.socket().to_string_lossy().into_owned());
        let append = vec!["console=ttyS0".to_owned()];
        let minimega =
            MinimegaSpec { socket, hosts, image, append, boot_timeout: Some(boot), ..MinimegaSpec::default() };
        MinimegaKvm::new(&TestbedSpec { minimega, ..TestbedSpec::default() })
    }

    async fn failure(&self, reach: GuestReach, boot: Duration) -> String {
        let error = self.testbed(reach, boot).launch(&self.campaign.request()).await.err().expect("it has no taps");
        assert!(is_empty(&self.double) && self.campaign.is_clean());
        format!("{:#}", anyhow::Error::from(error))
    }

    /// Removes the guests' files. Agents that are about to end may still write there.
    pub(super) async fn remove_files(&self) {
        let gone = || match std::fs::remove_dir_all(self.files()) {
            Ok(()) => true,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        until("the end of the guests' files", gone).await;
    }

    /// Processes that were started in the guests' directory.
    pub(super) fn agents(&self) -> usize {
        let needle = self.files().to_string_lossy().into_owned();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&needle)).count()
    }
}

pub(super) const LONG: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn guests_with_a_miniccc_alone_get_agents_by_letters() {
    let lab = Lab::new(Traps::default());
    let why = lab.failure(lab.by_cc(), LONG).await;
    // Their agents have answered by then.
    assert!(why.contains("find the tap of client1"), "{why}");
    let heard = lab.double.heard();
    let count = |part: &str| heard.iter().filter(|line| line.contains(part)).count();
    let GuestBoot::Kernel { kernel, initrd } = &lab.boot else { unreachable!("it is one") };
    assert_eq!((count(&format!("vm config kernel {kernel}")), count(&format!("vm config initrd {initrd}"))), (2, 2));
    assert_eq!((count("vm config append console=ttyS0"), count("virtio-ports")), (2, 0));
    assert!(count(".t1") >= 2, "each has got a letter");
    // What goes on behind it does not bring the namespace back.
    lab.remove_files().await;
    until("the agents' end", || lab.agents() == 0).await;
    assert!(is_empty(&lab.double));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_miniccc_does_not_report_fails_in_time() {
    let lab = Lab::new(Traps { silent_start: true, ..Traps::default() });
    let why = lab.failure(lab.by_cc(), Duration::from_millis(300)).await;
    let said = |node: &str| why.contains(&format!("no miniccc has reported from {node} within 300ms"));
    assert!(said("client1") || said("server1"), "{why}");
    assert!(why.contains("minimega says that it is RUNNING"), "{why}");
}

/// The port is one of a guest's, which this host has not.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_miniccc_cannot_start_at_its_port_says_why() {
    let lab = Lab::new(Traps::default());
    let why = lab.failure(GuestReach::Port, Duration::from_secs(1)).await;
    assert!(why.contains("virtio-serial0"), "{why}");
    let namespace = open(&lab.double).await.fresh_namespace(&owner()).await.unwrap();
    let started = start(&lab, namespace).await.unwrap_err().to_string();
    assert!(started.contains("org.vptest.agent.0") && started.starts_with("client1: "), "{started}");
}

async fn start(lab: &Lab, namespace: vptest::testbed::minimega::Namespace) -> Result<(), MinimegaError> {
    use vptest::testbed::minimega::cc::{Channel, Member, MinimegaHead, Timing, start_at_port};
    let files = guest::report(&lab.double.shared, namespace.name(), "client1", "uuid-1");
    let member =
        Member { node: "client1".to_owned(), uuid: "uuid-1".to_owned(), files: files.to_string_lossy().into_owned() };
    let channel =
        Channel::new(std::sync::Arc::new(MinimegaHead::new(std::sync::Arc::new(namespace))), Timing::default());
    let bundle = vptest::image::Bundle::of(std::path::Path::new(crate::campaign::VPTEST)).unwrap();
    start_at_port(&channel, &member, &bundle, vptest::agent::PORT, "agent-1").await
}

#[tokio::test]
async fn an_image_that_cannot_be_booted_is_refused_before_anything_is_started() {
    let mut lab = Lab::new(Traps::default());
    lab.testbed(lab.by_cc(), LONG).preflight(&lab.campaign.request()).await.unwrap();
    lab.boot = GuestBoot::Disk { path: "/nosuch/{node}.qcow2".to_owned(), snapshot: true };
    let error = lab.testbed(lab.by_cc(), LONG).preflight(&lab.campaign.request()).await.unwrap_err();
    assert!(matches!(error, TestbedError::Unsupported { .. }), "{error:?}");
    assert!(error.to_string().starts_with("guests cannot boot /nosuch/client1.qcow2: No such file"), "{error}");
    assert!(is_empty(&lab.double));
}

#[tokio::test]
async fn another_initramfs_is_another_image_for_whoever_resumes() {
    let lab = Lab::new(Traps::default());
    let (testbed, request) = (lab.testbed(lab.by_cc(), LONG), lab.campaign.request());
    let first = testbed.base_id(&request).await.unwrap().unwrap();
    assert_eq!(testbed.base_id(&request).await.unwrap().as_deref(), Some(first.as_str()));
    std::fs::write(lab.campaign.path().join("initrd"), "changed").unwrap();
    assert_ne!(testbed.base_id(&request).await.unwrap().unwrap(), first);
}

#[tokio::test]
async fn a_namespace_that_was_removed_stays_so() {
    let double = Double::start(Traps::default());
    let namespace = open(&double).await.fresh_namespace(&owner()).await.unwrap();
    namespace.run(&["echo", "a"]).await.unwrap();
    assert!(namespace.remove().await.is_empty());
    let error = namespace.run(&["cc", "clients"]).await.unwrap_err();
    assert!(matches!(&error, MinimegaError::Unsendable { word, .. } if word == namespace.name()), "{error}");
    namespace.poll(&["cc", "clients"]).await.unwrap_err();
    assert!(is_empty(&double));
}

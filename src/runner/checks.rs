//! What this host can run: each thing is tried, in a namespace of its own, and removed again.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::host::link;
use crate::host::namespace::Namespace;
use crate::host::netlink::Netlink;
use crate::host::userns::{Privilege, UserNamespaceError};
use crate::ids::{NodeId, Vantage};
use crate::image;
use crate::instrument::capture::Captures;
use crate::instrument::facts;
use crate::instrument::syscalls::{Options as TraceOptions, Tracer};
use crate::record::{SyscallScope, SyscallSource};
use crate::spec::{CaptureSpec, TestbedSpec, Tuple, Value};
use crate::testbed::qemu::{Offers, kvm_verdict};
use crate::testbed::{self, CapturePoint, CaptureSource, Notice, Request, TestbedError};
use crate::units::Rate;
use crate::workload::find_in_path;

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What: `namespaces and links`.
    pub name: String,
    /// Does it work?
    pub state: State,
    /// What was found.
    pub found: String,
    /// How to get what is missing.
    pub hint: Option<String>,
}

/// Does it work?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Yes.
    Ok,
    /// Not, or not fully, but nothing needs it by default.
    Optional,
    /// No, and nothing can be run without it.
    Missing,
}

impl State {
    /// As printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Optional => "optional",
            Self::Missing => "MISSING",
        }
    }
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), state: State::Ok, found: found.into(), hint: None }
    }

    fn lacking(name: &str, state: State, found: impl Into<String>, hint: Option<String>) -> Self {
        Self { name: name.to_owned(), state, found: found.into(), hint }
    }
}

/// Tries everything. `privilege` is what came of entering a user namespace, which must happen before threads start.
pub async fn all(privilege: &Result<Privilege, UserNamespaceError>) -> Vec<Check> {
    let mut checks = vec![host(), privileges(privilege)];
    checks.push(links("namespaces and links", &[], State::Missing).await);
    let rate = Rate::from_bits_per_second(100_000_000).map(Value::Rate);
    checks.push(links("rate limits", &[("rate", rate)], State::Optional).await);
    checks.push(captures());
    checks.extend([SyscallSource::Bpf, SyscallSource::Perf].map(syscalls));
    checks.push(probe());
    checks.push(counters());
    checks.extend(guests().await);
    checks.push(physical());
    checks.push(rond().await);
    checks.push(minimega().await);
    checks.extend(TOOLS.iter().map(|&(program, package, state, what)| tool(program, package, state, what)));
    checks
}

/// Which counters there are besides what every Linux has.
fn counters() -> Check {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for (source, found) in crate::instrument::counters::offers() {
        match found {
            Ok(count) => there.push(format!("{source} {count}")),
            Err(why) => missing.push(format!("{source} ({why})")),
        }
    }
    let stack = Namespace::new().and_then(|namespace| namespace.run(Netlink::open)).map(|netlink| {
        let driver = crate::host::ethtool::statistics(&netlink, "lo");
        driver.err().map(|error| format!("ethtool ({error})"))
    });
    match stack {
        Ok(None) => there.push("ethtool -S".to_owned()),
        Ok(Some(why)) => missing.push(why),
        Err(error) => missing.push(format!("ethtool ({error})")),
    }
    let mut found = format!("everything of /proc; besides {}", there.join(", "));
    if !missing.is_empty() {
        found.push_str(&format!("; not {}", missing.join(", ")));
    }
    Check::ok("counters", found)
}

fn host() -> Check {
    let facts: BTreeMap<_, _> = facts::facts("", &[]).into_iter().map(|fact| (fact.name, fact.value)).collect();
    let known =
        ["kernel", "cpus", "cpu", "memory"].iter().filter_map(|name| Some(format!("{name} {}", facts.get(*name)?)));
    Check::ok("host", known.collect::<Vec<_>>().join(", "))
}

fn privileges(privilege: &Result<Privilege, UserNamespaceError>) -> Check {
    let name = "privileges";
    match privilege {
        Ok(Privilege::Already) => Check::ok(name, "root"),
        Ok(Privilege::UserNamespace) => Check::ok(name, "a user namespace of its own (no --keep-failed)"),
        Err(error) => Check::lacking(name, State::Missing, error.to_string(), Some(error.hint().to_owned())),
    }
}

/// Tries what the netns testbed needs for a tuple with these factors.
async fn links(name: &str, factors: &[(&str, Option<Value>)], state: State) -> Check {
    let values = factors.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
    let request = Request {
        tuple: Tuple::new(values.collect()),
        number: 0,
        attempt: 1,
        scratch: std::env::temp_dir(),
        campaign: std::env::temp_dir(),
        vptest: std::path::PathBuf::from("vptest"),
        programs: Vec::new(),
        notice: Notice::default(),
    };
    let result = match testbed::by_name("netns", &TestbedSpec::default()) {
        Ok(testbed) => testbed.preflight(&request).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => Check::ok(name, "work"),
        Err(error) => {
            let hint = match &error {
                TestbedError::Unsupported { hint, .. } => hint.clone(),
                _ => None,
            };
            Check::lacking(name, state, format!("{:#}", anyhow::Error::from(error)), hint)
        }
    }
}

/// Opens a capture on the loopback interface of a new namespace.
fn captures() -> Check {
    let name = "live capture";
    let result = Namespace::new().map_err(anyhow::Error::from).and_then(|namespace| {
        let loopback_up = || Netlink::open()?.apply(&[link::up("lo", 1)]).map_err(std::io::Error::other);
        namespace.run(loopback_up)?;
        let point = CapturePoint {
            node: NodeId::client(1),
            vantage: Vantage::Guest,
            interface: "lo".to_owned(),
            source: CaptureSource::Live { namespace: Some(std::sync::Arc::new(namespace)) },
        };
        let spec = CaptureSpec {
            snaplen: 96,
            vantage: vec![Vantage::Guest],
            statistics: false,
            connections: false,
            keep: false,
            filter: None,
            ring: Some(1 << 20),
        };
        Ok(Captures::start(&[point], &spec, None)?.stop())
    });
    match result {
        Ok(_) => Check::ok(name, "works"),
        Err(error) => Check::lacking(name, State::Missing, format!("{error:#}"), None),
    }
}

/// Follows the calls of this machine for a moment.
fn syscalls(source: SyscallSource) -> Check {
    let name = &format!("system calls by {}", source.as_str());
    let tracefs = if std::path::Path::new("/sys/kernel/tracing/events").exists() { "mounted" } else { "not mounted" };
    let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")
        .map_or_else(|_| "no perf".to_owned(), |level| format!("perf_event_paranoid {}", level.trim()));
    let others = format!("tracefs {tracefs}, {paranoid}");
    let options = TraceOptions { source: Some(source), ..TraceOptions::here(SyscallScope::Node, None) };
    match Tracer::start(options) {
        Ok(tracer) => {
            let notes: String = tracer.notes.iter().map(|note| format!("; {note}")).collect();
            match tracer.stop() {
                Ok(trace) => Check::ok(name, format!("followed by {} ({others}){notes}", trace.source.as_str())),
                Err(error) => Check::lacking(name, State::Optional, format!("{error} ({others})"), None),
            }
        }
        Err(error) => {
            let hint = "only `[instrument] syscalls` needs it: run vptest as root, outside of containers that refuse BPF and perf; one of the two is enough";
            Check::lacking(name, State::Optional, format!("{error} ({others})"), Some(hint.to_owned()))
        }
    }
}

/// Sends one packet to itself, and looks for the kernel's times of it.
fn probe() -> Check {
    let name = "path probe";
    match crate::instrument::probe::trial() {
        Ok(found) => Check::ok(name, found),
        Err(error) => {
            let hint = "only `[instrument] probe` needs it: Linux 4.5 or newer keeps times of packets".to_owned();
            Check::lacking(name, State::Optional, format!("{error}"), Some(hint))
        }
    }
}

/// What the qemu testbed needs. KVM is tried by booting a guest, once for each boot of this host.
async fn guests() -> Vec<Check> {
    let lacking = |name: &str, found: String, hint: Option<String>| Check::lacking(name, State::Optional, found, hint);
    let mut checks = Vec::new();
    let offers = Offers::ask().await;
    match &offers {
        Ok(offers) => checks.push(Check::ok("qemu", offers.version.clone())),
        Err(error) => checks.push(lacking("qemu", error.to_string(), error.hint().map(str::to_owned))),
    }
    let cache = image::default_cache();
    let images = cache
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|cache| image::list(cache).map_err(|error| format!("{:#}", anyhow::Error::from(error))));
    let build = || Some("`vptest image build` makes one, and `vptest run` where it is needed".to_owned());
    checks.push(match &images {
        Ok(images) => match images.first() {
            Some(newest) => Check::ok(
                "guest images",
                format!("{}, the newest {} ({})", images.len(), newest.id, newest.kernel_source),
            ),
            None => lacking("guest images", "none yet".to_owned(), build()),
        },
        Err(error) => lacking("guest images", error.clone(), build()),
    });
    if let (Ok(offers), Ok(cache)) = (&offers, &cache) {
        let scratch = std::env::temp_dir();
        // A kernel of the user's own says nothing about this host.
        let packaged = |image: &&image::Image| {
            image.kernel_source.starts_with("linux-image-") && !image.kernel_source.contains('/')
        };
        let newest = images.as_ref().ok().and_then(|images| images.iter().find(packaged));
        checks.push(match kvm_verdict(offers, newest, cache, &scratch).await {
            Some(verdict) if verdict.works => Check::ok("kvm", verdict.reason),
            Some(verdict) => lacking("kvm", format!("{}; guests run under TCG, far slower", verdict.reason), None),
            None => lacking("kvm", "not tried: that takes a guest, and so an image".to_owned(), build()),
        });
    }
    checks
}

/// What the physical testbed needs here: ssh, and a vptest that can be copied. What the nodes lack, they say themselves.
fn physical() -> Check {
    let name = "physical nodes";
    let lacking =
        |found: String, hint: Option<&str>| Check::lacking(name, State::Optional, found, hint.map(str::to_owned));
    let Some(ssh) = find_in_path("ssh") else {
        return lacking("program `ssh` not found".to_owned(), Some("apt-get install openssh-client"));
    };
    let packed = std::env::current_exe().map_err(|error| error.to_string());
    match packed.and_then(|vptest| image::Bundle::of(&vptest).map_err(|error| error.to_string())) {
        Ok(bundle) => Check::ok(
            name,
            format!(
                "{}, {} MiB to be copied; each node needs a login with a key, as root or with `sudo -n`",
                ssh.display(),
                bundle.tar.len().div_ceil(1 << 20)
            ),
        ),
        Err(error) => lacking(format!("vptest cannot be packed for them: {error}"), None),
    }
}

/// What physical nodes need that are reached by rond.
async fn rond() -> Check {
    let name = "rond";
    match testbed::minimega::rond::look().await {
        Ok(found) => Check::ok(name, found),
        Err(error) => {
            let hint = "only nodes of the testbed physical with `way = \"rond\"` need it: start `rond -nostdin` here, and on each \
                        node `miniccc -parent THIS_HOST`";
            Check::lacking(name, State::Optional, error, Some(hint.to_owned()))
        }
    }
}

/// What the testbeds of minimega need: a minimega that answers. What that lacks itself, it says.
async fn minimega() -> Check {
    let name = "minimega";
    match testbed::minimega::look().await {
        Ok(found) => Check::ok(name, found),
        Err(error) => {
            let hint = "only the testbeds minimega-kvm and minimega-container need it: install minimega, Open vSwitch, dnsmasq and QEMU, and start it as \
                        root with `minimega -nostdin`";
            Check::lacking(name, State::Optional, error, Some(hint.to_owned()))
        }
    }
}

const TOOLS: [(&str, Option<&str>, State, &str); 6] = [
    ("ab", Some("apache2-utils"), State::Missing, "preset ab"),
    ("nginx", Some("nginx"), State::Optional, "preset ab with server = \"nginx\""),
    ("iperf3", Some("iperf3"), State::Optional, "preset iperf3"),
    ("stress-ng", Some("stress-ng"), State::Optional, "factors stress_cpu, stress_io, stress_mem"),
    ("protonuke", None, State::Optional, "preset protonuke, preset ab with server = \"protonuke\""),
    ("qemu-img", Some("qemu-utils"), State::Optional, "`result_disk` of minimega-kvm"),
];

fn tool(program: &str, package: Option<&str>, state: State, what: &str) -> Check {
    let hint = match package {
        Some(package) => format!("apt-get install {package}"),
        None => "it comes with minimega's releases; put it into PATH".to_owned(),
    };
    match find_in_path(program) {
        Some(path) => Check::ok(program, format!("{} ({what})", path.display())),
        None => Check::lacking(program, state, format!("not found ({what})"), Some(hint)),
    }
}

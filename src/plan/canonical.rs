//! The canonical text of tuples and of a spec's meaning: what identities are hashes of.
//!
//! docs/plan.md specifies it; the vectors in the tests pin it. A change here gives every iteration another identity,
//! so that nothing which was run counts as done any more: raise [`VERSION`] and say so, or leave it alone.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{ShortHash, Vantage};
use crate::spec::{
    CaptureSpec, CounterSpec, Fault, GuestAccess, GuestBoot, GuestImage, GuestKernel, GuestReach, HttpServer,
    MetricPattern, MetricRule, MinimegaSpec, PhysicalSpec, ProbeSpec, Protocol, ProtonukeSpec, Ready, Reuse, Source,
    Spec, StressPlace, SyscallSpec, TapCapture, TestbedSpec, Value, WorkloadSpec, factors, json_string,
};
use crate::units::format_duration;

/// Version of the canonical text.
const VERSION: u32 = 1;

/// A JSON object with sorted keys and no blanks.
#[derive(Default)]
struct Object(BTreeMap<&'static str, String>);

impl Object {
    fn with(mut self, name: &'static str, json: impl Into<String>) -> Self {
        self.0.insert(name, json.into());
        self
    }

    fn text(self, name: &'static str, text: &str) -> Self {
        self.with(name, json_string(text))
    }

    fn finish(self) -> String {
        let members: Vec<String> = self.0.iter().map(|(name, json)| format!("\"{name}\":{json}")).collect();
        format!("{{{}}}", members.join(","))
    }
}

fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

fn strings(items: &[String]) -> String {
    array(items.iter().map(|item| json_string(item)))
}

fn or_null(json: Option<String>) -> String {
    json.unwrap_or_else(|| "null".to_owned())
}

/// What a spec means for tuples on `testbed`: workload, capture and the testbed's options, with defaults filled in.
///
/// Name, repetitions, seed, order, timeout, exclusions, thresholds and analysis are no part of it: they change which
/// iterations there are, or what is made of them, but not what an iteration does.
pub(super) fn meaning(spec: &Spec, testbed: &str) -> String {
    let options = match testbed {
        "fake" => Object::default().with("fault", array(spec.testbed.fake.faults.iter().map(fault))),
        "qemu" => qemu(&spec.testbed),
        "physical" => physical(&spec.testbed.physical),
        "minimega-kvm" => minimega(&spec.testbed.minimega),
        "minimega-container" => containers(&spec.testbed.minimega),
        _ => Object::default(),
    };
    let mut object = Object::default();
    // What is off changes nothing for those who do not ask for it.
    let mut instrument = Object::default();
    if let Some(syscalls) = &spec.instrument.syscalls {
        instrument = instrument.with("syscalls", self::syscalls(syscalls));
    }
    if let Some(counters) = &spec.instrument.counters {
        instrument = instrument.with("counters", self::counters(counters));
    }
    if let Some(probe) = &spec.instrument.probe {
        instrument = instrument.with("probe", self::probe(probe));
    }
    if !instrument.0.is_empty() {
        object = object.with("instrument", instrument.finish());
    }
    object
        .with("capture", capture(&spec.capture, testbed))
        .with("testbed", options.finish())
        .with("workload", workload(&spec.workload))
        .finish()
}

/// Only the vantages that the testbed has: those of other testbeds mean nothing there.
fn capture(capture: &CaptureSpec, testbed: &str) -> String {
    let offered = factors::testbed(testbed).map_or(&[][..], |testbed| testbed.vantages);
    let mut vantages: Vec<Vantage> = capture.vantage.iter().copied().filter(|v| offered.contains(v)).collect();
    vantages.sort_unstable();
    // What is only stored on demand, or left out on demand, changes nothing for those who ask for neither.
    let mut object = Object::default();
    if capture.connections {
        object = object.with("connections", "true");
    }
    if !capture.statistics {
        object = object.with("statistics", "false");
    }
    object
        .with("filter", or_null(capture.filter.as_deref().map(json_string)))
        .with("keep", capture.keep.to_string())
        .with("ring", or_null(capture.ring.map(|bytes| bytes.to_string())))
        .with("snaplen", capture.snaplen.to_string())
        .with("vantage", array(vantages.iter().map(|v| json_string(v.as_str()))))
        .finish()
}

/// Without the threshold. The series is only stored on demand.
fn probe(probe: &ProbeSpec) -> String {
    let mut object = Object::default()
        .text("interval", &format_duration(probe.interval))
        .with("size", probe.size.to_string())
        .with("dscp", probe.dscp.to_string())
        .text("timeout", &format_duration(probe.timeout));
    if let Some(series) = probe.series {
        object = object.text("series", &format_duration(series));
    }
    object.finish()
}

fn syscalls(syscalls: &SyscallSpec) -> String {
    let mut object = Object::default().text("scope", syscalls.scope.as_str());
    if let Some(source) = syscalls.source {
        object = object.text("source", source.as_str());
    }
    if syscalls.log {
        object = object.with("log", "true");
    }
    for (name, rows) in [
        ("threads", syscalls.threads),
        ("names", syscalls.names),
        ("calls", syscalls.calls),
        ("transitions", syscalls.transitions),
        ("sizes", syscalls.sizes),
        ("ring", syscalls.ring),
    ] {
        if let Some(rows) = rows {
            object = object.with(name, rows.to_string());
        }
    }
    object.finish()
}

/// The interval in milliseconds; `null` without a series.
fn counters(counters: &CounterSpec) -> String {
    let interval = counters.interval.map(|interval| interval.as_millis().to_string());
    let mut object = Object::default().with("interval", or_null(interval));
    if !counters.metrics.is_empty() {
        object = object.with("metrics", strings(&counters.metrics));
    }
    object.finish()
}

/// Only what differs from the defaults. Programs that are only there, and how long booting may take, change nothing. The
/// image itself is not known yet: which one it was stands in the iteration's environment (`image.id`).
fn qemu(testbed: &TestbedSpec) -> Object {
    let (qemu, mut object) = (&testbed.qemu, kernel(&testbed.qemu.kernel));
    if let Some(disk) = &qemu.disk {
        object = object.text("disk", disk);
    }
    if let GuestAccess::Ssh(_) = qemu.access {
        object = object.text("access", "ssh");
    }
    if let Some(cpu) = &qemu.cpu {
        object = object.text("cpu", cpu);
    }
    if !qemu.arguments.is_empty() {
        object = object.with("arguments", strings(&qemu.arguments));
    }
    if qemu.stress == StressPlace::Guest {
        object = object.text("stress", "guest");
    }
    if testbed.reuse == Reuse::Tuple {
        object = object.text("reuse", "tuple");
    }
    object
}

/// What is changed on the nodes. Which nodes they are is no part of it, as which host vptest runs on is none: both stand in
/// the iteration's environment.
fn physical(physical: &PhysicalSpec) -> Object {
    let mut object = Object::default();
    if !physical.sysctls.is_empty() {
        let pair = |(name, value): &(String, String)| strings(&[name.clone(), value.clone()]);
        object = object.with("sysctls", array(physical.sysctls.iter().map(pair)));
    }
    if let Some(governor) = &physical.governor {
        object = object.text("governor", governor);
    }
    object
}

fn kernel(kernel: &GuestKernel) -> Object {
    let object = Object::default();
    match kernel {
        GuestKernel::Full => object,
        GuestKernel::Cloud => object.text("kernel", "cloud"),
        GuestKernel::Path { kernel, modules } => {
            object.text("kernel", kernel).with("modules", or_null(modules.as_deref().map(json_string)))
        }
    }
}

/// As [`qemu`]. Where minimega's socket is changes nothing.
fn minimega(minimega: &MinimegaSpec) -> Object {
    let mut object = around(kernel(&minimega.kernel), minimega);
    if let Some(hosts) = &minimega.hosts {
        object = object.with("hosts", strings(hosts));
    }
    if let Some(image) = &minimega.image {
        object = guest_image(object, image);
    }
    if !minimega.append.is_empty() {
        object = object.with("append", strings(&minimega.append));
    }
    if let Some(qemu) = &minimega.qemu {
        object = object.text("qemu", qemu);
    }
    if let Some(cpu) = &minimega.cpu {
        object = object.text("cpu", cpu);
    }
    object
}

/// Which files they are; of a kernel and an initramfs also what is in them counts (`image.base_id`).
fn guest_image(object: Object, image: &GuestImage) -> Object {
    let object = match &image.boot {
        GuestBoot::Kernel { initrd, .. } => object.text("initrd", initrd),
        GuestBoot::Disk { path, snapshot: true } => object.text("disk", path),
        GuestBoot::Disk { path, snapshot: false } => object.text("disk", path).with("snapshot", "false"),
    };
    match image.reach {
        GuestReach::Port => object,
        GuestReach::Cc { .. } => object.text("reach", image.reach.as_str()),
    }
}

/// Containers have neither a kernel nor a QEMU of their own.
fn containers(minimega: &MinimegaSpec) -> Object {
    let object = around(Object::default(), minimega);
    match &minimega.filesystem {
        Some(filesystem) => object.text("filesystem", filesystem),
        None => object,
    }
}

/// What machines of every kind have around them.
fn around(mut object: Object, minimega: &MinimegaSpec) -> Object {
    if minimega.capture == TapCapture::Minimega {
        object = object.text("capture", "minimega");
    }
    if minimega.stress == StressPlace::Guest {
        object = object.text("stress", "guest");
    }
    object
}

fn fault(fault: &Fault) -> String {
    Object::default()
        .with("attempts", or_null(fault.attempts.map(|n| n.to_string())))
        .with("iterations", array(fault.iterations.iter().map(u32::to_string)))
        .text("kind", fault.kind.as_str())
        .text("stage", fault.stage.as_str())
        .finish()
}

fn workload(workload: &WorkloadSpec) -> String {
    match workload {
        WorkloadSpec::Ab { server, keepalive, arguments } => Object::default()
            .text("preset", "ab")
            .text(
                "server",
                match server {
                    HttpServer::Builtin => "builtin",
                    HttpServer::Nginx => "nginx",
                    HttpServer::Protonuke => "protonuke",
                },
            )
            .with("keepalive", keepalive.to_string())
            .with("arguments", strings(arguments)),
        WorkloadSpec::Iperf3 { protocol, duration, streams, bitrate, reverse, arguments } => Object::default()
            .text("preset", "iperf3")
            .text(
                "protocol",
                match protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                },
            )
            .text("duration", &format_duration(*duration))
            .with("streams", streams.to_string())
            .with("bitrate", or_null(bitrate.map(|rate| json_string(&rate.to_string()))))
            .with("reverse", reverse.to_string())
            .with("arguments", strings(arguments)),
        WorkloadSpec::Protonuke(spec) => protonuke(spec),
        WorkloadSpec::Command { server, client, ready, ready_timeout, time_limit, metrics, keep, keep_server } => {
            // What is only stored on demand changes nothing for those who do not ask for it.
            let kept = [("keep", keep), ("keep_server", keep_server)];
            let kept = kept.into_iter().filter(|(_, files)| !files.is_empty());
            kept.fold(Object::default(), |object, (name, files)| object.with(name, strings(files)))
                .text("preset", "command")
                .with("server", or_null(server.as_deref().map(strings)))
                .with("client", strings(client))
                .with("ready", or_null(ready.as_ref().map(readiness)))
                .text("ready_timeout", &format_duration(*ready_timeout))
                .with("time_limit", or_null(time_limit.map(|limit| json_string(&format_duration(limit)))))
                .with("metric", array(metrics.iter().map(metric)))
        }
    }
    .finish()
}

fn protonuke(spec: &ProtonukeSpec) -> Object {
    let duration = |of: Duration| format_duration(of);
    Object::default()
        .text("preset", "protonuke")
        .with("services", array(spec.services.iter().map(|service| json_string(service.as_str()))))
        .text("duration", &duration(spec.duration))
        .text("mean", &duration(spec.mean))
        .text("deviation", &duration(spec.deviation))
        .text("min", &duration(spec.min))
        .text("max", &duration(spec.max))
        .with("image_size", or_null(spec.image_size.map(|size| json_string(&size.to_string()))))
        .with("times", spec.times.to_string())
        .with("arguments", strings(&spec.arguments))
        .with("server_arguments", strings(&spec.server_arguments))
}

fn readiness(ready: &Ready) -> String {
    match ready {
        Ready::Tcp(port) => Object::default().with("tcp", port.to_string()),
        Ready::File(path) => Object::default().text("file", path),
        Ready::Output(pattern) => Object::default().text("output", pattern),
    }
    .finish()
}

fn metric(rule: &MetricRule) -> String {
    let object = Object::default()
        .text("name", &rule.name)
        .text("unit", &rule.unit)
        .with("better", or_null(rule.better.map(|better| json_string(better.as_str()))))
        .text("level", rule.level.as_str())
        .text(
            "from",
            match rule.from {
                Source::Client => "client",
                Source::Server => "server",
            },
        )
        .with("required", rule.required.to_string());
    match &rule.pattern {
        MetricPattern::Regex(pattern) => object.text("regex", pattern),
        MetricPattern::Json(pointer) => object.text("json", pointer),
    }
    .finish()
}

/// What the id of every tuple of a meaning begins with.
pub(super) fn prefix(meaning: &str) -> String {
    format!("vptest tuple {VERSION}\n{}\n", ShortHash::of(meaning.as_bytes()))
}

/// A factor with its value as a member of the canonical object: `"pairs":4`.
pub(super) fn member(name: &str, value: &Value) -> String {
    format!("{}:{}", json_string(name), value.canonical_json())
}

/// Ids of tuples, one after the other, without allocating for each.
pub(super) struct TupleHasher {
    buffer: Vec<u8>,
}

impl TupleHasher {
    pub(super) const fn new() -> Self {
        Self { buffer: Vec::new() }
    }

    /// Id of the tuple with these members, sorted by name.
    pub(super) fn id<'m>(&mut self, prefix: &str, members: impl Iterator<Item = &'m str>) -> ShortHash {
        self.buffer.clear();
        self.buffer.extend_from_slice(prefix.as_bytes());
        self.buffer.push(b'{');
        for (i, member) in members.enumerate() {
            if i > 0 {
                self.buffer.push(b',');
            }
            self.buffer.extend_from_slice(member.as_bytes());
        }
        self.buffer.push(b'}');
        ShortHash::of(&self.buffer)
    }
}

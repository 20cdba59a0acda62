//! Facts about this host that a reader of the results may want to know: kernel, CPU, memory, clock, distribution.

use std::fs;
use std::path::Path;

use crate::record::Environment;

/// Facts about the host called `host`, and the versions of `tools` (name and version) used on it.
///
/// A fact that cannot be read has no row.
pub fn facts(host: &str, tools: &[(String, String)]) -> Vec<Environment> {
    let cpuinfo = read("/proc/cpuinfo");
    let cpu = |key| cpuinfo.as_deref().and_then(|text| field(text, key));
    let hypervisor = cpu("flags").map(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let facts = [
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("kernel.build", read("/proc/sys/kernel/version")),
        ("distribution", read("/etc/os-release").and_then(|text| distribution(&text))),
        ("cpu", cpu("model name")),
        ("cpu.count", cpuinfo.as_deref().map(|text| count(text, "processor").to_string())),
        ("cpu.online", read("/sys/devices/system/cpu/online")),
        ("cpu.governor", governors()),
        ("cpu.smt", read("/sys/devices/system/cpu/smt/control")),
        ("cpu.turbo_off", read("/sys/devices/system/cpu/intel_pstate/no_turbo")),
        ("hypervisor", hypervisor.map(|yes| yes.to_string())),
        ("hypervisor.product", read("/sys/class/dmi/id/product_name")),
        ("memory", read("/proc/meminfo").and_then(|text| field(&text, "MemTotal"))),
        ("clocksource", read("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
        ("tcp.congestion_control", read("/proc/sys/net/ipv4/tcp_congestion_control")),
        ("mitigations", read("/proc/cmdline").and_then(|text| mitigations(&text))),
    ];
    let facts = facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let tools = tools.iter().map(|(tool, version)| (format!("{tool}.version"), version.clone()));
    facts.chain(tools).map(|(name, value)| Environment { host: host.to_owned(), name, value }).collect()
}

/// A small file without the white space at its ends; `None` when it is not there or empty.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The value of the first `key : value` line.
fn field(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })?;
    Some(value.to_owned())
}

fn count(text: &str, key: &str) -> usize {
    text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() == key).count()
}

/// `PRETTY_NAME` without its quotes. Source: os-release(5).
fn distribution(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// Frequency governors in use, each once; more than one is a reason to look closer.
fn governors() -> Option<String> {
    let cpus = fs::read_dir("/sys/devices/system/cpu").ok()?.flatten();
    let mut names: Vec<String> = cpus.filter_map(|cpu| read(cpu.path().join("cpufreq/scaling_governor"))).collect();
    names.sort();
    names.dedup();
    (!names.is_empty()).then(|| names.join(","))
}

/// The kernel's `mitigations=` option.
fn mitigations(command_line: &str) -> Option<String> {
    command_line.split_ascii_whitespace().find_map(|word| word.strip_prefix("mitigations=")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_facts() {
        let facts = facts("here", &[("ab".to_owned(), "2.3".to_owned())]);
        let value = |name: &str| facts.iter().find(|fact| fact.name == name).map(|fact| fact.value.as_str());
        assert!(value("kernel").is_some_and(|kernel| kernel.contains('.')));
        assert!(value("memory").is_some_and(|memory| memory.ends_with("kB")));
        assert_eq!(value("ab.version"), Some("2.3"));
        assert!(facts.iter().all(|fact| fact.host == "here" && !fact.value.is_empty()));
    }

    #[test]
    fn texts_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A: B\n\nprocessor\t: 1\nmodel name\t: C\n";
        assert_eq!(field(cpuinfo, "model name").as_deref(), Some("A: B"));
        assert_eq!(field(cpuinfo, "model"), None);
        assert_eq!(count(cpuinfo, "processor"), 2);
        assert_eq!(distribution("ID=debian\nPRETTY_NAME=\"Debian 12\"\n").as_deref(), Some("Debian 12"));
        assert_eq!(mitigations("quiet mitigations=off").as_deref(), Some("off"));
        assert_eq!(mitigations("quiet"), None);
    }
}

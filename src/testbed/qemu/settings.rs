//! Reading back what is in force in the guests and in QEMU; the host side is read by `super::super::lan`.

use super::guest::Guest;
use super::prepare::Resolved;
use super::wishes::Wishes;
use crate::agent::Client;
use crate::host::ethtool::Offload;
use crate::ids::NodeId;
use crate::record::Setting;
use crate::testbed::lan::topology::Topology;

/// Names of readings that are stored under another name, since the factor of that name is something else.
const RENAMED: [(&str, &str); 1] = [("driver", "link_driver")];

/// Every setting of a guest. `cpus` is what its virtual CPUs were bound to, if they were.
pub(super) async fn of_guest(guest: &Guest, resolved: &Resolved, cpus: Option<&[usize]>) -> Vec<Setting> {
    let mut settings = of_interfaces(guest.node, &guest.client, &resolved.wishes).await;
    settings.extend(of_machine(guest, resolved).await);
    if let Some(cpus) = cpus {
        let wanted = cpus.iter().cycle().take(resolved.hardware.vcpus as usize);
        let wanted = wanted.map(usize::to_string).collect::<Vec<_>>().join(";");
        settings.push(Setting::compare(Some(guest.node), "vcpu_cpus", Some(wanted), guest.pinned().await));
    }
    settings
}

/// Settings of the interfaces that the workload uses, as the agent in the guest reads them.
pub(in crate::testbed) async fn of_interfaces(node: NodeId, client: &Client, wishes: &Wishes) -> Vec<Setting> {
    let mut settings = of_interface(node, client, &wishes.topology, "eth0", "").await;
    if wishes.tunnel {
        let name = wishes.interface();
        settings.extend(of_interface(node, client, &wishes.topology, name, &format!("{name}.")).await);
    }
    settings
}

async fn of_interface(
    node: NodeId,
    client: &Client,
    topology: &Topology,
    interface: &str,
    prefix: &str,
) -> Vec<Setting> {
    let readings = match client.settings(interface).await {
        Ok(readings) => readings,
        Err(error) => {
            tracing::warn!("{node}: cannot read the settings of {interface}: {error}");
            Vec::new()
        }
    };
    let mut wanted: Vec<(&str, Option<String>)> = Offload::ALL
        .iter()
        .map(|offload| (offload.as_str(), topology.offload.map(|on| if on { "on" } else { "off" }.to_owned())))
        .collect();
    // Inside a tunnel the MTU is smaller by its headers.
    wanted.push(("mtu", topology.mtu.filter(|_| prefix.is_empty()).map(|mtu| mtu.to_string())));
    let mut settings: Vec<Setting> = wanted
        .iter()
        .map(|(name, wanted)| {
            let observed = readings.iter().find(|reading| reading.name == *name).and_then(|r| r.value.clone());
            Setting::compare(Some(node), &format!("{prefix}{name}"), wanted.clone(), observed)
        })
        .collect();
    let others = readings.iter().filter(|reading| !wanted.iter().any(|(name, _)| *name == reading.name));
    settings.extend(others.map(|reading| {
        let name = RENAMED.iter().find(|(name, _)| *name == reading.name).map_or(reading.name.as_str(), |(_, to)| to);
        Setting::compare(Some(node), &format!("{prefix}{name}"), None, reading.value.clone())
    }));
    settings
}

/// What QEMU says of the machine, and the guest of its CPUs.
async fn of_machine(guest: &Guest, resolved: &Resolved) -> Vec<Setting> {
    let hardware = &resolved.hardware;
    let wanted = |name: &str| match name {
        "accel" => Some(hardware.accel.as_str().to_owned()),
        "memory" => Some((hardware.memory.0.div_ceil(1 << 20) << 20).to_string()),
        "driver" => Some(hardware.driver.clone()),
        _ => None,
    };
    let read = guest.hardware().await.into_iter();
    let mut settings: Vec<Setting> =
        read.map(|(name, observed)| Setting::compare(Some(guest.node), name, wanted(name), observed)).collect();
    let cpus = guest.client.hello().cpus.map(|cpus| cpus.to_string());
    settings.push(Setting::compare(Some(guest.node), "vcpus", Some(hardware.vcpus.to_string()), cpus));
    settings
}

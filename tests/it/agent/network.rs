//! Networks that an agent sets up.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use vptest::agent::{FailureKind, InterfaceSetup, NetworkSetup, RouteSetup, TunnelSetup};

use super::{failure, in_namespace};
use crate::need::{program, root};

fn eth0() -> InterfaceSetup {
    InterfaceSetup {
        mac: Some("02:00:00:00:00:01".to_owned()),
        name: "eth0".to_owned(),
        address: Some((Ipv4Addr::new(10, 7, 0, 1).into(), 24)),
        mtu: Some(1400),
        offload: Some(false),
    }
}

#[tokio::test]
async fn a_network_is_set_up_and_read_back() {
    if !root() || !program("ip") {
        return;
    }
    let (namespace, _agent, client) = in_namespace().await;
    let setup = NetworkSetup {
        interfaces: vec![eth0()],
        routes: vec![RouteSetup {
            to: Some((Ipv4Addr::new(10, 8, 0, 0).into(), 16)),
            via: Ipv4Addr::new(10, 7, 0, 2).into(),
        }],
        sysctls: vec![("net/ipv4/ip_forward".to_owned(), "1".to_owned())],
        ..NetworkSetup::default()
    };
    client.configure(&setup).await.unwrap();
    client.configure(&setup).await.unwrap();
    let readings = client.settings("eth0").await.unwrap();
    let value = |name: &str| {
        let reading = readings.iter().find(|reading| reading.name == name);
        reading.unwrap_or_else(|| panic!("no {name}")).value.clone()
    };
    for name in ["sg", "tso", "gso", "gro"] {
        assert_eq!(value(name).as_deref(), Some("off"), "{name}");
    }
    assert_eq!(value("mtu").as_deref(), Some("1400"));
    assert_eq!((value("link_driver").as_deref(), value("operstate").as_deref()), (Some("veth"), Some("up")));
    assert_eq!((value("speed").as_deref(), value("firmware")), (Some("10000 Mbit/s"), None));
    assert_eq!(value("queues").as_deref(), Some("1"));
    assert!(value("rx_checksum").is_some() && value("tx_checksum").is_some() && value("ring_rx").is_none());
    let show = |arguments: &[&str]| {
        let output = namespace.run(|| Command::new("ip").args(arguments).output()).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(show(&["-4", "addr", "show", "eth0"]).contains("inet 10.7.0.1/24"));
    assert!(show(&["route"]).contains("10.8.0.0/16 via 10.7.0.2 dev eth0"));
    assert!(show(&["link", "show", "lo"]).contains(",UP"));
    let forward = client.read_files(&["/proc/sys/net/ipv4/ip_forward".to_owned()], 10).await.unwrap();
    assert_eq!(forward, [Some(b"1\n".to_vec())]);

    let missing = InterfaceSetup { mac: Some("02:00:00:00:00:99".to_owned()), ..eth0() };
    let missing = NetworkSetup { interfaces: vec![missing], ..NetworkSetup::default() };
    let error = client.configure(&missing).await.unwrap_err();
    assert_eq!(failure(&error), FailureKind::NotFound);
    assert!(error.to_string().contains("eth0 (02:00:00:00:00:01)"), "{error}");
    assert_eq!(failure(&client.settings("eth9").await.unwrap_err()), FailureKind::NotFound);
    let (passed, reached) = client.walk(Ipv4Addr::new(10, 7, 0, 1).into(), 5).await.unwrap();
    assert_eq!((passed, reached), (Vec::new(), true));
    let (_, reached) = client.walk(Ipv4Addr::new(10, 99, 0, 1).into(), 5).await.unwrap();
    assert!(!reached);
}

#[tokio::test]
async fn a_tunnel_is_made() {
    if !root() || !program("ip") {
        return;
    }
    let (namespace, _agent, client) = in_namespace().await;
    let probe = namespace.run(|| {
        let probe = ["link", "add", "probe0", "type", "gretap", "local", "10.7.0.1", "remote", "10.7.0.9"];
        let made = Command::new("ip").args(probe).stderr(Stdio::null()).status()?;
        Command::new("ip").args(["link", "del", "probe0"]).stderr(Stdio::null()).status()?;
        Ok(made.success())
    });
    if !crate::need::need("gre", probe.unwrap()) {
        return;
    }
    for ethernet in [true, false] {
        let name = if ethernet { "tun0" } else { "tun1" };
        let remote = if ethernet { 2 } else { 3 };
        let inner = Ipv4Addr::new(10, 200, remote, 1);
        let tunnel = TunnelSetup {
            name: name.to_owned(),
            ethernet,
            local: Ipv4Addr::new(10, 7, 0, 1).into(),
            remote: Ipv4Addr::new(10, 7, 0, remote).into(),
            address: (inner.into(), 24),
            mtu: Some(1300),
            offload: None,
        };
        let setup = NetworkSetup { interfaces: vec![eth0()], tunnel: Some(tunnel), ..NetworkSetup::default() };
        client.configure(&setup).await.unwrap();
        let readings = client.settings(name).await.unwrap();
        assert!(readings.iter().any(|reading| reading.name == "mtu" && reading.value.as_deref() == Some("1300")));
    }
}

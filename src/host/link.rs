//! Virtual links: veth pairs, bridges, addresses and routes, and reading interfaces back.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::namespace::Namespace;
use super::netlink::{Change, Netlink, NetlinkError, attribute, invalid};

/// Number of the loopback interface in every namespace.
pub const LOOPBACK: u32 = 1;
/// Prefix length of every address here.
const PREFIX: u8 = 24;

const LINK_HEADER: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;

/// One end of a veth pair. The number is chosen by the caller, so that nothing has to be asked for afterwards.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Name of the interface.
    pub name: &'a str,
    /// Its number.
    pub index: u32,
    /// Where it is made; `None` for where the request is sent.
    pub namespace: Option<&'a Namespace>,
    /// Bridge of that namespace it joins.
    pub bridge: Option<u32>,
}

/// A veth pair. Only the first end can join a bridge, and only the first is up: the kernel refuses to open an end
/// before it has its other.
///
/// `None` for the MTU leaves the kernel's default.
pub fn veth(first: End<'_>, second: End<'_>, mtu: Option<u32>) -> Change {
    debug_assert!(second.bridge.is_none(), "the kernel ignores the bridge of a peer");
    let mut peer = end(second, mtu);
    peer.header.flags = LinkFlags::empty();
    peer.header.change_mask = LinkFlags::empty();
    let mut message = end(first, mtu);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    create(format!("create the veth pair {}", first.name), message)
}

/// A bridge that is up, forwards from the first packet on and says nothing by itself: no spanning tree, no delay, no
/// multicast queries.
pub fn bridge(name: &str, index: u32, mtu: Option<u32>) -> Change {
    let mut message = end(End { name, index, namespace: None, bridge: None }, mtu);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(vec![
            InfoBridge::StpState(BridgeStpState::Disabled),
            InfoBridge::ForwardDelay(0),
            InfoBridge::MulticastSnooping(false),
        ])),
    ]));
    create(format!("create the bridge {name}"), message)
}

/// Switches an interface on.
pub fn up(name: &str, index: u32) -> Change {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Change { what: format!("switch {name} on"), message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// Changes the MTU of an interface.
pub fn mtu(name: &str, index: u32, mtu: u32) -> Change {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Mtu(mtu));
    Change { what: format!("set the MTU of {name}"), message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// Removes an interface.
pub fn remove(name: &str, index: u32) -> Change {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Change { what: format!("remove {name}"), message: RouteNetlinkMessage::DelLink(message), flags: 0 }
}

/// Makes an interface a port of the bridge with the number `bridge`.
pub fn join(name: &str, index: u32, bridge: u32) -> Change {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Controller(bridge));
    Change { what: format!("join {name} to its bridge"), message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// Gives an interface an address in a /24.
pub fn address(name: &str, index: u32, address: Ipv4Addr) -> Change {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = PREFIX;
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(IpAddr::V4(address)), AddressAttribute::Address(IpAddr::V4(address))];
    Change {
        what: format!("give {name} the address {address}"),
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// A route to the /24 around `to`, or to everywhere else for `None`.
pub fn route(to: Option<Ipv4Addr>, via: Ipv4Addr) -> Change {
    let network = to.map(|to| to & Ipv4Addr::new(255, 255, 255, 0));
    let shown = network.map_or("the default route".to_owned(), |network| format!("the route to {network}/{PREFIX}"));
    Change {
        what: format!("set {shown} via {via}"),
        message: RouteNetlinkMessage::NewRoute(route_message(network, via)),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// Takes away what [`route`] set.
pub fn remove_route(to: Option<Ipv4Addr>, via: Ipv4Addr) -> Change {
    let Change { what, message, .. } = route(to, via);
    let RouteNetlinkMessage::NewRoute(message) = message else { unreachable!("`route` makes a route") };
    Change { what: what.replacen("set", "remove", 1), message: RouteNetlinkMessage::DelRoute(message), flags: 0 }
}

/// An interface as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// In bytes; `None` when the kernel did not say.
    pub mtu: Option<u32>,
    /// RFC 2863 state; `None` when the kernel did not say.
    pub state: Option<State>,
    /// `veth`, `tun`, `bridge` …; `None` for what the kernel gives no kind, such as a physical card.
    pub kind: Option<String>,
}

impl Interface {
    /// The operational state in the words of `ip link`.
    pub fn state_text(&self) -> Option<String> {
        Some(match self.state? {
            State::Unknown => "unknown".to_owned(),
            State::NotPresent => "notpresent".to_owned(),
            State::Down => "down".to_owned(),
            State::LowerLayerDown => "lowerlayerdown".to_owned(),
            State::Testing => "testing".to_owned(),
            State::Dormant => "dormant".to_owned(),
            State::Up => "up".to_owned(),
            State::Other(number) => number.to_string(),
            other => format!("{other:?}").to_lowercase(),
        })
    }
}

/// Reads all interfaces of the namespace.
pub fn read_interfaces(netlink: &mut Netlink) -> Result<Vec<Interface>, NetlinkError> {
    let what = "list the interfaces";
    let listed = netlink.dump(what, &RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    listed
        .iter()
        .map(|message| decode(message))
        .collect::<Result<_, _>>()
        .map_err(|source| NetlinkError { what: what.to_owned(), source })
}

fn decode(message: &[u8]) -> io::Result<Interface> {
    let (header, attributes) = message.split_at_checked(LINK_HEADER).ok_or_else(|| invalid("short header"))?;
    let index = header[4..].first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let name = attribute(attributes, IFLA_IFNAME).ok_or_else(|| invalid("interface without a name"))?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let info = attribute(attributes, IFLA_LINKINFO);
    Ok(Interface {
        index: index.ok_or_else(|| invalid("short header"))?,
        name: text(name),
        mtu: attribute(attributes, IFLA_MTU).and_then(|value| value.first_chunk()).map(|mtu| u32::from_ne_bytes(*mtu)),
        state: attribute(attributes, IFLA_OPERSTATE).and_then(|value| value.first()).map(|&state| State::from(state)),
        kind: info.and_then(|info| attribute(info, IFLA_INFO_KIND)).map(text),
    })
}

fn end(end: End<'_>, mtu: Option<u32>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = end.index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::IfName(end.name.to_owned()));
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message.attributes.extend(end.bridge.map(LinkAttribute::Controller));
    message.attributes.extend(end.namespace.map(|namespace| LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd())));
    message
}

fn create(what: String, message: LinkMessage) -> Change {
    Change { what, message: RouteNetlinkMessage::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

fn route_message(network: Option<Ipv4Addr>, via: Ipv4Addr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(via)));
    if let Some(network) = network {
        message.header.destination_prefix_length = PREFIX;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(network)));
    }
    message
}

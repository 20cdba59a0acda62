//! Changes to interfaces that exist already, as a guest's agent makes them: found by MAC address, named, given addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoGre, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Change, Netlink, NetlinkError, attribute, invalid};

const LINK_HEADER: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;

/// An interface and its hardware address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; `None` where it has none of six bytes.
    pub mac: Option<[u8; 6]>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.mac {
            Some([a, b, c, d, e, g]) => write!(f, " ({a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x})"),
            None => Ok(()),
        }
    }
}

/// Reads `52:54:00:00:01:01`; `None` for anything else.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let byte = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u8::from_str_radix(part, 16).ok()).flatten()
    };
    let bytes: Vec<u8> = text.split(':').map(byte).collect::<Option<_>>()?;
    bytes.try_into().ok()
}

/// All interfaces of the namespace.
pub fn interfaces(netlink: &mut Netlink) -> Result<Vec<Found>, NetlinkError> {
    let what = "list the interfaces";
    let listed = netlink.dump(what, &RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let all: Option<Vec<_>> = listed.iter().map(|message| decode(message)).collect();
    all.ok_or_else(|| NetlinkError { what: what.to_owned(), source: invalid("interface without a name") })
}

fn decode(message: &[u8]) -> Option<Found> {
    let (header, attributes) = message.split_at_checked(LINK_HEADER)?;
    let name = attribute(attributes, IFLA_IFNAME)?;
    Some(Found {
        index: u32::from_ne_bytes(*header[4..].first_chunk()?),
        name: String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
        mac: attribute(attributes, IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
    })
}

/// Switches an interface off.
pub fn down(name: &str, index: u32) -> Change {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.change_mask = LinkFlags::Up;
    Change { what: format!("switch {name} off"), message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// Renames an interface, which must be off.
pub fn rename(index: u32, from: &str, to: &str) -> Change {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::IfName(to.to_owned()));
    Change { what: format!("rename {from} to {to}"), message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// Gives an interface an address; one that it has already is no error.
pub fn address(name: &str, index: u32, address: IpAddr, prefix: u8) -> Change {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = index;
    if address.is_ipv6() {
        // Nobody else has it, and looking for others would take a second.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    Change {
        what: format!("give {name} the address {address}/{prefix}"),
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

/// A route to a network, or to everywhere else for `None`; it replaces another one to the same place.
pub fn route(to: Option<(IpAddr, u8)>, via: IpAddr) -> Change {
    let mut message = RouteMessage::default();
    message.header.address_family = family(via);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Gateway(route_address(via)));
    if let Some((network, prefix)) = to {
        message.header.destination_prefix_length = prefix;
        message.attributes.push(RouteAttribute::Destination(route_address(network)));
    }
    let shown = to.map_or("the default route".to_owned(), |(to, prefix)| format!("the route to {to}/{prefix}"));
    Change {
        what: format!("set {shown} via {via}"),
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

/// A GRE tunnel over IPv4 that carries Ethernet frames (`gretap`) or IP packets (`gre`).
pub fn gre(name: &str, ethernet: bool, local: Ipv4Addr, remote: Ipv4Addr) -> Change {
    let ends = vec![InfoGre::Local(local), InfoGre::Remote(remote), InfoGre::PathMTUDiscovery(true)];
    let (kind, data) =
        if ethernet { (InfoKind::GreTap, InfoData::GreTap(ends)) } else { (InfoKind::GreTun, InfoData::GreTun(ends)) };
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    Change {
        what: format!("make the tunnel {name} from {local} to {remote}"),
        message: RouteNetlinkMessage::NewLink(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

const fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_read() {
        assert_eq!(parse_mac("52:54:00:00:01:fF"), Some([0x52, 0x54, 0, 0, 1, 0xff]));
        for bad in
            ["", "52:54:00:00:01", "52:54:00:00:01:01:01", "52:54:00:00:01:+1", "52-54-00-00-01-01", "5:4:0:0:1:1"]
        {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}

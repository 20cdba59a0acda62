//! Which way packets to an address take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Netlink, NetlinkError, attribute, invalid};

/// `struct rtmsg`
const HEADER: usize = 12;
/// Its member `rtm_type`.
const TYPE: usize = 7;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
/// `RTN_LOCAL`
const LOCAL: u8 = 2;

/// The kernel's decision for one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Number of the interface that packets leave through.
    pub interface: u32,
    /// The address they get where the sender names none; `None` when the kernel does not say.
    pub source: Option<IpAddr>,
    /// The next hop; `None` for a neighbour.
    pub gateway: Option<IpAddr>,
    /// Is it an address of this host's own? Packets to it never leave.
    pub is_local: bool,
}

/// Asks the kernel (`RTM_GETROUTE`) for the way to `to`, for packets that come from `from` (an address of this host) where
/// that is given: rules may look at it.
///
/// # Errors
/// When there is no route, or the kernel's answer cannot be read.
pub fn to(netlink: &mut Netlink, to: IpAddr, from: Option<IpAddr>) -> Result<Route, NetlinkError> {
    let mut message = RouteMessage::default();
    let bits = if to.is_ipv4() { 32 } else { 128 };
    message.header.address_family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = bits;
    message.attributes.push(RouteAttribute::Destination(address(to)));
    if let Some(from) = from {
        message.header.source_prefix_length = bits;
        message.attributes.push(RouteAttribute::Source(address(from)));
    }
    let what = format!("find the route to {to}");
    let answer = netlink.ask(&what, &RouteNetlinkMessage::GetRoute(message))?;
    decode(&answer).ok_or_else(|| NetlinkError { what, source: invalid("a route without an interface") })
}

const fn address(of: IpAddr) -> RouteAddress {
    match of {
        IpAddr::V4(of) => RouteAddress::Inet(of),
        IpAddr::V6(of) => RouteAddress::Inet6(of),
    }
}

fn decode(message: &[u8]) -> Option<Route> {
    let (header, attributes) = message.split_at_checked(HEADER)?;
    Some(Route {
        interface: u32::from_ne_bytes(*attribute(attributes, RTA_OIF)?.first_chunk()?),
        source: attribute(attributes, RTA_PREFSRC).and_then(read),
        gateway: attribute(attributes, RTA_GATEWAY).and_then(read),
        is_local: header[TYPE] == LOCAL,
    })
}

fn read(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loopback is there in every namespace.
    #[test]
    fn an_own_address_is_local() {
        let mut netlink = Netlink::open().unwrap();
        let own = to(&mut netlink, Ipv4Addr::LOCALHOST.into(), None).unwrap();
        assert!(own.is_local, "{own:?}");
        assert_eq!((own.interface, own.gateway), (crate::host::link::LOOPBACK, None));
    }

    #[test]
    fn damaged_answers_are_no_route() {
        let whole = [
            &[2, 32, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0][..],
            &8u16.to_ne_bytes(),
            &RTA_OIF.to_ne_bytes(),
            &7u32.to_ne_bytes(),
            &8u16.to_ne_bytes(),
            &RTA_PREFSRC.to_ne_bytes(),
            &[10, 0, 0, 1],
        ]
        .concat();
        let expected = Route { interface: 7, source: Some([10, 0, 0, 1].into()), gateway: None, is_local: false };
        assert_eq!(decode(&whole), Some(expected));
        // The interface is whole after 20 bytes; what follows may be missing.
        for length in 0..20 {
            assert_eq!(decode(&whole[..length]), None, "{length}");
        }
    }
}

//! Offloads, drivers and carrier of interfaces, through the `SIOCETHTOOL` ioctl (`linux/ethtool.h`).

use std::io;
use std::os::fd::AsRawFd as _;

use super::netlink::Netlink;

/// A segmentation or aggregation offload, as `ethtool -k` abbreviates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Offload {
    /// Scatter-gather: packets may be handed over in pieces.
    Sg,
    /// TCP segmentation by the device.
    Tso,
    /// Segmentation in software just above the device.
    Gso,
    /// Aggregation of received packets.
    Gro,
}

impl Offload {
    /// All of them, in an order in which they can be switched on: segmentation needs scatter-gather. Switching off goes
    /// the other way.
    pub const ALL: [Self; 4] = [Self::Sg, Self::Tso, Self::Gso, Self::Gro];

    /// `sg`, `tso`, `gso`, `gro`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sg => "sg",
            Self::Tso => "tso",
            Self::Gso => "gso",
            Self::Gro => "gro",
        }
    }

    /// `ETHTOOL_GSG`, …
    const fn get_command(self) -> u32 {
        match self {
            Self::Sg => 0x18,
            Self::Tso => 0x1e,
            Self::Gso => 0x23,
            Self::Gro => 0x2b,
        }
    }

    /// `ETHTOOL_SSG`, …
    const fn set_command(self) -> u32 {
        self.get_command() + 1
    }
}

const GET_DRIVER: u32 = 0x3;
const GET_LINK: u32 = 0xa;
/// `SIOCETHTOOL`
const REQUEST: libc::c_ulong = 0x8946;

/// `struct ethtool_value`
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// Is the offload on? Asks the kernel in the namespace of `netlink`.
pub fn offload(netlink: &Netlink, interface: &str, offload: Offload) -> io::Result<bool> {
    Ok(value(netlink, interface, offload.get_command(), 0)? != 0)
}

/// Switches one offload. What the kernel makes of it shows only in [`offload`]: it may leave an offload as it is
/// without an error.
pub fn set_offload(netlink: &Netlink, interface: &str, offload: Offload, on: bool) -> io::Result<()> {
    value(netlink, interface, offload.set_command(), u32::from(on)).map(|_| ())
}

/// Switches all four, in the order their dependencies ask for.
pub fn set_offloads(netlink: &Netlink, interface: &str, on: bool) -> io::Result<()> {
    let mut order = Offload::ALL;
    if !on {
        order.reverse();
    }
    order.into_iter().try_for_each(|offload| set_offload(netlink, interface, offload, on))
}

/// Name of the interface's driver.
pub fn driver(netlink: &Netlink, interface: &str) -> io::Result<String> {
    let mut info = DriverInfo { command: GET_DRIVER, driver: [0; 32], rest: [0; 160] };
    call(netlink, interface, &mut info)?;
    debug_assert_eq!(info.command, GET_DRIVER);
    Ok(text(&info.driver))
}

/// Does the interface have a carrier?
///
/// Asking also makes the kernel take notice: a carrier that has just come up is otherwise acted upon later, in the
/// background, and until then an interface drops what is sent and a bridge port forwards nothing.
pub fn link(netlink: &Netlink, interface: &str) -> io::Result<bool> {
    Ok(value(netlink, interface, GET_LINK, 0)? != 0)
}

fn value(netlink: &Netlink, interface: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = Value { command, data };
    call(netlink, interface, &mut value)?;
    debug_assert_eq!(value.command, command);
    Ok(value.data)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// One of the structures that `SIOCETHTOOL` takes.
trait Argument {}
impl Argument for Value {}
impl Argument for DriverInfo {}

/// Any socket will do for this ioctl, a netlink socket included; it selects the namespace.
#[expect(unsafe_code, reason = "ioctl on plain structures")]
fn call(netlink: &Netlink, interface: &str, argument: &mut impl Argument) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("interface name `{interface}` is too long")));
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *target = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(argument).cast();
    // SAFETY: `request` names `argument`, which outlives the call. Every `Argument` is the structure, in size and
    // layout, that the kernel reads and writes for the command in its first field.
    let result = unsafe { libc::ioctl(netlink.as_raw_fd(), REQUEST, std::ptr::from_mut(&mut request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_large_as_the_kernel_thinks() {
        assert_eq!(size_of::<Value>(), 8);
        // driver, version, fw_version, bus_info, erom_version: 32 each; reserved 12; five counters
        assert_eq!(size_of::<DriverInfo>(), 4 + 5 * 32 + 12 + 5 * 4);
    }

    #[test]
    fn set_commands_follow_get_commands() {
        // linux/ethtool.h: ETHTOOL_SSG 0x19, STSO 0x1f, SGSO 0x24, SGRO 0x2c
        assert_eq!(Offload::ALL.map(Offload::set_command), [0x19, 0x1f, 0x24, 0x2c]);
    }
}

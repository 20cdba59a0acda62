//! Offloads, drivers and carrier of interfaces, through the `SIOCETHTOOL` ioctl (`linux/ethtool.h`).

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;

use super::netlink::Netlink;

/// A segmentation or aggregation offload, as `ethtool -K` abbreviates it.
///
/// Each stands for a group of the kernel's features, the same that `ethtool` (since 5.9) puts together. The older
/// commands that switch one offload each leave features out that came to a group later (TSO for Accurate ECN).
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
    /// All of them.
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

    /// Does the kernel's feature of this name belong to it?
    fn covers(self, feature: &str) -> bool {
        match self {
            Self::Sg => feature.starts_with("tx-scatter-gather"),
            Self::Tso => feature.starts_with("tx-tcp") && feature.ends_with("-segmentation"),
            Self::Gso => feature == "tx-generic-segmentation",
            Self::Gro => feature == "rx-gro",
        }
    }
}

const GET_SETTINGS: u32 = 0x1;
const GET_DRIVER: u32 = 0x3;
const GET_LINK: u32 = 0xa;
const GET_RINGS: u32 = 0x10;
const GET_RX_CHECKSUM: u32 = 0x14;
const GET_TX_CHECKSUM: u32 = 0x16;
const GET_STRINGS: u32 = 0x1b;
const GET_STATISTICS: u32 = 0x1d;
const GET_SET_INFO: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
const GET_CHANNELS: u32 = 0x3c;
/// `ETH_SS_FEATURES`
const FEATURE_NAMES: u32 = 4;
/// `ETH_SS_STATS`
const STATISTIC_NAMES: u32 = 1;
/// More statistics than any driver has.
const MAX_STATISTICS: usize = 1 << 14;
/// `ETH_GSTRING_LEN`, in words.
const NAME_WORDS: usize = 32 / 4;
/// More names than any kernel has features (there is one bit for each, and 128 at most by 2025).
const MAX_FEATURES: usize = 1024;
/// `SIOCETHTOOL`
const REQUEST: libc::c_ulong = 0x8946;

/// Which of the four are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads([bool; 4]);

impl Offloads {
    /// Is it on, in whole or in part?
    pub fn is_on(self, offload: Offload) -> bool {
        self.0[offload as usize]
    }
}

/// Reads the four offloads of an interface in the namespace of `netlink`.
pub fn offloads(netlink: &Netlink, interface: &str) -> io::Result<Offloads> {
    let features = Features::of_kernel(netlink, interface)?;
    // struct ethtool_gfeatures: command, number of blocks, blocks of available, requested, active, never changed
    let blocks = features.blocks();
    let mut argument = vec![0; 2 + 4 * blocks];
    argument[0] = GET_FEATURES;
    argument[1] = words(blocks)?;
    call(netlink, interface, &mut argument)?;
    let active: Vec<u32> = argument[2..].chunks_exact(4).map(|block| block[2]).collect();
    Ok(Offloads(Offload::ALL.map(|offload| features.mask(&[offload]).iter().zip(&active).any(|(a, b)| a & b != 0))))
}

/// What is asked for of each feature behind the four offloads, whatever the driver makes of it: for each block of 32
/// features those that can be changed, and those of them that are asked for.
pub fn asked_features(netlink: &Netlink, interface: &str) -> io::Result<Vec<[u32; 2]>> {
    let features = Features::of_kernel(netlink, interface)?;
    let mut argument = vec![0; 2 + 4 * features.blocks()];
    argument[0] = GET_FEATURES;
    argument[1] = words(features.blocks())?;
    call(netlink, interface, &mut argument)?;
    let blocks = argument[2..].chunks_exact(4).zip(features.mask(&Offload::ALL));
    Ok(blocks.map(|(block, mask)| [block[0] & mask, block[1] & block[0] & mask]).collect())
}

/// Asks again for what [`asked_features`] read.
pub fn ask_features(netlink: &Netlink, interface: &str, asked: &[[u32; 2]]) -> io::Result<()> {
    let mut argument = vec![SET_FEATURES, words(asked.len())?];
    argument.extend(asked.iter().flatten());
    call(netlink, interface, &mut argument)
}

/// Switches offloads together; the kernel sorts out which depends on which. What it makes of it shows only in
/// [`offloads`]: it may leave a feature as it is without an error.
pub fn set_offloads(netlink: &Netlink, interface: &str, which: &[Offload], on: bool) -> io::Result<()> {
    let features = Features::of_kernel(netlink, interface)?;
    // struct ethtool_sfeatures: command, number of blocks, blocks of valid, requested
    let mut argument = vec![SET_FEATURES, words(features.blocks())?];
    for mask in features.mask(which) {
        argument.extend([mask, if on { mask } else { 0 }]);
    }
    call(netlink, interface, &mut argument)
}

/// Name of the interface's driver.
pub fn driver(netlink: &Netlink, interface: &str) -> io::Result<String> {
    // struct ethtool_drvinfo: command, driver, 164 further bytes
    let mut argument = [0; 1 + 8 + 40];
    argument[0] = GET_DRIVER;
    call(netlink, interface, &mut argument)?;
    Ok(text(&argument[1..9]))
}

/// Version of the device's firmware; `None` when the driver names none.
pub fn firmware(netlink: &Netlink, interface: &str) -> io::Result<Option<String>> {
    // As in `driver`: command, driver and version of 32 bytes each, firmware version.
    let mut argument = [0; 1 + 8 + 40];
    argument[0] = GET_DRIVER;
    call(netlink, interface, &mut argument)?;
    let version = text(&argument[17..25]);
    Ok(Some(version).filter(|version| !version.is_empty() && version != "N/A"))
}

/// Does the device check checksums of received packets?
pub fn rx_checksum(netlink: &Netlink, interface: &str) -> io::Result<bool> {
    let mut argument = [GET_RX_CHECKSUM, 0];
    call(netlink, interface, &mut argument)?;
    Ok(argument[1] != 0)
}

/// Does the device fill in checksums of sent packets?
pub fn tx_checksum(netlink: &Netlink, interface: &str) -> io::Result<bool> {
    let mut argument = [GET_TX_CHECKSUM, 0];
    call(netlink, interface, &mut argument)?;
    Ok(argument[1] != 0)
}

/// Speed of the link in Mbit/s; `None` when the driver does not know.
pub fn speed(netlink: &Netlink, interface: &str) -> io::Result<Option<u32>> {
    // struct ethtool_cmd, 44 bytes: the halves of the speed are in words 3 and 7, as the first two bytes of each.
    let mut argument = [0; 11];
    argument[0] = GET_SETTINGS;
    call(netlink, interface, &mut argument)?;
    let half = |word: u32| {
        let bytes = word.to_ne_bytes();
        u32::from(u16::from_ne_bytes([bytes[0], bytes[1]]))
    };
    let speed = half(argument[3]) | half(argument[7]) << 16;
    // SPEED_UNKNOWN is -1, which older drivers give in 16 bits.
    Ok(Some(speed).filter(|&speed| speed != 0 && speed != u32::MAX && speed != 0xffff))
}

/// Queues in use: combined ones, and the larger number of those that only receive or only send.
pub fn queues(netlink: &Netlink, interface: &str) -> io::Result<u32> {
    // struct ethtool_channels: command, four maxima, then rx, tx, other, combined
    let mut argument = [0; 9];
    argument[0] = GET_CHANNELS;
    call(netlink, interface, &mut argument)?;
    Ok(argument[8].saturating_add(argument[5].max(argument[6])))
}

/// Descriptors of the receive and the send ring.
pub fn rings(netlink: &Netlink, interface: &str) -> io::Result<(u32, u32)> {
    // struct ethtool_ringparam: command, four maxima, then rx, rx mini, rx jumbo, tx
    let mut argument = [0; 9];
    argument[0] = GET_RINGS;
    call(netlink, interface, &mut argument)?;
    Ok((argument[5], argument[8]))
}

/// The driver's own counters (`ethtool -S`), by name; empty for a driver that has none. Names are the driver's, and may be
/// there twice.
pub fn statistics(netlink: &Netlink, interface: &str) -> io::Result<Vec<(String, u64)>> {
    let count = match set_length(netlink, interface, STATISTIC_NAMES) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    if count > MAX_STATISTICS {
        return Err(io::Error::other(format!("the driver says it has {count} statistics")));
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    // The kernel writes as many as there are at that moment, whatever it is told: queues that came meanwhile have room.
    let room = 2 * count + 256;
    let mut names = vec![0; 3 + room * NAME_WORDS];
    names[0] = GET_STRINGS;
    names[1] = STATISTIC_NAMES;
    names[2] = words(count)?;
    call(netlink, interface, &mut names)?;
    // struct ethtool_stats: command, length, values of 64 bits
    let mut values = vec![0; 2 + 2 * room];
    values[0] = GET_STATISTICS;
    values[1] = words(count)?;
    call(netlink, interface, &mut values)?;
    if names[2] as usize != count || values[1] as usize != count {
        return Err(io::Error::other("its number of statistics changed while they were read"));
    }
    let value = |pair: &[u32]| {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&pair[0].to_ne_bytes());
        bytes[4..].copy_from_slice(&pair[1].to_ne_bytes());
        u64::from_ne_bytes(bytes)
    };
    let names = names[3..].chunks_exact(NAME_WORDS).take(count).map(text);
    Ok(names.zip(values[2..].chunks_exact(2).map(value)).collect())
}

/// Length of one of the lists of names.
fn set_length(netlink: &Netlink, interface: &str, set: u32) -> io::Result<usize> {
    // struct ethtool_sset_info: command, reserved, 64-bit mask, length of the one set asked for
    let mut argument = [GET_SET_INFO, 0, 0, 0, 0];
    let mask = (1_u64 << set).to_ne_bytes();
    argument[2] = u32::from_ne_bytes([mask[0], mask[1], mask[2], mask[3]]);
    argument[3] = u32::from_ne_bytes([mask[4], mask[5], mask[6], mask[7]]);
    call(netlink, interface, &mut argument)?;
    // The kernel clears the bit of a set that the driver has not.
    Ok(if argument[2] == 0 && argument[3] == 0 { 0 } else { argument[4] as usize })
}

/// Does the interface have a carrier?
///
/// Asking also makes the kernel take notice: a carrier that has just come up is otherwise acted upon later, in the
/// background, and until then an interface drops what is sent and a bridge port forwards nothing.
pub fn link(netlink: &Netlink, interface: &str) -> io::Result<bool> {
    let mut argument = [GET_LINK, 0];
    call(netlink, interface, &mut argument)?;
    Ok(argument[1] != 0)
}

/// Names of the kernel's features, in the order of their bits.
#[derive(Debug)]
struct Features(Vec<String>);

impl Features {
    /// They are the same for all interfaces, and asked for once.
    fn of_kernel(netlink: &Netlink, interface: &str) -> io::Result<&'static Self> {
        static KNOWN: OnceLock<Features> = OnceLock::new();
        match KNOWN.get() {
            Some(known) => Ok(known),
            None => Self::read(netlink, interface).map(|read| KNOWN.get_or_init(|| read)),
        }
    }

    fn read(netlink: &Netlink, interface: &str) -> io::Result<Self> {
        let count = set_length(netlink, interface, FEATURE_NAMES)?;
        if count == 0 || count > MAX_FEATURES {
            return Err(io::Error::other(format!("the kernel says it has {count} features")));
        }
        // struct ethtool_gstrings: command, set, length, names; the kernel writes as many as it has just said
        let mut argument = vec![0; 3 + count * NAME_WORDS];
        argument[0] = GET_STRINGS;
        argument[1] = FEATURE_NAMES;
        argument[2] = words(count)?;
        call(netlink, interface, &mut argument)?;
        Ok(Self(argument[3..].chunks_exact(NAME_WORDS).map(text).collect()))
    }

    fn blocks(&self) -> usize {
        self.0.len().div_ceil(32)
    }

    /// One word of 32 features for each block.
    fn mask(&self, which: &[Offload]) -> Vec<u32> {
        let mut mask = vec![0; self.blocks()];
        for (bit, name) in self.0.iter().enumerate() {
            if which.iter().any(|offload| offload.covers(name)) {
                mask[bit / 32] |= 1 << (bit % 32);
            }
        }
        mask
    }
}

fn words(count: usize) -> io::Result<u32> {
    u32::try_from(count).map_err(io::Error::other)
}

/// A text that ends at its first zero byte.
fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Every structure of this ioctl consists of words, the first of them the command. `argument` must be as long as the
/// structure of its command with the lengths written into it.
///
/// Any socket will do, a netlink socket included; it selects the namespace.
#[expect(unsafe_code, reason = "ioctl with a structure of variable length")]
fn call(netlink: &Netlink, interface: &str, argument: &mut [u32]) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("interface name `{interface}` is too long")));
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *target = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_data = argument.as_mut_ptr().cast();
    // SAFETY: `request` points to `argument`, which outlives the call. The callers, all above, give it the length the
    // kernel reads and writes for the command: fixed ones in full, and those of variable length with their count or more.
    let result = unsafe { libc::ioctl(netlink.as_raw_fd(), REQUEST, std::ptr::from_mut(&mut request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_ethtool() {
        let names = [
            "tx-scatter-gather",
            "tx-checksum-ipv4",
            "tx-scatter-gather-fraglist",
            "tx-tcp-segmentation",
            "tx-tcp6-segmentation",
            "tx-tcp-accecn-segmentation",
            "tx-udp-segmentation",
            "tx-generic-segmentation",
            "rx-gro",
            "rx-gro-hw",
            "rx-gro-list",
        ];
        let features = Features(names.map(str::to_owned).to_vec());
        let masks = Offload::ALL.map(|offload| features.mask(&[offload]));
        assert_eq!(masks, [[0b101], [0b11_1000], [1 << 7], [1 << 8]]);
        assert_eq!(features.mask(&Offload::ALL), [0b1_1011_1101]);
    }

    #[test]
    fn masks_reach_beyond_the_first_word() {
        let mut names = vec![String::new(); 64];
        names.push("rx-gro".to_owned());
        assert_eq!(Features(names).mask(&[Offload::Gro]), [0, 0, 1]);
    }

    #[test]
    fn texts_end_at_the_first_zero() {
        assert_eq!(text(&[u32::from_ne_bytes(*b"veth"), 0, u32::from_ne_bytes(*b"junk")]), "veth");
        assert_eq!(text(&[u32::from_ne_bytes(*b"veth")]), "veth");
    }
}

//! Taps: Ethernet interfaces whose other end is a file of a process, here QEMU (`Documentation/networking/tuntap`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// Where taps come from.
const DEVICE: &str = "/dev/net/tun";

/// Makes a tap with this name and number in the network namespace of the calling thread. It goes with the namespace.
///
/// It has one queue and the headers that let a guest hand over packets larger than the MTU (`IFF_VNET_HDR`), as QEMU
/// opens it. Nobody has it open afterwards, and until somebody has, it has no carrier.
///
/// # Errors
/// `NotFound` without `/dev/net/tun` (no kernel module `tun`), `EPERM` without `CAP_NET_ADMIN`, `EBUSY` or `EEXIST` when
/// name or number are taken, `InvalidInput` for a name that is empty or longer than 15 bytes.
#[expect(unsafe_code, reason = "ioctls with an ifreq and with a number")]
pub fn create(name: &str, index: u32) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no interface can be called `{name}`")));
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = libc::c_char::from_ne_bytes([byte]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    let file = open()?;
    // SAFETY: TUNSETIFINDEX reads a number through the pointer, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFINDEX, std::ptr::from_ref(&index)) })?;
    // SAFETY: TUNSETIFF reads and writes an `ifreq` through the pointer, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, std::ptr::from_mut(&mut request)) })?;
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, 1) })
}

/// Can this host make taps? Looks at the device only.
///
/// # Errors
/// As [`create`].
pub fn available() -> io::Result<()> {
    open().map(drop)
}

fn open() -> io::Result<File> {
    let open = File::options().read(true).write(true).open(DEVICE);
    open.map_err(|error| io::Error::new(error.kind(), format!("cannot open {DEVICE}: {error}")))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_cannot_take_are_refused() {
        for name in ["", "a name of 16 byt"] {
            assert_eq!(create(name, 1).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }
}

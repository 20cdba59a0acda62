//! `[testbed.minimega]`.

use super::parse_guest_image;
use super::parse_qemu::{read_boot_timeout, read_guest_kernel, read_stress, words};
use super::read::{Entry, Sink};
use super::{MinimegaSpec, TapCapture};

const CAPTURES: &[(&str, TapCapture)] = &[("vptest", TapCapture::Vptest), ("minimega", TapCapture::Minimega)];
/// Bytes that the path of a unix socket may have (unix(7)).
const SOCKET_PATH: usize = 107;

pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> MinimegaSpec {
    let mut minimega = MinimegaSpec::default();
    let Some(mut section) = entry.section(sink) else { return minimega };
    if let Some(entry) = section.take("socket") {
        minimega.socket = absolute(&entry, "minimega's command socket", sink);
        if minimega.socket.as_ref().is_some_and(|path| path.len() > SOCKET_PATH) {
            entry.refuse(sink, format!("a path of at most {SOCKET_PATH} bytes"));
        }
    }
    minimega.hosts = section.take("hosts").and_then(|entry| hosts(&entry, sink));
    let kernel = read_guest_kernel(&mut section, &mut minimega.kernel, sink);
    minimega.image = parse_guest_image::read(&mut section, (kernel.as_ref(), &minimega.kernel), sink);
    minimega.programs = section.take("programs").and_then(|entry| words(&entry, sink)).unwrap_or_default();
    minimega.append = section.take("append").and_then(|entry| entry.strings(sink)).unwrap_or_default();
    if let Some(entry) = section.take("filesystem") {
        minimega.filesystem = absolute(&entry, "a directory", sink);
        // minimega hands it to mount(8) among other options.
        if minimega.filesystem.as_ref().is_some_and(|path| path.contains([',', ':', '\\', '"'])) {
            entry.refuse(sink, "a path without `,`, `:`, `\\` and `\"`, which overlays cannot have");
        }
    }
    minimega.qemu = section.take("qemu").and_then(|entry| absolute(&entry, "a QEMU", sink));
    minimega.cpu = section.take("cpu").and_then(|entry| entry.filled(sink).map(str::to_owned));
    minimega.capture = section.take("capture").and_then(|entry| entry.choice(sink, CAPTURES)).unwrap_or_default();
    minimega.boot_timeout = read_boot_timeout(&mut section, sink);
    minimega.stress = read_stress(&mut section, sink);
    section.finish(sink);
    minimega
}

/// Names as minimega knows its hosts by; it would take others for ranges or for `all`.
fn hosts(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<[String; 2]> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_host = |name: &String| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(fits)
            && name != "all"
            && name != "localhost"
    };
    match <[String; 2]>::try_from(entry.strings(sink)?) {
        Ok(hosts) if hosts.iter().all(is_host) && hosts[0] != hosts[1] => Some(hosts),
        _ => {
            entry.refuse(
                sink,
                "two different names of hosts, that of the clients and that of the servers: `[\"kn1\", \"kn2\"]`",
            );
            None
        }
    }
}

/// minimega looks for relative paths among its own files.
pub(super) fn absolute(entry: &Entry<'_>, what: &str, sink: &mut Sink<'_>) -> Option<String> {
    let path = entry.filled(sink)?;
    if path.starts_with('/') {
        return Some(path.to_owned());
    }
    entry.refuse(sink, format!("the path of {what}, beginning with `/`"));
    None
}

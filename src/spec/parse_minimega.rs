//! `[testbed.minimega]`.

use super::parse_factors::Table;
use super::parse_guest_image;
use super::parse_qemu::{read_boot_timeout, read_guest_kernel, read_stress, words};
use super::read::{Entry, Sink};
use super::{MinimegaSpec, TapCapture};
use crate::units::ByteSize;

const CAPTURES: &[(&str, TapCapture)] = &[("vptest", TapCapture::Vptest), ("minimega", TapCapture::Minimega)];
/// Bytes that the path of a unix socket may have (unix(7)).
const SOCKET_PATH: usize = 107;
/// What a results disk may hold.
const RESULT_DISK: [ByteSize; 2] = [ByteSize(1 << 20), ByteSize(16 << 40)];

pub(super) fn read(entry: &Entry<'_>, factors: &Table, sink: &mut Sink<'_>) -> MinimegaSpec {
    let mut minimega = MinimegaSpec::default();
    let Some(mut section) = entry.section(sink) else { return minimega };
    if let Some(entry) = section.take("socket") {
        minimega.socket = absolute(&entry, "minimega's command socket", sink);
        if minimega.socket.as_ref().is_some_and(|path| path.len() > SOCKET_PATH) {
            entry.refuse(sink, format!("a path of at most {SOCKET_PATH} bytes"));
        }
    }
    let has_disk = section.has("disk");
    let is_own = section.has("initrd") || has_disk;
    minimega.hosts = section.take("hosts").and_then(|entry| hosts(&entry, sink));
    let kernel = read_guest_kernel(&mut section, &mut minimega.kernel, sink);
    minimega.image = parse_guest_image::read(&mut section, (kernel.as_ref(), &minimega.kernel), sink);
    if let Some(entry) = section.take("programs") {
        // Containers whose root vptest makes have them, whatever machines boot.
        let in_containers = factors.testbeds().contains(&"minimega-container") && !section.has("filesystem");
        if is_own && !in_containers && factors.testbeds_are_known() {
            let help = "an image of your own has its programs in it already: leave `programs` out".to_owned();
            entry.refuse_with_help(sink, "no programs beside `initrd` or `disk`", Some(help));
        }
        minimega.programs = words(&entry, sink).unwrap_or_default();
    }
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
    minimega.result_disk = section.take("result_disk").and_then(|entry| result_disk(&entry, has_disk, sink));
    minimega.boot_timeout = read_boot_timeout(&mut section, sink);
    minimega.stress = read_stress(&mut section, sink);
    section.finish(sink);
    minimega
}

fn result_disk(entry: &Entry<'_>, has_disk: bool, sink: &mut Sink<'_>) -> Option<ByteSize> {
    if has_disk {
        let help = "what a system of your own calls its disks may be different with one more, which is not tried yet: leave one of \
                    them out, or boot with `kernel` and `initrd`";
        entry.refuse_with_help(sink, "no `result_disk` beside `disk`", Some(help.to_owned()));
        return None;
    }
    let size: ByteSize = entry.quantity(sink, ByteSize::ACCEPTED)?;
    let [least, most] = RESULT_DISK;
    if (least.0..=most.0).contains(&size.0) {
        return Some(size);
    }
    entry.refuse(sink, format!("{}, from 1 MiB to 16 TiB", ByteSize::ACCEPTED));
    None
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

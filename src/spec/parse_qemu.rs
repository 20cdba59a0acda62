//! `[testbed.qemu]`.

use std::time::Duration;

use super::parse::positive_duration;
use super::read::{Entry, Section, Sink};
use super::{GuestAccess, GuestKernel, QemuSpec, SshSpec, StressPlace};

const LONGEST_BOOT: Duration = Duration::from_secs(3600);
const KERNELS: [&str; 2] = ["full", "cloud"];
const ACCESS: &[(&str, bool)] = &[("agent", false), ("ssh", true)];
const PLACES: &[(&str, StressPlace)] = &[("host", StressPlace::Host), ("guest", StressPlace::Guest)];

pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> QemuSpec {
    let mut qemu = QemuSpec::default();
    let Some(mut section) = entry.section(sink) else { return qemu };
    let kernel = read_guest_kernel(&mut section, &mut qemu.kernel, sink);
    qemu.programs = section.take("programs").and_then(|entry| words(&entry, sink)).unwrap_or_default();
    qemu.arguments = section.take("arguments").and_then(|entry| entry.strings(sink)).unwrap_or_default();
    qemu.cpu = section.take("cpu").and_then(|entry| entry.filled(sink).map(str::to_owned));
    qemu.boot_timeout = read_boot_timeout(&mut section, sink);
    qemu.stress = read_stress(&mut section, sink);
    if let Some(entry) = section.take("disk") {
        qemu.disk = entry.filled(sink).map(str::to_owned);
        if let Some(kernel) = kernel {
            let help = "a disk boots its own kernel: leave one of them out";
            kernel.refuse_with_help(sink, "no kernel beside `disk`", Some(help.to_owned()));
        }
    }
    qemu.access = read_access(&mut section, qemu.disk.is_some(), sink);
    section.finish(sink);
    qemu
}

/// `kernel` and `modules`, which every testbed with guests of vptest's image has. Returns the entry of the first.
pub(super) fn read_guest_kernel<'s>(
    section: &mut Section<'s>,
    into: &mut GuestKernel,
    sink: &mut Sink<'_>,
) -> Option<Entry<'s>> {
    let modules = section.take("modules");
    let kernel = section.take("kernel");
    if let Some(entry) = &kernel {
        *into = read_kernel(entry, modules.as_ref(), sink).unwrap_or_default();
    }
    if let Some(modules) = &modules
        && !matches!(into, GuestKernel::Path { .. })
    {
        let help = "the kernels of packages come with theirs: name a kernel by its path, or leave `modules` out";
        modules.refuse_with_help(sink, "the modules of a kernel of your own", Some(help.to_owned()));
    }
    kernel
}

pub(super) fn read_boot_timeout(section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<Duration> {
    section.take("boot_timeout").and_then(|entry| positive_duration(&entry, LONGEST_BOOT, sink))
}

pub(super) fn read_stress(section: &mut Section<'_>, sink: &mut Sink<'_>) -> StressPlace {
    section.take("stress").and_then(|entry| entry.choice(sink, PLACES)).unwrap_or_default()
}

fn read_access(section: &mut Section<'_>, disk: bool, sink: &mut Sink<'_>) -> GuestAccess {
    let access = section.take("access");
    let by_ssh = access.as_ref().and_then(|entry| entry.choice(sink, ACCESS));
    if let (Some(entry), false) = (&access, disk) {
        let help = "vptest's own image has the agent; `access` says how guests that boot a `disk` are reached";
        entry.refuse_with_help(sink, "only beside `disk`", Some(help.to_owned()));
    }
    let login = section.take("ssh");
    match (by_ssh, login) {
        (Some(true), Some(entry)) => GuestAccess::Ssh(read_ssh(&entry, sink)),
        (Some(true), None) => GuestAccess::Ssh(SshSpec::default()),
        (_, Some(entry)) => {
            let help = "say `access = \"ssh\"` in `[testbed.qemu]`, or leave this table out";
            entry.refuse_with_help(sink, "only beside `access = \"ssh\"`", Some(help.to_owned()));
            GuestAccess::Agent
        }
        (_, None) => GuestAccess::Agent,
    }
}

fn read_ssh(entry: &Entry<'_>, sink: &mut Sink<'_>) -> SshSpec {
    let mut ssh = SshSpec::default();
    let Some(mut section) = entry.section(sink) else { return ssh };
    if let Some(user) = section.take("user").and_then(|entry| login_name(&entry, sink)) {
        ssh.user = user;
    }
    ssh.identity = section.take("identity").and_then(|entry| entry.filled(sink).map(str::to_owned));
    ssh.host_key = section.take("host_key").and_then(|entry| host_key(&entry, sink));
    section.finish(sink);
    ssh
}

/// Who logs in.
pub(super) fn login_name(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let user = entry.filled(sink)?;
    let fits = !user.starts_with('-') && !user.contains(|c: char| c.is_whitespace() || c.is_control());
    if !fits {
        entry.refuse(sink, "the name of a user");
    }
    fits.then(|| user.to_owned())
}

/// The key an ssh server must show, without its comment.
pub(super) fn host_key(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let key = public_key(entry.filled(sink)?);
    if key.is_none() {
        entry.refuse(sink, "type and key as in a file `ssh_host_ed25519_key.pub`: `\"ssh-ed25519 AAAA…\"`");
    }
    key
}

/// Type and key, without the comment; `None` for what is no public key of an ssh server.
fn public_key(text: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    let known = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| kind.starts_with(start));
    let base64 =
        key.starts_with("AAAA") && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
    (known && base64 && !text.contains(['\n', '\r'])).then(|| format!("{kind} {key}"))
}

fn read_kernel(entry: &Entry<'_>, modules: Option<&Entry<'_>>, sink: &mut Sink<'_>) -> Option<GuestKernel> {
    let accepted = || format!("{}, or a path with a `/`", KERNELS.map(|name| format!("`\"{name}\"`")).join(", "));
    match entry.filled(sink)? {
        "full" => Some(GuestKernel::Full),
        "cloud" => Some(GuestKernel::Cloud),
        path if path.contains('/') => {
            let modules = modules.and_then(|entry| entry.filled(sink)).map(str::to_owned);
            Some(GuestKernel::Path { kernel: path.to_owned(), modules })
        }
        other => {
            let near = super::read::nearest(other, KERNELS).map(|near| format!("did you mean `\"{near}\"`?"));
            entry.refuse_with_help(sink, accepted(), near);
            None
        }
    }
}

/// Texts that are not empty.
pub(super) fn words(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Vec<String>> {
    let Some(items) = entry.elements() else {
        entry.refuse(sink, "a list of programs, by name or path");
        return None;
    };
    Some(items.iter().filter_map(|item| item.filled(sink)).map(str::to_owned).collect())
}

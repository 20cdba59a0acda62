//! `[testbed.qemu]`.

use std::time::Duration;

use super::parse::positive_duration;
use super::read::{Entry, Sink};
use super::{GuestKernel, QemuSpec, StressPlace};

const LONGEST_BOOT: Duration = Duration::from_secs(3600);
const KERNELS: [&str; 2] = ["full", "cloud"];
const PLACES: &[(&str, StressPlace)] = &[("host", StressPlace::Host), ("guest", StressPlace::Guest)];

pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> QemuSpec {
    let mut qemu = QemuSpec::default();
    let Some(mut section) = entry.section(sink) else { return qemu };
    let modules = section.take("modules");
    let kernel = section.take("kernel");
    if let Some(entry) = &kernel {
        qemu.kernel = read_kernel(entry, modules.as_ref(), sink).unwrap_or_default();
    }
    if let Some(modules) = &modules
        && !matches!(qemu.kernel, GuestKernel::Path { .. })
    {
        let help = "the kernels of packages come with theirs: name a kernel by its path, or leave `modules` out";
        modules.refuse_with_help(sink, "the modules of a kernel of your own", Some(help.to_owned()));
    }
    qemu.programs = section.take("programs").and_then(|entry| words(&entry, sink)).unwrap_or_default();
    qemu.arguments = section.take("arguments").and_then(|entry| entry.strings(sink)).unwrap_or_default();
    qemu.cpu = section.take("cpu").and_then(|entry| entry.filled(sink).map(str::to_owned));
    qemu.boot_timeout = section.take("boot_timeout").and_then(|entry| positive_duration(&entry, LONGEST_BOOT, sink));
    if let Some(entry) = section.take("stress") {
        qemu.stress = entry.choice(sink, PLACES).unwrap_or_default();
    }
    if let Some(entry) = section.take("disk") {
        qemu.disk = entry.filled(sink).map(str::to_owned);
        if let Some(kernel) = kernel {
            let help = "a disk boots its own kernel: leave one of them out";
            kernel.refuse_with_help(sink, "no kernel beside `disk`", Some(help.to_owned()));
        }
    }
    section.finish(sink);
    qemu
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
fn words(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Vec<String>> {
    let Some(items) = entry.elements() else {
        entry.refuse(sink, "a list of programs, by name or path");
        return None;
    };
    Some(items.iter().filter_map(|item| item.filled(sink)).map(str::to_owned).collect())
}

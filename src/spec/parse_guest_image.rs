//! The guests' image of the user's in `[testbed.minimega]`: `initrd` or `disk`, `snapshot`, `reach`, `files`.

use super::GuestKernel;
use super::parse_minimega::absolute;
use super::read::{Entry, Section, Sink};

/// Stands for the name of a node in the path of a disk.
pub const NODE: &str = "{node}";
/// Names of [`GuestReach`], as written.
const REACHES: &[(&str, bool)] = &[("port", false), ("cc", true)];

/// A guests' image of the user's, on `minimega-kvm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestImage {
    /// What the guests boot.
    pub boot: GuestBoot,
    /// How vptest reaches them.
    pub reach: GuestReach,
}

/// What guests of an image of the user's boot. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestBoot {
    /// A kernel with an initramfs.
    Kernel {
        /// `vmlinuz`.
        kernel: String,
        /// The initramfs, a cpio archive.
        initrd: String,
    },
    /// A disk, by its own boot loader.
    Disk {
        /// Its path; [`NODE`] in it stands for the name of each node.
        path: String,
        /// Are writes thrown away with the guest? Where they are not, each node has a disk of its own.
        snapshot: bool,
    },
}

/// How guests of an image of the user's are reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GuestReach {
    /// The agent answers on a virtio-serial port; the image starts it, or vptest does through the image's miniccc.
    #[default]
    Port,
    /// Through the image's miniccc alone: vptest is sent by it, and the conversation goes in letters.
    Cc {
        /// Directory of its files in the guests; `None` for the usual one.
        files: Option<String>,
    },
}

impl GuestReach {
    /// As written.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Cc { .. } => "cc",
        }
    }
}

/// `kernel` is the entry of that name, and what it was read as.
pub(super) fn read(
    section: &mut Section<'_>,
    kernel: (Option<&Entry<'_>>, &GuestKernel),
    sink: &mut Sink<'_>,
) -> Option<GuestImage> {
    let (initrd, disk) = (section.take("initrd"), section.take("disk"));
    let (snapshot, append) = (section.take("snapshot"), section.peek("append"));
    let boot = match (&initrd, &disk) {
        (Some(initrd), Some(disk)) => {
            let help = "guests boot a kernel with an initramfs, or a disk: leave one of them out";
            disk.refuse_with_help(sink, "no disk beside `initrd`", Some(help.to_owned()));
            absolute(initrd, "an initramfs", sink);
            None
        }
        (Some(initrd), None) => read_initrd(initrd, kernel, sink),
        (None, Some(disk)) => {
            let help = "a disk boots its own kernel: leave one of them out";
            if let Some(kernel) = kernel.0 {
                kernel.refuse_with_help(sink, "no kernel beside `disk`", Some(help.to_owned()));
            }
            if let Some(append) = append {
                append.refuse_with_help(sink, "no kernel arguments beside `disk`", Some(help.to_owned()));
            }
            read_disk(disk, snapshot.as_ref(), sink)
        }
        (None, None) => None,
    };
    if let (Some(entry), None) = (&snapshot, &disk) {
        entry.refuse_with_help(sink, "only beside `disk`", None);
    }
    let is_own = initrd.is_some() || disk.is_some();
    let reach = read_reach(section, is_own, sink);
    Some(GuestImage { boot: boot?, reach })
}

fn read_initrd(
    entry: &Entry<'_>,
    (kernel, read): (Option<&Entry<'_>>, &GuestKernel),
    sink: &mut Sink<'_>,
) -> Option<GuestBoot> {
    let initrd = absolute(entry, "an initramfs", sink)?;
    match (kernel, read) {
        (Some(_), GuestKernel::Path { kernel: path, modules: None }) if path.starts_with('/') => {
            Some(GuestBoot::Kernel { kernel: path.clone(), initrd })
        }
        (Some(entry), GuestKernel::Path { modules: Some(_), .. }) => {
            let help = "the initramfs has the modules that it needs: leave `modules` out";
            entry.refuse_with_help(sink, "a kernel without `modules` beside `initrd`", Some(help.to_owned()));
            None
        }
        (Some(entry), _) => {
            entry.refuse(sink, "the path of a kernel, beginning with `/`, beside `initrd`");
            None
        }
        (None, _) => {
            let help = "an initramfs of your own needs its kernel: `kernel = \"/boot/vmlinuz\"`".to_owned();
            entry.refuse_with_help(sink, "`kernel` beside it", Some(help));
            None
        }
    }
}

fn read_disk(entry: &Entry<'_>, snapshot: Option<&Entry<'_>>, sink: &mut Sink<'_>) -> Option<GuestBoot> {
    let path = absolute(entry, "a disk", sink)?;
    // minimega takes what follows a comma for the disk's interface.
    if path.contains(',') {
        entry.refuse(sink, "the path of a disk, without commas");
        return None;
    }
    let keeps = snapshot.is_some_and(|entry| entry.switch(sink) == Some(false));
    if keeps && !path.contains(NODE) {
        let help = format!("two guests cannot write to one disk: `disk = \"/images/{NODE}.qcow2\"` names one for each");
        entry.refuse_with_help(sink, format!("a path with `{NODE}` beside `snapshot = false`"), Some(help));
        return None;
    }
    Some(GuestBoot::Disk { path, snapshot: !keeps })
}

fn read_reach(section: &mut Section<'_>, is_own: bool, sink: &mut Sink<'_>) -> GuestReach {
    let (entry, files) = (section.take("reach"), section.take("files"));
    let by_cc = entry.as_ref().and_then(|entry| entry.choice(sink, REACHES)).unwrap_or_default();
    if let (Some(entry), false) = (&entry, is_own) {
        let help = "vptest's own image has the agent; `reach` says how guests of your image are reached";
        entry.refuse_with_help(sink, "only beside `initrd` or `disk`", Some(help.to_owned()));
    }
    match (by_cc, files) {
        (true, files) => {
            GuestReach::Cc { files: files.and_then(|entry| absolute(&entry, "a directory in the guests", sink)) }
        }
        (false, Some(entry)) => {
            let help = "say `reach = \"cc\"`, or leave `files` out".to_owned();
            entry.refuse_with_help(sink, "only beside `reach = \"cc\"`", Some(help));
            GuestReach::Port
        }
        (false, None) => GuestReach::Port,
    }
}

//! Guests of an image of the user's: can its files be booted, which are they, and what are machines made of them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;

use sha2::{Digest as _, Sha256};

use super::guest::{Hardware, LINK, mac};
use super::machine::{Boot, Kind, Nic, Plan};
use crate::agent::PORT;
use crate::ids::NodeId;
use crate::spec::{GuestBoot, GuestImage, GuestReach, NODE};
use crate::testbed::TestbedError;
use crate::text::hex;

/// Where the size of a virtual disk is no multiple of it, the last part is lost.
const SECTOR: u64 = 512;

/// How files begin that are no disks as they are: what they are instead.
const NO_DISKS: [(&[u8], &str); 9] = [
    (b"KDMV", "vmdk"),
    (b"vhdxfile", "vhdx"),
    (b"conectix", "vpc"),
    (b"<<< ", "vdi"),
    (b"QED\0", "qed"),
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
];

/// Are the files there, and can guests boot them?
///
/// # Errors
/// [`TestbedError::Unsupported`] for the first that cannot be booted.
pub(super) fn check(image: &GuestImage, nodes: &[NodeId]) -> Result<(), TestbedError> {
    match &image.boot {
        GuestBoot::Kernel { kernel, initrd } => {
            regular("kernel", kernel)?;
            regular("initrd", initrd).map(drop)
        }
        GuestBoot::Disk { path, snapshot } => {
            nodes.iter().try_for_each(|node| check_disk(&disk(path, *node), *snapshot))?;
            if *snapshot { Ok(()) } else { are_several(path, nodes) }
        }
    }
}

/// Nodes that write to one disk destroy what is on it.
fn are_several(path: &str, nodes: &[NodeId]) -> Result<(), TestbedError> {
    let mut seen: HashMap<(u64, u64), String> = HashMap::new();
    for node in nodes {
        let own = disk(path, *node);
        let meta = std::fs::metadata(&own).map_err(|error| unusable("disk", &own, &error.to_string()))?;
        if let Some(other) = seen.insert((meta.dev(), meta.ino()), own.clone()) {
            return Err(unusable(
                "disk",
                &own,
                &format!("it is the same file as {other}, and both would be written to"),
            ));
        }
    }
    Ok(())
}

/// As far as that can be told where nodes are on several hosts: each writes to a disk with a name of its own.
pub(super) fn are_named_apart(image: &GuestImage) -> Result<(), TestbedError> {
    match &image.boot {
        GuestBoot::Disk { path, snapshot: false } if !path.contains(NODE) => {
            Err(unusable("disk", path, &format!("nodes would write to one disk: its name needs {NODE}")))
        }
        _ => Ok(()),
    }
}

/// The disk of a node.
pub(super) fn disk(path: &str, node: NodeId) -> String {
    path.replace(NODE, &node.to_string())
}

/// A file that is there and is not empty.
fn regular(key: &str, path: &str) -> Result<File, TestbedError> {
    let opened = File::open(path).and_then(|file| {
        let meta = file.metadata()?;
        let why = if !meta.is_file() {
            "it is no regular file"
        } else if meta.len() == 0 {
            "it is empty"
        } else {
            return Ok(file);
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    });
    opened.map_err(|error| unusable(key, path, &error.to_string()))
}

fn unusable(key: &str, path: &str, why: &str) -> TestbedError {
    TestbedError::Unsupported {
        what: format!("guests cannot boot {path}: {why}"),
        hint: Some(format!("`{key}` in `[testbed.minimega]` is the path of a file on this host")),
    }
}

/// qcow2 by its magic number, and raw for all that is not known to be something else.
fn check_disk(path: &str, snapshot: bool) -> Result<(), TestbedError> {
    let refused = |why: String| Err(unusable("disk", path, &why));
    let mut file = regular("disk", path)?;
    let mut head = Vec::new();
    let read = (&mut file).take(8).read_to_end(&mut head);
    if let Err(error) = read {
        return refused(error.to_string());
    }
    let what = NO_DISKS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name);
    if let Some(what) = what {
        return refused(format!("it is of the format {what} (qcow2 or raw; `qemu-img convert -O qcow2` makes one)"));
    }
    if head.starts_with(b"QFI\xfb") {
        let version = head.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        if !matches!(version, Some(2 | 3)) {
            return refused("it is qcow of a version other than 2 and 3".to_owned());
        }
    } else if !file.metadata().is_ok_and(|meta| meta.len().is_multiple_of(SECTOR)) {
        return refused(format!(
            "it is no qcow2 image, and as a raw one its size would be a multiple of {SECTOR} bytes"
        ));
    }
    // Whether it can be written is found out by opening it: root is refused by a file system that is read-only.
    match File::options().write(!snapshot).read(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) => refused(format!("it cannot be written: {error}")),
    }
}

/// Tells the files of an image from others of the same names, without reading them: device, inode, length, times of the last
/// change of content and of the rest, which cannot be set.
pub(super) type Stamp = Vec<(u64, u64, u64, [i64; 4])>;

/// `None` for disks, which are large, and are written to.
pub(super) fn stamp(image: &GuestImage) -> Result<Option<Stamp>, TestbedError> {
    let GuestBoot::Kernel { kernel, initrd } = &image.boot else { return Ok(None) };
    let of = |(key, path): (&str, &str)| {
        let meta = regular(key, path)?.metadata().map_err(|error| unusable(key, path, &error.to_string()))?;
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        Ok((meta.dev(), meta.ino(), meta.len(), times))
    };
    [("kernel", kernel.as_str()), ("initrd", initrd)].into_iter().map(of).collect::<Result<_, _>>().map(Some)
}

/// Hash of kernel and initramfs: 16 hexadecimal digits; `None` for disks.
///
/// # Errors
/// [`TestbedError::Unsupported`] for a file that cannot be read.
pub(super) fn identity(image: &GuestImage) -> Result<Option<String>, TestbedError> {
    let GuestBoot::Kernel { kernel, initrd } = &image.boot else { return Ok(None) };
    let mut both = Sha256::new();
    for (key, path) in [("kernel", kernel), ("initrd", initrd)] {
        let hash = digest(regular(key, path)?).map_err(|error| unusable(key, path, &error.to_string()))?;
        both.update(hash);
    }
    Ok(Some(hex(&both.finalize()[..8])))
}

/// Hash of a file of an image, as sha256sum(1) prints it.
///
/// # Errors
/// [`TestbedError::Unsupported`] for a file that cannot be read.
pub(super) fn checksum(key: &str, path: &str) -> Result<String, TestbedError> {
    let hash = digest(regular(key, path)?).map_err(|error| unusable(key, path, &error.to_string()))?;
    Ok(hex(&hash))
}

fn digest(mut file: File) -> io::Result<[u8; 32]> {
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&piece[..count]),
        }
    }
}

/// Facts about the image, as name and value.
pub(super) fn facts(image: &GuestImage, identity: Option<&str>) -> Vec<(&'static str, String)> {
    let mut facts = vec![("testbed.minimega.reach", image.reach.as_str().to_owned())];
    for name in ["image.id", "image.base_id"] {
        facts.extend(identity.map(|id| (name, id.to_owned())));
    }
    match &image.boot {
        GuestBoot::Kernel { kernel, initrd } => {
            facts.extend([("image.kernel", kernel.clone()), ("image.initrd", initrd.clone())]);
        }
        GuestBoot::Disk { path, snapshot } => {
            let kept = if *snapshot { "on" } else { "off" };
            facts.extend([("image.disk", path.clone()), ("image.snapshot", kept.to_owned())]);
        }
    }
    facts
}

/// The machine of a client or server; its first serial port goes into a file. Pure.
pub(super) fn plan(node: NodeId, image: &GuestImage, hardware: &Hardware, console: String) -> Plan {
    let (boot, snapshot) = match &image.boot {
        GuestBoot::Kernel { kernel, initrd } => {
            let arguments = hardware.arguments.clone();
            (Boot::Kernel { kernel: kernel.clone(), initrd: initrd.clone(), arguments }, true)
        }
        GuestBoot::Disk { path, snapshot } => (Boot::Disk(disk(path, node)), *snapshot),
    };
    let ports = match image.reach {
        GuestReach::Port => vec![PORT.to_owned()],
        GuestReach::Cc { .. } => Vec::new(),
    };
    let (qemu, cpu) = (hardware.qemu.clone(), hardware.cpu.clone());
    let nic = Nic { bridge: None, vlan: LINK.to_owned(), mac: mac(node), driver: Some(hardware.driver.clone()) };
    Plan {
        name: node.to_string(),
        kind: Kind::Kvm { boot, qemu, cpu, ports, snapshot, console: Some(console), results: Vec::new() },
        memory_mib: hardware.memory.0.div_ceil(1 << 20),
        vcpus: hardware.vcpus,
        nics: vec![nic],
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn disk_of(path: &Path, snapshot: bool) -> GuestImage {
        let boot = GuestBoot::Disk { path: path.to_string_lossy().into_owned(), snapshot };
        GuestImage { boot, reach: GuestReach::Port }
    }

    fn check_content(content: &[u8]) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        check(&disk_of(file.path(), true), &[NodeId::client(1)]).map_err(|error| error.to_string())
    }

    #[test]
    fn disks_are_known_by_how_they_begin() {
        check_content(b"QFI\xfb\0\0\0\x03 and more").unwrap();
        check_content(&[0; 1024]).unwrap();
        for (content, why) in [
            (&b"QFI\xfb\0\0\0\x01 and more"[..], "qcow of a version other than 2 and 3"),
            (b"QFI\xfb", "qcow of a version other than 2 and 3"),
            (b"KDMV of VMware's", "the format vmdk (qcow2 or raw"),
            (b"\x1f\x8b packed", "the format gzip"),
            (&[0; 1023], "a multiple of 512 bytes"),
            (b"", "it is empty"),
        ] {
            let error = check_content(content).unwrap_err();
            assert!(error.starts_with("guests cannot boot /") && error.contains(why), "{error}");
        }
        let error = check(&disk_of(Path::new("/nosuch"), true), &[NodeId::client(1)]).unwrap_err();
        assert!(error.hint().unwrap().contains("`disk` in `[testbed.minimega]`"), "{error}");
        check(&disk_of(Path::new("/dev/null"), true), &[NodeId::client(1)]).unwrap_err();
    }

    #[test]
    fn each_node_needs_its_disk() {
        let place = tempfile::tempdir().unwrap();
        let image = disk_of(&place.path().join("{node}.img"), false);
        let nodes = [NodeId::client(1), NodeId::server(1)];
        std::fs::write(place.path().join("client1.img"), [0; 512]).unwrap();
        let error = check(&image, &nodes).unwrap_err().to_string();
        assert!(error.contains("/server1.img: No such file"), "{error}");
        let (client, server) = (place.path().join("client1.img"), place.path().join("server1.img"));
        std::fs::hard_link(&client, &server).unwrap();
        let error = check(&image, &nodes).unwrap_err().to_string();
        assert!(error.contains("/server1.img: it is the same file as ") && error.contains("/client1.img"), "{error}");
        std::fs::remove_file(&server).unwrap();
        std::fs::write(&server, [0; 512]).unwrap();
        check(&image, &nodes).unwrap();
    }

    #[test]
    fn another_initramfs_is_another_image() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name).to_string_lossy().into_owned();
        let boot = GuestBoot::Kernel { kernel: path("k"), initrd: path("i") };
        let image = GuestImage { boot, reach: GuestReach::Port };
        let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
        write("k", "ab");
        write("i", "c");
        let (first, stamped) = (identity(&image).unwrap().unwrap(), stamp(&image).unwrap());
        assert!(first.len() == 16 && stamp(&image).unwrap() == stamped);
        write("k", "a");
        write("i", "bc");
        assert!(identity(&image).unwrap().unwrap() != first && stamp(&image).unwrap() != stamped);
        write("i", "");
        assert!(identity(&image).unwrap_err().to_string().contains("it is empty"));
    }

    #[test]
    fn guests_boot_what_was_said_and_nothing_of_vptests() {
        let hardware = Hardware {
            driver: "e1000".to_owned(),
            vcpus: 2,
            memory: crate::units::ByteSize(256 << 20),
            modules: vec![],
            arguments: vec!["quiet".to_owned()],
            qemu: None,
            cpu: None,
        };
        let boot = GuestBoot::Kernel { kernel: "/k".to_owned(), initrd: "/i".to_owned() };
        let mut image = GuestImage { boot, reach: GuestReach::Cc { files: None } };
        let lines = |image: &GuestImage, node| {
            let plan = plan(node, image, &hardware, "/c".to_owned());
            plan.configuration().unwrap().iter().map(|words| words[2..].join(" ")).collect::<Vec<_>>()
        };
        let with_kernel = lines(&image, NodeId::client(1));
        assert_eq!(with_kernel[2..6], ["kernel /k", "initrd /i", "append quiet", "snapshot true"]);
        image.boot = GuestBoot::Disk { path: "/{node}.img".to_owned(), snapshot: false };
        image.reach = GuestReach::Port;
        let with_disk = lines(&image, NodeId::server(1));
        assert_eq!(with_disk[2..5], ["disks /server1.img", "virtio-ports org.vptest.agent.0", "snapshot false"]);
    }
}

//! Guests that boot a disk of the user's: by its own boot loader, with the agent or an ssh server in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};
use vptest::image::{self, Image, KernelChoice};

use super::campaign::Campaign;
use super::need::program;
use super::qemu::{AB, cache, databases, guests, only, outcome, qemus, run, sweep, wanted};

pub(crate) fn tools() -> bool {
    guests() && ["syslinux", "mcopy", "mkfs.fat", "qemu-img", "cpio"].iter().all(|name| program(name))
}

/// Runs a line of sh, its words after it.
fn sh(line: &str, words: &[&Path]) -> Vec<u8> {
    let out = Command::new("sh").args(["-ec", line, "sh"]).args(words).stderr(Stdio::inherit()).output().unwrap();
    assert!(out.status.success(), "{line}: {}", out.status);
    out.stdout
}

/// An image with the distribution's kernel for virtual machines, which is the quickest to boot.
pub(crate) fn built(programs: &[&str], first: PathBuf) -> Image {
    let programs = programs.iter().map(|&name| name.to_owned()).collect();
    let request = image::Request { kernel: KernelChoice::Cloud, programs, vptest: first, ..wanted() };
    image::build(&request, &mut |_| {}).unwrap()
}

/// The kernel of an image as boot loaders take it: from its package.
fn compressed_kernel(image: &Image, to: &Path) {
    let name = image.kernel_source.split(' ').next().unwrap();
    let packages = std::fs::read_dir(cache().join("packages")).unwrap().map(|entry| entry.unwrap().path());
    let of_kernel =
        packages.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{name}_")));
    let package = of_kernel.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap();
    let out = sh("dpkg-deb --fsys-tarfile \"$1\" | tar -xO --wildcards './boot/vmlinuz-*'", &[&package]);
    std::fs::write(to, out).unwrap();
}

/// A disk in `directory`: a FAT file system with a boot loader, the kernel of the image and its initramfs, in which the
/// files below `directory/over` replace others.
pub(crate) fn disk(directory: &Path, image: &Image) -> PathBuf {
    let at = |name: &str| directory.join(name);
    compressed_kernel(image, &at("vmlinuz"));
    sh(
        "cd \"$1/over\"; find . | cpio -o -H newc --quiet > ../over.cpio; cat \"$2\" ../over.cpio | gzip -1 > ../initrd",
        &[directory, &image.initramfs],
    );
    let append = format!(
        "console=ttyS0 quiet panic=-1 no_timer_check noreplace-smp cryptomgr.notests ipv6.disable_ipv6=1 \
         vptest.modules=virtio_net {}",
        image::tcg_arguments()
    );
    std::fs::write(
        at("syslinux.cfg"),
        format!("default it\nlabel it\n linux vmlinuz\n initrd initrd\n append {append}\n"),
    )
    .unwrap();
    sh(
        "cd \"$1\"; truncate -s $(($(cat vmlinuz initrd | wc -c) / 1048576 + 8))M disk.raw; mkfs.fat disk.raw > /dev/null; \
         mcopy -i disk.raw vmlinuz initrd syslinux.cfg ::; syslinux --install disk.raw",
        &[directory],
    );
    at("disk.raw")
}

/// A file that the guests find in their first file system.
pub(crate) fn over(directory: &Path, name: &str, text: &str) {
    let path = directory.join("over").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

const FACTORS: &str = "memory = \"400 MiB\"\noffload = \"off\"\nmtu = 1400\n\
                       request = { url = \"/image.png?size=200kB\", count = 5 }";
const CAPTURE: &str = "[capture]\nvantage = [\"guest\", \"host\"]\n[testbed.qemu]\nboot_timeout = \"200 s\"\n";

fn hash(path: &Path) -> Vec<u8> {
    Sha256::digest(std::fs::read(path).unwrap()).to_vec()
}

/// The workload ran, with what was asked for in force in the guests.
fn assert_measured(campaign: &Campaign, access: &str) {
    let (status, reasons) = outcome(campaign);
    assert_eq!(status, "complete", "{reasons}");
    let db = &databases(campaign)[0];
    for (name, observed) in [("tso", "off"), ("gro", "off"), ("mtu", "1400"), ("driver", "virtio-net-pci")] {
        let sql = format!(
            "SELECT count(*) FROM setting WHERE name = '{name}' AND node IN ('client1', 'server1') AND observed = \
             '{observed}' AND ok = 1"
        );
        assert_eq!(only::<i64>(db, &sql), 4, "{name}: two guests, before and after");
    }
    let guest = "SELECT min(packets) FROM capture WHERE vantage = 'guest'";
    assert!(only::<i64>(db, guest) > 100);
    let known = format!("SELECT count(*) FROM environment WHERE name = 'testbed.qemu.access' AND value = '{access}'");
    assert_eq!(only::<i64>(db, &known), 1);
    assert!(qemus(campaign).is_empty());
    campaign.assert_clean();
}

#[test]
fn a_disk_with_the_agent_serves_all_guests_and_is_not_written_to() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    over(directory.path(), "init", "#!/bin/sh\nexec /bin/vptest agent --init\n");
    let raw = disk(directory.path(), &built(&["ab"], wanted().vptest));
    let qcow2 = directory.path().join("disk.qcow2");
    sh("qemu-img convert -O qcow2 \"$1\" \"$2\"", &[&raw, &qcow2]);
    for disk in [&raw, &qcow2] {
        let before = hash(disk);
        let campaign = sweep(FACTORS, AB, &format!("{CAPTURE}disk = \"{}\"", disk.display()));
        run(&campaign, 0);
        assert_measured(&campaign, "agent");
        assert!(hash(disk) == before, "{} was written to", disk.display());
    }
}

/// First process of a system with an ssh server and no vptest. Its network card for ssh has the name that the other one
/// is to get.
const SYSTEM: &str = r#"#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /run /tmp /var/tmp /root
mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp
mkdir /run/sshd
for wanted in virtio_pci virtio_blk virtio_rng virtio_net; do
    for module in $(sed -n "s/^$wanted://p" /etc/vptest/modules.dep) $wanted; do
        for file in /lib/modules/*/$module.ko; do [ -e $file ] && insmod $file 2>/dev/null; done
    done
done
rm -r /etc/vptest
ip link set lo up
for card in /sys/class/net/*; do
    case $(cat $card/address) in
        52:54:00:*:1?) ssh=${card##*/} ;;
        52:54:00:*) test=${card##*/} ;;
    esac
done
ip link set $test name ens9; ip link set $ssh name eth0
ip link set eth0 up
busybox udhcpc -i eth0 -n -q -s /dhcp
exec /usr/sbin/sshd -D -e -f /etc/ssh/sshd_config
"#;
const DHCP: &str = "#!/bin/sh\n[ \"$1\" = bound ] && ip address add $ip/$mask dev $interface\n";
const SSHD: &str = "HostKey /etc/ssh/host\nAuthorizedKeysFile /etc/ssh/user.pub\nStrictModes no\nUsePAM no\n\
                    PermitRootLogin yes\nPidFile none\nUseDNS no\n";
const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/bin/false\n\
                     www-data:x:33:33::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n";

/// TCP ports of this host that somebody listens on.
fn listeners() -> String {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    tables.concat().lines().filter(|line| line.split_whitespace().nth(3) == Some("0A")).collect()
}

#[test]
fn a_disk_with_an_ssh_server_is_as_good_as_one_with_the_agent() {
    if !tools() || !["ssh", "sshd", "ssh-keygen"].iter().all(|name| program(name)) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    sh("cd \"$1\"; for key in host user; do ssh-keygen -q -t ed25519 -N '' -f $key; done", &[directory.path()]);
    over(directory.path(), "init", SYSTEM);
    over(directory.path(), "dhcp", DHCP);
    over(directory.path(), "etc/ssh/sshd_config", SSHD);
    over(directory.path(), "etc/passwd", USERS);
    sh("cd \"$1\"; cp host user.pub over/etc/ssh; chmod 600 over/etc/ssh/host", &[directory.path()]);
    // Parts of newer servers.
    let parts = ["/usr/lib/openssh/sshd-session", "/usr/lib/openssh/sshd-auth"];
    let parts = parts.into_iter().filter(|path| Path::new(path).exists());
    let programs: Vec<&str> = ["ab", "sshd"].into_iter().chain(parts).collect();
    let busybox = vptest::workload::find_in_path("busybox").unwrap();
    let raw = disk(directory.path(), &built(&programs, busybox));
    let key = std::fs::read_to_string(at("host.pub")).unwrap();
    let more = format!(
        "{CAPTURE}disk = \"{}\"\naccess = \"ssh\"\n[testbed.qemu.ssh]\nidentity = \"{}\"\nhost_key = \"{}\"",
        raw.display(),
        at("user").display(),
        key.trim_end()
    );
    let campaign = sweep(FACTORS, AB, &more);
    let mut child = campaign
        .command(&["run"])
        .env("VPTEST_CACHE", cache())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (before, mut guests_seen) = (listeners(), false);
    while child.try_wait().unwrap().is_none() {
        guests_seen |= qemus(&campaign).len() == 2;
        // Ports 20003 and 20004, where QEMU listens in the iteration's own namespace.
        let now = listeners();
        assert!([":4E23 ", ":4E24 "].iter().all(|port| before.contains(port) || !now.contains(port)));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(guests_seen);
    assert_measured(&campaign, "ssh");
}

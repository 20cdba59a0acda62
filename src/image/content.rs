//! What is in an initramfs beside programs: directories, a few files in `/etc`, modules.

use std::path::Path;

use super::archive::Tree;
use super::drivers::AT_BOOT;
use super::kernel::Kernel;
use super::programs::{Programs, USUAL};
use super::watch::Watch;
use super::{ImageError, Request, VPTEST};

/// A tree and what to tell of it.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) tree: Tree,
    pub(super) programs: Vec<String>,
    pub(super) missing: Vec<String>,
}

/// Puts everything together.
///
/// Without a kernel it is what a container needs, which has the host's.
pub(super) fn content(request: &Request, kernel: Option<&Kernel>, watch: &mut Watch) -> Result<Content, ImageError> {
    let mut tree = skeleton();
    if let Some(kernel) = kernel {
        modules(&mut tree, kernel);
    }
    let (mut programs, mut missing) = (vec![format!("/{VPTEST}")], Vec::new());
    let mut collector = Programs::new(watch)?;
    collector.add_vptest(&request.vptest, &mut tree)?;
    for name in USUAL {
        match collector.add(name, &mut tree)? {
            Some(path) => programs.push(path),
            None => missing.push(name.to_owned()),
        }
    }
    for program in &request.programs {
        let path = collector.add(program, &mut tree)?;
        programs.push(path.ok_or_else(|| ImageError::NoProgram { program: program.clone() })?);
    }
    collector.finish(&mut tree)?;
    programs.sort();
    programs.dedup();
    if let Some(path) = programs.iter().find(|path| path.ends_with("/busybox")) {
        applets(&mut tree, path);
    }
    if programs.iter().any(|path| path.ends_with("/nginx")) {
        nginx(&mut tree, watch)?;
    }
    Ok(Content { tree, programs, missing })
}

fn skeleton() -> Tree {
    let mut tree = Tree::default();
    let plain =
        ["dev", "etc", "mnt", "proc", "root", "run", "sys", "usr/bin", "usr/sbin", "bin", "sbin", "var/log", "var/lib"];
    for path in plain {
        tree.directory(path, 0o755);
    }
    tree.directory("tmp", 0o1777);
    // The kernel opens it for the first process, before anything is mounted.
    tree.device("dev/console", 5, 1);
    tree.device("dev/null", 1, 3);
    // Relative: unpacked for a container they must not lead to the host's.
    tree.link("var/run", "../run");
    tree.link("var/tmp", "../tmp");
    let files = [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
             nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
        ),
        ("etc/group", "root:x:0:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n"),
        ("etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n"),
        (
            "etc/protocols",
            "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\ngre 47 GRE\nipv6-icmp 58 IPv6-ICMP\nsctp 132 SCTP\n",
        ),
        ("etc/services", "ssh 22/tcp\ndomain 53/tcp\ndomain 53/udp\nhttp 80/tcp\nhttps 443/tcp\n"),
    ];
    for (path, text) in files {
        tree.file(path, 0o644, text.as_bytes());
    }
    tree
}

/// Files as the first process looks for them: `/lib/modules/RELEASE/NAME.ko` and two lists in `/etc/vptest`.
fn modules(tree: &mut Tree, kernel: &Kernel) {
    for (name, content) in &kernel.modules.files {
        tree.file(&format!("lib/modules/{}/{name}.ko", kernel.image.release), 0o644, &content[..]);
    }
    let at_boot: String = AT_BOOT.iter().map(|name| format!("{name}\n")).collect();
    tree.file("etc/vptest/modules", 0o644, at_boot.as_bytes());
    tree.file("etc/vptest/modules.dep", 0o644, kernel.modules.table().as_bytes());
}

/// The shell and its usual company.
///
/// A fixed list: what is not in this busybox says so when it is called.
const APPLETS: &str = "ash awk basename cat chmod chown cksum cmp cp cut date dd df dirname dmesg du echo egrep env expr \
    false fgrep find free grep gunzip gzip halt head hexdump hostname id ifconfig insmod kill killall less ln ls lsmod \
    md5sum mkdir mknod mkfifo mktemp mount mv nc netstat nproc od pgrep pidof ping ping6 pkill printf ps pwd readlink \
    realpath rm rmdir rmmod route sed seq setsid sh sha256sum sleep sort stat stty sync sysctl tail tar taskset tee test \
    time timeout top touch tr traceroute true truncate tty umount uname uniq uptime vi wc wget which xargs yes zcat";

fn applets(tree: &mut Tree, busybox: &str) {
    for applet in APPLETS.split_whitespace() {
        tree.link(&format!("bin/{applet}"), busybox);
    }
}

/// nginx reads and makes these when its configuration says nothing else.
fn nginx(tree: &mut Tree, watch: &mut Watch) -> Result<(), ImageError> {
    for path in ["var/log/nginx", "var/lib/nginx", "var/www"] {
        tree.directory(path, 0o755);
    }
    if let Some(types) = watch.read_if_there(Path::new("/etc/nginx/mime.types"))? {
        tree.file("etc/nginx/mime.types", 0o644, types);
    }
    Ok(())
}

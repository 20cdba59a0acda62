//! Guest images: built from the host's packages, and booted.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

use super::campaign::{Said, VPTEST, said};
use super::need::{need, program};

/// Package lists and downloads: one test at a time asks for them.
static APT: Mutex<()> = Mutex::new(());

/// A cache that is removed at the end. What was downloaded is handed on from one to the next.
struct Cache {
    directory: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Cache {
    fn new() -> Self {
        let turn = APT.lock().unwrap_or_else(PoisonError::into_inner);
        let cache = Self { directory: tempfile::tempdir().unwrap(), _turn: turn };
        fs::create_dir(cache.path().join("packages")).unwrap();
        for entry in fs::read_dir(shared()).into_iter().flatten().flatten() {
            // The same file twice: other users may only read it.
            let _ = fs::copy(entry.path(), cache.path().join("packages").join(entry.file_name()));
        }
        cache
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(VPTEST);
        command.arg("image").args(arguments).env("VPTEST_CACHE", self.path()).stdin(Stdio::null());
        command
    }

    fn expect(&self, code: i32, arguments: &[&str]) -> Said {
        let said = said(self.command(arguments).output().unwrap());
        assert_eq!(said.code, Some(code), "vptest image {arguments:?}\n{}{}", said.out, said.err);
        said
    }

    fn build(&self, arguments: &[&str]) -> serde_json::Value {
        let all: Vec<_> = ["build", "--format", "json"].into_iter().chain(arguments.iter().copied()).collect();
        serde_json::from_str(&self.expect(0, &all).out).unwrap()
    }

    fn unfinished(&self) -> Vec<PathBuf> {
        let directories = ["images", "kernels", "packages"].map(|name| self.path().join(name));
        let entries = directories.iter().flat_map(fs::read_dir).flatten().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with('.')).collect()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        fs::create_dir_all(shared()).unwrap();
        for entry in fs::read_dir(self.path().join("packages")).into_iter().flatten().flatten() {
            let _ = fs::copy(entry.path(), shared().join(entry.file_name()));
        }
    }
}

/// Below the build's own directory, which `cargo clean` removes.
fn shared() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages")
}

/// Has this host package lists with a kernel?
fn apt() -> bool {
    let shown = Command::new("apt-cache").args(["show", "linux-image-amd64"]).output();
    need("apt", shown.is_ok_and(|shown| shown.status.success()))
}

fn qemu() -> bool {
    need("qemu", Command::new("qemu-system-x86_64").arg("--version").output().is_ok())
}

fn file(image: &serde_json::Value, name: &str) -> PathBuf {
    PathBuf::from(image[name].as_str().unwrap())
}

#[test]
fn the_same_inputs_give_the_same_bytes_and_the_second_time_from_the_cache() {
    if !apt() {
        return;
    }
    let (one, bytes) = {
        let cache = Cache::new();
        let first = cache.build(&["--program", "cat"]);
        let again = cache.expect(0, &["build", "--format", "json", "--program", "cat"]);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&again.out).unwrap(), first);
        // It was found, not made.
        assert!(!again.err.contains("putting"), "{}", again.err);
        let files = ["kernel", "initramfs"].map(|name| fs::read(file(&first, name)).unwrap());
        (first, files)
    };
    let cache = Cache::new();
    let other = cache.build(&["--program", "cat"]);
    assert_eq!(one["id"], other["id"]);
    assert!(bytes == ["kernel", "initramfs"].map(|name| fs::read(file(&other, name)).unwrap()));
    assert_eq!(other["pvh"], true);
    for module in ["e1000", "e1000e", "8139cp", "vmxnet3", "virtio_net", "igb", "ip_gre", "sch_tbf", "sch_netem"] {
        assert!(other["modules"].as_array().unwrap().iter().any(|name| name == module), "{module}");
    }
    let list = cache.expect(0, &["list"]);
    assert!(list.out.contains(other["id"].as_str().unwrap()), "{}", list.out);
    // A damaged image is made again.
    fs::write(file(&other, "kernel"), "short").unwrap();
    assert_eq!(cache.build(&["--program", "cat"])["id"], one["id"]);
    assert!(fs::read(file(&other, "kernel")).unwrap() == bytes[0]);
    let id = &other["id"].as_str().unwrap()[..6];
    cache.expect(0, &["remove", id]);
    assert!(!file(&other, "kernel").exists());
    cache.expect(2, &["remove", id]);
    assert_eq!(cache.unfinished(), Vec::<PathBuf>::new());
}

/// Starts a command whose `apt-get` never ends, interrupts it while that runs, and says how it ended.
fn interrupted(command: &mut Command, bin: &Path) -> i32 {
    use nix::sys::signal::{Signal, kill};
    let apt = bin.join("apt-get");
    fs::write(
        &apt,
        "#!/bin/sh\nmkdir -p half\necho $$ > \"${0%/*}/new\"; mv \"${0%/*}/new\" \"${0%/*}/pid\"\nexec sleep 1000\n",
    )
    .unwrap();
    fs::set_permissions(&apt, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut child = command.env("PATH", path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    super::qemu::wait_until("the download", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the download");
        bin.join("pid").exists()
    });
    let download: i32 = fs::read_to_string(bin.join("pid")).unwrap().trim().parse().unwrap();
    fs::remove_file(bin.join("pid")).unwrap();
    kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let code = child.wait().unwrap().code().unwrap();
    assert!(!Path::new(&format!("/proc/{download}")).exists(), "the download goes on");
    code
}

#[test]
fn an_interrupted_build_ends_at_once_and_leaves_nothing() {
    if !apt() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let bin = tempfile::tempdir().unwrap();
    let mut build = Command::new(VPTEST);
    build.args(["image", "build"]).env("VPTEST_CACHE", cache.path()).stdin(Stdio::null());
    assert_eq!(interrupted(&mut build, bin.path()), 130);
    let left = |name: &str| fs::read_dir(cache.path().join(name)).into_iter().flatten().count();
    assert_eq!(["images", "kernels", "packages"].map(left), [0, 0, 0]);

    if !super::need::root() || !qemu() || !program("ab") {
        return;
    }
    let campaign = super::qemu::sweep(super::qemu::SMALL, super::qemu::AB, "");
    let mut run = campaign.command(&["run"]);
    assert_eq!(interrupted(run.env("VPTEST_CACHE", cache.path()), bin.path()), 130);
    assert_eq!(["images", "kernels", "packages"].map(left), [0, 0, 0]);
    campaign.assert_clean();
}

#[test]
fn two_builds_at_once_give_one_image_and_what_a_dead_one_left_is_removed() {
    if !apt() {
        return;
    }
    let cache = Cache::new();
    fs::create_dir_all(cache.path().join("images/.unfinished-dead")).unwrap();
    let start = || cache.command(&["build", "--format", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let both = [start().unwrap(), start().unwrap()];
    let both = both.map(|child: Child| said(child.wait_with_output().unwrap()));
    assert_eq!(both[0].out, both[1].out, "{}{}", both[0].err, both[1].err);
    assert!(!both[0].out.is_empty(), "{}", both[0].err);
    assert_eq!(fs::read_dir(cache.path().join("images")).unwrap().count(), 1);
    assert_eq!(cache.unfinished(), Vec::<PathBuf>::new());
}

#[test]
fn a_build_that_is_killed_leaves_no_half_image() {
    if !apt() {
        return;
    }
    let cache = Cache::new();
    let mut child = cache.command(&["build"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("unpacking")));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(cache.expect(0, &["list"]).out.is_empty());
    cache.build(&[]);
    assert_eq!(cache.unfinished(), Vec::<PathBuf>::new());
}

#[test]
fn the_guest_boots_to_its_first_process_as_built_by_an_ordinary_user() {
    if !apt() || !qemu() || !program("setpriv") || !super::need::root() {
        return;
    }
    let cache = Cache::new();
    let nobody = 65534;
    std::os::unix::fs::chown(cache.path(), Some(nobody), Some(nobody)).unwrap();
    fs::remove_dir_all(cache.path().join("packages")).unwrap();
    // The program itself may lie where only root looks.
    let own = cache.path().join("vptest");
    fs::copy(VPTEST, &own).unwrap();
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let mut command = Command::new("setpriv");
    command.args(user).arg(&own).args(["image", "build", "--format", "json"]).current_dir(cache.path());
    let built = said(command.env("VPTEST_CACHE", cache.path()).env("HOME", "/nonexistent").output().unwrap());
    assert_eq!(built.code, Some(0), "{}", built.err);
    let image: serde_json::Value = serde_json::from_str(&built.out).unwrap();
    let stages = boot(&image, "q35", "pci", "vptest.modules=e1000,no_such_module");
    let said = stages.join("\n");
    for expected in ["first process", "modules loaded", "no_such_module", "agent waits on org.vptest.agent.0"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains("e1000"), "{said}");
}

#[test]
fn a_guest_without_pci_boots_too() {
    if !apt() || !qemu() {
        return;
    }
    let cache = Cache::new();
    let image = cache.build(&["--kernel", "cloud"]);
    let stages = boot(&image, "microvm", "device", "");
    assert!(stages.last().is_some_and(|line| line.contains("agent waits")), "{stages:?}");
}

/// Boots under TCG until the agent waits or the guest ends; what vptest said on the console.
fn boot(image: &serde_json::Value, machine: &str, bus: &str, arguments: &str) -> Vec<String> {
    let line = format!(
        "{} {} {arguments} vptest.node=client1 -- agent --init",
        vptest::image::KERNEL_ARGUMENTS,
        vptest::image::tcg_arguments()
    );
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-accel", "tcg", "-m", "384"]);
    qemu.args(["-machine", machine, "-serial", "stdio", "-append", &line]);
    qemu.args(["-chardev", "null,id=agent", "-device", &format!("virtio-serial-{bus}")]);
    qemu.args(["-device", "virtserialport,chardev=agent,name=org.vptest.agent.0"]);
    qemu.arg("-kernel").arg(file(image, "kernel")).arg("-initrd").arg(file(image, "initramfs"));
    let mut guest = Guest(qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut stages = Vec::new();
    for line in BufReader::new(guest.0.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(at) = line.find("vptest: ") {
            stages.push(line[at..].to_owned());
        }
        if line.contains("agent waits") {
            break;
        }
    }
    stages
}

struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn what_is_not_there_is_named_with_what_to_do() {
    let cache = Cache::new();
    let check = |arguments: &[&str], code: i32, expected: &[&str]| {
        let said = cache.expect(code, &[&["build"], arguments].concat());
        for text in expected {
            assert!(said.err.contains(text), "{text}: {}", said.err);
        }
    };
    let path = |name: &str| cache.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("garbage"), [0x55; 4096]).unwrap();
    check(&["--kernel", &path("garbage")], 2, &["garbage is no x86-64 Linux kernel: it is neither an ELF file nor"]);
    check(&["--kernel", &path("absent")], 3, &["cannot read", "absent"]);
    check(&["--kernel", "full", "--modules", "/lib"], 2, &["--modules goes with the path of a kernel"]);
    fs::write(path("kernel"), vmlinux()).unwrap();
    fs::create_dir(path("modules")).unwrap();
    let own = ["--kernel", &path("kernel"), "--modules", &path("modules")];
    check(&own, 2, &["kernel 6.1.0-test: module virtio_console: it is missing"]);
    let built_in = ["--kernel", &path("kernel")];
    let with = |program: &'static str| [&built_in[..], &["--program", program]].concat();
    check(&with("no-such-program"), 2, &["program `no-such-program` is not on this host", "hint"]);
    fs::write(path("script"), "#!/usr/bin/env python3\n").unwrap();
    fs::write(path("not-a-program"), "text").unwrap();
    for name in ["script", "not-a-program"] {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    check(&[&built_in[..], &["--program", &path("script")]].concat(), 2, &["script for python3"]);
    check(&[&built_in[..], &["--program", &path("not-a-program")]].concat(), 2, &["cannot go into an image"]);
    // Without apt there is no packaged kernel, and with an empty list neither.
    let without = said(cache.command(&["build"]).env("PATH", "/nonexistent").output().unwrap());
    assert_eq!(without.code, Some(3), "{}", without.err);
    assert!(without.err.contains("apt-cache show") && without.err.contains("--kernel PATH"), "{}", without.err);
    let lists = cache.path().join("apt.conf");
    fs::write(
        &lists,
        format!(
            "Dir::State::lists \"{}\";\nDir::Cache \"{}\";\nDir::State::status \"/dev/null\";\n",
            path("modules"),
            path("modules")
        ),
    )
    .unwrap();
    let empty = said(cache.command(&["build"]).env("APT_CONFIG", &lists).output().unwrap());
    assert_eq!(empty.code, Some(3), "{}", empty.err);
    assert!(empty.err.contains("apt-get update"), "{}", empty.err);
    assert!(cache.expect(0, &["list"]).out.is_empty());
}

/// The smallest ELF file that passes as a kernel: a PVH note and a banner.
fn vmlinux() -> Vec<u8> {
    let mut elf = vec![0; 120];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    for (at, byte) in [(0x10, 2), (0x12, 62), (0x14, 1), (0x20, 64), (0x34, 64), (0x36, 56), (0x38, 1)] {
        elf[at] = byte;
    }
    // One program header: notes at byte 120, 20 bytes, aligned to 4.
    for (at, byte) in [(64, 4), (72, 120), (96, 20), (112, 4)] {
        elf[at] = byte;
    }
    for word in [4_u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x100_0000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(b"Linux version 6.1.0-test (someone) #1\0");
    elf
}

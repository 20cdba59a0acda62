//! Packages of Debian and Ubuntu, downloaded and unpacked without root.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::hashed::Hashed;
use super::{ImageError, Step, stop};

/// Programs that experiments use, and the package that each comes from.
const PROGRAMS: [(&str, &str); 16] = [
    ("ab", "apache2-utils"),
    ("busybox", "busybox-static"),
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("hping3", "hping3"),
    ("ip", "iproute2"),
    ("iperf", "iperf"),
    ("iperf3", "iperf3"),
    ("netperf", "netperf"),
    ("nginx", "nginx"),
    ("ping", "iputils-ping"),
    ("stress-ng", "stress-ng"),
    ("tc", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("wget", "wget"),
    ("wrk", "wrk"),
];

/// The package that a program comes from; `None` for one not known here.
pub(super) fn package_of(program: &str) -> Option<&'static str> {
    PROGRAMS.iter().find(|(name, _)| *name == program).map(|(_, package)| *package)
}

/// One version of a package, as the host's package lists have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    sha256: String,
    depends: Vec<String>,
}

impl Package {
    /// `NAME VERSION`.
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// Hash of its file.
    pub(super) fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// The packages that a kernel consists of: first the one with the kernel itself, then those with further modules.
///
/// `names` are packages that stand for the newest kernel; the first one that the lists know counts.
pub(super) fn kernel(names: &[&str]) -> Result<Vec<Package>, ImageError> {
    kernel_among(names, &mut show)
}

/// As [`kernel`], with what the lists say of a package given.
fn kernel_among(
    names: &[&str],
    show: &mut dyn FnMut(&str) -> Result<Option<Package>, ImageError>,
) -> Result<Vec<Package>, ImageError> {
    let none = || ImageError::NoKernelPackage { names: names.iter().map(|&name| name.to_owned()).collect() };
    let mut known = None;
    for name in names {
        known = show(name)?;
        if known.is_some() {
            break;
        }
    }
    let newest = known.ok_or_else(none)?;
    let is_kernel = |name: &&String| {
        let rest = name.strip_prefix("linux-image-").map(|rest| rest.strip_prefix("unsigned-").unwrap_or(rest));
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let name = newest.depends.iter().find(is_kernel).ok_or_else(none)?;
    let kernel = show(name)?.ok_or_else(none)?;
    // Ubuntu has its modules in packages of their own.
    let extra = format!(
        "linux-modules-extra-{}",
        kernel.name.trim_start_matches("linux-image-").trim_start_matches("unsigned-")
    );
    let mut modules: Vec<String> = Vec::new();
    for name in kernel.depends.iter().chain(&newest.depends).filter(|name| name.starts_with("linux-modules-")) {
        if !modules.contains(name) {
            modules.push(name.clone());
        }
    }
    let mut packages = vec![kernel];
    for name in &modules {
        packages.push(show(name)?.ok_or_else(none)?);
    }
    // Drivers that the kernel for virtual machines does not ask for, such as those of some network cards.
    if !modules.is_empty() && !modules.contains(&extra) {
        packages.extend(show(&extra)?);
    }
    Ok(packages)
}

/// What the package lists say of a package; `None` when they do not know it.
pub(super) fn show(name: &str) -> Result<Option<Package>, ImageError> {
    let out = output(Command::new("apt-cache").args(["show", "--no-all-versions", name]))?;
    if !out.status.success() {
        return Ok(None);
    }
    Ok(parse(&String::from_utf8_lossy(&out.stdout)))
}

/// Reads the first paragraph of what `apt-cache show` prints.
fn parse(text: &str) -> Option<Package> {
    let field = |wanted: &str| {
        let mut lines = text.lines().take_while(|line| !line.is_empty());
        lines.find_map(|line| line.strip_prefix(wanted)?.strip_prefix(": ")).map(str::to_owned)
    };
    // A virtual package has no such fields, an installed one that no list has any more has no hash.
    let (name, version, sha256) = (field("Package")?, field("Version")?, field("SHA256")?);
    // `linux-image-6.1.0-50-amd64 (= 6.1.176-1), …`: of alternatives the first counts.
    let depends = field("Depends").unwrap_or_default();
    let depends = depends.split(',').filter_map(|part| part.split_whitespace().next()).map(str::to_owned).collect();
    Some(Package { name, version, sha256, depends })
}

/// The package's file in `directory`, downloaded unless it is there.
///
/// apt checks what it downloads against the signed package lists; what was there already is checked here.
pub(super) fn download(
    package: &Package,
    directory: &Path,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<PathBuf, ImageError> {
    let short = package.sha256.get(..16).unwrap_or(&package.sha256);
    let path = directory.join(format!("{}_{short}.deb", package.name));
    if path.exists() {
        check(&path, package)?;
        return Ok(path);
    }
    progress(Step::Download(&package.title()));
    fs::create_dir_all(directory).map_err(ImageError::file("make", directory))?;
    let beside = tempfile::Builder::new().prefix(".download-").tempdir_in(directory);
    let beside = beside.map_err(ImageError::file("write into", directory))?;
    let wanted = format!("{}={}", package.name, package.version);
    let mut command = Command::new("apt-get");
    run(command.args(["-q", "download", &wanted]).current_dir(beside.path()))?;
    let got = fs::read_dir(beside.path()).map_err(ImageError::file("read", beside.path()))?;
    let got = got.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "deb"));
    let got = got.ok_or_else(|| ImageError::Tool {
        command: format!("apt-get download {wanted}"),
        text: "it left no package".to_owned(),
    })?;
    check(&got, package)?;
    fs::rename(&got, &path).map_err(ImageError::file("write", &path))?;
    Ok(path)
}

fn check(path: &Path, package: &Package) -> Result<(), ImageError> {
    let read = || {
        let mut sum = Hashed::new(io::sink());
        io::copy(&mut File::open(path)?, &mut sum)?;
        sum.finish()
    };
    let (found, _) = read().map_err(ImageError::file("read", path))?;
    if found == package.sha256 {
        return Ok(());
    }
    let text = format!("its SHA-256 is {found}, the package lists say {}", package.sha256);
    Err(ImageError::Package { path: path.to_owned(), text })
}

/// Hands every regular file in a package to `take`: its path (without `./`) and its content.
pub(super) fn each_file(
    package: &Path,
    mut take: impl FnMut(&Path, &mut dyn io::Read) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(package).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| tool(&command, error))?;
    let stream = child.stdout.take().ok_or_else(|| tool(&command, "it has no output"))?;
    let result = walk(package, stream, &mut take);
    // The stream is read to its end, or closed after an error: dpkg-deb ends.
    let out = child.wait_with_output().map_err(|error| tool(&command, error))?;
    result?;
    if out.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(ImageError::Package { path: package.to_owned(), text })
}

fn walk(
    package: &Path,
    stream: impl io::Read,
    take: &mut impl FnMut(&Path, &mut dyn io::Read) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let damaged = |error: io::Error| ImageError::Package { path: package.to_owned(), text: error.to_string() };
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries().map_err(damaged)? {
        stop::check()?;
        let mut entry = entry.map_err(damaged)?;
        if entry.header().entry_type().is_file() {
            let path = entry.path().map_err(damaged)?.into_owned();
            take(path.strip_prefix(".").unwrap_or(&path), &mut entry)?;
        }
    }
    // What is behind the end mark is padding; a writer whose pipe is closed before would fail.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged)?;
    Ok(())
}

fn run(command: &mut Command) -> Result<(), ImageError> {
    let out = output(command)?;
    if out.status.success() { Ok(()) } else { Err(tool(command, String::from_utf8_lossy(&out.stderr).trim())) }
}

fn output(command: &mut Command) -> Result<std::process::Output, ImageError> {
    stop::output(command.env("LC_ALL", "C"))?.map_err(|error| tool(command, error))
}

fn tool(command: &Command, text: impl ToString) -> ImageError {
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    let words: Vec<_> = std::iter::once(command.get_program().to_string_lossy()).chain(arguments).collect();
    ImageError::Tool { command: words.join(" "), text: text.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `apt-cache show` prints of Ubuntu's kernel packages, as far as it counts here.
    const UBUNTU: [(&str, &str); 7] = [
        (
            "linux-image-generic",
            "linux-image-6.8.0-49-generic, linux-modules-extra-6.8.0-49-generic, linux-firmware, intel-microcode",
        ),
        ("linux-image-virtual", "linux-image-6.8.0-49-generic"),
        ("linux-image-6.8.0-49-generic", "kmod, linux-base (>= 4.5ubuntu1~16.04.1), linux-modules-6.8.0-49-generic"),
        ("linux-modules-6.8.0-49-generic", ""),
        ("linux-modules-extra-6.8.0-49-generic", "linux-modules-6.8.0-49-generic, wireless-regdb"),
        ("linux-image-kvm", "linux-image-unsigned-6.8.0-1018-kvm"),
        ("linux-image-unsigned-6.8.0-1018-kvm", "kmod, linux-modules-6.8.0-1018-kvm"),
    ];

    fn ubuntu(name: &str) -> Result<Option<Package>, ImageError> {
        let found = UBUNTU.iter().find(|(known, _)| *known == name);
        Ok(found.and_then(|(name, depends)| {
            parse(&format!(
                "Package: {name}\nVersion: 6.8.0-49.49\nDepends: {depends}\nSHA256: 12ab\n\nPackage: other\n"
            ))
        }))
    }

    fn names(of: &[&str]) -> Result<Vec<String>, ImageError> {
        Ok(kernel_among(of, &mut ubuntu)?.into_iter().map(|package| package.name).collect())
    }

    #[test]
    fn ubuntus_kernels_come_with_their_modules() {
        let expected =
            ["linux-image-6.8.0-49-generic", "linux-modules-6.8.0-49-generic", "linux-modules-extra-6.8.0-49-generic"];
        assert_eq!(names(&["linux-image-amd64", "linux-image-generic"]).unwrap(), expected);
        assert_eq!(names(&["linux-image-cloud-amd64", "linux-image-virtual"]).unwrap(), expected);
        // A list that names modules it does not have is no list to build from.
        assert!(matches!(names(&["linux-image-kvm"]), Err(ImageError::NoKernelPackage { .. })));
        assert!(matches!(names(&["linux-image-amd64"]), Err(ImageError::NoKernelPackage { .. })));
    }
}

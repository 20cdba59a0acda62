//! Are the programs there?

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::Tool;

/// A program that was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{program} not found: {}", hint(.package))]
pub struct MissingTool {
    /// Its name.
    pub program: String,
    /// The Debian and Ubuntu package that has it; `None` for a user's own program.
    pub package: Option<&'static str>,
}

fn hint(package: &Option<&'static str>) -> String {
    match package {
        Some(package) => format!("apt-get install {package}"),
        None => "not in PATH".to_owned(),
    }
}

/// The programs of a workload that are not on this host.
pub fn check_tools(tools: &[Tool]) -> Vec<MissingTool> {
    let missing = tools.iter().filter(|tool| find_in_path(&tool.program).is_none());
    missing.map(|tool| MissingTool { program: tool.program.clone(), package: tool.package }).collect()
}

/// Where a program is on this host: looked up in `PATH` unless its name has a slash, and in the system directories
/// that an ordinary user's `PATH` lacks (`nginx` is in `/usr/sbin`).
pub fn find_in_path(program: &str) -> Option<PathBuf> {
    find_in(program, &std::env::var_os("PATH").unwrap_or_default())
}

fn find_in(program: &str, path: &OsStr) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| executable(path));
    }
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(path).chain(system).map(|dir| dir.join(program)).find(|path| executable(path))
}

fn executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_or_named_with_their_package() {
        assert!(find_in("sh", OsStr::new("/nowhere:/bin")).is_some());
        assert!(find_in("/bin/sh", OsStr::new("")).is_some());
        assert_eq!(find_in("/etc/passwd", OsStr::new("")), None, "a file that cannot be run is no program");
        let tool = |program: &str, package| Tool { program: program.to_owned(), package, version: None };
        let missing = check_tools(&[tool("sh", None), tool("ab-not-there", Some("apache2-utils")), tool("/x", None)]);
        let text: Vec<String> = missing.iter().map(MissingTool::to_string).collect();
        assert_eq!(text, ["ab-not-there not found: apt-get install apache2-utils", "/x not found: not in PATH"]);
    }
}

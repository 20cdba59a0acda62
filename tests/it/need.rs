//! What a test needs of the machine it runs on.

use std::env;
use std::path::Path;

use vptest::host::namespace::Namespace;

/// May the test go on? When it may not, it says why on standard error; when `VPTEST_REQUIRE` (names separated by
/// commas) has the name, it fails instead.
pub(crate) fn need(name: &str, available: bool) -> bool {
    let required = env::var("VPTEST_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|word| word.trim() == name);
    assert!(available || !required, "VPTEST_REQUIRE names {name}, which this machine lacks");
    if !available {
        eprintln!("skipped: this machine lacks {name}");
    }
    available
}

/// Root, with the right to make network namespaces.
pub(crate) fn root() -> bool {
    need("root", nix::unistd::geteuid().is_root() && Namespace::new().is_ok())
}

/// A program in `PATH`.
pub(crate) fn tool(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).any(|directory| Path::new(&directory).join(name).is_file());
    need(name, found)
}

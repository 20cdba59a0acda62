//! What a test needs from the machine it runs on.

/// May the test run? Without what it needs it is skipped with a printed reason; where `VPTEST_REQUIRE` (names separated
/// by commas) names the need, it fails instead.
pub(crate) fn need(name: &str, available: bool) -> bool {
    if available {
        return true;
    }
    let required = std::env::var("VPTEST_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|needed| needed.trim() == name),
        "VPTEST_REQUIRE names `{name}`, which is missing"
    );
    eprintln!("skipped: needs {name}");
    false
}

/// Is this root, with what comes with it?
pub(crate) fn root() -> bool {
    need("root", nix::unistd::geteuid().is_root())
}

/// Is the program in `PATH`?
pub(crate) fn program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    need(name, std::env::split_paths(&path).any(|directory| directory.join(name).is_file()))
}

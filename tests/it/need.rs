//! What a test needs and this machine may lack.

/// Is it `available`? If not, the test prints why and is passed over – unless `VPTEST_REQUIRE` (names separated by
/// commas) has `name`: then it fails.
pub(crate) fn need(name: &str, available: bool) -> bool {
    if !available {
        let required = std::env::var("VPTEST_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|r| r.trim() == name), "`{name}` is required by VPTEST_REQUIRE and missing");
        eprintln!("skipped: `{name}` is not available here");
    }
    available
}

/// Root, with the right to make network namespaces.
pub(crate) fn root() -> bool {
    need("root", nix::unistd::geteuid().is_root() && vptest::host::namespace::Namespace::new().is_ok())
}

/// A program in `PATH`.
pub(crate) fn program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    need(name, std::env::split_paths(&path).chain(system).any(|directory| directory.join(name).is_file()))
}

//! What a test needs from the machine.

/// May the test go on? Prints why not; panics when `VPTEST_REQUIRE` names the need and the machine lacks it.
pub(crate) fn need(name: &str, available: bool) -> bool {
    let required = std::env::var("VPTEST_REQUIRE").unwrap_or_default();
    if !available {
        assert!(
            !required.split(',').any(|item| item.trim() == name),
            "this machine lacks {name}, which VPTEST_REQUIRE asks for"
        );
        eprintln!("skipped: this machine lacks {name}");
    }
    available
}

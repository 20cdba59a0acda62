//! Versions of minimega and what they differ in. Pure.

use std::fmt;

/// Release of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Major, minor, patch; `None` for a build that does not say.
    pub number: Option<(u32, u32, u32)>,
    /// In the daemon's words.
    pub text: String,
}

impl Version {
    /// Reads `minimega 3.1.0 04636ff… 2026-08-17`.
    pub fn parse(text: &str) -> Self {
        let number = text.split_whitespace().find_map(|word| {
            let mut parts = word.trim_start_matches('v').split('.').map(str::parse::<u32>);
            let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
            let patch = match parts.next() {
                None => 0,
                Some(patch) => patch.ok()?,
            };
            parts.next().is_none().then_some((major, minor, patch))
        });
        Self { number, text: crate::text::printable(text, 100) }
    }

    /// Is it at least this release? A build that does not say counts as older where that is the safer guess.
    fn since(&self, major: u32, minor: u32) -> bool {
        self.number.is_some_and(|(its_major, its_minor, _)| (its_major, its_minor) >= (major, minor))
    }

    /// Is it known to be older than the first release that says the number of a posted command in `Data`?
    pub fn lacks_ids(&self) -> bool {
        self.number.is_some() && !self.since(2, 6)
    }

    /// Has it `cc exitcode`?
    pub fn has_exit_codes(&self) -> bool {
        self.since(2, 8)
    }

    /// May commands of two namespaces run at once? Before 3.1 a prefix `namespace N` changed what others were in.
    pub fn namespaces_are_apart(&self) -> bool {
        self.since(3, 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some((major, minor, patch)) => write!(f, "{major}.{minor}.{patch}"),
            None => f.write_str(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_differ_as_documented() {
        let row = |text: &str| {
            let version = Version::parse(text);
            (version.lacks_ids(), version.has_exit_codes(), version.namespaces_are_apart())
        };
        assert_eq!(row("minimega 2.5 abc 2019-01-01"), (true, false, false));
        assert_eq!(row("minimega 2.6 abc 2020-01-01"), (false, false, false));
        assert_eq!(row("minimega 2.8 abc 2021-01-01"), (false, true, false));
        assert_eq!(row("minimega 3.0.1 abc 2024-01-01"), (false, true, false));
        assert_eq!(row("minimega 3.1.0 04636ffde53212479924deaaed3819065b144976 2026-08-17"), (false, true, true));
        assert_eq!(row("minimega 10.0 abc"), (false, true, true));
        // Says nothing: it has what is looked at in answers, and nothing is risked.
        assert_eq!(row("minimega unreleased"), (false, false, false));
    }

    #[test]
    fn a_date_is_no_release() {
        assert_eq!(Version::parse("minimega 2026-08-17").number, None);
        assert_eq!(Version::parse("minimega 3.0.x").number, None);
        assert_eq!(Version::parse("minimega v3.0").to_string(), "3.0.0");
    }
}

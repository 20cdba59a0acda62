//! The factors vptest knows: what values they take and on which testbeds they mean something.
//!
//! The one table about factors: the parser, the expansion, the documentation and the messages go by it.

use crate::ids::Vantage;
use crate::units::{ByteSize, Rate};

use super::instruments::{self, Instruments};
use super::value::Value;

/// A testbed that may be named in a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestbedName {
    /// Its name.
    pub name: &'static str,
    /// Vantages it offers.
    pub vantages: &'static [Vantage],
}

const VIRTUAL: &[Vantage] = &[Vantage::Guest, Vantage::Host];

/// Every testbed that may be named.
pub const TESTBEDS: &[TestbedName] = &[
    TestbedName { name: "netns", vantages: VIRTUAL },
    TestbedName { name: "fake", vantages: VIRTUAL },
    TestbedName { name: "qemu", vantages: VIRTUAL },
    TestbedName { name: "minimega-kvm", vantages: VIRTUAL },
    TestbedName { name: "minimega-container", vantages: VIRTUAL },
    TestbedName { name: "physical", vantages: &[Vantage::Endpoint] },
];

/// The testbed of tuples that name none.
pub const DEFAULT_TESTBED: &str = "netns";

/// What values a factor takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The name of a testbed.
    Testbed,
    /// A whole number in this range, ends included.
    Integer(i64, i64),
    /// On or off.
    Switch,
    /// A word: letters, digits, `-`, `_`, `.`.
    Word,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A path on the server, beginning with `/`.
    Url,
    /// A link rate or `"none"`.
    Rate,
    /// A size in this range of bytes, ends included.
    Size(u64, u64),
    /// A list of router names.
    Hops,
    /// A switch, or a list of instruments.
    Instruments,
    /// `"none"` or `"gre"`.
    Tunnel,
    /// `{ url = …, count = … }`.
    Request,
}

impl Kind {
    /// What a spec may say, for messages.
    pub fn accepted(self) -> String {
        match self {
            Self::Testbed => TESTBEDS.iter().map(|t| format!("`\"{}\"`", t.name)).collect::<Vec<_>>().join(", "),
            Self::Integer(min, max) => format!("a whole number from {min} to {max}"),
            Self::Switch => "`true`, `false`, `\"on\"` or `\"off\"`".to_owned(),
            Self::Word => "a word of letters, digits, `-`, `_` and `.`".to_owned(),
            Self::Choice(words) => words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", "),
            Self::Url => "a path such as `\"/image.png?size=16MB\"`, without blanks".to_owned(),
            Self::Rate => format!("{} or \"none\"", Rate::ACCEPTED),
            Self::Size(min, max) => {
                format!("{}, from {} to {}", ByteSize::ACCEPTED, binary_size(min), binary_size(max))
            }
            Self::Hops => "a list of router names, `[\"A\", \"B\"]`, or a list of such lists".to_owned(),
            Self::Instruments => instruments::ACCEPTED.to_owned(),
            Self::Tunnel => "`\"none\"` or `\"gre\"`".to_owned(),
            Self::Request => "`{ url = \"/\", count = 1000 }`".to_owned(),
        }
    }

    /// Reads a value written as text; the error says what is accepted.
    ///
    /// For kinds that the spec writes as strings; numbers and switches are read too, for use on a command line.
    pub fn from_text(self, text: &str) -> Result<Value, String> {
        let bad = || self.accepted();
        match self {
            Self::Testbed => {
                TESTBEDS.iter().find(|t| t.name == text).map(|t| Value::Text(t.name.to_owned())).ok_or_else(bad)
            }
            Self::Integer(min, max) => {
                text.parse().ok().filter(|n| (min..=max).contains(n)).map(Value::Integer).ok_or_else(bad)
            }
            Self::Switch => switch(text).map(Value::Switch).ok_or_else(bad),
            Self::Word => is_word(text).then(|| Value::Text(text.to_owned())).ok_or_else(bad),
            Self::Choice(words) => words.contains(&text).then(|| Value::Text(text.to_owned())).ok_or_else(bad),
            Self::Url => is_url(text).then(|| Value::Text(text.to_owned())).ok_or_else(bad),
            Self::Rate if text == "none" => Ok(Value::None),
            Self::Rate => text.parse().map(Value::Rate).map_err(|_| bad()),
            Self::Size(min, max) => match text.parse::<ByteSize>() {
                Ok(size) if (min..=max).contains(&size.0) => Ok(Value::Size(size)),
                _ => Err(bad()),
            },
            Self::Hops if text == "direct" => Ok(Value::List(Vec::new())),
            Self::Hops => {
                let hops: Vec<String> = text.split('>').map(str::to_owned).collect();
                hops.iter().all(|hop| is_word(hop)).then_some(Value::List(hops)).ok_or_else(bad)
            }
            Self::Instruments => match switch(text) {
                Some(flag) => Ok(Value::Switch(flag)),
                None => text.parse().map(Instruments::into_value).map_err(|()| bad()),
            },
            Self::Tunnel => match text {
                "none" => Ok(Value::None),
                "gre" => Ok(Value::Text(text.to_owned())),
                _ => Err(bad()),
            },
            Self::Request => Err(bad()),
        }
    }
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "on" | "true" => Some(true),
        "off" | "false" => Some(false),
        _ => None,
    }
}

/// A size bound with a binary prefix where that is shorter.
fn binary_size(bytes: u64) -> String {
    [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(factor, _)| bytes.is_multiple_of(*factor))
        .map_or_else(|| format!("{bytes} B"), |(factor, unit)| format!("{} {unit}", bytes / factor))
}

/// A non-empty word of letters, digits, `-`, `_` and `.` that begins with a letter or digit.
pub(super) fn is_word(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn is_url(text: &str) -> bool {
    text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic())
}

/// Where a factor means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// On every testbed.
    Everywhere,
    /// On these.
    Only(&'static [&'static str]),
}

impl Scope {
    /// Does it include the testbed of that name?
    pub fn includes(self, testbed: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Only(names) => names.contains(&testbed),
        }
    }
}

/// Who uses a factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The testbed or the runner.
    Testbed,
    /// The preset `ab`; other workloads only where an argument names it.
    Ab,
}

/// A factor vptest knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its name in specs.
    pub name: &'static str,
    /// Its values.
    pub kind: Kind,
    /// Where it means something; elsewhere it is dropped.
    pub scope: Scope,
    /// Who uses it.
    pub user: User,
    /// What a tuple without it gets.
    pub default: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
}

const VMS: Scope = Scope::Only(&["qemu", "minimega-kvm"]);
const QEMU: Scope = Scope::Only(&["qemu"]);
const GUESTS: Scope = Scope::Only(&["qemu", "minimega-kvm", "minimega-container"]);
const MINIMEGA: Scope = Scope::Only(&["minimega-kvm", "minimega-container"]);
const PINNED: Scope = Scope::Only(&["netns", "fake", "qemu", "minimega-kvm", "minimega-container"]);

macro_rules! known {
    ($($name:literal $kind:expr, $scope:expr, $user:ident, $default:literal, $about:literal;)+) => {
        &[$(Known {
            name: $name, kind: $kind, scope: $scope, user: User::$user, default: $default, about: $about,
        }),+]
    };
}

/// Every factor vptest knows.
pub const KNOWN: &[Known] = known! {
    "testbed" Kind::Testbed, Scope::Everywhere, Testbed, "netns", "what provides nodes and links";
    "pairs" Kind::Integer(1, 1000), Scope::Everywhere, Testbed, "1", "client and server pairs on the same hardware";
    "accel" Kind::Choice(&["auto", "kvm", "tcg"]), QEMU, Testbed, "auto", "what runs the guests' code: the processor or QEMU's translator; auto is kvm where a guest boots with it";
    "machine" Kind::Choice(&["pc", "q35", "microvm"]), QEMU, Testbed, "q35", "type of the virtual machine";
    "driver" Kind::Word, VMS, Testbed, "the testbed's", "model of the virtual network card";
    "vcpus" Kind::Integer(1, 512), GUESTS, Testbed, "1", "virtual CPUs of each node";
    "memory" Kind::Size(1 << 20, 1 << 44), GUESTS, Testbed, "the testbed's", "memory of each node";
    "offload" Kind::Switch, Scope::Everywhere, Testbed, "the kernel's", "sg, tso, gso and gro, all on or all off, at both ends and on the host side";
    "rate" Kind::Rate, Scope::Everywhere, Testbed, "none", "limit of each link";
    "mtu" Kind::Integer(68, 65_535), Scope::Everywhere, Testbed, "the kernel's", "MTU of every link, in bytes";
    "hops" Kind::Hops, Scope::Everywhere, Testbed, "direct", "routers between client and server, from the client";
    "tunnel" Kind::Tunnel, GUESTS, Testbed, "none", "encapsulation between client and server";
    "colocated" Kind::Switch, MINIMEGA, Testbed, "the testbed's", "client and server on the same host";
    "pinning" Kind::Switch, PINNED, Testbed, "off", "processes bound to one CPU each";
    "instrument" Kind::Instruments, Scope::Everywhere, Testbed, "on", "which instruments run (the checks of the host always do)";
    "stress_cpu" Kind::Integer(0, 4096), Scope::Everywhere, Testbed, "0", "stress-ng CPU workers beside the nodes";
    "stress_io" Kind::Integer(0, 4096), Scope::Everywhere, Testbed, "0", "stress-ng I/O workers beside the nodes";
    "stress_mem" Kind::Integer(0, 4096), Scope::Everywhere, Testbed, "0", "stress-ng memory workers beside the nodes";
    "workers" Kind::Integer(1, 20_000), Scope::Everywhere, Ab, "1", "concurrent requests of each client";
    "request" Kind::Request, Scope::Everywhere, Ab, "`/`, 1000 times", "what is asked for and how often, set together";
    "url" Kind::Url, Scope::Everywhere, Ab, "/", "what is asked for";
    "count" Kind::Integer(1, 2_147_483_647), Scope::Everywhere, Ab, "1000", "requests of each client";
};

/// The known factor of that name.
pub fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// The testbed of that name.
pub fn testbed(name: &str) -> Option<&'static TestbedName> {
    TESTBEDS.iter().find(|testbed| testbed.name == name)
}

/// Does the factor mean something on the testbed? Factors of the user's own do everywhere.
pub fn is_relevant(factor: &str, testbed: &str) -> bool {
    known(factor).is_none_or(|known| known.scope.includes(testbed))
}

/// The canonical text of a factor's value as given on a command line: `offload`, `on` → `true`.
///
/// Values of factors that vptest does not know stay as they are. The error says what is accepted.
pub fn canonical_text(factor: &str, value: &str) -> Result<String, String> {
    match known(factor) {
        // Groups have no form for the command line but the canonical one.
        Some(known) if known.kind != Kind::Request => known.kind.from_text(value).map(|v| v.to_string()),
        _ => Ok(value.to_owned()),
    }
}

/// May it name a factor or a member of one? Letters, digits and `_`, not beginning with a digit.
pub(super) fn is_identifier(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A known factor that `name` is probably a misspelling of.
///
/// One edit for names of up to seven letters, two for longer ones; a swap of neighbours counts as one edit. More would
/// take `round` for `count`.
pub(super) fn misspelt(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    let allowed = if lower.len() < 8 { 1 } else { 2 };
    let near = KNOWN.iter().map(|known| (strsim::damerau_levenshtein(&lower, known.name), known.name));
    near.filter(|(distance, known)| *distance <= allowed && *distance * 2 < known.len()).min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_usable() {
        for (i, factor) in KNOWN.iter().enumerate() {
            assert!(is_identifier(factor.name), "{}", factor.name);
            assert!(KNOWN[..i].iter().all(|other| other.name != factor.name), "{} twice", factor.name);
            assert!(!super::super::placeholder::is_builtin(factor.name), "{} is a placeholder", factor.name);
            if let Scope::Only(names) = factor.scope {
                assert!(names.iter().all(|name| testbed(name).is_some()), "{}", factor.name);
            }
        }
    }

    #[test]
    fn defaults_that_are_values_are_accepted_values() {
        for factor in KNOWN {
            let described = factor.default.starts_with("the ") || factor.kind == Kind::Request;
            assert!(described || factor.kind.from_text(factor.default).is_ok(), "{}", factor.name);
        }
    }

    #[test]
    fn near_names_are_misspellings_and_others_are_not() {
        for (name, known) in
            [("ofload", "offload"), ("Offload", "offload"), ("pair", "pairs"), ("rtae", "rate"), ("workres", "workers")]
        {
            assert_eq!(misspelt(name), Some(known), "{name}");
        }
        for own in [
            "loss",
            "tool",
            "congestion",
            "size",
            "n",
            "cc",
            "delay",
            "buffer",
            "streams",
            "duration",
            "round",
            "ratio",
            "mss",
        ] {
            assert_eq!(misspelt(own), None, "{own}");
        }
    }

    #[test]
    fn command_line_values_get_their_canonical_text() {
        let text = |factor, value| canonical_text(factor, value);
        assert_eq!(text("offload", "true"), Ok("on".to_owned()));
        assert_eq!(text("rate", "1000Mbps"), Ok("1 Gbit/s".to_owned()));
        assert_eq!(text("hops", "A>B"), Ok("A>B".to_owned()));
        assert_eq!(text("hops", "direct"), Ok("direct".to_owned()));
        assert_eq!(text("pairs", "08"), Ok("8".to_owned()));
        assert_eq!(text("mine", " as it is"), Ok(" as it is".to_owned()));
        assert_eq!(text("pairs", "many"), Err("a whole number from 1 to 1000".to_owned()));
    }

    /// The reference and the table say the same about each factor.
    #[test]
    fn the_reference_has_every_factor_and_placeholder() {
        let reference = include_str!("../../docs/spec.md");
        for factor in KNOWN {
            let cell = format!("`{}`", factor.name);
            let row = reference.lines().find(|line| line.split('|').nth(1).is_some_and(|names| names.contains(&cell)));
            let row = row.unwrap_or_else(|| panic!("no row for {}", factor.name));
            assert!(row.contains(&format!("| {} |", factor.default)), "default of {}: {row}", factor.name);
            if let Scope::Only(names) = factor.scope {
                let all = row.contains("all but physical");
                assert!(all || row.contains(&names.join(", ")), "testbeds of {}: {row}", factor.name);
            } else {
                assert!(factor.name == "testbed" || row.contains("| all |"), "testbeds of {}: {row}", factor.name);
            }
            if let Kind::Integer(min, _) = factor.kind {
                assert!(row.contains(&format!("| {min} to ")), "range of {}: {row}", factor.name);
            }
        }
        for (name, _) in super::super::placeholder::PLACEHOLDERS {
            assert!(reference.contains(&format!("| `{{{name}}}` |")), "{name}");
        }
    }
}

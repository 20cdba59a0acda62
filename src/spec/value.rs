//! Factor values and tuples: what an iteration is asked to be.

use std::collections::BTreeMap;
use std::fmt;

use crate::units::{ByteSize, Rate};

/// One value of a factor, already checked and brought to its canonical form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// `true` and `false`; `on` and `off` are read as such where the factor is a switch.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Text, also of user-defined factors whose values are neither numbers nor booleans.
    Text(String),
    /// A link rate.
    Rate(Rate),
    /// A size.
    Size(ByteSize),
    /// Absence: `rate = "none"`, `tunnel = "none"`.
    None,
    /// A list that is one value: `hops = ["A", "B"]` as a value of its own.
    List(Vec<String>),
    /// Several names set together: `request = { url = "/", count = 1000 }`.
    Group(BTreeMap<String, Value>),
}

/// The canonical text: what is hashed, stored in `factor.value` and shown.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
            Self::Rate(value) => write!(f, "{value}"),
            Self::Size(value) => write!(f, "{value}"),
            Self::None => f.write_str("none"),
            Self::List(values) => f.write_str(&values.join(">")),
            Self::Group(members) => {
                for (i, (name, value)) in members.iter().enumerate() {
                    write!(f, "{}{name}={value}", if i == 0 { "" } else { " " })?;
                }
                Ok(())
            }
        }
    }
}

/// One combination of factor values, by name.
///
/// Only factors that mean something on the tuple's testbed are in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tuple {
    values: BTreeMap<String, Value>,
}

impl Tuple {
    /// A tuple of these values.
    pub fn new(values: BTreeMap<String, Value>) -> Self {
        Self { values }
    }

    /// The value of a factor, or of a group's member (`request.url`, or just `url` when no factor has that name).
    pub fn get(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.values.get(name) {
            return Some(value);
        }
        let members = |group: &Value, member: &str| match group {
            Value::Group(members) => members.get_key_value(member).map(|(k, _)| k.clone()),
            _ => None,
        };
        if let Some((group, member)) = name.split_once('.') {
            return match self.values.get(group)? {
                Value::Group(all) => all.get(member),
                _ => None,
            };
        }
        let group = self.values.values().find(|value| members(value, name).is_some())?;
        match group {
            Value::Group(all) => all.get(name),
            _ => None,
        }
    }

    /// Factors in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Name of the testbed; `netns` when the spec names none.
    pub fn testbed(&self) -> &str {
        match self.values.get("testbed") {
            Some(Value::Text(name)) => name,
            _ => "netns",
        }
    }

    /// Number of pairs on the same hardware; 1 when the spec does not say.
    pub fn pairs(&self) -> u32 {
        self.integer("pairs").and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
    }

    /// Whether instruments run; `true` when the spec does not say.
    pub fn instrument(&self) -> bool {
        self.flag("instrument").unwrap_or(true)
    }

    /// `offload`: sg, tso, gso and gro all on or all off; `None` leaves the kernel's defaults.
    pub fn offload(&self) -> Option<bool> {
        self.flag("offload")
    }

    /// `pinning`: processes bound to one CPU each.
    pub fn pinning(&self) -> bool {
        self.flag("pinning").unwrap_or(false)
    }

    /// Link rate; `None` for an unlimited link.
    pub fn rate(&self) -> Option<Rate> {
        match self.values.get("rate") {
            Some(Value::Rate(rate)) => Some(*rate),
            _ => None,
        }
    }

    /// MTU of every link in bytes; `None` leaves the kernel's default.
    pub fn mtu(&self) -> Option<u32> {
        self.integer("mtu").and_then(|n| u32::try_from(n).ok())
    }

    /// Names of the routers between client and server, from the client; empty for a direct link.
    pub fn hops(&self) -> &[String] {
        match self.values.get("hops") {
            Some(Value::List(hops)) => hops,
            _ => &[],
        }
    }

    /// A whole-number factor or group member.
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Some(Value::Integer(n)) => Some(*n),
            _ => None,
        }
    }

    /// A boolean factor or group member.
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    /// A text factor or group member.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

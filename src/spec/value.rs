//! Factor values and tuples: what an iteration is asked to be.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::instruments::Instruments;
use crate::units::{ByteSize, Rate};

/// One value of a factor, already checked and brought to its canonical form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// `true` and `false` of a user-defined factor.
    Bool(bool),
    /// A switch of the testbed, `on` or `off`; a spec may also say `true` and `false`.
    Switch(bool),
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
    /// Instruments by name: `instrument = ["capture", "syscalls"]`; never empty.
    Instruments(Instruments),
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
            Self::Switch(value) => f.write_str(if *value { "on" } else { "off" }),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
            Self::Rate(value) => write!(f, "{value}"),
            Self::Size(value) => write!(f, "{value}"),
            Self::None => f.write_str("none"),
            Self::Instruments(value) => write!(f, "{value}"),
            Self::List(values) if values.is_empty() => f.write_str("direct"),
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

impl Value {
    /// The value as JSON without blanks, as hashed for the identity of tuples and written by `--format json`.
    ///
    /// Booleans and whole numbers are themselves, absence is `null`, rates and sizes are strings in their canonical
    /// form, lists are arrays and groups are objects with sorted keys.
    pub fn canonical_json(&self) -> String {
        match self {
            Self::Bool(value) | Self::Switch(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::None => "null".to_owned(),
            Self::Text(text) => json_string(text),
            Self::Rate(_) | Self::Size(_) => json_string(&self.to_string()),
            Self::Instruments(set) => {
                let names: Vec<String> = set.iter().map(|instrument| json_string(instrument.as_str())).collect();
                format!("[{}]", names.join(","))
            }
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(|item| json_string(item)).collect();
                format!("[{}]", items.join(","))
            }
            Self::Group(members) => {
                let members: Vec<String> = members
                    .iter()
                    .map(|(name, value)| format!("{}:{}", json_string(name), value.canonical_json()))
                    .collect();
                format!("{{{}}}", members.join(","))
            }
        }
    }
}

/// A JSON string literal: `"`, `\` and control characters escaped, everything else as it is.
pub(crate) fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a string can always be written as JSON")
}

/// One combination of factor values, by name.
///
/// Only factors that mean something on the tuple's testbed are in it. The tuples of a plan share their names and
/// values and differ in indices only, so a million of them fit in memory.
#[derive(Clone, Default)]
pub struct Tuple {
    columns: Arc<Columns>,
    /// Which value, for each column.
    indices: Box<[u32]>,
}

/// Factors of a testbed with all their values.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    /// Sorted, distinct.
    pub(crate) names: Vec<String>,
    /// The values of each factor.
    pub(crate) values: Vec<Arc<[Value]>>,
}

/// Something computed once for all tuples that share their columns.
pub(crate) struct PerColumns<T> {
    known: HashMap<*const Columns, T>,
}

impl<T> PerColumns<T> {
    pub(crate) fn new() -> Self {
        Self { known: HashMap::new() }
    }

    /// What belongs to the columns of `tuple`; `make` computes it the first time.
    ///
    /// All tuples that are asked for must outlive this, as those of a plan do: the columns are told apart by address.
    pub(crate) fn of<E>(&mut self, tuple: &Tuple, make: impl FnOnce(&Columns) -> Result<T, E>) -> Result<&T, E> {
        let columns = tuple.columns.as_ref();
        match self.known.entry(std::ptr::from_ref(columns)) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(make(columns)?)),
        }
    }
}

impl Tuple {
    /// A tuple of these values.
    pub fn new(values: BTreeMap<String, Value>) -> Self {
        let indices = vec![0; values.len()].into();
        let (names, values) = values.into_iter().map(|(name, value)| (name, Arc::from([value]))).unzip();
        Self { columns: Arc::new(Columns { names, values }), indices }
    }

    /// A tuple of shared values: an index for each column.
    pub(crate) fn shared(columns: Arc<Columns>, indices: Box<[u32]>) -> Self {
        debug_assert_eq!(columns.names.len(), indices.len());
        Self { columns, indices }
    }

    /// Index of the value of each column.
    pub(crate) const fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// The value of a factor itself.
    fn factor(&self, name: &str) -> Option<&Value> {
        let column = self.columns.names.binary_search_by(|other| other.as_str().cmp(name)).ok()?;
        Some(&self.columns.values[column][self.indices[column] as usize])
    }

    /// The value of a factor, or of a group's member (`request.url`, or just `url` when no factor has that name).
    pub fn get(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.factor(name) {
            return Some(value);
        }
        if let Some((group, member)) = name.split_once('.') {
            return match self.factor(group)? {
                Value::Group(members) => members.get(member),
                _ => None,
            };
        }
        self.iter().find_map(|(_, value)| match value {
            Value::Group(members) => members.get(name),
            _ => None,
        })
    }

    /// Factors in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        let values = self.columns.values.iter().zip(&self.indices).map(|(values, &index)| &values[index as usize]);
        self.columns.names.iter().map(String::as_str).zip(values)
    }

    /// Name of the testbed; `netns` when the spec names none.
    pub fn testbed(&self) -> &str {
        match self.factor("testbed") {
            Some(Value::Text(name)) => name,
            _ => "netns",
        }
    }

    /// Number of pairs on the same hardware; 1 when the spec does not say.
    pub fn pairs(&self) -> u32 {
        self.integer("pairs").and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
    }

    /// Which instruments may run, of those that the spec asks for; all of them when the tuple does not say.
    pub fn instruments(&self) -> Instruments {
        self.factor("instrument").and_then(Instruments::of).unwrap_or(Instruments::ALL)
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
        match self.factor("rate") {
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
        match self.factor("hops") {
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
            Some(Value::Bool(flag) | Value::Switch(flag)) => Some(*flag),
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

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PartialEq for Tuple {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Tuple {}

impl PartialOrd for Tuple {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Tuple {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl Hash for Tuple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.iter().for_each(|factor| factor.hash(state));
    }
}

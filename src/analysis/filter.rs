//! `driver=e1000 and rate>100M`: which iterations are looked at.
//!
//! Values are read by the factor's own type, so `rate > 100M` compares bits per second and `offload = true` means `on`.

mod compile;
mod parse;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

pub(in crate::analysis) use compile::order;

/// The values that each factor has in the iterations at hand.
pub type Levels = BTreeMap<String, BTreeSet<String>>;

/// A condition on the factors of an iteration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    root: Node,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Any(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
    /// The factor is there and has one of these values.
    Has(String, BTreeSet<String>),
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// The whole text.
    pub text: String,
    /// Bytes of it that are wrong; may be empty, at its end too.
    pub at: Range<usize>,
    /// In one line.
    pub problem: String,
    /// What stands there and what could, where it is a name or a value that nothing has.
    pub known: Option<(String, Vec<String>)>,
}

impl fmt::Display for FilterError {
    /// The problem, the text, and a line of carets below the place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let before = self.text[..self.at.start].chars().count();
        let wide = self.text[self.at.clone()].chars().count().max(1);
        write!(f, "{}\n  {shown}\n  {}{}", self.problem, " ".repeat(before), "^".repeat(wide))
    }
}

impl std::error::Error for FilterError {}

impl Filter {
    /// Reads a condition on the factors of `levels`.
    ///
    /// `or` binds least, then `and`, then `not`; parentheses group. Comparisons are `=` (or `==`), `!=`, `<`, `<=`, `>`, `>=`. A value
    /// with blanks or signs stands in quotes. A comparison holds of no iteration that does not have the factor, `!=` neither;
    /// `none` is above every rate.
    ///
    /// # Errors
    /// [`FilterError`] for anything that cannot be read, factors that no iteration has, values that the factor does not take, and for
    /// `=` and `!=` values that no iteration has.
    pub fn parse(text: &str, levels: &Levels) -> Result<Self, FilterError> {
        parse::parse(text, levels).map(|root| Self { root })
    }

    /// Does it hold of an iteration with these factors?
    pub fn holds(&self, factors: &BTreeMap<String, String>) -> bool {
        self.root.holds(factors)
    }
}

impl Node {
    fn holds(&self, factors: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Any(nodes) => nodes.iter().any(|node| node.holds(factors)),
            Self::All(nodes) => nodes.iter().all(|node| node.holds(factors)),
            Self::Not(node) => !node.holds(factors),
            Self::Has(name, values) => factors.get(name).is_some_and(|value| values.contains(value)),
        }
    }
}

#[cfg(test)]
mod tests;

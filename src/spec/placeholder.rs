//! `{name}` in argument vectors and paths: finding them and putting values in.
//!
//! A value is put in as it is: what was one argument stays one argument, and no shell sees it. `{{` and `}}` stand for
//! single braces.

/// Names that are always known, besides the factors of a tuple. No factor may have one of them.
///
/// - `server`: address of the pair's server
/// - `port`: TCP or UDP port the pair's server shall listen on
/// - `pair`: number of the pair, from 1
/// - `scratch`: directory for files on the node the command runs on
/// - `vptest`: path of the vptest program on that node
pub const PLACEHOLDERS: &[&str] = &["server", "port", "pair", "scratch", "vptest"];

/// A text with placeholders cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceholderError {
    /// The name inside the braces means nothing here.
    #[error("`{{{0}}}` names no factor and no built-in placeholder")]
    Unknown(String),
    /// A brace without its partner; the position counts bytes from 0.
    #[error("brace at byte {0} has no partner (write `{{{{` or `}}}}` for a brace itself)")]
    Unbalanced(usize),
    /// Something between braces that cannot be a name.
    #[error(
        "`{{{0}}}` is no placeholder: a name has letters, digits, `_`, `-` and `.` (write `{{{{` for a brace itself)"
    )]
    BadName(String),
}

/// Puts values in: `lookup` gives the value of a name, or `None` when there is no such name.
pub fn expand(text: &str, mut lookup: impl FnMut(&str) -> Option<String>) -> Result<String, PlaceholderError> {
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece? {
            Piece::Text(part) => out.push_str(part),
            Piece::Name(name) => {
                out.push_str(&lookup(name).ok_or_else(|| PlaceholderError::Unknown(name.to_owned()))?);
            }
        }
    }
    Ok(out)
}

/// The names used in a text, in order; one that is used twice is listed twice.
pub fn names(text: &str) -> Result<Vec<&str>, PlaceholderError> {
    let name = |piece| match piece {
        Ok(Piece::Name(name)) => Some(Ok(name)),
        Ok(Piece::Text(_)) => None,
        Err(error) => Some(Err(error)),
    };
    pieces(text).filter_map(name).collect()
}

enum Piece<'a> {
    Text(&'a str),
    Name(&'a str),
}

fn pieces(text: &str) -> impl Iterator<Item = Result<Piece<'_>, PlaceholderError>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..).filter(|rest| !rest.is_empty())?;
        let (length, piece) = match next(rest) {
            Ok(found) => found,
            Err(PlaceholderError::Unbalanced(offset)) => {
                let position = at + offset;
                at = text.len();
                return Some(Err(PlaceholderError::Unbalanced(position)));
            }
            Err(error) => {
                at = text.len();
                return Some(Err(error));
            }
        };
        at += length;
        Some(Ok(piece))
    })
}

/// The piece at the start of `rest`, which is not empty, and how many bytes it takes.
fn next(rest: &str) -> Result<(usize, Piece<'_>), PlaceholderError> {
    if rest.starts_with("{{") || rest.starts_with("}}") {
        return Ok((2, Piece::Text(&rest[..1])));
    }
    if rest.starts_with('}') {
        return Err(PlaceholderError::Unbalanced(0));
    }
    let Some(inner) = rest.strip_prefix('{') else {
        let end = rest.find(['{', '}']).unwrap_or(rest.len());
        return Ok((end, Piece::Text(&rest[..end])));
    };
    let end = inner.find('}').ok_or(PlaceholderError::Unbalanced(0))?;
    let name = &inner[..end];
    let valid = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || !name.chars().all(valid) {
        return Err(PlaceholderError::BadName(name.to_owned()));
    }
    Ok((end + 2, Piece::Name(name)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_values(text: &str) -> Result<String, PlaceholderError> {
        expand(text, |name| match name {
            "url" => Some("/a b;$(x)".to_owned()),
            "request.count" => Some("1000".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn values_go_in_unchanged() {
        assert_eq!(with_values("http://h{url}?n={request.count}").unwrap(), "http://h/a b;$(x)?n=1000");
        assert_eq!(with_values("{{url}} {{{url}}}").unwrap(), "{url} {/a b;$(x)}");
        assert_eq!(with_values("").unwrap(), "");
        assert_eq!(names("{a}-{b.c}-{a}{{d}}").unwrap(), ["a", "b.c", "a"]);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(with_values("{nope}"), Err(PlaceholderError::Unknown("nope".to_owned())));
        assert_eq!(with_values("ab{url"), Err(PlaceholderError::Unbalanced(2)));
        assert_eq!(with_values("a}b"), Err(PlaceholderError::Unbalanced(1)));
        assert_eq!(with_values("{}"), Err(PlaceholderError::BadName(String::new())));
        assert_eq!(with_values("{a b}"), Err(PlaceholderError::BadName("a b".to_owned())));
        let text = PlaceholderError::Unknown("nope".to_owned()).to_string();
        assert_eq!(text, "`{nope}` names no factor and no built-in placeholder");
    }

    proptest! {
        #[test]
        fn escaped_text_comes_back(text in ".*") {
            let escaped = text.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(expand(&escaped, |_| None).unwrap(), text);
        }

        #[test]
        fn no_text_panics(text in "[{}a.]{0,12}") {
            let expanded = expand(&text, |_| Some(String::new()));
            prop_assert_eq!(expanded.is_ok(), names(&text).is_ok());
        }
    }
}

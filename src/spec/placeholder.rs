//! `{name}` in arguments of a workload.
//!
//! `{name}` stands for a factor, a member of a grouped factor (`{url}` or `{request.url}`) or one of
//! [`PLACEHOLDERS`]; `{{name}}` stands for the text `{name}`. All other braces stand for themselves, so JSON and awk
//! programs need no escapes.

/// Placeholders that every workload knows, with their meaning.
pub const PLACEHOLDERS: &[(&str, &str)] = &[
    ("server", "address of the pair's server"),
    ("port", "TCP or UDP port that the pair's server shall listen on"),
    ("pair", "number of the pair, from 1"),
    ("scratch", "directory for files on the node the command runs on"),
    ("vptest", "path of the vptest program on the node the command runs on"),
];

/// Is it the name of a built-in placeholder?
pub fn is_builtin(name: &str) -> bool {
    PLACEHOLDERS.iter().any(|(builtin, _)| *builtin == name)
}

/// The name inside the braces means nothing here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{{{0}}}` names no factor and no built-in placeholder")]
pub struct UnknownPlaceholder(pub String);

/// Puts values in: `lookup` gives the value of a name, or `None` when there is no such name.
///
/// A value is put in as it is: what was one argument stays one argument, and no shell sees it.
pub fn expand(
    argument: &str,
    mut lookup: impl FnMut(&str) -> Option<String>,
) -> Result<String, UnknownPlaceholder> {
    let mut out = String::with_capacity(argument.len());
    for piece in pieces(argument) {
        match piece {
            Piece::Literal(text) => out.push_str(text),
            Piece::Name(name) => out.push_str(&lookup(name).ok_or_else(|| UnknownPlaceholder(name.to_owned()))?),
        }
    }
    Ok(out)
}

/// A part of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text to be used as it is.
    Literal(&'a str),
    /// The name between the braces.
    Name(&'a str),
}

/// Splits an argument into literal text and placeholders.
pub fn pieces(argument: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let (mut literal, mut at) = (0, 0);
    while let Some(open) = argument[at..].find('{').map(|i| at + i) {
        let escaped = argument[open..].starts_with("{{");
        let start = open + 1 + usize::from(escaped);
        let end = start + name_length(&argument[start..]);
        let close = if escaped { "}}" } else { "}" };
        if end == start || !argument[end..].starts_with(close) {
            at = open + 1;
            continue;
        }
        found.push(Piece::Literal(&argument[literal..open]));
        found.push(if escaped {
            Piece::Literal(&argument[open + 1..=end])
        } else {
            Piece::Name(&argument[start..end])
        });
        at = end + close.len();
        literal = at;
    }
    found.push(Piece::Literal(&argument[literal..]));
    found.retain(|piece| *piece != Piece::Literal(""));
    found
}

/// Bytes of the name that `text` begins with; 0 when it begins with none.
fn name_length(text: &str) -> usize {
    if !text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return 0;
    }
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::Piece::{Literal, Name};
    use super::*;

    #[test]
    fn only_names_in_braces_are_placeholders() {
        assert_eq!(pieces(""), []);
        assert_eq!(pieces("-c"), [Literal("-c")]);
        assert_eq!(pieces("{url}"), [Name("url")]);
        assert_eq!(
            pieces("http://{server}:80{request.url}"),
            [Literal("http://"), Name("server"), Literal(":80"), Name("request.url")]
        );
        assert_eq!(pieces("{{url}}"), [Literal("{url}")]);
        assert_eq!(pieces("{{url}"), [Literal("{"), Name("url")]);
        for plain in ["{}", "{ print $1 }", "{\"a\":{\"b\":1}}", "{1}", "{", "}", "{{", "{a", "{é}", "{a b}"] {
            let text: String = pieces(plain)
                .into_iter()
                .map(|p| match p {
                    Literal(text) => text,
                    Name(name) => panic!("{name} in {plain}"),
                })
                .collect();
            assert_eq!(text, plain);
        }
    }

    #[test]
    fn values_go_in_unchanged_and_unknown_names_are_named() {
        let value = |name: &str| (name == "url").then(|| "/a b;$(x){url}".to_owned());
        assert_eq!(expand("http://h{url}?{{url}}", value).unwrap(), "http://h/a b;$(x){url}?{url}");
        assert_eq!(expand("{\"a\": 1}", value).unwrap(), "{\"a\": 1}");
        assert_eq!(expand("-{nope}", value), Err(UnknownPlaceholder("nope".to_owned())));
    }
}

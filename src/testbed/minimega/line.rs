//! Command lines as minimega and rond read them. Pure.
//!
//! Both split a line as their lexer (`pkg/minicli`) does: words between blanks, single and double quotes alike, a
//! backslash with one of ``rnt\"'#`` everywhere, and a comment after a bare `#`.

use std::fmt::{self, Write as _};

/// A command line, every word quoted where it needs to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line(String);

impl Line {
    /// The line of these words.
    pub fn of<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Self {
        let words: Vec<String> = words.into_iter().map(|word| quoted(word.as_ref())).collect();
        Self(words.join(" "))
    }

    /// As it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One word so that the lexer gives it back as it was.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=,@%+-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => {
                let _ = write!(text, "\\{c}");
            }
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// Would a minimega that cannot be told `.preprocess false` change this word? It replaces variables and URLs.
pub(super) fn is_preprocessed(word: &str) -> bool {
    let url = |scheme: &str| word.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    word.contains('$') || ["http://", "https://", "file:", "tar:"].iter().any(|scheme| url(scheme))
}

/// Is this a name that minimega takes for namespaces and machines?
pub(super) fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !text.is_empty() && text != "all" && text.chars().all(fits)
}

/// The words of a line, as the lexer reads them; `None` where it refuses the line.
#[cfg(test)]
pub(super) fn lexed(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.push(match chars.next()? {
                'r' => '\r',
                'n' => '\n',
                't' => '\t',
                c @ ('\\' | '"' | '\'' | '#') => c,
                _ => return None,
            }),
            c if quote == Some(c) => (quote, begun) = (None, true),
            c if quote.is_some() => word.push(c),
            '"' | '\'' => quote = Some(c),
            '#' => break,
            c if c.is_whitespace() => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => word.push(c),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_quoted_only_where_they_need_it() {
        assert_eq!(Line::of(["cc", "exec", "sh", "-c", "echo $A"]).as_str(), r#"cc exec sh -c "echo $A""#);
        assert_eq!(Line::of(["a", "", "b#c", "d\"e\\", "f\n"]).as_str(), r#"a "" "b#c" "d\"e\\" "f\n""#);
    }

    /// `c"d` became ``missing terminal "`` on the command line of `minimega -e`.
    #[test]
    fn the_lexer_of_the_recorded_sessions_is_this_one() {
        assert_eq!(lexed(r#"echo a 'b c' "d\"e" f"#).unwrap(), ["echo", "a", "b c", "d\"e", "f"]);
        assert_eq!(lexed("c\"d"), None);
        assert_eq!(lexed("a # b").unwrap(), ["a"]);
    }

    proptest! {
        #[test]
        fn every_word_comes_back_as_it_was(words in proptest::collection::vec(any::<String>(), 0..6)) {
            prop_assert_eq!(lexed(Line::of(&words).as_str()), Some(words));
        }
    }

    #[test]
    fn what_minimega_would_change_is_known() {
        for word in ["$HOME", "a${B}", "$$", "http://10.0.0.1/x", "HTTPS://h", "file:/x", "tar:x"] {
            assert!(is_preprocessed(word), "{word}");
        }
        for word in ["a", "/tmp/http://x", "ftp://h"] {
            assert!(!is_preprocessed(word), "{word}");
        }
    }

    #[test]
    fn names_are_those_that_minimega_takes() {
        assert!(is_name("vptest-1_a"));
        for bad in ["", "all", "a b", "bad/name", "ä"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}

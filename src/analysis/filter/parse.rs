//! Text into a condition.

use std::ops::Range;

use super::compile::{Comparison, compile};
use super::{FilterError, Levels, Node};

/// Deeper nesting is no question that anybody asks.
const DEEPEST: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Quoted,
    Sign,
    Open,
    Close,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    kind: Kind,
    at: Range<usize>,
}

pub(super) fn parse(text: &str, levels: &Levels) -> Result<Node, FilterError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { text, levels, tokens, next: 0 };
    let node = parser.any(0)?;
    match parser.peek() {
        None => Ok(node),
        Some(token) if token.kind == Kind::Close => Err(parser.wrong(token.at, "this parenthesis was never opened")),
        Some(token) => Err(parser.wrong(token.at, "`and` or `or` is missing here")),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((start, c)) = rest.next() {
        let mut end = start + c.len_utf8();
        let kind = match c {
            c if c.is_whitespace() => continue,
            '(' => Kind::Open,
            ')' => Kind::Close,
            '\'' | '"' => {
                let close = rest.by_ref().find(|(_, other)| *other == c);
                let Some((close, _)) = close else {
                    let problem = "this quotation mark is never closed".to_owned();
                    return Err(FilterError { text: text.to_owned(), at: start..end, problem, known: None });
                };
                end = close + 1;
                Kind::Quoted
            }
            '=' | '!' | '<' | '>' => {
                if rest.next_if(|(_, other)| *other == '=').is_some() {
                    end += 1;
                }
                Kind::Sign
            }
            _ => {
                while let Some((at, other)) = rest.next_if(|(_, other)| !ends_word(*other)) {
                    end = at + other.len_utf8();
                }
                Kind::Word
            }
        };
        tokens.push(Token { kind, at: start..end });
    }
    Ok(tokens)
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || "()=!<>'\"".contains(c)
}

struct Parser<'a> {
    text: &'a str,
    levels: &'a Levels,
    tokens: Vec<Token>,
    next: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<Token> {
        self.tokens.get(self.next).cloned()
    }

    fn is_keyword(&self, token: &Token, word: &str) -> bool {
        token.kind == Kind::Word && self.text[token.at.clone()].eq_ignore_ascii_case(word)
    }

    fn takes(&mut self, word: &str) -> bool {
        let is_next = self.peek().is_some_and(|token| self.is_keyword(&token, word));
        self.next += usize::from(is_next);
        is_next
    }

    fn wrong(&self, at: Range<usize>, problem: &str) -> FilterError {
        FilterError { text: self.text.to_owned(), at, problem: problem.to_owned(), known: None }
    }

    fn expected(&self, what: &str) -> FilterError {
        let end = self.text.trim_end().len();
        let at = self.peek().map_or(end..end, |token| token.at);
        self.wrong(at, &format!("{what} is expected here"))
    }

    fn any(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut nodes = vec![self.all(depth)?];
        while self.takes("or") {
            nodes.push(self.all(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    fn all(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut nodes = vec![self.one(depth)?];
        while self.takes("and") {
            nodes.push(self.one(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    fn one(&mut self, depth: usize) -> Result<Node, FilterError> {
        let Some(token) = self.peek() else { return Err(self.expected("a factor")) };
        if depth > DEEPEST {
            return Err(self.wrong(token.at, &format!("nested more than {DEEPEST} times")));
        }
        if self.takes("not") {
            return Ok(Node::Not(Box::new(self.one(depth + 1)?)));
        }
        if token.kind != Kind::Open {
            return self.comparison();
        }
        self.next += 1;
        let inner = self.any(depth + 1)?;
        match self.peek() {
            Some(close) if close.kind == Kind::Close => self.next += 1,
            Some(other) => return Err(self.wrong(other.at, "`and`, `or` or `)` is missing here")),
            None => return Err(self.wrong(token.at, "this parenthesis is never closed")),
        }
        Ok(inner)
    }

    fn comparison(&mut self) -> Result<Node, FilterError> {
        let is_reserved =
            |parser: &Self, token: &Token| ["and", "or"].iter().any(|word| parser.is_keyword(token, word));
        let name = match self.peek() {
            Some(token) if token.kind == Kind::Word && !is_reserved(self, &token) => token.at,
            _ => return Err(self.expected("a factor")),
        };
        self.next += 1;
        let sign = match self.peek() {
            Some(token) if token.kind == Kind::Sign && &self.text[token.at.clone()] != "!" => token.at,
            _ => return Err(self.expected("one of =, !=, <, <=, > and >=")),
        };
        self.next += 1;
        let (value, at) = self.value()?;
        let comparison = Comparison { text: self.text, name, sign, value, value_at: at };
        compile(&comparison, self.levels)
    }

    /// A word, or what stands in quotes. A number takes the word behind it as its unit: `100 Mbit/s`.
    fn value(&mut self) -> Result<(String, Range<usize>), FilterError> {
        let keyword = |parser: &Self, token: &Token| ["and", "or", "not"].iter().any(|w| parser.is_keyword(token, w));
        let token = match self.peek() {
            Some(token) if token.kind == Kind::Quoted => {
                self.next += 1;
                return Ok((self.text[token.at.start + 1..token.at.end - 1].to_owned(), token.at));
            }
            Some(token) if token.kind == Kind::Word && !keyword(self, &token) => token,
            _ => return Err(self.expected("a value")),
        };
        self.next += 1;
        let mut at = token.at;
        let is_number = self.text[at.clone()].bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if let Some(unit) = self.peek().filter(|next| is_number && next.kind == Kind::Word && !keyword(self, next)) {
            self.next += 1;
            at.end = unit.at.end;
        }
        Ok((self.text[at.clone()].to_owned(), at))
    }
}

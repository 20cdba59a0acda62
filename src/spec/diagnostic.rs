//! What is wrong with a spec, and where: collected, then shown all at once with the text underlined.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The spec cannot be used.
    Error,
    /// The spec can be used, but probably does not mean what its author thinks.
    Warning,
}

/// One finding about a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, with key and value.
    pub message: String,
    /// Bytes of the spec it is about.
    pub span: Range<usize>,
    /// Written beside the underlined text; may be empty.
    pub label: String,
    /// Further places that matter, each with its label.
    pub related: Vec<(Range<usize>, String)>,
    /// Accepted form or nearest valid name.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error about these bytes.
    pub fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, span, message.into())
    }

    /// A warning about these bytes.
    pub fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, span, message.into())
    }

    const fn new(severity: Severity, span: Range<usize>, message: String) -> Self {
        Self { severity, message, span, label: String::new(), related: Vec::new(), help: None }
    }

    /// With a text beside the underlined bytes.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// With a help line.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With a help line, if there is one.
    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// With another place that matters.
    pub fn related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }
}

/// Everything found in one spec, in the order of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    source: String,
    found: Vec<Diagnostic>,
}

/// Findings that are shown in full; the rest is counted.
const SHOWN: usize = 50;

impl Diagnostics {
    /// Findings about `source`; brought into the order of its text.
    pub fn new(source: impl Into<String>, mut found: Vec<Diagnostic>) -> Self {
        found.sort_by_key(|d| (d.span.start, d.severity, d.span.end));
        found.dedup();
        Self { source: source.into(), found }
    }

    /// All findings.
    pub fn all(&self) -> &[Diagnostic] {
        &self.found
    }

    /// Nothing at all was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Is there an error among them?
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|d| d.severity == Severity::Error)
    }

    /// Line and column of a byte, both from 1; columns count characters.
    pub fn position(&self, byte: usize) -> (usize, usize) {
        let mut byte = byte.min(self.source.len());
        while !self.source.is_char_boundary(byte) {
            byte -= 1;
        }
        let before = &self.source[..byte];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// For people: each finding with file, line, column and the text underlined, in the manner of rustc.
    pub fn render(&self, file_name: &str, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let shown: Vec<String> =
            self.found.iter().take(SHOWN).map(|d| renderer.render(&[self.group(d, file_name)])).collect();
        let mut text = shown.join("\n\n");
        text.push('\n');
        if let Some(more) = self.found.len().checked_sub(SHOWN).filter(|&n| n > 0) {
            text.push_str(&format!("\nand {more} more\n"));
        }
        text
    }

    fn group<'a>(&'a self, d: &'a Diagnostic, file_name: &'a str) -> annotate_snippets::Group<'a> {
        let level = match d.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let primary = AnnotationKind::Primary.span(d.span.clone());
        let primary = if d.label.is_empty() { primary } else { primary.label(d.label.as_str()) };
        let related = d.related.iter().map(|(span, label)| AnnotationKind::Context.span(span.clone()).label(label));
        let snippet = Snippet::source(&self.source).path(file_name).annotation(primary).annotations(related);
        let group = level.primary_title(d.message.as_str()).element(snippet);
        match &d.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }
}

/// One line for each finding, without the source: `line 3, column 7: message`.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.found.iter().enumerate() {
            let (line, column) = self.position(d.span.start);
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}line {line}, column {column}: {}", d.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

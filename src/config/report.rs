//! Faults of a config: where, what, and what would be right; drawn as rustc draws its own.

use std::{fmt, ops::Range, path::PathBuf};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet, renderer::DecorStyle};

/// Where a fault is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Bytes of the file.
    Span(Range<usize>),
    /// What overrides a key of the file: `environment variable X` or `flag --x`.
    Given(String),
    /// The file as a whole: what is wrong is not in it.
    File,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, naming the key.
    pub what: String,
    /// What would be right: the text at the mark.
    pub right: String,
    /// Where.
    pub place: Place,
}

/// Every fault of one config file and of the variables that override it. `Display` draws them all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    path: PathBuf,
    source: String,
    faults: Vec<Fault>,
}

impl std::error::Error for Faults {}

impl Faults {
    /// Sorts them as the file goes; variables and what is missing altogether come last.
    pub(super) fn new(path: PathBuf, source: String, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| match &fault.place {
            Place::Span(span) => (0, span.start),
            Place::Given(_) => (1, 0),
            Place::File => (2, 0),
        });
        Self { path, source, faults }
    }

    /// Each fault, as the file goes.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }

    /// How many there are; never none.
    pub fn count(&self) -> usize {
        self.faults.len()
    }

    /// Draws them, with colours for a terminal if asked to.
    pub fn draw(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let path = self.path.display().to_string();
        let drawn: Vec<String> =
            self.faults.iter().map(|fault| self.draw_one(&renderer, &path, fault)).collect();
        drawn.join("\n\n")
    }

    fn draw_one(&self, renderer: &Renderer, path: &str, fault: &Fault) -> String {
        let title = Level::ERROR.primary_title(&fault.what);
        let group = match &fault.place {
            Place::Span(span) => title.element(
                Snippet::source(&self.source)
                    .path(path)
                    .annotation(AnnotationKind::Primary.span(self.within(span)).label(&fault.right)),
            ),
            Place::Given(from) => {
                title.element(Origin::path(from)).element(Level::HELP.message(&fault.right))
            }
            Place::File => title.element(Origin::path(path)).element(Level::HELP.message(&fault.right)),
        };
        renderer.render(&[group])
    }

    /// The first line of the span alone: a mark around a whole table says nothing.
    fn within(&self, span: &Range<usize>) -> Range<usize> {
        let start = span.start.min(self.source.len());
        let end = span.end.clamp(start, self.source.len());
        let first_line = self.source.get(start..end).and_then(|text| text.find('\n'));
        start..first_line.map_or(end, |length| start + length)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.draw(false))
    }
}

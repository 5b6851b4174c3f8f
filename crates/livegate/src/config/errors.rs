//! Everything that is wrong with a file, in the order of its lines.

use std::cell::RefCell;

use crate::config::ConfigError;

/// Collects errors by their place in the text.
pub(super) struct Errors {
    /// Where each line begins.
    lines: Vec<usize>,
    text: String,
    partial: bool,
    found: RefCell<Vec<(usize, ConfigError)>>,
}

impl Errors {
    /// For this text.
    pub(super) fn new(text: &str) -> Self {
        let starts = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            lines: std::iter::once(0).chain(starts).collect(),
            text: text.to_owned(),
            partial: false,
            found: RefCell::default(),
        }
    }

    /// From now on the tree is only a part of the text.
    pub(super) fn set_partial(&mut self) {
        self.partial = true;
    }

    /// Whether something may be missing only because it could not be read.
    pub(super) fn partial(&self) -> bool {
        self.partial
    }

    /// Records an error at a byte of the text.
    pub(super) fn push(&self, start: usize, key_path: String, message: impl Into<String>) {
        let (line, column) = self.position(start);
        let error = ConfigError {
            line,
            column,
            key_path,
            message: message.into(),
        };
        self.found.borrow_mut().push((start, error));
    }

    /// The line of a byte of the text, from 1.
    pub(super) fn line(&self, start: usize) -> usize {
        self.position(start).0
    }

    /// Line and column, both from 1, the column in characters.
    fn position(&self, start: usize) -> (usize, usize) {
        let start = self.text.floor_char_boundary(start.min(self.text.len()));
        let line = self.lines.partition_point(|&line| line <= start);
        let column = self.text[self.lines[line - 1]..start].chars().count() + 1;
        (line, column)
    }

    /// All of them, in the order of the text.
    pub(super) fn into_sorted(self) -> Vec<ConfigError> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(start, _)| *start);
        found.into_iter().map(|(_, error)| error).collect()
    }
}

//! Standard output: exact bytes for programs, harmless ones for a terminal.

use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};

use anyhow::Context;
use serde::Serialize;

/// Whoever read standard output has gone (`| head`): nothing is left to do, and nothing is wrong.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(super) struct OutputClosed;

/// Standard output, buffered until [`flush`](Self::flush).
pub(super) struct Output {
    writer: BufWriter<Stdout>,
    terminal: bool,
}

impl Output {
    pub(super) fn new() -> Self {
        let stdout = io::stdout();
        Self {
            terminal: stdout.is_terminal(),
            writer: BufWriter::new(stdout),
        }
    }

    /// A line of text. Names in it may be foreign: a terminal gets them escaped.
    ///
    /// # Errors
    /// [`OutputClosed`], or that it cannot be written.
    pub(super) fn line(&mut self, text: &str) -> anyhow::Result<()> {
        let result = if self.terminal {
            writeln!(self.writer, "{}", escaped(text.as_bytes()))
        } else {
            writeln!(self.writer, "{text}")
        };
        checked(result)
    }

    /// A value as one line of JSON.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub(super) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string(value)?;
        checked(writeln!(self.writer, "{text}"))
    }

    /// Bytes as they are; a terminal gets them escaped and the line ended.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let result = if !self.terminal {
            self.writer.write_all(bytes)
        } else if bytes.is_empty() {
            Ok(())
        } else {
            let text = escaped(bytes);
            let end = if text.ends_with('\n') { "" } else { "\n" };
            write!(self.writer, "{text}{end}")
        };
        checked(result)
    }

    /// Passes on what is buffered.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        checked(self.writer.flush())
    }
}

fn checked(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        result => result.context("cannot write to standard output"),
    }
}

/// Bytes as text that cannot steer a terminal: line ends and tabs stay, other characters that do not
/// print become `\u{1b}`, and bytes that are not UTF-8 become `\xff`.
pub(super) fn escaped(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                ' '..='~' | '\n' | '\t' => text.push(character),
                '\r' => text.push_str("\\r"),
                _ => text.extend(character.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(escaped("a\tb\n\"é\\日".as_bytes()), "a\tb\n\"é\\日");
        assert_eq!(escaped(b"\x1b[2J\r\x07"), "\\u{1b}[2J\\r\\u{7}");
        assert_eq!(escaped("\u{202e}\u{9b}".as_bytes()), "\\u{202e}\\u{9b}");
        assert_eq!(escaped(b"\xff\xfea\0"), "\\xff\\xfea\\0");
    }

    #[test]
    fn a_closed_pipe_is_told_from_a_full_disk() {
        let closed = checked(Err(ErrorKind::BrokenPipe.into())).unwrap_err();
        assert!(closed.is::<OutputClosed>());
        let full = checked(Err(ErrorKind::StorageFull.into())).unwrap_err();
        assert!(!full.is::<OutputClosed>());
        assert!(
            format!("{full:#}").starts_with("cannot write to standard output: "),
            "{full:#}"
        );
    }
}

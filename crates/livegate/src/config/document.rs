//! TOML that goes on after its first error.
//!
//! The parser stops making sense of a text after a syntax error, yet people want to hear about
//! all of them at once. So a broken statement is recorded, blanked out (offsets stay) and the
//! rest is read again.

use std::ops::Range;

use toml::de::DeTable;

use crate::config::errors::Errors;

/// More syntax errors than this are not worth listing.
const SYNTAX_ERRORS_MAX: usize = 20;

/// `text` without the statements that are not TOML, which are recorded; what is left parses.
pub(super) fn readable(text: &str, errors: &mut Errors) -> String {
    let statements = Statements::of(text);
    let mut left = text.to_owned();
    for _ in 0..SYNTAX_ERRORS_MAX {
        let Err(error) = DeTable::parse(&left) else {
            return left;
        };
        errors.set_partial();
        let span = error.span().unwrap_or(0..0);
        let culprit = statements.culprit(&span, error.message());
        let message = explain(&left, &span, error.message());
        let (start, message) = if culprit.unclosed {
            (
                culprit.range.start,
                "the array or table that begins here is not closed".to_owned(),
            )
        } else {
            (span.start, message)
        };
        errors.push(start, culprit.key_path, message);
        let blanked = blank(&left, culprit.range);
        if blanked == left {
            break;
        }
        left = blanked;
    }
    if DeTable::parse(&left).is_ok() {
        left
    } else {
        String::new()
    }
}

/// What to blame for a syntax error.
struct Culprit {
    key_path: String,
    range: Range<usize>,
    /// The error shows up where the next statement begins.
    unclosed: bool,
}

/// The lines that look like the start of a statement, whatever the parser thinks.
struct Statements<'t> {
    text: &'t str,
    starts: Vec<Start<'t>>,
}

struct Start<'t> {
    at: usize,
    kind: Kind<'t>,
}

enum Kind<'t> {
    /// `[name]` or, when repeated, `[[name]]`.
    Header { name: &'t str, repeated: bool },
    /// `name = ...`
    Key { name: &'t str },
}

impl<'t> Statements<'t> {
    fn of(text: &'t str) -> Self {
        let mut starts = Vec::new();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let trimmed = line.trim_start();
            if let Some(kind) = Kind::of(trimmed.trim_end()) {
                starts.push(Start {
                    at: at + line.len() - trimmed.len(),
                    kind,
                });
            }
            at += line.len();
        }
        Self { text, starts }
    }

    fn culprit(&self, span: &Range<usize>, message: &str) -> Culprit {
        let after = self.starts.partition_point(|start| start.at <= span.start);
        let Some(mut index) = after.checked_sub(1) else {
            let range = 0..self
                .starts
                .first()
                .map_or(self.text.len(), |start| start.at);
            return Culprit {
                key_path: String::new(),
                range,
                unclosed: false,
            };
        };
        let in_value = ["array", "inline table", "key-value pairs"]
            .iter()
            .any(|construct| message.contains(construct));
        let name_end = |start: &Start<'_>| start.at + start.kind.name().len() + 4;
        let at_name = span.start <= name_end(&self.starts[index]);
        let unclosed = in_value && (at_name && index > 0 || message.starts_with("unclosed"));
        if unclosed && at_name && !message.starts_with("unclosed") {
            index -= 1;
        }
        Culprit {
            key_path: self.key_path(index),
            range: self.range(index),
            unclosed,
        }
    }

    /// From a statement to the next one; with a header goes everything under it, for nobody knows
    /// where it belongs.
    fn range(&self, index: usize) -> Range<usize> {
        let ends = |start: &Start<'_>| match self.starts[index].kind {
            Kind::Header { .. } => matches!(start.kind, Kind::Header { .. }),
            Kind::Key { .. } => true,
        };
        let end = self.starts[index + 1..].iter().find(|start| ends(start));
        self.starts[index].at..end.map_or(self.text.len(), |start| start.at)
    }

    fn key_path(&self, index: usize) -> String {
        let mut path = String::new();
        let header = self.starts[..=index]
            .iter()
            .rposition(|start| start.kind.is_header());
        if let Some(header) = header {
            path.push_str(self.starts[header].kind.name());
            if let Kind::Header {
                name,
                repeated: true,
            } = self.starts[header].kind
            {
                let same = self.starts[..header]
                    .iter()
                    .filter(|start| start.kind.name() == name);
                path.push_str(&format!("[{}]", same.count()));
            }
        }
        if let Kind::Key { name } = self.starts[index].kind {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
        }
        path
    }
}

impl<'t> Kind<'t> {
    fn of(line: &'t str) -> Option<Self> {
        let key_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:\"' ".contains(&byte);
        if let Some(rest) = line.strip_prefix('[') {
            let (rest, repeated) = match rest.strip_prefix('[') {
                Some(rest) => (rest, true),
                None => (rest, false),
            };
            let end = rest.find([']', '#']).unwrap_or(rest.len());
            let name = rest[..end].trim();
            return (!name.is_empty() && name.bytes().all(key_byte))
                .then_some(Self::Header { name, repeated });
        }
        // "name = ..." also without its "=", but no element of an array.
        let name = line.split('=').next().unwrap_or_default().trim();
        let quoted = line.starts_with(['"', '\'']);
        if quoted && !line.contains('=') {
            return None;
        }
        let word = name.split([' ', '\t']).next().unwrap_or_default();
        let name = if quoted { name } else { word };
        let literal = ["true", "false", "inf", "nan"].contains(&name.trim_end_matches(','));
        (!literal && !name.is_empty() && name.bytes().all(key_byte)).then_some(Self::Key { name })
    }

    fn name(&self) -> &'t str {
        match self {
            Self::Header { name, .. } | Self::Key { name } => name,
        }
    }

    fn is_header(&self) -> bool {
        matches!(self, Self::Header { .. })
    }
}

/// The parser's message, in words for somebody who has not read the grammar of TOML.
fn explain(text: &str, span: &Range<usize>, message: &str) -> String {
    let before = text.get(..span.start).unwrap_or(text);
    let found = text.get(span.clone()).unwrap_or_default();
    if found.trim().is_empty() && before.trim_end_matches([' ', '\t']).ends_with('=') {
        return "the value is missing".to_owned();
    }
    let guessed_word = [
        "string values must be quoted",
        "invalid boolean",
        "invalid float",
    ];
    if guessed_word.iter().any(|start| message.starts_with(start)) {
        return "this value needs quotes".to_owned();
    }
    match message {
        "invalid basic string, expected `\"`" | "invalid literal string, expected `'`" => {
            "the quotes are not closed".to_owned()
        }
        "duplicate key" => "is there already".to_owned(),
        "unclosed table, expected `]`" => "the brackets of the header are not closed".to_owned(),
        _ => format!("this line is not TOML: {message}"),
    }
}

fn blank(text: &str, range: Range<usize>) -> String {
    let spaces = text[range.clone()]
        .bytes()
        .map(|byte| if byte == b'\n' { '\n' } else { ' ' });
    let spaces: String = spaces.collect();
    format!("{}{spaces}{}", &text[..range.start], &text[range.end..])
}

//! The lines of `watch`.

use std::time::SystemTime;

use serde::Serialize;

use super::attend::SessionNews;
use super::change::{Change, Now};
use super::json::DataField;
use crate::cli::output::{Output, escaped};

/// Bytes of data that a line for a person shows; `--json` shows all.
const DATA_SHOWN_MAX: usize = 200;

/// Prints changes as they happen.
pub(super) struct Report<'a> {
    pub(super) output: &'a mut Output,
    pub(super) json: bool,
}

#[derive(Serialize)]
struct Object<'a> {
    time: String,
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<i32>,
    #[serde(flatten)]
    data: Option<DataField<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    children: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    added: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
}

impl<'a> Object<'a> {
    fn new(time: String, kind: &'a str) -> Self {
        Self {
            time,
            kind,
            path: None,
            version: None,
            data: None,
            children: None,
            added: None,
            removed: None,
            cause: None,
        }
    }
}

impl Report<'_> {
    /// A change of a node. Whoever reads has it at once.
    pub(super) fn change(&mut self, path: &str, change: &Change) -> anyhow::Result<()> {
        if self.json {
            self.output.json(&object(time(), path, change))?;
        } else {
            self.output
                .line(&format!("{}  {}", time(), text(path, change)))?;
        }
        self.output.flush()
    }

    /// Something happened to the session.
    pub(super) fn session(&mut self, news: &SessionNews) -> anyhow::Result<()> {
        if self.json {
            let mut object = Object::new(time(), news.kind.name());
            object.cause = news.cause.as_deref();
            self.output.json(&object)?;
        } else {
            let cause = news.cause.as_ref();
            let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
            let line = format!("{}  {}{cause}", time(), news.kind.words());
            self.output.line(&line)?;
        }
        self.output.flush()
    }
}

fn time() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

fn object<'a>(time: String, path: &'a str, change: &'a Change) -> Object<'a> {
    let mut object = Object::new(time, kind(change));
    object.path = Some(path);
    match change {
        Change::Created(Some(now)) | Change::Data(now) => {
            object.version = Some(now.stat.version);
            object.data = now.data.as_deref().map(DataField::new);
            object.children = now.children.as_deref();
        }
        Change::Created(None) | Change::Deleted => {}
        Change::Children {
            now,
            added,
            removed,
        } => {
            object.children = Some(now);
            object.added = Some(added);
            object.removed = Some(removed);
        }
    }
    object
}

const fn kind(change: &Change) -> &'static str {
    match change {
        Change::Created(_) => "created",
        Change::Deleted => "deleted",
        Change::Data(_) => "data",
        Change::Children { .. } => "children",
    }
}

fn text(path: &str, change: &Change) -> String {
    let kind = kind(change);
    let mut line = format!("{kind:<8}  {path}");
    match change {
        Change::Created(Some(now)) | Change::Data(now) => line.push_str(&content(now)),
        Change::Created(None) => line.push_str("  (gone again before it could be read)"),
        Change::Deleted => {}
        Change::Children {
            now,
            added,
            removed,
        } => {
            line.push_str(&format!("  [{}]", now.join(", ")));
            let signed = [('+', added), ('-', removed)];
            for (sign, names) in signed {
                for name in names {
                    line.push_str(&format!("  {sign}{name}"));
                }
            }
        }
    }
    line
}

fn content(now: &Now) -> String {
    let mut text = format!("  version {}", now.stat.version);
    if let Some(data) = &now.data {
        text.push_str(&format!("  {}", quoted(data)));
    }
    if let Some(children) = now
        .children
        .as_ref()
        .filter(|children| !children.is_empty())
    {
        text.push_str(&format!("  [{}]", children.join(", ")));
    }
    text
}

/// Data on one line.
fn quoted(data: &[u8]) -> String {
    let shown = &data[..data.len().min(DATA_SHOWN_MAX)];
    let text = escaped(shown).replace('\n', "\\n").replace('\t', "\\t");
    if shown.len() < data.len() {
        format!("\"{text}\"... ({} bytes)", data.len())
    } else {
        format!("\"{text}\"")
    }
}

#[cfg(test)]
mod tests {
    use livegate_zk::proto::stat::Stat;

    use super::*;

    fn now(data: &[u8], children: &[&str]) -> Now {
        Now {
            stat: Stat {
                version: 3,
                ..Stat::default()
            },
            data: Some(data.to_vec()),
            children: Some(children.iter().map(|&name| name.to_owned()).collect()),
        }
    }

    #[test]
    fn lines_for_people() {
        let created = Change::Created(Some(now(b"a\nb\x1b", &["x"])));
        assert_eq!(
            text("/a", &created),
            "created   /a  version 3  \"a\\nb\\u{1b}\"  [x]"
        );
        assert_eq!(text("/a", &Change::Deleted), "deleted   /a");
        let long = Change::Data(Now {
            children: None,
            ..now(&[b'a'; 201], &[])
        });
        let line = text("/a", &long);
        assert!(line.ends_with("aaa\"... (201 bytes)"), "{line}");
        let children = Change::Children {
            now: vec!["x".to_owned(), "y".to_owned()],
            added: vec!["y".to_owned()],
            removed: vec!["z".to_owned()],
        };
        assert_eq!(text("/a", &children), "children  /a  [x, y]  +y  -z");
    }

    #[test]
    fn objects_for_programs() {
        let json = |change: &Change| {
            serde_json::to_string(&object("now".to_owned(), "/a", change)).unwrap()
        };
        assert_eq!(
            json(&Change::Created(Some(now(b"d", &["x"])))),
            "{\"time\":\"now\",\"kind\":\"created\",\"path\":\"/a\",\"version\":3,\"data\":\"d\",\
             \"children\":[\"x\"]}"
        );
        assert_eq!(
            json(&Change::Deleted),
            "{\"time\":\"now\",\"kind\":\"deleted\",\"path\":\"/a\"}"
        );
    }
}

//! Tables and lines for people, on a terminal or not.

use std::io::{self, IsTerminal, Write};
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

/// Which side of its column a cell is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    /// Numbers.
    Right,
}

/// Columns two spaces apart, each as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// As many cells as there are columns.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.map(|cell| clean(&cell)).into());
    }

    /// Every line cut to `width` if one is given.
    pub(super) fn render(&self, width: Option<usize>) -> String {
        let title: Vec<String> = self
            .columns
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let rows = || std::iter::once(&title).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                rows()
                    .map(|row| row[column].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in rows() {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                let padding = " ".repeat(width - cell.chars().count());
                let (before, after) = match align {
                    Align::Left => ("", padding.as_str()),
                    Align::Right => (padding.as_str(), ""),
                };
                line = format!("{line}{before}{cell}{after}  ");
            }
            text.push_str(&cut(line.trim_end(), width));
            text.push('\n');
        }
        text
    }
}

/// A line that ends at `width`, with an ellipsis if something is missing.
fn cut(line: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if line.chars().count() > width.max(1) => {
            let kept: String = line.chars().take(width.max(1) - 1).collect();
            format!("{kept}…")
        }
        Some(_) | None => line.to_owned(),
    }
}

/// What others wrote cannot move the cursor or end the line.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => clean.push_str("; "),
            c if c.is_control() => clean.extend(c.escape_default()),
            c => clean.push(c),
        }
    }
    clean
}

/// How wide the terminal is; `None` when the output goes elsewhere.
pub(super) fn terminal_width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Writes to standard output; a pipe that is closed is an error that [`run`] knows.
///
/// [`run`]: super::admin_client::run
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Fails as [`print`] does when standard output is a pipe that nobody reads any more.
pub(super) fn is_read() -> io::Result<()> {
    let stdout = io::stdout();
    let mut looked = [PollFd::new(&stdout, PollFlags::empty())];
    poll(&mut looked, Some(&Timespec::default()))?;
    if looked[0].revents().contains(PollFlags::ERR) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}

/// A string of the API; "-" for null.
pub(super) fn string(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

/// A number of the API; "-" for null.
pub(super) fn number(value: &Value) -> String {
    value
        .as_u64()
        .map_or("-".to_owned(), |number| number.to_string())
}

/// Seconds as "1.2 ms".
pub(super) fn latency(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(seconds) if seconds >= 1.0 => format!("{seconds:.1} s"),
        Some(seconds) => format!("{:.1} ms", seconds * 1e3),
    }
}

/// How long something has been so: "12s", "3m 5s".
pub(super) fn age(since: &Value, now: SystemTime) -> Option<String> {
    let since = humantime::parse_rfc3339(since.as_str()?).ok()?;
    let seconds = now.duration_since(since).unwrap_or_default().as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    Some(match seconds {
        0 => "less than 1s".to_owned(),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86400 => format!("{hours}h {}m", minutes % 60),
        86400.. => format!("{days}d {}h", hours % 24),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_cut() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("COUNT", Align::Right),
            ("WHY", Align::Left),
        ]);
        table.row([
            "é".to_owned(),
            "7".to_owned(),
            "connection refused".to_owned(),
        ]);
        table.row(["orders".to_owned(), "1234567".to_owned(), String::new()]);
        let text = "NAME      COUNT  WHY\né             7  connection refused\norders  1234567\n";
        assert_eq!(table.render(None), text);
        assert_eq!(table.render(Some(80)), text);
        assert_eq!(
            table.render(Some(20)),
            "NAME      COUNT  WHY\né             7  co…\norders  1234567\n"
        );
        assert_eq!(table.render(Some(0)), "…\n…\n…\n");
    }

    #[test]
    fn foreign_text_stays_on_its_line() {
        assert_eq!(clean("a\u{1b}[2J\nb\tc"), "a\\u{1b}[2J; b\\tc");
    }

    #[test]
    fn ages_in_two_units() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10 * 86400);
        let shown = |seconds: u64| {
            let since = now - Duration::from_secs(seconds);
            let since = humantime::format_rfc3339_millis(since).to_string();
            age(&json!(since), now).unwrap()
        };
        let ages: Vec<String> = [0, 1, 59, 61, 3599, 3700, 90_000].map(shown).to_vec();
        assert_eq!(
            ages,
            [
                "less than 1s",
                "1s",
                "59s",
                "1m 1s",
                "59m 59s",
                "1h 1m",
                "1d 1h"
            ]
        );
        assert_eq!(
            age(&json!("2999-01-01T00:00:00Z"), now).unwrap(),
            "less than 1s"
        );
        assert_eq!(age(&json!(null), now), None);
    }
}

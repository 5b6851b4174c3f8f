//! What the demo says, line by line.

use std::io::{IsTerminal, Write};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

/// Standard output. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Voice {
    lost: CancellationToken,
}

impl Voice {
    pub(super) fn new() -> Self {
        Self {
            lost: CancellationToken::new(),
        }
    }

    /// Some lines.
    pub(super) fn say(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        if writeln!(stdout, "{text}")
            .and_then(|()| stdout.flush())
            .is_err()
        {
            self.lost.cancel();
        }
    }

    /// A line with the time of the day (UTC) in front.
    pub(super) fn tell(&self, text: &str) {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        // 2026-11-24T17:40:56Z
        let time = now.get(11..19).unwrap_or_default();
        self.say(&format!("{time}  {text}"));
    }

    /// As [`tell`](Self::tell), for what must not be overlooked.
    pub(super) fn warn(&self, text: &str) {
        if std::io::stdout().is_terminal() {
            self.tell(&format!("\u{1b}[31m{text}\u{1b}[0m"));
        } else {
            self.tell(text);
        }
    }

    /// Waits until nobody listens any more (`livegate demo | head`). Cancel-safe.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

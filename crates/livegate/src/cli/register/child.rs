//! The command as a process: its end, and signals to it.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal as UnixSignal, kill_process, kill_process_group};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use super::bound::BoundArguments;

/// How long the command may take to end after SIGTERM.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// This program, also when its file has been replaced by a newer one.
pub(in crate::cli) const SELF: &str = "/proc/self/exe";

#[derive(Debug)]
pub(in crate::cli) struct Child {
    process: std::process::Child,
    /// SIGCHLD.
    changes: Signal,
}

impl Child {
    /// Starts a command that inherits this process's standard input, output and error. It gets a process
    /// group of its own, for signals that a terminal sends to the whole group (Ctrl-C) are to drain
    /// first.
    pub(super) fn start(program: &OsString, words: &[OsString]) -> std::io::Result<Self> {
        Self::spawn(Command::new(SELF).args(BoundArguments::words(program, words)))
    }

    /// Starts what binds itself to the life of this process, in a process group of its own.
    pub(in crate::cli) fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let changes = signal(SignalKind::child())?;
        let process = command.process_group(0).spawn()?;
        Ok(Self { process, changes })
    }

    pub(in crate::cli) fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.process.id().cast_signed())
    }

    /// Waits for its end. Cancel-safe.
    pub(in crate::cli) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            self.changes.recv().await;
        }
    }

    /// Sends it a signal. Its number is ours until its end has been seen, so that no other process can
    /// get it.
    pub(super) fn signal(&mut self, signal: UnixSignal) {
        let Some(pid) = self
            .pid()
            .filter(|_| matches!(self.process.try_wait(), Ok(None)))
        else {
            return;
        };
        if let Err(error) = kill_process(pid, signal) {
            tracing::warn!(
                "cannot send signal {} to the command: {error}",
                signal.as_raw()
            );
        }
    }

    /// SIGTERM, and SIGKILL to the whole group when that does not help in time or `hurry` returns.
    pub(in crate::cli) async fn stop(
        &mut self,
        hurry: impl Future<Output = ()>,
    ) -> std::io::Result<ExitStatus> {
        self.signal(UnixSignal::TERM);
        // A stopped process does not see it.
        self.signal(UnixSignal::CONT);
        let ended = tokio::select! {
            ended = timeout(GRACE, self.ended()) => ended.ok(),
            () = hurry => None,
        };
        if let Some(ended) = ended {
            return ended;
        }
        tracing::warn!("the command does not end: killing it");
        if let Some(pid) = self
            .pid()
            .filter(|_| matches!(self.process.try_wait(), Ok(None)))
        {
            // It may have left its group, or ended meanwhile.
            let _ = kill_process_group(pid, UnixSignal::KILL);
            drop(self.process.kill());
        }
        self.ended().await
    }
}

/// What a shell makes of an end: the code, or 128 and the number of the signal.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_a_shells() {
        // wait(2): the code in the second byte, the signal in the first.
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(255 << 8)), 255);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
        assert_eq!(exit_code(ExitStatus::from_raw(0x80 | 11)), 139);
    }
}

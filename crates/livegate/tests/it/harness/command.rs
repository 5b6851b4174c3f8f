//! The binary as a command: run to its end, or left running while what it prints is read.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use super::gateway::{binary, pid_of};
use super::wait::holds_within;

/// How long a command may take on a machine with too much to do.
pub(crate) const COMMAND_PATIENCE: Duration = Duration::from_secs(60);

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    /// What it printed, having succeeded in silence.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Its one line of JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.text()).unwrap()
    }

    /// The sentence it failed with.
    #[track_caller]
    pub(crate) fn failure(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, b"", "{self:?}");
        self.stderr.trim_end()
    }
}

/// The binary with nothing from the environment that would matter.
pub(crate) fn livegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env_remove("LIVEGATE_REGISTRY")
        .env_remove("LIVEGATE_REGISTRY_AUTH")
        .env_remove("LIVEGATE_REGISTRY_AUTH_FILE")
        .env_remove("LIVEGATE_REGISTRY_TLS_CA")
        .env("RUST_BACKTRACE", "0");
    command
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Ended {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read it may have ended by now.
    drop(process.stdin.take().unwrap().write_all(input));
    let output = process.wait_with_output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A command that runs until it is ended.
pub(crate) struct Running {
    process: Child,
    directory: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let file = |name| File::create(directory.path().join(name)).unwrap();
        let process = command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap();
        Running { process, directory }
    }

    pub(crate) fn stdout(&self) -> String {
        self.read("stdout")
    }

    pub(crate) fn stderr(&self) -> String {
        self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap()
    }

    /// Waits until what it printed fulfils a condition.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, mut condition: impl FnMut(&str, &str) -> bool) {
        let holds = holds_within(COMMAND_PATIENCE, || {
            condition(&self.stdout(), &self.stderr())
        });
        assert!(
            holds,
            "waited for: {what}\n--- stdout\n{}--- stderr\n{}",
            self.stdout(),
            self.stderr()
        );
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        let ended = holds_within(COMMAND_PATIENCE, || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "it does not end\n{}", self.stderr());
        status.unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid_of(&self.process), signal).unwrap();
    }

    /// Sends a signal and waits until it has ended.
    #[track_caller]
    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

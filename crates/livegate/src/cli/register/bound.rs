//! Binding the command to the life of the registrar.
//!
//! Linux sends a process a signal when its parent dies (`PR_SET_PDEATHSIG`), if it asked for that itself,
//! between its creation and its program. Rust's standard library has only an unsafe hook for that moment.
//! So the command is started through this program once more, which asks for the signal and then becomes
//! the command.
//!
//! "Parent" means the thread that started it. Programs that change their user id (setuid) lose the binding.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::Args;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// What shells say when a command was not found, or could not be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// `livegate bound-command ...`.
#[derive(Debug, Args)]
pub(in crate::cli) struct BoundArguments {
    /// The process to die with.
    parent: i32,
    /// The command to become.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl BoundArguments {
    /// The words that start a command in this way, from this process.
    pub(in crate::cli) fn words(program: &OsString, words: &[OsString]) -> Vec<OsString> {
        let parent = rustix::process::getpid().as_raw_nonzero().to_string();
        let start = ["bound-command".into(), parent.into(), "--".into()];
        start
            .into_iter()
            .chain([program.clone()])
            .chain(words.iter().cloned())
            .collect()
    }
}

/// From now on this process is killed when its parent dies. `false` when that has happened already.
pub(in crate::cli) fn bind_to(parent: i32) -> std::io::Result<bool> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before that, and then no signal will come.
    let current = getppid().map(|pid| pid.as_raw_nonzero().get());
    Ok(current == Some(parent))
}

/// Becomes the command; returns only when that fails.
pub(in crate::cli) fn become_bound(arguments: &BoundArguments) -> ExitCode {
    let say = |text: String| drop(writeln!(std::io::stderr(), "{text}"));
    match bind_to(arguments.parent) {
        Ok(true) => {}
        Ok(false) => return ExitCode::from(NOT_EXECUTABLE),
        Err(error) => {
            say(format!("cannot bind the command to livegate: {error}"));
            return ExitCode::from(NOT_EXECUTABLE);
        }
    }
    let [program, words @ ..] = &arguments.command[..] else {
        return ExitCode::from(NOT_FOUND);
    };
    let error = Command::new(program).args(words).exec();
    let name = program.display();
    if error.kind() == ErrorKind::NotFound {
        say(format!("cannot find {name}, check the command after --"));
        ExitCode::from(NOT_FOUND)
    } else {
        say(format!(
            "cannot execute {name} ({error}), check the command after --"
        ));
        ExitCode::from(NOT_EXECUTABLE)
    }
}

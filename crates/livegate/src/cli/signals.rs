//! The signals that end a process.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// SIGTERM and SIGINT.
pub(super) struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    /// From now on these signals are only reported.
    ///
    /// # Errors
    /// When the system does not let them be caught.
    pub(super) fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self {
            terminate,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one. Cancel-safe.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Whether the process is asked to end. A second signal ends it at once, whatever it waits for then.
pub(super) struct Interrupt {
    token: CancellationToken,
    /// The task that waits for the signals; dropping the set aborts it.
    _task: JoinSet<()>,
}

impl Interrupt {
    /// # Errors
    /// When the system does not let the signals be caught.
    pub(super) fn new() -> std::io::Result<Self> {
        let mut ends = Ends::new()?;
        let token = CancellationToken::new();
        let asked = token.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            ends.next().await;
            asked.cancel();
            ends.next().await;
            std::process::exit(1);
        });
        Ok(Self { token, _task: task })
    }

    /// Waits until it is. Cancel-safe.
    pub(super) async fn asked(&self) {
        self.token.cancelled().await;
    }
}

//! The life of a registration: what happens next, whoever ends it.

use std::time::Duration;

use livegate_discovery::registrar::{Departure, Registrar, Registration};
use rustix::process::{Signal as UnixSignal, getpid, kill_process};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::check::{Checker, Verdict};
use super::child::{Child, exit_code};
use crate::cli::signals::Ends;

/// Between two checks of an instance that is run by somebody else, and how many in a row must fail before
/// it is taken out: as a gateway checks, by default.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
const FALL: u32 = 2;

/// How long the exit code of a command that has died may be kept back to remove the registration.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) struct Life {
    registrar: Registrar,
    checker: Checker,
    drain_timeout: Duration,
    ends: Ends,
    passing: Passing,
}

/// What a wait ended with.
enum End {
    /// A signal asks for the end.
    Asked(&'static str),
    /// The command has ended.
    Died(std::io::Result<std::process::ExitStatus>),
}

impl Life {
    pub(super) fn new(
        registrar: Registrar,
        checker: Checker,
        drain_timeout: Duration,
    ) -> std::io::Result<Self> {
        Ok(Self {
            registrar,
            checker,
            drain_timeout,
            ends: Ends::new()?,
            passing: Passing::new()?,
        })
    }

    /// Until the command has ended; its exit code.
    pub(super) async fn with_command(self, mut child: Child) -> std::io::Result<u8> {
        let Self {
            registrar,
            checker,
            drain_timeout,
            mut ends,
            mut passing,
        } = self;
        let started = tokio::select! {
            end = until_end(&mut child, &mut ends, &mut passing) => Err(end),
            () = checker.passed() => Ok(()),
        };
        if let Err(end) = started {
            return match end {
                End::Died(status) => status.map(exit_code),
                End::Asked(name) => {
                    tracing::info!("{name} before it was registered: stopping the command");
                    stop(&mut child, &mut ends, &mut passing).await
                }
            };
        }
        let registration = registrar
            .start()
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
        match until_end(&mut child, &mut ends, &mut passing).await {
            End::Died(status) => {
                tracing::warn!("the command has ended by itself");
                return farewell(&registration, status).await;
            }
            End::Asked(name) => tracing::info!("{name}: draining before the command is stopped"),
        }
        let end = tokio::select! {
            departure = registration.drain(drain_timeout) => {
                report(&departure);
                None
            }
            end = until_end(&mut child, &mut ends, &mut passing) => Some(end),
        };
        match end {
            None => {}
            Some(End::Died(status)) => return farewell(&registration, status).await,
            Some(End::Asked(name)) => {
                tracing::warn!("{name} again: not waiting for gateways");
                drop(timeout(FAREWELL, registration.remove()).await);
            }
        }
        stop(&mut child, &mut ends, &mut passing).await
    }

    /// Until a signal, of an instance that is run by somebody else.
    pub(super) async fn without_command(self) -> u8 {
        let Self {
            registrar,
            checker,
            drain_timeout,
            mut ends,
            passing: _,
        } = self;
        tokio::select! {
            name = ends.next() => {
                tracing::info!("{name} before it was registered");
                return 0;
            }
            () = checker.passed() => {}
        }
        let registration = match registrar.start() {
            Ok(registration) => registration,
            Err(error) => {
                tracing::error!("{error}");
                return 1;
            }
        };
        tokio::select! {
            name = ends.next() => tracing::info!("{name}: draining"),
            () = look_after(&registration, &checker) => {}
        }
        tokio::select! {
            departure = registration.drain(drain_timeout) => report(&departure),
            name = ends.next() => {
                tracing::warn!("{name} again: not waiting for gateways");
                drop(timeout(FAREWELL, registration.remove()).await);
            }
        }
        0
    }
}

/// Passes signals on until something ends it all. Cancel-safe.
async fn until_end(child: &mut Child, ends: &mut Ends, passing: &mut Passing) -> End {
    loop {
        tokio::select! {
            biased;
            status = child.ended() => return End::Died(status),
            name = ends.next() => return End::Asked(name),
            signal = passing.next() => pass_on(child, signal),
        }
    }
}

fn pass_on(child: &mut Child, signal: UnixSignal) {
    child.signal(signal);
    if signal == UnixSignal::TSTP {
        // Ctrl-Z: both stop. The session ends if that lasts, which is right for what does not run.
        let _ = kill_process(getpid(), UnixSignal::STOP);
    }
}

/// Stops the command; a signal meanwhile kills it.
async fn stop(child: &mut Child, ends: &mut Ends, passing: &mut Passing) -> std::io::Result<u8> {
    let hurry = async {
        tokio::select! {
            name = ends.next() => tracing::warn!("{name} again"),
            // What is stopped needs no other signals.
            () = async { loop { passing.next().await; } } => {}
        }
    };
    child.stop(hurry).await.map(exit_code)
}

/// The command is dead: the registration goes, and its exit code is passed on.
async fn farewell(
    registration: &Registration,
    status: std::io::Result<std::process::ExitStatus>,
) -> std::io::Result<u8> {
    if timeout(FAREWELL, registration.remove()).await.is_err() {
        tracing::warn!("the registry cannot be reached; the registration goes with its session");
    }
    status.map(exit_code)
}

fn report(departure: &Departure) {
    let names = |gateways: &[String]| gateways.join(", ");
    if !departure.silent.is_empty() {
        tracing::warn!("not waited for any longer: {}", names(&departure.silent));
    } else if departure.acknowledged.is_empty() {
        tracing::info!("drained: there is no gateway that would have to let go");
    } else {
        tracing::info!("drained: {} let go", names(&departure.acknowledged));
    }
}

/// Takes the instance out while its check fails, and in again when it passes. Never returns.
async fn look_after(registration: &Registration, checker: &Checker) {
    let mut failures = 0;
    loop {
        sleep(CHECK_INTERVAL).await;
        match checker.once().await {
            Verdict::Passed => {
                if failures >= FALL {
                    tracing::info!("the check passes again: registering");
                    registration.offer();
                }
                failures = 0;
            }
            Verdict::Unknown(cause) => tracing::warn!("the check says nothing: {cause}"),
            Verdict::Failed(cause) => {
                failures += 1;
                if failures == FALL {
                    tracing::warn!("the check failed {FALL} times ({cause}): withdrawing");
                    registration.withdraw();
                }
            }
        }
    }
}

/// Signals that are meant for the command.
struct Passing(Vec<(UnixSignal, Signal)>);

impl Passing {
    /// From now on these signals are only reported.
    fn new() -> std::io::Result<Self> {
        let signals = [
            UnixSignal::HUP,
            UnixSignal::QUIT,
            UnixSignal::USR1,
            UnixSignal::USR2,
            UnixSignal::ALARM,
            UnixSignal::WINCH,
            UnixSignal::TSTP,
            UnixSignal::CONT,
        ];
        let streams = signals.into_iter().map(|number| {
            let stream = signal(SignalKind::from_raw(number.as_raw()))?;
            Ok((number, stream))
        });
        streams.collect::<std::io::Result<_>>().map(Self)
    }

    /// The next one. Cancel-safe.
    async fn next(&mut self) -> UnixSignal {
        std::future::poll_fn(|context| {
            for (number, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

//! Whether the instance serves.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use livegate_discovery::registrar::InstanceAddress;
use tokio::time::{Instant, sleep, timeout};

use crate::health::probe::{Finding, Question, ask};

/// How long one check may take: name look-up, connecting and the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two checks while it starts: short at first, for most are there soon.
const START_WAIT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How often to say that it is still waited for.
const REMINDER: Duration = Duration::from_secs(10);

/// What to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    /// That it accepts connections.
    Tcp,
    /// That it answers a GET of this target with 200 to 399.
    Http(String),
}

impl FromStr for Check {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HELP: &str = "write tcp, or http: and a path, as in http:/healthz";
        match text.split_once(':') {
            None if text == "tcp" => Ok(Self::Tcp),
            Some(("http", target))
                if target.starts_with('/')
                    && !target.starts_with("//")
                    && target
                        .bytes()
                        .all(|byte| byte.is_ascii_graphic() && byte != b'#') =>
            {
                Ok(Self::Http(target.to_owned()))
            }
            None | Some(_) => Err(HELP),
        }
    }
}

/// What a check says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It serves.
    Passed,
    /// It does not; the text says why.
    Failed(String),
    /// Nothing is known about it; the text says why.
    Unknown(String),
}

/// Checks one address.
#[derive(Debug)]
pub(super) struct Checker {
    address: InstanceAddress,
    question: Question,
}

impl Checker {
    pub(super) fn new(address: InstanceAddress, check: Check) -> Self {
        let question = match check {
            Check::Tcp => Question::Connect,
            Check::Http(target) => Question::Get(target),
        };
        Self { address, question }
    }

    /// One check.
    pub(super) async fn once(&self) -> Verdict {
        let deadline = Instant::now() + PATIENCE;
        let host = self.address.host();
        let resolved = tokio::net::lookup_host((host, self.address.port()));
        let resolved = match timeout(PATIENCE, resolved).await {
            Ok(Ok(resolved)) => resolved,
            Ok(Err(error)) => return Verdict::Unknown(format!("cannot resolve {host}: {error}")),
            Err(_) => return Verdict::Unknown(format!("cannot resolve {host} in time")),
        };
        let mut last = Verdict::Unknown(format!("{host} has no address"));
        for address in resolved {
            let patience = deadline.saturating_duration_since(Instant::now());
            last = verdict(address, &ask(address, &self.question, patience).await);
            if last == Verdict::Passed {
                break;
            }
        }
        last
    }

    /// Waits until it passes. Cancel-safe.
    pub(super) async fn passed(&self) {
        let mut wait = START_WAIT.0;
        let mut reminder = Instant::now() + REMINDER;
        while let Verdict::Failed(cause) | Verdict::Unknown(cause) = self.once().await {
            if Instant::now() >= reminder {
                tracing::warn!("not registered yet: {cause}");
                reminder = Instant::now() + REMINDER;
            }
            sleep(wait).await;
            wait = (wait * 2).min(START_WAIT.1);
        }
    }
}

fn verdict(address: SocketAddr, finding: &Finding) -> Verdict {
    let failed = |what: &str| Verdict::Failed(format!("{address} {what}"));
    match finding {
        Finding::Connected | Finding::Answered(200..=399) => Verdict::Passed,
        Finding::Answered(status) => failed(&format!("answers with status {status}")),
        Finding::Garbled(what) => failed(&format!("answers wrongly: {what}")),
        Finding::Silent => failed("does not answer in time"),
        Finding::TimedOut => failed("does not accept a connection in time"),
        Finding::Unreachable(cause) => failed(&format!("cannot be reached: {cause}")),
        Finding::Prevented(cause) => {
            Verdict::Unknown(format!("{address} cannot be asked: {cause}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_parsed() {
        assert_eq!("tcp".parse(), Ok(Check::Tcp));
        let http = Check::Http("/healthz?full=1".to_owned());
        assert_eq!("http:/healthz?full=1".parse(), Ok(http));
        for text in [
            "",
            "http",
            "http:",
            "http:x",
            "http://host/",
            "https:/",
            "http:/ x",
        ] {
            assert!(text.parse::<Check>().is_err(), "{text}");
        }
    }
}

//! What a regular check asks, and what its answers mean; when to ask whom is known to
//! [`Probes`](livegate_discovery::probe::Probes).

use livegate_discovery::Health;
use livegate_discovery::probe::CheckPolicy;

use crate::config::{HealthCheckConfig, HealthCheckKind, StatusRange};
use crate::health::probe::{Finding, Question};

/// How often to check, if at all.
pub fn policy(config: &HealthCheckConfig) -> Option<CheckPolicy> {
    let policy = CheckPolicy {
        interval: config.interval,
        timeout: config.timeout,
        fall: config.fall,
        rise: config.rise,
    };
    match config.kind {
        HealthCheckKind::None => None,
        HealthCheckKind::Tcp | HealthCheckKind::Http => Some(policy),
    }
}

/// What to ask.
pub fn question(config: &HealthCheckConfig) -> Question {
    match config.kind {
        HealthCheckKind::None | HealthCheckKind::Tcp => Question::Connect,
        HealthCheckKind::Http => Question::Get(config.path.clone()),
    }
}

/// Whether two configurations ask different questions, or judge the answers differently.
pub fn is_other(before: &HealthCheckConfig, after: &HealthCheckConfig) -> bool {
    before.kind != after.kind || before.path != after.path || before.expect != after.expect
}

/// What one finding says; nothing when nothing is known.
pub fn judge(finding: &Finding, expect: &[StatusRange]) -> Option<Health> {
    let cause = |text: &str| format!("health check: {text}");
    match finding {
        Finding::Answered(status) if expect.iter().any(|range| range.contains(*status)) => {
            Some(Health::Healthy)
        }
        Finding::Answered(status) => Some(Health::Failing {
            cause: cause(&format!("status {status}")),
        }),
        Finding::Garbled(text) => Some(Health::Failing { cause: cause(text) }),
        Finding::Silent => Some(Health::Silent {
            cause: cause("no answer in time"),
        }),
        Finding::Connected
        | Finding::TimedOut
        | Finding::Unreachable(_)
        | Finding::Prevented(_) => finding.evidence().health(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_findings_say() {
        let expect = HealthCheckConfig::default().expect;
        let judge = |finding| judge(&finding, &expect);
        let failing = |cause: &str| {
            let cause = format!("health check: {cause}");
            Some(Health::Failing { cause })
        };
        assert_eq!(judge(Finding::Connected), Some(Health::Healthy));
        assert_eq!(judge(Finding::Answered(204)), Some(Health::Healthy));
        assert_eq!(judge(Finding::Answered(399)), Some(Health::Healthy));
        assert_eq!(judge(Finding::Answered(400)), failing("status 400"));
        assert_eq!(judge(Finding::Garbled("nonsense")), failing("nonsense"));
        let cause = "health check: no answer in time".to_owned();
        assert_eq!(judge(Finding::Silent), Some(Health::Silent { cause }));
        let cause = "health check: connection refused".to_owned();
        let refused = Finding::Unreachable("connection refused".to_owned());
        assert_eq!(judge(refused), Some(Health::Unreachable { cause }));
        let prevented = Finding::Prevented("too many open files".to_owned());
        assert_eq!(judge(prevented), None);
    }
}

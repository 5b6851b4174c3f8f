//! Durations as they are typed on the command line: `500ms`, `10s`, `1h 30m`.

use std::time::Duration;

/// A duration of more than zero. A bare number is refused, because it does not say of what.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "{text} has no unit: write {text}s for seconds or {text}m for minutes"
        ));
    }
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be more than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("write a duration such as 500ms, 10s, 5m or 1h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("1s 5ms"), Ok(Duration::from_millis(1005)));
        assert_eq!(
            parse_duration("10").unwrap_err(),
            "10 has no unit: write 10s for seconds or 10m for minutes"
        );
        for text in ["", "0s", "-1s", "1 fortnight"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}

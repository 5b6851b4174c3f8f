//! Durations and sizes with their units: `"250ms"`, `"64KiB"`.

use std::time::Duration;

use crate::config::section::Value;

/// The longest duration a file may ask for; far from where adding to a clock could overflow.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

const SIZE_UNITS: [(&str, u64); 4] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// A duration, which may be zero.
pub(super) fn duration(value: &Value<'_>) -> Result<Duration, String> {
    const HELP: &str = "write a duration such as \"250ms\", \"10s\", \"5m\" or \"1h\"";
    if let Some(number) = value.bare_number() {
        return Err(format!(
            "{number} has no unit: write \"{number}s\" for seconds (units: ms, s, m, h)"
        ));
    }
    let text = value.string()?;
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "\"{text}\" has no unit: write \"{text}s\" for seconds (units: ms, s, m, h)"
        ));
    }
    let parts = parts(text).ok_or_else(|| format!("\"{text}\" is not a duration; {HELP}"))?;
    let mut millis = 0u64;
    for (count, unit) in parts {
        let (_, factor) = DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| format!("\"{unit}\" is not a unit of time; {HELP}"))?;
        millis = count
            .checked_mul(*factor)
            .and_then(|part| millis.checked_add(part))
            .unwrap_or(u64::MAX);
    }
    let duration = Duration::from_millis(millis);
    if duration > DURATION_MAX {
        return Err(format!("\"{text}\" is longer than a year"));
    }
    Ok(duration)
}

/// A duration of at least a millisecond.
pub(super) fn positive_duration(value: &Value<'_>) -> Result<Duration, String> {
    match duration(value)? {
        Duration::ZERO => Err("must be more than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// A number of bytes.
pub(super) fn size(value: &Value<'_>) -> Result<u64, String> {
    const HELP: &str = "write a size such as \"512B\", \"64KiB\", \"1MiB\" or \"2GiB\"";
    if let Some(number) = value.bare_number() {
        return Err(format!(
            "{number} has no unit: write \"{number}B\" for bytes (units: B, KiB, MiB, GiB)"
        ));
    }
    let text = value.string()?;
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "\"{text}\" has no unit: write \"{text}B\" for bytes (units: B, KiB, MiB, GiB)"
        ));
    }
    let parts = parts(text).unwrap_or_default();
    let [(count, unit)] = parts[..] else {
        return Err(format!("\"{text}\" is not a size; {HELP}"));
    };
    let (_, factor) = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| format!("\"{unit}\" is not a unit of size; {HELP}"))?;
    count
        .checked_mul(*factor)
        .ok_or_else(|| format!("\"{text}\" is too large"))
}

/// "1m30s" as (1, "m"), (30, "s").
fn parts(text: &str) -> Option<Vec<(u64, &str)>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .filter(|&digits| digits > 0)?;
        let (count, after) = rest.split_at(digits);
        let unit = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        parts.push((count.parse().ok()?, unit.trim()));
        rest = after;
    }
    (!parts.is_empty()).then_some(parts)
}

/// A duration as the file would say it: "1500ms", "10s", "5m".
pub(crate) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (unit, factor) = DURATION_UNITS
        .iter()
        .rev()
        .find(|(_, factor)| millis > 0 && millis.is_multiple_of(u128::from(*factor)))
        .unwrap_or(&("s", 1_000));
    format!("{}{unit}", millis / u128::from(*factor))
}

/// A size as the file would say it: "64KiB".
pub(super) fn show_size(bytes: u64) -> String {
    let (unit, factor) = SIZE_UNITS
        .iter()
        .rev()
        .find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor))
        .unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / factor)
}

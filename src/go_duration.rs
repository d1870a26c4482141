//! Durations as programs written in Go write them: `1h30m`, `500ms`, `0` (Go, `time.ParseDuration`). Pure.

#![deny(clippy::disallowed_methods)]

use std::time::Duration;

/// The duration that `text` is; none where it is none, or negative.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (Some(text).filter(|text| !text.is_empty())?, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let each = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * each;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, milliseconds) in [
            ("12h", Some(43_200_000)),
            ("1h0m0s", Some(3_600_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("500ms", Some(500)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("h", None),
            ("ten", None),
            ("10x", None),
            ("-1h", None),
            ("1d", None),
            ("1..5s", None),
            ("1.2.3h", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(parse(text).map(|duration| duration.as_millis()), milliseconds, "{text}");
        }
    }
}

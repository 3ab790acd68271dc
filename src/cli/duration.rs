//! Durations as people write them: `7d`, `12h`, `1h30m`.

/// Milliseconds in each unit, the longest first.
const UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a duration and gives it in milliseconds.
pub(crate) fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a duration: write a number and a unit, such as 7d, 12h, 30m, 45s or 1h30m");
    let (mut total, mut rest) = (0_u64, text.trim());
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|character: char| character.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let (_, milliseconds) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let amount = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*milliseconds));
        total = amount.and_then(|amount| total.checked_add(amount)).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(total)
}

/// Writes a duration for a person, in its two greatest units.
pub(crate) fn humane_duration(milliseconds: u64) -> String {
    if milliseconds < 1000 {
        return format!("{milliseconds} ms");
    }
    let mut rest = milliseconds;
    let mut parts = Vec::new();
    for (name, length) in UNITS.iter().filter(|(name, _)| *name != "ms" && *name != "w") {
        if rest >= *length {
            parts.push(format!("{}{name}", rest / length));
            rest %= length;
        }
    }
    parts.truncate(2);
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, expected) in [
            ("7d", 604_800_000),
            ("12h", 43_200_000),
            ("30m", 1_800_000),
            ("45s", 45_000),
            ("250ms", 250),
            ("1h30m", 5_400_000),
            (" 2w ", 1_209_600_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in ["", " ", "7", "d", "7 d", "-7d", "7D", "7x", "1.5h", "99999999999999999999d", "7d8", "９d"] {
            let error = parse_duration_ms(text).unwrap_err();
            assert!(error.contains("such as 7d"), "{text}: {error}");
        }
    }

    #[test]
    fn durations_are_written_for_people() {
        for (milliseconds, expected) in
            [(0, "0 ms"), (999, "999 ms"), (1000, "1s"), (90_000, "1m 30s"), (604_800_000, "7d"), (90_061_000, "1d 1h")]
        {
            assert_eq!(humane_duration(milliseconds), expected);
        }
    }
}

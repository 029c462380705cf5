//! Rules and configurations in which all times are shorter, for runs that cannot wait for ten minutes.

/// The YAML with its times divided by `speed`, down to a second: `for`, `keep_firing_for`, intervals, Alertmanager's waits, and
/// the ranges of expressions. What is timed by the observer (windows in labels) stays as it is.
pub(super) fn scale(yaml: &str, speed: u32) -> String {
    const KEYS: [&str; 7] = [
        "for",
        "keep_firing_for",
        "interval",
        "evaluation_interval",
        "group_wait",
        "group_interval",
        "repeat_interval",
    ];
    if speed <= 1 {
        return yaml.to_owned();
    }
    let mut text = String::new();
    for line in yaml.lines() {
        let (key, value) = line.split_once(": ").unwrap_or((line, ""));
        match divided(value.trim(), speed) {
            Some(shorter) if KEYS.contains(&key.trim()) => {
                text.push_str(&format!("{key}: {shorter}"));
            }
            _ => text.push_str(&ranges(line, speed)),
        }
        text.push('\n');
    }
    text
}

/// `[5m]` in this line divided; everything else as it is.
fn ranges(line: &str, speed: u32) -> String {
    let mut parts = line.split('[');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push('[');
        match part.split_once(']') {
            Some((range, rest)) if divided(range, speed).is_some() => {
                let shorter = divided(range, speed).unwrap_or_default();
                text.push_str(&format!("{shorter}]{rest}"));
            }
            _ => text.push_str(part),
        }
    }
    text
}

/// `2m` by 10 is `12s`; at least a second, but 0 stays 0. `None` if it is no time.
fn divided(time: &str, speed: u32) -> Option<String> {
    let digits = time.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let seconds = match &time[digits.len()..] {
        "s" => number,
        "m" => number * 60,
        "h" => number * 3600,
        _ => return None,
    };
    if seconds == 0 {
        return Some("0s".to_owned());
    }
    Some(format!("{}ms", (seconds * 1000 / u64::from(speed)).max(1000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_shorter_and_nothing_else() {
        let yaml = "  interval: 15s\n    for: 0s\n    for: 2m\n    expr: rate(a{w=\"5m\"}[5m]) > 5 # [x]\n    matchers: [a=\"1m\"]\n";
        let expected = "  interval: 1500ms\n    for: 0s\n    for: 12000ms\n    expr: rate(a{w=\"5m\"}[30000ms]) > 5 # [x]\n    matchers: [a=\"1m\"]\n";
        assert_eq!(scale(yaml, 10), expected);
        assert_eq!(scale(yaml, 1), yaml);
        assert_eq!(divided("5s", 100).as_deref(), Some("1000ms"));
    }
}

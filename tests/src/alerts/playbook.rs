//! What a playbook says of its rule: generated, so that it cannot differ from the rule.

use std::fmt::Write as _;

use super::rules::{Group, Rule};

const BEGIN: &str = "<!-- rule: generated from dashboards/prometheus/rules -->\n";
const END: &str = "<!-- end of the rule -->\n";

/// The sections that each playbook has, in this order.
pub const SECTIONS: [&str; 6] =
    ["Symptoms", "First 5 minutes", "Diagnosis", "Mitigation", "Verification", "Escalation"];

/// The rule as its playbook shows it.
#[must_use]
pub fn header(group: &Group, rule: &Rule) -> String {
    let name = rule.alert.as_deref().unwrap_or_default();
    let mut text = String::from(BEGIN);
    let summary = rule.annotations.get("summary").map_or("", String::as_str);
    let _ = writeln!(text, "**{name}**: {}.\n", plain(summary));
    let _ = writeln!(text, "```promql\n{}\n```\n", rule.expr.trim_end());
    let thresholds: Vec<String> =
        rule.thresholds().iter().map(|threshold| format!("`{threshold}`")).collect();
    let _ = writeln!(text, "| Threshold | `for` | Severity | Escalation | Team | Evaluated |");
    let _ = writeln!(text, "|---|---|---|---|---|---|");
    let keep = match rule.keep_firing_for.as_str() {
        "" => String::new(),
        time => format!(", then kept for {time}"),
    };
    let _ = writeln!(
        text,
        "| {} | {}{keep} | {} | {} | {} | every {} |",
        thresholds.join(", "),
        rule.hold,
        rule.label("severity"),
        rule.label("escalation"),
        rule.label("team"),
        group.interval,
    );
    text.push_str(END);
    text
}

/// The template with its variables in capitals: `{{ $labels.mode }}` becomes MODE, `{{ ... $value }}` VALUE.
fn plain(template: &str) -> String {
    let mut parts = template.split("{{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once("}}").unwrap_or(("", part));
        let name = variable.trim().rsplit(['.', '$', ' ']).next().unwrap_or_default();
        text.push_str(&name.to_uppercase());
        text.push_str(rest);
    }
    text
}

/// The playbook with this header in the place of the one it has, below its title; without one, it is put there.
#[must_use]
pub fn with_header(playbook: &str, header: &str) -> String {
    let generated = playbook
        .split_once(BEGIN)
        .and_then(|(before, rest)| rest.split_once(END).map(|(_, after)| (before, after)));
    if let Some((before, after)) = generated {
        return format!("{before}{header}{after}");
    }
    match playbook.split_once("\n\n") {
        Some((title, rest)) => format!("{title}\n\n{header}\n{rest}"),
        None => format!("{playbook}\n{header}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_stand_out() {
        let template =
            "{{ $labels.vm }} on {{ $labels.instance }}: {{ printf \"%.0f\" $value }} times";
        assert_eq!(plain(template), "VM on INSTANCE: VALUE times");
    }

    #[test]
    fn a_header_is_put_in_once() {
        let header = format!("{BEGIN}one\n{END}");
        let first = with_header("# A\n\n## Symptoms\n", &header);
        assert_eq!(first, format!("# A\n\n{header}\n## Symptoms\n"));
        assert_eq!(with_header(&first, &header), first);
        let other = format!("{BEGIN}two\n{END}");
        assert_eq!(with_header(&first, &other), format!("# A\n\n{other}\n## Symptoms\n"));
    }
}

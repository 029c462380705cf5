//! Parses Prometheus' text format (0.0.4) from untrusted endpoints, strictly and with limits, and writes it again.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
};

/// Only such names are carried on.
pub const PREFIX: &str = "dwcp_v3_";
/// Series of one component that are carried on.
pub const MAX_SERIES: usize = 2000;
/// Longest `# HELP`, label value or line, bytes.
const MAX_LINE: usize = 16 << 10;

/// One family as a component gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// `# HELP`, still escaped.
    pub help: Option<String>,
    /// `# TYPE`; `None` is untyped.
    pub kind: Option<String>,
    /// Series (name and labels, in canonical order) and value.
    pub series: Vec<(String, String)>,
}

/// What one scrape brought, by family name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scraped {
    /// Families that are carried on.
    pub families: BTreeMap<String, Family>,
    /// Series with other names.
    pub other: u64,
    /// Series that were there already.
    pub duplicates: u64,
    /// Series over the limit.
    pub over_limit: u64,
}

/// A line that is not in the format; a scrape with one is refused as a whole, as Prometheus does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Malformed {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// Reads an exposition.
///
/// # Errors
/// The first line that is not in the format, and a text without any series.
pub fn parse(text: &str) -> Result<Scraped, Malformed> {
    let mut scraped = Scraped::default();
    let mut kinds: HashMap<&str, &str> = HashMap::new();
    let mut seen: HashSet<String> = HashSet::new();
    let mut any = false;
    for (index, line) in text.lines().enumerate() {
        let wrong = |what| Malformed { line: index + 1, what };
        let line = line.trim_matches([' ', '\t', '\r']);
        if line.len() > MAX_LINE {
            return Err(wrong("too long"));
        }
        if line.is_empty() {
            continue;
        }
        if let Some(comment) = line.strip_prefix('#') {
            comment_line(comment, &mut kinds, &mut scraped).map_err(wrong)?;
            continue;
        }
        let sample = sample(line).map_err(wrong)?;
        any = true;
        if !sample.name.starts_with(PREFIX) {
            scraped.other += 1;
            continue;
        }
        if seen.len() >= MAX_SERIES {
            scraped.over_limit += 1;
            continue;
        }
        let family = family_of(sample.name, &kinds);
        let series = sample.series();
        if !seen.insert(series.clone()) {
            scraped.duplicates += 1;
            continue;
        }
        let to = scraped.families.entry(family.to_owned()).or_default();
        to.kind = kinds.get(family).map(|kind| (*kind).to_owned());
        to.series.push((series, sample.value.to_owned()));
    }
    scraped.families.retain(|_, family| !family.series.is_empty());
    if !any {
        return Err(Malformed { line: 0, what: "there are no series" });
    }
    Ok(scraped)
}

fn comment_line<'a>(
    comment: &'a str,
    kinds: &mut HashMap<&'a str, &'a str>,
    scraped: &mut Scraped,
) -> Result<(), &'static str> {
    let mut words = comment.trim_start().splitn(3, [' ', '\t']);
    match (words.next(), words.next(), words.next()) {
        (Some("TYPE"), Some(name), Some(kind)) => {
            let kind = kind.trim();
            if !is_name(name) {
                return Err("TYPE line with an invalid metric name");
            }
            if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) {
                return Err("unknown TYPE");
            }
            if kinds.insert(name, kind).is_some() {
                return Err("second TYPE line for a metric");
            }
        }
        (Some("HELP"), Some(name), help)
            if is_name(name) && name.starts_with(PREFIX) && scraped.families.len() < MAX_SERIES =>
        {
            let family = scraped.families.entry(name.to_owned()).or_default();
            family.help = Some(help.unwrap_or_default().trim().to_owned());
        }
        // Any other comment is no business of ours.
        _ => {}
    }
    Ok(())
}

struct Sample<'a> {
    name: &'a str,
    /// Still escaped.
    labels: Vec<(&'a str, &'a str)>,
    value: &'a str,
}

impl Sample<'_> {
    /// The series, its labels sorted.
    fn series(&self) -> String {
        let mut labels = self.labels.clone();
        labels.sort_unstable();
        let mut series = self.name.to_owned();
        for (index, (name, value)) in labels.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(series, "{}{name}=\"{value}\"", if index == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            series.push('}');
        }
        series
    }
}

fn sample(line: &str) -> Result<Sample<'_>, &'static str> {
    let end = line.find(['{', ' ', '\t']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return Err("metric name is missing");
    }
    let mut labels = Vec::new();
    rest = rest.trim_start();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = label_list(inner, &mut labels)?;
    }
    let mut words = rest.split_ascii_whitespace();
    let value = words.next().ok_or("no value")?;
    if !is_value(value) {
        return Err("no number");
    }
    // A timestamp is read and left out: the figure is as old as the scrape.
    if words.next().is_some_and(|time| time.parse::<i64>().is_err()) || words.next().is_some() {
        return Err("unexpected text after the value");
    }
    Ok(Sample { name, labels, value })
}

fn label_list<'a>(
    mut rest: &'a str,
    labels: &mut Vec<(&'a str, &'a str)>,
) -> Result<&'a str, &'static str> {
    loop {
        rest = rest.trim_start();
        if let Some(behind) = rest.strip_prefix('}') {
            return Ok(behind);
        }
        let (name, behind) = rest.split_once('=').ok_or("label without a value")?;
        let name = name.trim_end();
        if !is_name(name) || name.contains(':') {
            return Err("label name is missing");
        }
        if labels.iter().any(|(earlier, _)| *earlier == name) {
            return Err("duplicate label");
        }
        let behind = behind.trim_start().strip_prefix('"').ok_or("a label value without quotes")?;
        let mut escaped = false;
        let end = behind.find(|c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let (value, behind) = behind.split_at(end.ok_or("label value is not terminated")?);
        labels.push((name, value));
        rest = behind.get(1..).unwrap_or_default().trim_start();
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None if rest.starts_with('}') => {}
            None => return Err("comma between labels is missing"),
        }
    }
}

fn is_name(name: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || byte == b':';
    name.bytes().next().is_some_and(first)
        && name.bytes().all(|byte| first(byte) || byte.is_ascii_digit())
}

/// As Go's `ParseFloat`, which Prometheus uses, for what is usual.
fn is_value(value: &str) -> bool {
    value.parse::<f64>().is_ok()
}

/// The family of a sample: its own name, or that of the histogram or summary it is a part of.
fn family_of<'a>(name: &'a str, kinds: &HashMap<&str, &str>) -> &'a str {
    let part_of = |suffix: &str, allowed: &[&str]| {
        let family = name.strip_suffix(suffix)?;
        kinds.get(family).is_some_and(|kind| allowed.contains(kind)).then_some(family)
    };
    part_of("_bucket", &["histogram"])
        .or_else(|| part_of("_sum", &["histogram", "summary"]))
        .or_else(|| part_of("_count", &["histogram", "summary"]))
        .unwrap_or(name)
}

/// What is left out when the scrapes of all components go into one exposition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Series of names that the observer itself serves.
    pub own: u64,
    /// Series that another component gave already, or whose family it gave with another type.
    pub duplicates: u64,
}

/// Families of all components, each name and each series once.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    families: BTreeMap<String, Family>,
    /// Every series, and every name of a sample with its family.
    series: HashSet<String>,
    names: HashMap<String, String>,
}

impl Merged {
    /// Adds what one component gave; `is_own`: whether the observer serves a sample of that name. What is kept comes back.
    pub fn add(
        &mut self,
        scraped: Scraped,
        is_own: impl Fn(&str) -> bool,
    ) -> (BTreeMap<String, Family>, LeftOut) {
        let (mut kept, mut left_out) = (BTreeMap::new(), LeftOut::default());
        for (name, mut family) in scraped.families {
            let other_kind =
                self.families.get(&name).is_some_and(|known| known.kind != family.kind);
            family.series.retain(|(series, _)| {
                let sample = series.split('{').next().unwrap_or(series);
                let clashes = self.names.get(sample).is_some_and(|owner| *owner != name);
                if is_own(sample) || is_own(&name) {
                    left_out.own += 1;
                    return false;
                }
                if other_kind || clashes || !self.series.insert(series.clone()) {
                    left_out.duplicates += 1;
                    return false;
                }
                self.names.insert(sample.to_owned(), name.clone());
                true
            });
            if family.series.is_empty() {
                continue;
            }
            let known = self.families.entry(name.clone()).or_default();
            known.help = known.help.take().or_else(|| family.help.clone());
            known.kind = known.kind.take().or_else(|| family.kind.clone());
            known.series.extend(family.series.iter().cloned());
            kept.insert(name, family);
        }
        (kept, left_out)
    }

    /// The text of all families.
    #[must_use]
    pub fn text(&self) -> String {
        text(&self.families)
    }
}

/// The text of some families.
#[must_use]
pub fn text(families: &BTreeMap<String, Family>) -> String {
    let mut text = String::new();
    for (name, family) in families {
        let help = match family.help.as_deref() {
            Some(help) if !help.is_empty() => help,
            _ => "Passed on from a component that provides no help text.",
        };
        let kind = family.kind.as_deref().unwrap_or("untyped");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (series, value) in &family.series {
            let _ = writeln!(text, "{series} {value}");
        }
    }
    text
}

#[cfg(test)]
#[path = "exposition_tests.rs"]
mod tests;

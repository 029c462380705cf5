//! What each kernel makes of each eBPF program: the table of `dwcp-observer check --programs
//! --json` over all kernels, and its comparison with what is expected.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// By how much a program's instruction count may grow.
const GROWTH: f64 = 1.2;
/// How much of a reason is compared: what follows is the kernel's or the verifier's own text.
const REASON_LENGTH: usize = 100;

/// One program on one kernel, as the agent prints it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Tried {
    /// Object that has it.
    pub object: String,
    /// Its name.
    pub program: String,
    /// Tracepoint, function or iterator target.
    pub target: String,
    /// Its rung of the ladder.
    pub rung: String,
    /// `attached`, `loaded`, `absent`, `refused`, ...
    pub result: String,
    /// Instructions that the verifier walked; kernels before 5.16 do not say.
    #[serde(default)]
    pub verified_instructions: Option<u32>,
    /// Why it came no further.
    #[serde(default)]
    pub reason: Option<String>,
}

impl Tried {
    fn works(&self) -> bool {
        matches!(self.result.as_str(), "attached" | "loaded")
    }

    fn key(&self) -> Key {
        let [object, program, target, rung] =
            [&self.object, &self.program, &self.target, &self.rung].map(|part| word(part));
        Key { object, rung, program, target }
    }

    /// What failed and why, from `what: why: details` and its further lines.
    fn reason(&self) -> String {
        let line = self.reason.as_deref().unwrap_or_default().lines().next().unwrap_or_default();
        let class = line.split(": ").take(2).collect::<Vec<_>>().join(": ");
        let class: String = class.chars().take(REASON_LENGTH).collect();
        class.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn expected(&self) -> Expected {
        Expected {
            result: word(&self.result),
            instructions: self.verified_instructions,
            reason: if self.works() { String::new() } else { self.reason() },
        }
    }
}

/// Reads what the agent has printed, whatever else is around it.
///
/// # Errors
/// When there is no array of programs, or an empty one.
pub fn parse(output: &str) -> Result<Vec<Tried>> {
    let start = output.find('[').context("no JSON")?;
    let end = output.rfind(']').context("no JSON")?;
    let text = output.get(start..=end).context("no JSON")?;
    let all: Vec<Tried> = serde_json::from_str(text).context("not a list of programs")?;
    ensure!(!all.is_empty(), "no program at all");
    Ok(all)
}

/// Which program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    object: String,
    rung: String,
    program: String,
    target: String,
}

/// What a kernel is expected to make of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    result: String,
    instructions: Option<u32>,
    reason: String,
}

impl Expected {
    fn text(&self) -> String {
        let Self { result, reason, .. } = self;
        if reason.is_empty() { result.clone() } else { format!("{result} ({reason})") }
    }
}

/// What is expected of each program on each kernel: the golden file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Golden {
    kernels: BTreeMap<String, BTreeMap<Key, Expected>>,
}

/// What a comparison has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// What must not be.
    pub problems: Vec<String>,
    /// Instruction counts that have changed, but not by much.
    pub notes: Vec<String>,
}

impl Golden {
    /// From the text of the file: a line for each program and kernel.
    ///
    /// # Errors
    /// A line that is not as [`Golden::text`] writes it.
    pub fn parse(text: &str) -> Result<Self> {
        let mut golden = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            golden.line(line).with_context(|| format!("golden file: {line}"))?;
        }
        Ok(golden)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let mut words = line.split_whitespace();
        let mut next = || words.next().map(str::to_owned).context("too short");
        let (kernel, object, rung, program, target) = (next()?, next()?, next()?, next()?, next()?);
        let (result, instructions) = (next()?, next()?);
        let instructions = match instructions.as_str() {
            "-" => None,
            number => Some(number.parse()?),
        };
        let reason = words.collect::<Vec<_>>().join(" ");
        self.kernels.entry(kernel).or_default().insert(
            Key { object, rung, program, target },
            Expected { result, instructions, reason },
        );
        Ok(())
    }

    /// The text of the file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = "\
# What each kernel makes of each eBPF program. Written by
#   UPDATE_GOLDEN=1 cargo xtask vm-test --kernel all --test programs
# kernel object rung program target result verified-instructions reason
"
        .to_owned();
        for (kernel, programs) in &self.kernels {
            text.push('\n');
            for (Key { object, rung, program, target }, expected) in programs {
                let instructions =
                    expected.instructions.map_or("-".to_owned(), |count| count.to_string());
                let Expected { result, reason, .. } = expected;
                let line = format!(
                    "{kernel:<6} {object:<6} {rung:<9} {program:<30} {target:<40} {result:<9} {instructions:>7} {reason}"
                );
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        text
    }

    /// Takes what was found on a kernel as what is expected of it.
    pub fn set(&mut self, kernel: &str, found: &[Tried]) {
        let programs = found.iter().map(|one| (one.key(), one.expected())).collect();
        self.kernels.insert(kernel.to_owned(), programs);
    }

    /// Compares what was found on a kernel with what is expected of it.
    #[must_use]
    pub fn compare(&self, kernel: &str, found: &[Tried]) -> Differences {
        let mut differences = Differences::default();
        let Some(expected) = self.kernels.get(kernel) else {
            differences.problems.push(format!("nothing is known of kernel {kernel}"));
            return differences;
        };
        for one in found {
            let (key, is) = (one.key(), one.expected());
            let name = format!("{} {} {} at {}", key.object, key.rung, key.program, key.target);
            match expected.get(&key) {
                None => differences.problems.push(format!("{name}: new, {}", is.text())),
                Some(was) if (&was.result, &was.reason) != (&is.result, &is.reason) => {
                    let detail = one.reason.as_deref().unwrap_or_default();
                    let problem =
                        format!("{name}: {} instead of {}; {detail}", is.text(), was.text());
                    differences.problems.push(problem);
                }
                Some(was) => differences.count(&name, was.instructions, is.instructions),
            }
        }
        for key in expected.keys() {
            if !found.iter().any(|one| one.key() == *key) {
                let Key { object, rung, program, target } = key;
                differences.problems.push(format!("{object} {rung} {program} at {target}: gone"));
            }
        }
        differences
    }
}

impl Differences {
    fn count(&mut self, name: &str, was: Option<u32>, is: Option<u32>) {
        match (was, is) {
            (Some(was), Some(is)) if f64::from(is) > GROWTH * f64::from(was) => {
                self.problems.push(format!("{name}: {is} instructions instead of {was}"));
            }
            (Some(was), Some(is)) if is != was => {
                self.notes.push(format!("{name}: {is} instructions instead of {was}"));
            }
            (Some(was), None) => {
                self.problems.push(format!("{name}: no instruction count, there were {was}"));
            }
            _ => {}
        }
    }
}

/// A Markdown table with a row for each program and a column for each kernel, and the reasons
/// below it.
#[must_use]
pub fn table(kernels: &[(String, Vec<Tried>)]) -> String {
    let mut rows: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    let mut reasons: Vec<String> = Vec::new();
    for (column, (_, tried)) in kernels.iter().enumerate() {
        for one in tried {
            let row = rows.entry(one.key()).or_insert_with(|| vec![String::new(); kernels.len()]);
            if let Some(cell) = row.get_mut(column) {
                *cell = self::cell(one, &mut reasons);
            }
        }
    }
    let mut text = "| object | rung | program | attached to |".to_owned();
    for (name, _) in kernels {
        // Writing to a string cannot fail.
        let _ = write!(text, " {name} |");
    }
    text.push_str("\n|---|---|---|---|");
    text.push_str(&"---:|".repeat(kernels.len()));
    text.push('\n');
    for (Key { object, rung, program, target }, cells) in rows {
        let cells = cells.join(" | ");
        let _ = writeln!(text, "| {object} | {rung} | `{program}` | `{target}` | {cells} |");
    }
    for (index, reason) in reasons.iter().enumerate() {
        let _ = write!(text, "\n{}. {reason}", index + 1);
    }
    if !reasons.is_empty() {
        text.push('\n');
    }
    text
}

/// The number of instructions, or the result with the number of its reason.
fn cell(one: &Tried, reasons: &mut Vec<String>) -> String {
    if one.works() {
        return one.verified_instructions.map_or("yes".to_owned(), |count| count.to_string());
    }
    let reason = one.reason();
    if reason.is_empty() {
        return one.result.clone();
    }
    let index = reasons.iter().position(|known| *known == reason).unwrap_or_else(|| {
        reasons.push(reason);
        reasons.len() - 1
    });
    format!("{} ({})", one.result, index + 1)
}

/// A field of the golden file is one word.
fn word(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.replace(char::is_whitespace, "_") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(program: &str, result: &str, count: Option<u32>, reason: Option<&str>) -> Tried {
        Tried {
            object: "typed".to_owned(),
            program: program.to_owned(),
            target: "tcp_probe".to_owned(),
            rung: "tp_btf".to_owned(),
            result: result.to_owned(),
            verified_instructions: count,
            reason: reason.map(str::to_owned),
        }
    }

    fn golden(found: &[Tried]) -> Golden {
        let mut golden = Golden::default();
        golden.set("6.1", found);
        // Through its file.
        let read = Golden::parse(&golden.text()).unwrap();
        assert_eq!(read, golden);
        read
    }

    #[test]
    fn what_the_agent_prints_is_read() {
        let text = "warning: x\n[{\"object\":\"typed\",\"program\":\"a\",\"target\":\"t\",\
                    \"rung\":\"tp_btf\",\"result\":\"absent\",\"reason\":\"no such [x]\"}]\n";
        let [one] = &parse(text).unwrap()[..] else { panic!("one program") };
        assert_eq!((one.result.as_str(), one.verified_instructions), ("absent", None));
        assert!(parse("[]").is_err());
        assert!(parse("error: no BTF").is_err());
    }

    #[test]
    fn a_changed_result_or_reason_is_a_problem() {
        let absent = tried("a", "absent", None, Some("open: no tracepoint: ENOENT (2)"));
        let golden = golden(std::slice::from_ref(&absent));
        assert_eq!(golden.compare("6.1", std::slice::from_ref(&absent)), Differences::default());
        // Details of a reason may differ, its class may not.
        let other = tried("a", "absent", None, Some("open: no tracepoint: EPERM (1)\nmore"));
        assert_eq!(golden.compare("6.1", &[other]), Differences::default());
        for wrong in [
            vec![tried("a", "absent", None, Some("open: no BTF: x"))],
            vec![tried("a", "refused", None, Some("open: no tracepoint: x"))],
            vec![tried("a", "attached", Some(5), None)],
            vec![absent.clone(), tried("b", "attached", Some(5), None)],
            vec![],
        ] {
            let found = golden.compare("6.1", &wrong);
            assert_eq!(found.problems.len(), 1, "{wrong:?}: {found:?}");
        }
        assert_eq!(golden.compare("6.2", &[absent]).problems.len(), 1);
    }

    #[test]
    fn a_count_may_change_but_not_grow_by_much() {
        let golden = golden(&[tried("a", "attached", Some(1000), None)]);
        let compare = |count| golden.compare("6.1", &[tried("a", "attached", count, None)]);
        assert_eq!(compare(Some(1000)), Differences::default());
        for (count, problems, notes) in
            [(Some(500), 0, 1), (Some(1200), 0, 1), (Some(1201), 1, 0), (None, 1, 0)]
        {
            let found = compare(count);
            assert_eq!((found.problems.len(), found.notes.len()), (problems, notes), "{count:?}");
        }
    }

    #[test]
    fn the_table_has_a_column_for_each_kernel() {
        let refused = |reason| tried("a", "refused", None, Some(reason));
        let kernels = [
            (
                "5.10".to_owned(),
                vec![refused("load: no helper: 211"), tried("b", "attached", None, None)],
            ),
            ("6.1".to_owned(), vec![refused("load: no helper: 212")]),
            ("6.12".to_owned(), vec![tried("a", "attached", Some(77), None)]),
        ];
        let table = table(&kernels);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "| object | rung | program | attached to | 5.10 | 6.1 | 6.12 |");
        assert_eq!(
            lines[2],
            "| typed | tp_btf | `a` | `tcp_probe` | refused (1) | refused (1) | 77 |"
        );
        assert_eq!(lines[3], "| typed | tp_btf | `b` | `tcp_probe` | yes |  |  |");
        assert_eq!(lines[5..], ["1. load: no helper"]);
    }
}

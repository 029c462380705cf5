//! Patterns of names: exact, prefix, and `*`/`?` globs.

use crate::config::PortRange;
use dwcp_observer_ebpf::process::{COMM_LEN, CommRule};

/// A `comm`: exact, or a prefix written with a trailing `*`. Only the 15 bytes that the kernel keeps are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommPattern {
    text: String,
    prefix: bool,
}

impl CommPattern {
    /// `None` where `pattern` is empty or `*`, which would match every process.
    #[must_use]
    pub(crate) fn new(pattern: &str) -> Option<Self> {
        let (text, prefix) = match pattern.strip_suffix('*') {
            Some(text) => (text, true),
            None => (pattern, false),
        };
        if text.is_empty() || text.contains('\0') {
            return None;
        }
        Some(Self { text: cut(text).to_owned(), prefix })
    }

    /// Whether `comm` is matched.
    #[must_use]
    pub(crate) fn matches(&self, comm: &str) -> bool {
        compare(&self.text, self.prefix, comm)
    }

    /// The same test for the kernel side.
    #[must_use]
    pub(crate) fn kernel_rule(&self, process: u32, role: u32) -> CommRule {
        let mut value = [0; COMM_LEN];
        let mut mask = [0; COMM_LEN];
        value[..self.text.len()].copy_from_slice(self.text.as_bytes());
        // What follows a name's NUL is not defined: an exact match ends with the NUL.
        let compared = self.text.len() + usize::from(!self.prefix);
        mask[..compared].fill(0xff);
        CommRule { value: words(value), mask: words(mask), process, role }
    }
}

/// As [`CommPattern::matches`], for the built-in patterns.
pub(crate) fn comm_matches(pattern: &str, comm: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => compare(cut(prefix), true, comm),
        None => compare(cut(pattern), false, comm),
    }
}

fn compare(text: &str, prefix: bool, comm: &str) -> bool {
    let comm = cut(comm);
    if prefix { comm.starts_with(text) } else { comm == text }
}

/// `text` as the kernel keeps it in a `comm`: at most 15 bytes, here of whole characters.
#[must_use]
pub(crate) fn cut(text: &str) -> &str {
    let mut end = text.len().min(COMM_LEN - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn words(bytes: [u8; COMM_LEN]) -> [u64; 2] {
    let mut words = [0; 2];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut raw = [0; 8];
        raw.copy_from_slice(chunk);
        *word = u64::from_ne_bytes(raw);
    }
    words
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters (`/` too) and `?` for one.
#[must_use]
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to resume when a character does not match: behind the last `*`, one character later.
    let mut resume = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                resume = Some((p, t));
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match resume {
                Some((after_star, from)) => {
                    p = after_star;
                    t = from + 1;
                    resume = Some((after_star, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// Compiles the names that can be; the configuration was checked before.
pub(crate) fn patterns(names: &[String]) -> Vec<CommPattern> {
    names.iter().filter_map(|name| CommPattern::new(name)).collect()
}

/// Whether no pattern is given, or one matches `comm`.
pub(crate) fn any_comm(patterns: &[CommPattern], comm: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(comm))
}

/// Whether no glob is given, or one matches `cgroup`.
pub(crate) fn any_cgroup(patterns: &[String], cgroup: Option<&str>) -> bool {
    patterns.is_empty()
        || cgroup.is_some_and(|cgroup| patterns.iter().any(|pattern| glob(pattern, cgroup)))
}

/// Whether a range holds `port`.
pub(crate) fn any_port(ranges: &[PortRange], port: u16) -> bool {
    ranges.iter().any(|range| range.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The kernel side's comparison (`process::match_comm`).
    fn kernel_matches(rule: &CommRule, comm: &[u8]) -> bool {
        let mut raw = [0; COMM_LEN];
        raw[..comm.len()].copy_from_slice(comm);
        let comm = words(raw);
        (0..2).all(|i| comm[i] & rule.mask[i] == rule.value[i])
    }

    #[test]
    fn comm_patterns() {
        for (pattern, comm, expected) in [
            ("kvm", "kvm", true),
            ("kvm", "kvm-nx-lpage-re", false),
            ("kvm", "kv", false),
            ("qemu-system-*", "qemu-system-x86", true),
            ("qemu-system-*", "qemu-img", false),
            ("qemu-system-x86_64", "qemu-system-x86", true),
            ("cloud-hypervisor", "cloud-hyperviso", true),
            ("migrate-send-memory-*", "migrate-send-me", true),
        ] {
            let compiled = CommPattern::new(pattern).unwrap();
            assert_eq!(compiled.matches(comm), expected, "{pattern} {comm}");
            let rule = compiled.kernel_rule(1, 0);
            assert_eq!(
                kernel_matches(&rule, comm.as_bytes()),
                expected,
                "kernel: {pattern} {comm}"
            );
            assert_ne!(rule.mask[0], 0, "an empty mask ends the kernel's table");
        }
        assert_eq!(CommPattern::new("*"), None);
        assert_eq!(CommPattern::new(""), None);
    }

    #[test]
    fn bytes_behind_an_exact_name_do_not_matter() {
        let rule = CommPattern::new("criu").unwrap().kernel_rule(1, 0);
        assert!(kernel_matches(&rule, b"criu\0garbage"));
    }

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("/usr/bin/qemu-*", "/usr/bin/qemu-system-x86_64", true),
            ("*/qemu-*", "/opt/a/b/qemu-kvm", true),
            ("*qemu*scope", "/machine.slice/machine-qemu-1.scope", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**a", "ba", true),
            ("a*b*c", "a-b-b-d", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn kernel_and_agent_agree(pattern in "[a-c]{1,18}\\*?", comm in "[a-c]{0,15}") {
            let compiled = CommPattern::new(&pattern).unwrap();
            let rule = compiled.kernel_rule(1, 0);
            prop_assert_eq!(kernel_matches(&rule, comm.as_bytes()), compiled.matches(&comm));
            prop_assert_eq!(comm_matches(&pattern, &comm), compiled.matches(&comm));
        }

        #[test]
        fn a_text_matches_itself_and_with_stars(a in "[^*?]{0,8}", b in "[^*?]{0,8}", c in "[^*?]{0,8}") {
            let text = format!("{a}{b}{c}");
            let pattern = format!("{a}*{c}");
            prop_assert!(glob(&text, &text));
            prop_assert!(glob(&pattern, &text));
        }
    }
}

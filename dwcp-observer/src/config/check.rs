//! Checks values beyond their type.

use super::{Component, ComponentConfig, Config, MAX_RULES, UserRule};
use crate::config::{Endpoint, PostFunction, pattern::CommPattern};

/// A value that is not allowed.
pub(super) struct Mistake {
    /// As `limits.max_flows` or `rule[0].name`.
    pub(super) key: String,
    /// What is allowed, or what is wrong.
    pub(super) message: String,
    /// Whether the mistake is the value, else the whole section.
    pub(super) show_value: bool,
}

/// A whole number and its bounds, both included.
type Integer = (&'static str, fn(&Config) -> u32, u32, u32);

const INTEGERS: &[Integer] = &[
    ("limits.max_flows", |config| config.limits.max_flows, 16, 1_048_576),
    ("limits.max_threads", |config| config.limits.max_threads, 16, 1_048_576),
    ("limits.max_processes", |config| config.limits.max_processes, 4, 65_536),
    ("limits.max_finished", |config| config.limits.max_finished, 1, 65_536),
    ("limits.history_seconds", |config| config.limits.history_seconds, 10, 86_400),
    ("limits.live_series_migrations", |config| config.limits.live_series_migrations, 0, 4096),
    ("limits.live_series_streams", |config| config.limits.live_series_streams, 0, 65_536),
    ("limits.max_connections", |config| config.limits.max_connections, 1, 65_536),
    ("history.retention_days", |config| config.history.retention_days, 1, 3650),
    ("history.max_mebibytes", |config| config.history.max_mebibytes, 4, 1_048_576),
    ("report.retention_days", |config| config.report.retention_days, 1, 3650),
];

const CONFIDENCE: &str = "a number above 0, at most 0.99";
const PORTS: &str = r#"a list of ports and ranges from 1 to 65535, as ["9876", "49152-49215"]"#;
const PORT: &str = r#"a port from 1 to 65535 or a range of them, as "9876" or "49152-49215""#;
const POSITIVE: &str = "a finite number above 0";
const SHARE: &str = "a number above 0 and below 1";
const NAME: &str = "1 to 64 of a-z A-Z 0-9 _ . -";
const COMM: &str = "a process name, or a prefix that ends in *, but not * alone";
const TEXT: &str = "a text that is not empty";
const COMMS: &str = "a list of names, each whole or a prefix that ends in *, but not * alone";
const GLOBS: &str = "a list of patterns that are not empty; * and ? match any characters";
const PORT_NUMBERS: &str = "a list of ports from 1 to 65535, as [9876]";
const LABEL: &str = "a text of 1 to 64 characters, without control characters";
const LIBRARIES: &str =
    r#"a list of up to 16 libraries, as [{ path = "/usr/lib/x86_64-linux-gnu/libmlx5.so.1" }]"#;
const MAX_LIBRARIES: usize = 16;
const NODE: &str = "a text of 1 to 253 characters, without control characters";

const ALLOWED: &[(&str, &str)] = &[
    ("listen", "an IP address and a port, as \"0.0.0.0:8080\" or \"[::]:8080\""),
    ("log_level", "off, error, warn, info, debug, trace"),
    ("log_format", "text, json"),
    ("node", NODE),
    ("probes.rung", "auto, tp_btf, raw_tp, fentry, kprobe"),
    ("probes.btf_path", "the path of a file"),
    ("probes.program_stats", "off, sampled, always"),
    ("rdma.post_functions", LIBRARIES),
    ("rdma.post_functions[].path", "the path of a provider's library, from /"),
    ("identify.ports", PORTS),
    ("identify.ports[]", PORT),
    ("identify.min_confidence", CONFIDENCE),
    ("mode.datacenter_max_rtt_seconds", POSITIVE),
    ("mode.internet_min_rtt_seconds", POSITIVE),
    ("mode.datacenter_min_bits_per_second", POSITIVE),
    ("sla.latency_datacenter_seconds", POSITIVE),
    ("sla.latency_internet_seconds", POSITIVE),
    ("sla.latency_hybrid_seconds", POSITIVE),
    ("sla.throughput_bytes_per_second", POSITIVE),
    ("sla.throughput_slow_share", SHARE),
    ("sla.error_rate", SHARE),
    ("sla.availability", SHARE),
    ("history.path", "the path of a file"),
    ("report.directory", "the path of a directory"),
    ("anomaly.record", "the path of a file"),
    ("components.*.mode", "serve, scrape, off"),
    ("components.*.port", "a port from 1 to 65535"),
    ("components.*.endpoint", "an address as http://127.0.0.1:9091/metrics, http only"),
    ("components.*.version", LABEL),
    ("components.*.required", "true, false"),
    ("components.*.process", COMMS),
    ("components.*.thread", COMMS),
    ("components.*.cgroup", GLOBS),
    ("components.*.ports", PORTS),
    ("components.*.ports[]", PORT),
    ("components.*.listens", PORT_NUMBERS),
    ("components.*.listens[]", "a port from 1 to 65535"),
    ("v1.process", COMMS),
    ("v1.cgroup", GLOBS),
    ("v1.ports", PORTS),
    ("v1.ports[]", PORT),
    ("rollout.stage", LABEL),
    ("rollout.region", LABEL),
    ("rollout.control", "off, local, any"),
    ("rule[].name", NAME),
    ("rule[].comm", COMM),
    ("rule[].exe", TEXT),
    ("rule[].cgroup", TEXT),
    ("rule[].cmdline", TEXT),
    ("rule[].ports", PORTS),
    ("rule[].ports[]", PORT),
    ("rule[].confidence", CONFIDENCE),
    ("rule[].component", "amst, hde, pba, acp, ass, itp"),
];

/// What the value of `key` may be, for a reader.
pub(super) fn allowed(key: &str) -> Option<String> {
    let pattern = general(key);
    if let Some((_, _, min, max)) = INTEGERS.iter().find(|(name, ..)| *name == pattern) {
        return Some(format!("a whole number from {min} to {max}"));
    }
    ALLOWED.iter().find(|(name, _)| *name == pattern).map(|&(_, text)| text.to_owned())
}

/// `rule[3].name` as `rule[].name`, `components.hde.mode` as `components.*.mode`.
fn general(key: &str) -> String {
    let name = key.strip_prefix("components.").and_then(|rest| rest.split_once('.'));
    if let Some((_, field)) = name {
        return format!("components.*.{}", general(field));
    }
    match key.split_once('[') {
        Some((list, rest)) => match rest.split_once(']') {
            Some((_, field)) => format!("{list}[]{}", general(field)),
            None => key.to_owned(),
        },
        None => key.to_owned(),
    }
}

/// The first value that its type alone does not refuse.
pub(super) fn first_mistake(config: &Config) -> Option<Mistake> {
    let not_allowed = |key: &str| Mistake {
        key: key.to_owned(),
        message: format!("allowed: {}", allowed(key).unwrap_or_default()),
        show_value: true,
    };
    let integers = INTEGERS
        .iter()
        .find(|(_, value, min, max)| !(*min..=*max).contains(&value(config)))
        .map(|(key, ..)| *key);
    let (mode, sla) = (&config.mode, &config.sla);
    let btf_path = config.probes.btf_path.as_ref();
    let checks = [
        ("node", config.node.as_deref().is_none_or(is_node)),
        ("probes.btf_path", btf_path.is_none_or(|path| !path.as_os_str().is_empty())),
        ("rdma.post_functions", config.rdma.post_functions.len() <= MAX_LIBRARIES),
        ("identify.min_confidence", is_confidence(config.identify.min_confidence)),
        ("mode.datacenter_max_rtt_seconds", is_positive(mode.datacenter_max_rtt_seconds)),
        ("mode.internet_min_rtt_seconds", is_positive(mode.internet_min_rtt_seconds)),
        ("mode.datacenter_min_bits_per_second", is_positive(mode.datacenter_min_bits_per_second)),
        ("sla.latency_datacenter_seconds", is_positive(sla.latency_datacenter_seconds)),
        ("sla.latency_internet_seconds", is_positive(sla.latency_internet_seconds)),
        ("sla.latency_hybrid_seconds", is_positive(sla.latency_hybrid_seconds)),
        ("sla.throughput_bytes_per_second", is_positive(sla.throughput_bytes_per_second)),
        ("sla.throughput_slow_share", is_share(sla.throughput_slow_share)),
        ("sla.error_rate", is_share(sla.error_rate)),
        ("sla.availability", is_share(sla.availability)),
        ("history.path", !config.history.path.as_os_str().is_empty()),
        ("report.directory", !config.report.directory.as_os_str().is_empty()),
        ("v1.process", are_comms(&config.v1.process)),
        ("v1.cgroup", are_texts(&config.v1.cgroup)),
        ("rollout.stage", config.rollout.stage.as_deref().is_none_or(is_label)),
        ("rollout.region", config.rollout.region.as_deref().is_none_or(is_label)),
    ];
    let others = checks.into_iter().find(|(_, right)| !right).map(|(key, _)| key);
    if let Some(key) = integers.or(others) {
        return Some(not_allowed(key));
    }
    if mode.datacenter_max_rtt_seconds > mode.internet_min_rtt_seconds {
        return Some(Mistake {
            key: "mode.datacenter_max_rtt_seconds".to_owned(),
            message: format!(
                "it must not be above mode.internet_min_rtt_seconds, which is {}",
                mode.internet_min_rtt_seconds
            ),
            show_value: true,
        });
    }
    let library = |function: &PostFunction| function.path.is_absolute();
    if let Some(index) = config.rdma.post_functions.iter().position(|found| !library(found)) {
        return Some(not_allowed(&format!("rdma.post_functions[{index}].path")));
    }
    components(config, not_allowed).or_else(|| rules(config))
}

fn components(config: &Config, not_allowed: impl Fn(&str) -> Mistake) -> Option<Mistake> {
    Component::ALL.into_iter().find_map(|component| {
        let field = wrong_component_field(config.components.get(component))?;
        Some(not_allowed(&format!("components.{}.{field}", component.as_str())))
    })
}

fn wrong_component_field(component: &ComponentConfig) -> Option<&'static str> {
    let endpoint = component.endpoint.as_deref();
    [
        ("port", component.port != Some(0)),
        ("endpoint", endpoint.is_none_or(|text| Endpoint::parse(text).is_some())),
        ("version", is_label(&component.version)),
        ("process", are_comms(&component.process)),
        ("thread", are_comms(&component.thread)),
        ("cgroup", are_texts(&component.cgroup)),
        ("listens", !component.listens.contains(&0)),
    ]
    .into_iter()
    .find(|(_, right)| !right)
    .map(|(field, _)| field)
}

fn are_comms(names: &[String]) -> bool {
    names.iter().all(|name| CommPattern::new(name).is_some())
}

fn are_texts(texts: &[String]) -> bool {
    texts.iter().all(|text| !text.is_empty())
}

/// A value of a label that an operator chooses.
pub(crate) fn is_label(text: &str) -> bool {
    (1..=64).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn rules(config: &Config) -> Option<Mistake> {
    if config.rules.len() > MAX_RULES {
        return Some(Mistake {
            key: format!("rule[{MAX_RULES}]"),
            message: format!("at most {MAX_RULES} [[rule]] sections are allowed"),
            show_value: false,
        });
    }
    config.rules.iter().enumerate().find_map(|(index, rule)| {
        let mistake = |field: &str, message: String| Mistake {
            key: format!("rule[{index}].{field}"),
            message,
            show_value: true,
        };
        if let Some(field) = wrong_field(rule) {
            let allowed = allowed(&format!("rule[].{field}")).unwrap_or_default();
            return Some(mistake(field, format!("allowed: {allowed}")));
        }
        if config.rules[..index].iter().any(|earlier| earlier.name == rule.name) {
            return Some(mistake("name", "another rule has this name".to_owned()));
        }
        if rule.confidence < config.identify.min_confidence {
            let minimum = config.identify.min_confidence;
            let message = format!(
                "must not be below identify.min_confidence ({minimum}), or the rule has no effect"
            );
            return Some(mistake("confidence", message));
        }
        let has_matcher = rule.comm.is_some()
            || rule.exe.is_some()
            || rule.cgroup.is_some()
            || rule.cmdline.is_some()
            || !rule.ports.is_empty();
        (!has_matcher).then(|| Mistake {
            key: format!("rule[{index}]"),
            message: format!(
                "rule `{}` needs at least one of comm, exe, cgroup, cmdline, ports",
                rule.name
            ),
            show_value: false,
        })
    })
}

fn wrong_field(rule: &UserRule) -> Option<&'static str> {
    let is_text = |text: &Option<String>| text.as_ref().is_none_or(|text| !text.is_empty());
    [
        ("name", is_name(&rule.name)),
        ("comm", rule.comm.as_deref().is_none_or(|comm| CommPattern::new(comm).is_some())),
        ("exe", is_text(&rule.exe)),
        ("cgroup", is_text(&rule.cgroup)),
        ("cmdline", is_text(&rule.cmdline)),
        ("confidence", is_confidence(rule.confidence)),
    ]
    .into_iter()
    .find(|(_, right)| !right)
    .map(|(field, _)| field)
}

fn is_confidence(value: f64) -> bool {
    value > 0.0 && value <= 0.99
}

fn is_positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

fn is_share(value: f64) -> bool {
    value > 0.0 && value < 1.0
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn is_node(node: &str) -> bool {
    (1..=253).contains(&node.chars().count()) && !node.chars().any(char::is_control)
}

/// All keys, for the test of the example file.
#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    let integers = INTEGERS.iter().map(|&(key, ..)| key);
    integers.chain(ALLOWED.iter().map(|&(key, _)| key))
}

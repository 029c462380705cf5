//! The alert rules parse, are tested one by one, keep the contract's names, read metrics that exist, and have playbooks.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper that fails fails its test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dwcp_observer_lab::alerts::contract::CONTRACT;
use dwcp_observer_lab::alerts::playbook::{SECTIONS, header, with_header};
use dwcp_observer_lab::alerts::rules::{
    Rule, TestFile, TestGroup, alerts, directory, read, yaml_files,
};
use dwcp_observer_lab::temp::TempDir;

/// Whether it succeeded, and what it printed.
fn run(program: &str, arguments: &[&str], files: &[PathBuf]) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .args(files)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}: run `cargo xtask setup`"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn name(rule: &Rule) -> &str {
    rule.alert.as_deref().unwrap()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn promtool_and_amtool_accept_everything() {
    let directory = directory();
    let rules = yaml_files(&directory.join("rules")).unwrap();
    let tests = yaml_files(&directory.join("tests")).unwrap();
    let prometheus = [directory.join("prometheus.yml")];
    let alertmanager = [directory.join("alertmanager.yml")];
    for (program, arguments, files) in [
        ("promtool", &["check", "rules"][..], &rules[..]),
        ("promtool", &["test", "rules"], &tests),
        ("promtool", &["check", "config"], &prometheus),
        ("amtool", &["check-config"], &alertmanager),
    ] {
        let (good, text) = run(program, arguments, files);
        assert!(good && !text.contains("FAILED"), "{program} {arguments:?}:\n{text}");
        println!("{program} {}: {} file(s) clean", arguments.join(" "), files.len());
    }
}

/// A pager that is asked by a wrong label stays silent.
#[test]
fn each_escalation_reaches_its_receivers() {
    let config = format!("--config.file={}", directory().join("alertmanager.yml").display());
    let mut seen = BTreeSet::new();
    for (_, _, rule) in alerts().unwrap() {
        let escalation = rule.label("escalation");
        let expected = match escalation {
            "immediate" => "page",
            "high" => "chat,page",
            "low" => "chat",
            other => panic!("{}: escalation {other:?}", name(&rule)),
        };
        if !seen.insert(escalation.to_owned()) {
            continue;
        }
        let labels: Vec<String> =
            rule.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut arguments = vec!["config", "routes", "test", &config];
        arguments.extend(labels.iter().map(String::as_str));
        let (good, text) = run("amtool", &arguments, &[]);
        assert!(good && text.lines().any(|line| line == expected), "{escalation}: {text}");
    }
    assert_eq!(seen.len(), 3);
}

fn test_groups() -> Vec<TestGroup> {
    let files = yaml_files(&directory().join("tests")).unwrap();
    let all = files.iter().flat_map(|path| read::<TestFile>(path).unwrap().tests);
    all.filter(|group| !group.alert_rule_test.is_empty()).collect()
}

#[test]
fn every_alert_fires_resolves_and_stays_silent_on_a_near_miss() {
    let groups = test_groups();
    let alerts = alerts().unwrap();
    let mut tested = 0;
    for (_, _, rule) in &alerts {
        let name = name(rule);
        let own: Vec<&TestGroup> = groups
            .iter()
            .filter(|group| group.alert_rule_test.iter().all(|test| test.alertname == name))
            .collect();
        let fires = |group: &TestGroup| -> Vec<bool> {
            group.alert_rule_test.iter().map(|test| !test.exp_alerts.is_empty()).collect()
        };
        let firing: Vec<&&TestGroup> =
            own.iter().filter(|group| fires(group).contains(&true)).collect();
        assert!(!firing.is_empty(), "{name}: no test in which it fires");
        for group in &firing {
            let course = fires(group);
            assert_eq!(course.first(), Some(&false), "{}: not yet silent", group.name);
            assert_eq!(course.last(), Some(&false), "{}: does not resolve", group.name);
        }
        // A near miss of other metrics would miss everything.
        let fed: BTreeSet<String> = firing.iter().flat_map(|group| group.metrics()).collect();
        assert!(
            fed.is_subset(&rule.metrics()),
            "{name}: fed with {fed:?}, reads {:?}",
            rule.metrics()
        );
        let near = own
            .iter()
            .filter(|group| !fires(group).contains(&true) && group.metrics().is_superset(&fed))
            .count();
        assert!(near > 0, "{name}: no near miss");
        tested += 1;
    }
    assert_eq!(tested, alerts.len());
    let known: BTreeSet<&str> = alerts.iter().map(|(_, _, rule)| name(rule)).collect();
    assert_eq!(known.len(), alerts.len(), "a name twice");
    let named = groups.iter().flat_map(|group| &group.alert_rule_test);
    for test in named {
        assert!(known.contains(test.alertname.as_str()), "no alert {}", test.alertname);
    }
    println!("{tested} of {} alerts tested in {} tests", alerts.len(), groups.len());
}

/// The unit tests notice a `for` that is gone: no alert may fire before its time.
#[test]
fn the_unit_tests_see_a_missing_for() {
    let copy = TempDir::new().unwrap();
    for part in ["rules", "tests"] {
        fs::create_dir(copy.join(part)).unwrap();
        for path in yaml_files(&directory().join(part)).unwrap() {
            let text = fs::read_to_string(&path).unwrap();
            let changed: String = text
                .lines()
                .map(
                    |line| if line.starts_with("        for: ") { "        for: 0s" } else { line },
                )
                .flat_map(|line| [line, "\n"])
                .collect();
            fs::write(copy.join(part).join(path.file_name().unwrap()), changed).unwrap();
        }
    }
    let (good, text) =
        run("promtool", &["test", "rules"], &yaml_files(&copy.join("tests")).unwrap());
    assert!(!good);
    for (_, _, rule) in alerts().unwrap() {
        let noticed = text.contains(&format!("alertname: {},", name(&rule)));
        assert_eq!(noticed, rule.hold != "0s", "{}: for {}\n{text}", name(&rule), rule.hold);
    }
}

fn one_line(expression: &str) -> String {
    let words: Vec<&str> = expression.split_whitespace().collect();
    words.join(" ")
}

#[test]
fn the_contract_is_kept_or_the_repair_is_said() {
    let alerts = alerts().unwrap();
    let mut repaired = 0;
    for contract in CONTRACT {
        let (path, group, rule) = alerts
            .iter()
            .find(|(_, _, rule)| name(rule) == contract.name)
            .unwrap_or_else(|| panic!("no alert {}", contract.name));
        assert_eq!([group.name.as_str(), &group.interval], contract.group, "{}", contract.name);
        let labels = ["severity", "escalation", "team"].map(|label| rule.label(label));
        assert_eq!(labels, contract.labels, "{}", contract.name);
        assert_eq!(rule.label("phase"), "6");
        assert_eq!(rule.label("sla") == "true", group.name == "dwcp_v3_sla_alerts");
        let component = group.name == "dwcp_v3_component_alerts";
        assert_eq!(!rule.label("component").is_empty(), component, "{}", contract.name);
        let playbook = format!("docs/operate/playbooks/{}.md", contract.slug);
        assert_eq!(rule.playbook(), Some(playbook.as_str()));
        let same = one_line(&rule.expr) == one_line(contract.expr) && rule.hold == contract.hold;
        let text = fs::read_to_string(path).unwrap();
        let (_, rest) = text.split_once(&format!("- alert: {}\n", contract.name)).unwrap();
        let said = rest.trim_start().starts_with("# Repaired: ");
        assert_eq!(
            said, !same,
            "{}: repaired and not said, or said and not repaired",
            contract.name
        );
        repaired += usize::from(!same);
    }
    let own: Vec<&str> = CONTRACT.iter().map(|contract| contract.name).collect();
    for (_, group, rule) in &alerts {
        let of_contract = own.contains(&name(rule));
        assert_eq!(group.name.starts_with("dwcp_v3_"), of_contract, "{}", name(rule));
        for annotation in ["summary", "description", "action", "runbook_url"] {
            assert!(rule.annotations.contains_key(annotation), "{}: {annotation}", name(rule));
        }
    }
    println!("26 alerts of the contract, {repaired} repaired; {} further ones", alerts.len() - 26);
}

/// What the rules read and the observer's own table does not have: from where it comes.
const FROM_ELSEWHERE: [(&str, &str); 11] = [
    ("dwcp_v3_acp_consensus_failures_total", "ACP's own endpoint"),
    ("dwcp_v3_acp_consensus_latency_ms", "ACP's own endpoint"),
    ("dwcp_v3_acp_consensus_latency", "ACP's own endpoint"),
    ("dwcp_v3_hde_compression_ratio", "HDE's own endpoint"),
    ("dwcp_v3_hde_compression_ratio_percent", "HDE's own endpoint"),
    ("dwcp_v3_pba_prediction_accuracy", "PBA's own endpoint"),
    ("dwcp_v3_pba_prediction_accuracy_percent", "PBA's own endpoint"),
    ("up", "Prometheus, of each scrape"),
    ("prometheus_target_scrapes_exceeded_sample_limit_total", "Prometheus itself"),
    ("prometheus_target_scrapes_sample_duplicate_timestamp_total", "Prometheus itself"),
    ("prometheus_target_interval_length_seconds", "Prometheus itself"),
];

#[test]
fn every_rule_reads_metrics_that_exist() {
    let reference = fs::read_to_string(repository().join("docs/operate/metrics.md")).unwrap();
    let known = |metric: &str| {
        reference.contains(&format!("| `{metric}` |"))
            || FROM_ELSEWHERE.iter().any(|(name, _)| *name == metric)
    };
    let mut read = BTreeSet::new();
    for (_, _, rule) in alerts().unwrap() {
        assert!(!rule.metrics().is_empty(), "{} reads nothing", name(&rule));
        for metric in rule.metrics() {
            assert!(known(&metric), "{} reads {metric}, which nothing serves", name(&rule));
            read.insert(metric);
        }
    }
    for (metric, _) in FROM_ELSEWHERE {
        assert!(read.contains(metric), "no rule reads {metric}");
    }
}

/// `UPDATE_DOCS=1` writes the generated part anew.
#[test]
fn every_alert_has_its_playbook() {
    let directory = repository().join("docs/operate/playbooks");
    let index = fs::read_to_string(directory.join("README.md")).unwrap();
    let mut expected = BTreeSet::from(["README.md".to_owned()]);
    for (_, group, rule) in alerts().unwrap() {
        let file =
            rule.playbook().unwrap().strip_prefix("docs/operate/playbooks/").unwrap().to_owned();
        let path = directory.join(&file);
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {}: {error}", name(&rule), path.display()));
        let current = with_header(&text, &header(&group, &rule));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &current).unwrap();
        } else {
            assert!(
                text == current,
                "{file}: not what the rule says: UPDATE_DOCS=1 writes it anew"
            );
        }
        assert!(current.starts_with(&format!("# {}\n", name(&rule))), "{file}: the title");
        assert!(current.contains(&rule.expr), "{file}: the expression");
        assert!(!rule.thresholds().is_empty(), "{file}: no threshold");
        let sections: Vec<&str> =
            current.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(sections, SECTIONS, "{file}");
        for section in SECTIONS {
            let (_, body) = current.split_once(&format!("## {section}\n")).unwrap();
            let body = body.split("\n## ").next().unwrap();
            assert!(body.trim().len() > 20, "{file}: nothing under {section}");
        }
        assert!(index.contains(&format!("[{}]({file})", name(&rule))), "README.md lacks {file}");
        assert!(expected.insert(file), "two alerts with one playbook");
    }
    let there: BTreeSet<String> = fs::read_dir(&directory)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(there, expected, "playbooks without an alert");
}

/// Each query of the playbooks parses, and reads metrics that exist.
#[test]
fn the_playbooks_queries_are_good() {
    const OF_PROMETHEUS: [&str; 2] =
        ["scrape_duration_seconds", "scrape_samples_post_metric_relabeling"];
    let reference = fs::read_to_string(repository().join("docs/operate/metrics.md")).unwrap();
    let mut rules = String::from("groups:\n- name: playbooks\n  rules:\n");
    let mut queries = 0;
    for entry in fs::read_dir(repository().join("docs/operate/playbooks")).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap();
        for line in text.lines().filter(|line| line.starts_with("promtool ")) {
            let query = line
                .strip_prefix("promtool query instant http://localhost:9090 '")
                .and_then(|rest| rest.strip_suffix('\''))
                .unwrap_or_else(|| panic!("{}: {line}", entry.path().display()));
            queries += 1;
            rules.push_str(&format!("  - record: query:{queries}\n    expr: |\n      {query}\n"));
            let rule: Rule = serde_json::from_value(serde_json::json!({ "expr": query })).unwrap();
            for metric in rule.metrics() {
                let series = ["_sum", "_count"].iter().find_map(|end| metric.strip_suffix(end));
                let known = [Some(metric.as_str()), series].into_iter().flatten().any(|name| {
                    reference.contains(&format!("| `{name}` |"))
                        || FROM_ELSEWHERE.iter().any(|(other, _)| *other == name)
                        || OF_PROMETHEUS.contains(&name)
                });
                assert!(known, "{}: {metric}", entry.path().display());
            }
        }
    }
    let copy = TempDir::new().unwrap();
    let path = copy.join("queries.yml");
    fs::write(&path, rules).unwrap();
    let (good, text) = run("promtool", &["check", "rules"], &[path]);
    assert!(good, "{text}");
    println!("{queries} queries");
    assert!(queries > 0);
}

/// Commands of the playbooks exist: subcommands of the observer, and programs.
#[test]
fn the_playbooks_name_commands_that_exist() {
    const PROGRAMS: [&str; 32] = [
        "amtool",
        "bpftool",
        "cat",
        "chronyc",
        "curl",
        "cut",
        "df",
        "dwcp-observer",
        "ethtool",
        "free",
        "grep",
        "ip",
        "iperf3",
        "journalctl",
        "jq",
        "ls",
        "mpstat",
        "nstat",
        "ping",
        "promtool",
        "ps",
        "qemu-img",
        "sar",
        "sort",
        "ss",
        "sudo",
        "systemctl",
        "taskset",
        "tc",
        "top",
        "tracepath",
        "virsh",
    ];
    const SUBCOMMANDS: [&str; 7] =
        ["check", "go-no-go", "join", "migrations", "rdma", "report", "run"];
    let directory = repository().join("docs/operate/playbooks");
    let mut commands = 0;
    for entry in fs::read_dir(&directory).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap();
        let file = entry.file_name().to_string_lossy().into_owned();
        let mut shell = false;
        for line in text.lines() {
            if line.starts_with("```") {
                shell = line == "```sh";
                continue;
            }
            if !shell || line.is_empty() || line.starts_with('#') {
                continue;
            }
            for part in line.split(" | ") {
                let words: Vec<&str> =
                    part.split_whitespace().filter(|word| *word != "sudo").collect();
                let program = words.first().unwrap_or_else(|| panic!("{file}: {line}"));
                assert!(PROGRAMS.contains(program), "{file}: what is {program:?} in {line:?}?");
                if *program == "dwcp-observer" {
                    let subcommand = words.get(1).copied().unwrap_or_default();
                    assert!(SUBCOMMANDS.contains(&subcommand), "{file}: {line}");
                }
                commands += 1;
            }
        }
    }
    println!("{commands} commands");
    assert!(commands > 0);
}

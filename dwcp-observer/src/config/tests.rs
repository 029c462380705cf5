use std::path::Path;

use proptest::prelude::*;

use super::*;

const EXAMPLE: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/dwcp-observer.toml"));

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/o.toml")).map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(parse(""), Ok(Config::default()));
    assert_eq!(parse("[limits]\n[identify]\n"), Ok(Config::default()));
}

#[test]
fn the_example_is_the_default() {
    assert_eq!(parse(EXAMPLE), Ok(Config::default()));
}

/// What the example has behind `# `: keys without a default, and the rule.
fn uncommented_example() -> String {
    let is_key = |rest: &str| {
        rest.starts_with("[[rule]]")
            || rest
                .split_once(" = ")
                .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    EXAMPLE
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn the_example_names_every_key() {
    let text = uncommented_example();
    let config = parse(&text).unwrap();
    assert_eq!(config.node.as_deref(), Some("hypervisor-1"));
    assert_eq!(config.probes.btf_path.as_deref(), Some(Path::new("/sys/kernel/btf/vmlinux")));
    let rule = &config.rules[0];
    assert!(rule.comm.is_some() && rule.exe.is_some() && rule.cgroup.is_some());
    assert_eq!(rule.cmdline.as_deref(), Some("--migrate"));
    assert_eq!(rule.ports, [PortRange::one(7000), PortRange { first: 7100, last: 7110 }]);
    assert_eq!(rule.component, Some(Component::Amst));
    for key in check::keys() {
        let name = key.trim_end_matches("[]").rsplit('.').next().unwrap();
        let has_key = text.lines().any(|line| line.starts_with(&format!("{name} = ")));
        assert!(has_key, "the example lacks {key}");
    }
}

#[test]
fn values_are_taken() {
    let config = parse(
        "listen = '[::]:9999'\nlog_level = 'debug'\n[limits]\nmax_flows = 16\n[probes]\nrung = 'raw_tp'\n\
         program_stats = 'off'\n[identify]\nports = [80, '90', '100-200']\n[[rule]]\nname = 'x'\nports = [1]\n",
    )
    .unwrap();
    assert_eq!(config.listen.to_string(), "[::]:9999");
    assert_eq!(config.log_level.filter(), log::LevelFilter::Debug);
    assert_eq!(config.limits, Limits { max_flows: 16, ..Limits::default() });
    assert_eq!((config.probes.rung, config.probes.program_stats), (Rung::RawTp, ProgramStats::Off));
    let ports: Vec<_> = config.identify.ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["80", "90", "100-200"]);
    assert_eq!(config.rules[0].confidence, 0.9);
}

#[test]
fn each_mistake_gives_one_line_with_place_key_and_what_is_allowed() {
    let long_rules: String =
        (0..33).map(|i| format!("[[rule]]\nname = 'r{i}'\ncomm = 'c{i}'\n")).collect();
    for (text, place, parts) in [
        // No TOML.
        ("listen = ", "1:10", &["string"][..]),
        ("a = 1\na = 2", "2:1", &["duplicate key"]),
        // Keys.
        ("lisen = 'x'", "1:1", &["unknown key `lisen`", "`listen`", "`limits`"]),
        ("[limits]\n\nmax_flow = 3", "3:1", &["unknown key `limits.max_flow`", "`max_flows`"]),
        ("[limit]\nx = 1", "1:2", &["unknown key `limit`", "`limits`"]),
        ("[[rule]]\nname = 'a'\ncom = 'x'", "3:1", &["unknown key `rule[0].com`", "`comm`"]),
        ("[[rule]]\ncomm = 'x'", "1:1", &["missing key `name`"]),
        // Types.
        (
            "[limits]\nmax_flows = 'many'",
            "2:13",
            &["`limits.max_flows`", "\"many\"", "16 to 1048576"],
        ),
        ("[limits]\nmax_flows = -1", "2:13", &["`limits.max_flows`", "-1", "16 to 1048576"]),
        ("[limits]\nmax_flows = 1.5", "2:13", &["`limits.max_flows`", "1.5", "16 to 1048576"]),
        ("limits = 3", "1:10", &["`limits`", "3"]),
        ("[[rule]]\nname = 'a'\nports = 'x'", "3:9", &["`rule[0].ports`", "49152-49215"]),
        ("listen = 8080", "1:10", &["`listen`", "8080", "0.0.0.0:8080"]),
        ("log_level = true", "1:13", &["`log_level`", "off, error, warn"]),
        // Ranges.
        ("[limits]\nmax_flows = 15", "2:13", &["`limits.max_flows` is 15", "16 to 1048576"]),
        ("[limits]\nmax_flows = 1_048_577", "2:13", &["is 1_048_577", "16 to 1048576"]),
        ("[limits]\nmax_connections = 0", "2:19", &["`limits.max_connections` is 0", "1 to 65536"]),
        ("[identify]\nmin_confidence = 0", "2:18", &["`identify.min_confidence`", "above 0"]),
        (
            "[identify]\nmin_confidence = nan",
            "2:18",
            &["`identify.min_confidence` is nan", "above 0"],
        ),
        ("[mode]\ninternet_min_rtt_seconds = inf", "2:28", &["is inf", "finite"]),
        (
            "[mode]\ndatacenter_max_rtt_seconds = 0.06",
            "2:30",
            &["is 0.06", "internet_min_rtt_seconds", "0.05"],
        ),
        // Enumerations and texts.
        (
            "log_level = 'loud'",
            "1:13",
            &["`log_level`", "`loud`", "off, error, warn, info, debug, trace"],
        ),
        (
            "[probes]\nrung = 'tracepoint'",
            "2:8",
            &["`probes.rung`", "`tracepoint`", "auto, tp_btf, raw_tp, fentry, kprobe"],
        ),
        ("[probes]\nbtf_path = ''", "2:12", &["`probes.btf_path`", "path"]),
        (
            "[rdma]\npost_functions = [{ path = 'libx.so' }]",
            "2:28",
            &["`rdma.post_functions[0].path`", "from /"],
        ),
        ("listen = 'localhost'", "1:10", &["`listen`", "0.0.0.0:8080"]),
        ("node = ''", "1:8", &["`node`", "1 to 253"]),
        // Ports.
        (
            "[identify]\nports = ['9876', '0']",
            "2:18",
            &["`identify.ports[1]`", "\"0\"", "1 to 65535"],
        ),
        ("[identify]\nports = ['9-1']", "2:10", &["`identify.ports[0]`", "\"9-1\"", "1 to 65535"]),
        ("[identify]\nports = [70000]", "2:10", &["`identify.ports[0]`", "70000", "1 to 65535"]),
        // Rules.
        (
            "[[rule]]\nname = 'a'",
            "1:1",
            &["rule `a`", "at least one of comm, exe, cgroup, cmdline, ports"],
        ),
        ("[[rule]]\nname = 'a b'\ncomm = 'x'", "2:8", &["`rule[0].name`", "a-z"]),
        ("[[rule]]\nname = 'a'\ncomm = '*'", "3:8", &["`rule[0].comm`", "not * alone"]),
        ("[[rule]]\nname = 'a'\nexe = ''", "3:7", &["`rule[0].exe`", "not empty"]),
        (
            "[[rule]]\nname = 'a'\ncomm = 'x'\nconfidence = 1.5",
            "4:14",
            &["`rule[0].confidence` is 1.5", "0.99"],
        ),
        ("[[rule]]\nname = 'a'\ncomm = 'x'\nconfidence = 0.3", "4:14", &["min_confidence (0.5)"]),
        (
            "[[rule]]\nname = 'a'\ncomm = 'x'\ncomponent = 'foo'",
            "4:13",
            &["`rule[0].component`", "amst, hde"],
        ),
        (
            "[[rule]]\nname = 'a'\ncomm = 'x'\n[[rule]]\nname = 'a'\ncomm = 'y'",
            "5:8",
            &["`rule[1].name`", "another rule"],
        ),
        // Components.
        ("[components.abc]\nmode = 'off'", "1:13", &["unknown key `components.abc`", "`amst`"]),
        (
            "[components.hde]\nmode = 'push'",
            "2:8",
            &["`components.hde.mode`", "serve, scrape, off"],
        ),
        (
            "[components.hde]\nendpoint = 'https://x/'",
            "2:12",
            &["`components.hde.endpoint`", "http only"],
        ),
        ("[components.hde]\nport = 0", "2:8", &["`components.hde.port` is 0", "1 to 65535"]),
        ("[components.hde]\nport = 70000", "2:8", &["`components.hde.port`", "1 to 65535"]),
        ("[components.acp]\nprocess = ['*']", "2:11", &["`components.acp.process`", "not * alone"]),
        ("[components.acp]\nports = ['0']", "2:10", &["`components.acp.ports[0]`", "1 to 65535"]),
        ("[v1]\ncgroup = ['']", "2:10", &["`v1.cgroup`", "not empty"]),
        ("[rollout]\nstage = ''", "2:9", &["`rollout.stage`", "1 to 64"]),
        ("[rollout]\ncontrol = 'all'", "2:11", &["`rollout.control`", "off, local, any"]),
        (&long_rules, "97:1", &["at most 32"]),
    ] {
        let message = parse(text).expect_err(text);
        let rest = message.strip_prefix(&format!("/etc/o.toml:{place}: "));
        assert!(rest.is_some(), "{text}\nplace {place} expected: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        for part in parts {
            assert!(message.contains(part), "{text}\n`{part}` expected: {message}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/o.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/o.toml: cannot be read: "), "{error}");
}

#[test]
fn columns_count_characters() {
    let error = parse("node = 'ü' \u{1}").unwrap_err();
    assert!(error.starts_with("/etc/o.toml:1:12: "), "{error}");
}

#[test]
fn the_host_has_a_name() {
    assert_ne!(Config::default().node_name(), "");
    assert_eq!(parse("node = 'n'").unwrap().node_name(), "n");
}

proptest! {
    #[test]
    fn parse_never_panics(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn damaged_examples_never_panic(from in 0..6000usize, length in 0..40usize, put in "[\\PC\n\"'\\[\\]=]{0,4}") {
        let mut text: Vec<char> = uncommented_example().chars().collect();
        let from = from.min(text.len());
        let to = (from + length).min(text.len());
        text.splice(from..to, put.chars());
        let text: String = text.into_iter().collect();
        if let Err(message) = parse(&text) {
            prop_assert_eq!(message.lines().count(), 1, "{}", message);
        }
    }
}

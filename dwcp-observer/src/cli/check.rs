//! `dwcp-observer check`: what this host can measure.

use std::{fs, path::Path, process::ExitCode};

use serde::Serialize;

use super::{Settings, load_options, rdma_options};
use crate::{
    config::Config,
    identify::rules::RuleSet,
    keeper::{
        Kernel, LoadError,
        load::KERNEL_BTF,
        survey::{Outcome, survey},
    },
    kernel::privileged,
    model::status::ProbeStatus,
    rdma::{self, Rdma, Status},
};

const AFTER: &str = "\
Examples:
  sudo dwcp-observer check                      each probe and the method (rung) that attaches it
  sudo dwcp-observer check --json | jq .probes
  sudo dwcp-observer check --programs           each program with every attach method, and its size for the verifier
  dwcp-observer check --config FILE             without root: check only the configuration file

Exit codes: 0 this host can measure migrations (some detail may be missing); 1 it cannot; 2 wrong arguments or configuration.";

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    settings: Settings,
    /// Load every program with every attach method (rung), and show the result of each
    #[arg(long)]
    programs: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether migrations can be measured.
    can_measure: bool,
    kernel: String,
    architecture: &'static str,
    /// The configuration file, if one was given; it is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<String>,
    facts: Vec<Fact>,
    /// Each probe and the rung that attaches it; empty if nothing could be loaded.
    probes: Vec<ProbeStatus>,
}

/// One check.
#[derive(Debug, Serialize)]
struct Fact {
    name: &'static str,
    ok: bool,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let config = args.settings.resolve()?;
    if args.programs {
        return programs(&config, args.json);
    }
    let report = examine(&config, args.settings.config.as_deref());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    let only_config = args.settings.config.is_some() && !privileged();
    Ok(if report.can_measure || only_config { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every program, one line each.
fn programs(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let mut tried = survey(&load_options(config))?;
    tried.extend(rdma::survey(&rdma_options(config))?);
    if json {
        println!("{}", serde_json::to_string_pretty(&tried)?);
    } else {
        println!(
            "{:7} {:16} {:26} {:9} verified instructions",
            "object", "program", "attached to", "rung"
        );
        for one in &tried {
            let outcome = match (one.result, one.verified_instructions) {
                (Outcome::Attached | Outcome::Loaded, Some(count)) => count.to_string(),
                (Outcome::Attached | Outcome::Loaded, None) => "yes".to_owned(),
                (Outcome::Absent, _) => "this kernel does not have it".to_owned(),
                (Outcome::ModuleNotLoaded, _) => "its module is not loaded".to_owned(),
                (Outcome::Refused, _) => {
                    format!("REFUSED: {}", one.reason.as_deref().unwrap_or_default())
                }
            };
            println!(
                "{:7} {:16} {:26} {:9} {outcome}",
                one.object, one.program, one.target, one.rung
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn examine(config: &Config, file: Option<&Path>) -> Report {
    let mut facts = vec![btf(config), capabilities(), port(config)];
    if privileged() {
        facts.push(rdma_fact(config));
    }
    let rules = RuleSet::new(config);
    let loaded = Kernel::load(&load_options(config), rules.comm_rules(), &rules.port_bitmap());
    let probes = match &loaded {
        Ok(kernel) => kernel.probes().to_vec(),
        Err(error) => {
            let known = matches!(error, LoadError::Permission | LoadError::Btf(_));
            // Its own message has the advice.
            let not_built = matches!(error, LoadError::NotBuilt(_));
            if !known {
                facts.push(Fact {
                    name: "eBPF programs",
                    ok: false,
                    found: error.to_string(),
                    advice: (!not_built).then(|| {
                        "report this as a bug, with this output and that of `uname -r`".to_owned()
                    }),
                });
            }
            Vec::new()
        }
    };
    Report {
        can_measure: loaded.is_ok(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
        architecture: std::env::consts::ARCH,
        config: file.map(|path| path.display().to_string()),
        facts,
        probes,
    }
}

fn btf(config: &Config) -> Fact {
    let path = config.probes.btf_path.as_deref().unwrap_or_else(|| Path::new(KERNEL_BTF));
    let read = crate::kernel::btf::Layout::from_file(path);
    Fact {
        name: "BTF",
        ok: read.is_ok(),
        found: match &read {
            Ok(_) => path.display().to_string(),
            Err(error) => error.to_string(),
        },
        advice: read.is_err().then(|| "use a kernel with CONFIG_DEBUG_INFO_BTF=y, or pass the BTF of exactly this kernel with --btf-path FILE".to_owned()),
    }
}

fn capabilities() -> Fact {
    let ok = privileged();
    Fact {
        name: "capabilities",
        ok,
        found: if ok {
            "sufficient to load tracing programs".to_owned()
        } else {
            "CAP_SYS_ADMIN is missing, and so is CAP_BPF or CAP_PERFMON".to_owned()
        },
        advice: (!ok).then(|| "run as root: sudo dwcp-observer check".to_owned()),
    }
}

fn rdma_fact(config: &Config) -> Fact {
    let status = Rdma::new(rdma_options(config)).status();
    let failed = matches!(status, Status::Failed(_));
    Fact {
        name: "RDMA",
        ok: !failed,
        found: status.to_string(),
        advice: failed.then(|| "this does not affect migrations over TCP".to_owned()),
    }
}

fn port(config: &Config) -> Fact {
    let bound = crate::http::bind(config.listen);
    Fact {
        name: "HTTP port",
        ok: bound.is_ok(),
        found: match &bound {
            Ok(_) => format!("{} is free", config.listen),
            Err(error) => error.to_string(),
        },
        advice: bound.is_err().then(|| "choose another port with --listen or `listen`, or stop the observer that already uses this one".to_owned()),
    }
}

fn print(report: &Report) {
    println!("kernel {} on {}", report.kernel, report.architecture);
    if let Some(file) = &report.config {
        println!("configuration {file} is valid");
    }
    for fact in &report.facts {
        println!("{:4} {}: {}", if fact.ok { "ok" } else { "FAIL" }, fact.name, fact.found);
        if let Some(advice) = &fact.advice {
            println!("     -> {advice}");
        }
    }
    if !report.probes.is_empty() {
        println!("\n{:22} {:8} {:9} purpose", "probe", "rung", "required");
    }
    for probe in &report.probes {
        println!(
            "{:22} {:8} {:9} {}",
            probe.probe,
            probe.rung.unwrap_or("none"),
            if probe.required { "yes" } else { "no" },
            probe.purpose
        );
        if probe.rung.is_some() && !probe.attached {
            println!("{:22} -> attached only while a migration runs", "");
        }
        if let Some(reason) = &probe.reason {
            println!("{:22} -> {reason}", "");
        }
    }
    println!(
        "\nmigrations {} be measured on this host",
        if report.can_measure { "can" } else { "CANNOT" }
    );
}

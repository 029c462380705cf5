//! `cargo xtask`: everything from a fresh clone to a tested agent.

mod alerts;
mod apt;
mod bench;
mod blackout;
mod build;
mod build_ebpf;
mod checks;
mod dashboards;
mod demo;
mod demo_table;
mod docs;
mod faults;
mod layers;
mod libvirt;
mod nab;
mod score_migrations;
mod setup;
mod shell;
mod test;
mod toolchain;
mod vm_test;
mod zoo;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, builds, shows and tests dwcp-observer")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing to build and test (Debian packages, bpf-linker, Prometheus' programs)
    Setup(setup::Args),
    /// Build the eBPF programs into target/ebpf/
    BuildEbpf,
    /// Build the eBPF programs and the agent: target/release/dwcp-observer
    Build,
    /// Build, then run the agent as root; arguments after `--` go to it
    Run(build::RunArgs),
    /// Migrate a real VM on this host and print its record beside QEMU's own figures
    Demo(demo::Args),
    /// Migrate real VMs in twenty ways; each blackout beside the guest's own clock
    Blackout(blackout::Args),
    /// Migrate with real libvirt between two hosts in namespaces; each record beside what libvirt and the guest's clock say
    Libvirt(libvirt::Args),
    /// Write the documents that are generated from the code
    Docs,
    /// Write Grafana's dashboards, or check what they show (--check)
    Dashboards(dashboards::Args),
    /// Measure what the agent costs; prints a table and writes docs/internals/overhead.md
    Bench(bench::Args),
    /// Inject faults into real migrations and print what the agent says of each
    Faults(faults::Args),
    /// Score the anomaly detector on a corpus of the Numenta Anomaly Benchmark
    Nab(nab::Args),
    /// Score the anomaly signals on recorded migrations whose faults are known
    ScoreMigrations(score_migrations::Args),
    /// Inject faults into real migrations behind a real Prometheus and Alertmanager; print the alerts that arrive
    Alerts(alerts::Args),
    /// Traffic of `bench`, which starts it
    #[command(hide = true)]
    PingPong(bench::PingPongArgs),
    /// Boot Debian's kernels in QEMU and run the project's own tests there
    VmTest(vm_test::Args),
    /// Migrate real VMs between all versions of QEMU, in all ways; each record against the truth
    Zoo(zoo::Args),
    /// Check that each room of the agent imports from lower floors only
    Layers(layers::Args),
    /// Run all tests and print one closing line
    Test(test::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup(args) => setup::run(&args),
        Command::BuildEbpf => build_ebpf::run().map(|_| ExitCode::SUCCESS),
        Command::Build => build::run().map(|_| ExitCode::SUCCESS),
        Command::Run(args) => build::run_agent(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Blackout(args) => blackout::run(&args),
        Command::Libvirt(args) => libvirt::run(&args),
        Command::Docs => docs::run().map(|()| ExitCode::SUCCESS),
        Command::Dashboards(args) => dashboards::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Faults(args) => faults::run(&args),
        Command::Nab(args) => nab::run(&args),
        Command::ScoreMigrations(args) => score_migrations::run(&args),
        Command::Alerts(args) => alerts::run(&args),
        Command::PingPong(args) => bench::ping_pong(&args),
        Command::VmTest(args) => vm_test::run(&args),
        Command::Zoo(args) => zoo::run(&args),
        Command::Layers(args) => layers::run(&args),
        Command::Test(args) => test::run(&args),
    }
}

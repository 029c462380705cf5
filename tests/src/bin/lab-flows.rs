//! Makes TCP traffic whose byte counts are known, for tests and benchmarks. Prints JSON lines.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand};
use dwcp_observer_lab::flows;

#[derive(Parser)]
#[command(about = "TCP traffic with known byte counts")]
struct Cli {
    /// Name of the process and its threads (15 bytes); the receiving process gets it too
    #[arg(long)]
    comm: Option<String>,
    /// Name of the threads that move data, in both processes
    #[arg(long)]
    thread_comm: Option<String>,
    /// The receiving process of `exchange` takes data by splice(2) alone
    #[arg(long)]
    splice: bool,
    #[command(subcommand)]
    command: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Many flows of known sizes, each ended in a known way; one report a line
    Exchange {
        /// How many flows
        #[arg(long, default_value_t = 1000)]
        flows: usize,
        /// Largest flow, bytes
        #[arg(long, default_value_t = 50_000_000)]
        max_bytes: u64,
        /// The same seed gives the same flows
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many at once
        #[arg(long, default_value_t = 8)]
        concurrency: usize,
        /// Where the receiver listens; 0 for any port
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// Connections that stay open until a line comes on stdin
    Steady {
        /// How many
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        connections: u32,
        /// Bytes over each one at the start
        #[arg(long, default_value_t = 1)]
        first_bytes: u64,
        /// Bytes per second, all together
        #[arg(long, default_value_t = 0)]
        rate: u64,
        /// Over IPv6
        #[arg(long)]
        ipv6: bool,
        /// Where the receiver listens; 0 for any port
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// A web server, until stdin ends
    WebServe {
        /// Port; 0 for any
        #[arg(long)]
        port: u16,
        /// Size of its file, bytes
        #[arg(long, default_value_t = 100_000_000)]
        bytes: u64,
    },
    /// Downloads from a web server
    WebGet {
        /// Address and port
        #[arg(long)]
        server: SocketAddr,
        /// How many times
        #[arg(long, default_value_t = 1)]
        downloads: u32,
    },
    /// The receiving process of `exchange`, which starts it
    #[command(hide = true)]
    Receive {
        #[arg(long)]
        port: u16,
    },
    /// The receiving process of `steady`, which starts it
    #[command(hide = true)]
    Drain {
        #[arg(long)]
        port: u16,
    },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let Some(comm) = &cli.comm {
        flows::set_comm(comm)?;
    }
    match cli.thread_comm.clone() {
        // Threads inherit the name of the one that starts them.
        Some(name) => std::thread::spawn(move || {
            flows::set_comm(&name)?;
            run(&cli)
        })
        .join()
        .map_err(|_| anyhow!("panicked"))?,
        None => run(&cli),
    }
}

fn run(cli: &Cli) -> Result<()> {
    match cli.command {
        Mode::Exchange { flows: count, max_bytes, seed, concurrency, port } => {
            let plans = flows::plans(seed, count, max_bytes);
            let mut receiver = receiver(cli, "receive", port)?;
            for report in flows::exchange(&plans, concurrency, &mut receiver)? {
                println!("{}", serde_json::to_string(&report)?);
            }
            Ok(())
        }
        Mode::Steady { connections, first_bytes, rate, ipv6, port } => {
            let plan = flows::SteadyPlan {
                connections: usize::try_from(connections)?,
                first_bytes,
                rate,
                ipv6,
            };
            let mut receiver = receiver(cli, "drain", port)?;
            let report = flows::steady(&plan, &mut receiver)?;
            println!("{}", serde_json::to_string(&report)?);
            Ok(())
        }
        Mode::WebServe { port, bytes } => flows::web_serve(port, bytes),
        Mode::WebGet { server, downloads } => {
            println!("{}", serde_json::to_string(&flows::web_get(server, downloads)?)?);
            Ok(())
        }
        Mode::Receive { port } => flows::receive(port, cli.splice),
        Mode::Drain { port } => flows::drain(port),
    }
}

fn receiver(cli: &Cli, mode: &str, port: u16) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    for (flag, name) in [("--comm", &cli.comm), ("--thread-comm", &cli.thread_comm)] {
        if let Some(name) = name {
            command.args([flag, name]);
        }
    }
    command.args(cli.splice.then_some("--splice"));
    command.args([mode, "--port", &port.to_string()]);
    Ok(command)
}

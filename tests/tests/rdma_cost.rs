//! What it costs to watch RDMA: `ib_write_bw` with the observer and without, in turns, and the kernel's own figures of the programs
//! that run at each post and each completion. Prints, and asserts nothing of times: under emulation they are good for ratios only.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::rdma::{ADDRESS, Driver, SoftDevice, provider, server_and_client};
use dwcp_observer_lab::temp::TempDir;

const LIMIT: Duration = Duration::from_secs(120);
/// The kernel takes the observer's probes away one after the other and waits for all CPUs with each.
const STOP_LIMIT: Duration = Duration::from_secs(240);
const PAIRS: usize = 9;
const MESSAGES: u32 = 2000;
/// Small messages, for figures per message.
const SMALL: u32 = 64;

/// MB/s that `ib_write_bw` gives for messages of so many bytes, and the seconds from its start to its end.
fn write_bw(device: &SoftDevice, bytes: u32) -> (f64, f64) {
    let [bytes, messages] = [bytes, MESSAGES].map(|number| number.to_string());
    // A completion for each message, which it asks for only of large ones by itself.
    // Left to itself it posts by `ibv_wr_start`, which the probe on `post_send` does not see.
    let old = "--use_old_post_send";
    let server = ["-d", device.name(), "-s", &bytes, "-n", &messages, "-Q", "1", old];
    let client: Vec<&str> = [&server[..], &[ADDRESS]].concat();
    let begun = Instant::now();
    let text = server_and_client("ib_write_bw", &server, &client, LIMIT).unwrap();
    let line = text.lines().find(|line| line.trim_start().starts_with(&bytes)).unwrap();
    let rate = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    (rate, begun.elapsed().as_secs_f64())
}

/// `probes`: whether the provider's post function is probed.
fn observer(program_stats: &str, probes: bool) -> Observer {
    let directory = TempDir::new().unwrap();
    let path = directory.join("config.toml");
    let mut config = format!("[probes]\nprogram_stats = \"{program_stats}\"\n");
    if probes {
        let library = provider().unwrap();
        write!(config, "[rdma]\npost_functions = [{{ path = {library:?} }}]\n").unwrap();
    }
    std::fs::write(&path, config).unwrap();
    Observer::start(&binary().unwrap(), &["--config", path.to_str().unwrap()]).unwrap()
}

fn stop(observer: Observer) -> Duration {
    let stopped = observer.stop_within(STOP_LIMIT).unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    stopped.took
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[test]
#[ignore = "needs RDMA and a quiet machine: cargo xtask vm-test --test rdma-cost"]
fn with_the_observer_and_without() {
    let device = SoftDevice::new(Driver::Rxe, "cost").unwrap();
    for (bytes, probes) in [(65_536, false), (SMALL, false), (65_536, true), (SMALL, true)] {
        let mut ratios = Vec::new();
        let mut rates = Vec::new();
        let mut stops = Vec::new();
        for pair in 0..PAIRS {
            // What the kernel's timing costs is no part of it. The probe is compared with the observer that lacks it.
            let without = || {
                let observer = probes.then(|| observer("off", false));
                let rate = write_bw(&device, bytes).0;
                observer.map(stop);
                rate
            };
            // In turns, so that what the machine does besides falls on both.
            let off_before = pair.is_multiple_of(2).then(without);
            let observer = observer("off", probes);
            let on = write_bw(&device, bytes).0;
            stops.push(stop(observer).as_secs_f64());
            let off = off_before.unwrap_or_else(without);
            ratios.push(on / off);
            rates.push((off, on));
        }
        let what = if probes { "the probe on post_send" } else { "the observer" };
        println!(
            "cost: ib_write_bw -s {bytes} -n {MESSAGES}: MB/s without and with {what}: {rates:?}"
        );
        println!(
            "cost: {bytes} B, {what}: with / without: median {:.3} of {PAIRS}, {:.3} to {:.3}; stopping took {:.1} s (median)",
            median(&ratios),
            ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratios.iter().copied().fold(0.0, f64::max),
            median(&stops),
        );
    }
}

#[test]
#[ignore = "needs RDMA and a quiet machine: cargo xtask vm-test --test rdma-cost"]
fn the_kernels_figures_of_each_program() {
    let device = SoftDevice::new(Driver::Rxe, "stats").unwrap();
    let observer = observer("always", true);
    for bytes in [65_536, SMALL] {
        let before = observer.metrics().unwrap();
        let (_, seconds) = write_bw(&device, bytes);
        observer.wait_cycles().unwrap();
        let after = observer.metrics().unwrap();
        let grown = |family: &str, program: &str| {
            let labels = [("program", program)];
            after.sum(family, &labels).unwrap() - before.sum(family, &labels).unwrap()
        };
        for program in ["rdma_post", "rdma_rxe_cqe", "rdma_post_send"] {
            let runs = grown("dwcp_observer_program_runs_total", program);
            let time = grown("dwcp_observer_program_run_seconds_total", program);
            assert!(runs >= f64::from(MESSAGES), "{program} ran {runs} times");
            println!(
                "cost: {bytes} B, {program}: {runs} runs, {:.0} ns each, {:.3} % of the {seconds:.2} s that it ran",
                1e9 * time / runs,
                100.0 * time / seconds,
            );
        }
    }
    stop(observer);
}

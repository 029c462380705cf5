//! The lab's faults do what they say, and are undone.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use dwcp_observer_lab::faults::{CpuQuota, Injection, Loss, Shaper, Stopped};
use dwcp_observer_lab::netns::Wire;
use dwcp_observer_lab::process::ChildGuard;
use dwcp_observer_lab::qemu::Role;

/// Sends this many bytes from one end to the other; how long that takes.
fn transfer(wire: &Wire, bytes: usize) -> Duration {
    let address = SocketAddr::new(Wire::address(Role::Destination), 0);
    let listener = wire.end(Role::Destination).within(|| Ok(TcpListener::bind(address)?)).unwrap();
    let address = listener.local_addr().unwrap();
    let receiver = std::thread::spawn(move || {
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received.len()
    });
    let mut sender = wire.end(Role::Source).within(|| Ok(TcpStream::connect(address)?)).unwrap();
    let start = Instant::now();
    sender.write_all(&vec![7; bytes]).unwrap();
    drop(sender);
    assert_eq!(receiver.join().unwrap(), bytes);
    start.elapsed()
}

#[test]
fn a_wire_joins_its_ends_and_nothing_else() {
    let wire = Wire::new().unwrap();
    transfer(&wire, 1000);
    let address = SocketAddr::new(Wire::address(Role::Destination), 49152);
    let limit = Duration::from_millis(200);
    assert!(TcpStream::connect_timeout(&address, limit).is_err(), "from outside");
    let other = Wire::new().unwrap();
    transfer(&other, 1000);
}

#[test]
fn a_shaped_wire_is_as_slow_as_it_says_and_fast_again_without() {
    const BYTES: usize = 6_000_000;
    const RATE: u64 = 3_000_000;
    let wire = Wire::new().unwrap();
    let shaper = Shaper::new(&wire, 60_000_000).unwrap();
    transfer(&wire, BYTES);
    shaper.set(RATE).unwrap();
    let slow = transfer(&wire, BYTES);
    // The bucket is full at the beginning.
    let least = (BYTES as u64 - (128 << 10)) as f64 / RATE as f64;
    assert!(slow.as_secs_f64() >= least, "{slow:?}");
    drop(shaper);
    let fast = transfer(&wire, BYTES);
    assert!(fast < slow, "{fast:?} {slow:?}");
    println!("{BYTES} B at {RATE} B/s: {slow:?}; unshaped {fast:?}");
}

#[test]
fn lost_packets_are_sent_again_and_a_removed_loss_loses_nothing() {
    let wire = Wire::new().unwrap();
    let loss = Loss::new(&wire, 20).unwrap();
    assert!(!loss.has_effect().unwrap());
    transfer(&wire, 8_000_000);
    let dropped = loss.dropped().unwrap();
    assert!(loss.has_effect().unwrap() && dropped > 0);
    drop(loss);
    let rules = wire.end(Role::Destination).run("nft", &["list ruleset"]).unwrap();
    assert_eq!(rules.trim(), "");
    let cut = Loss::new(&wire, 100).unwrap();
    let address = SocketAddr::new(Wire::address(Role::Destination), 49152);
    let limit = Duration::from_millis(200);
    let connected =
        wire.end(Role::Source).within(|| Ok(TcpStream::connect_timeout(&address, limit)));
    assert_eq!(connected.unwrap().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!(cut.has_effect().unwrap());
    println!("{dropped} packets dropped");
}

#[test]
fn a_quota_limits_its_process_and_is_lifted() {
    let busy = ChildGuard::spawn(Command::new("sh").args(["-c", "while :; do :; done"])).unwrap();
    let read =
        |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", busy.pid())).unwrap();
    let used = || read("schedstat").split(' ').next().unwrap().parse::<u64>().unwrap() as f64 / 1e9;
    let home = read("cgroup");
    let quota = CpuQuota::new(busy.pid(), 10).unwrap();
    assert_ne!(read("cgroup"), home);
    let (start, before) = (Instant::now(), used());
    std::thread::sleep(Duration::from_secs(1));
    let share = (used() - before) / start.elapsed().as_secs_f64();
    // Two slices may pass at the edges.
    assert!(share < 0.2, "{share}");
    assert!(quota.has_effect().unwrap());
    let group = format!("dwcp-lab-{}-", std::process::id());
    assert!(read("cgroup").contains(&group));
    drop(quota);
    assert_eq!(read("cgroup"), home);
    println!("{:.1} % of a CPU", 100.0 * share);
}

#[test]
fn a_stopped_process_goes_on_later() {
    let process = ChildGuard::spawn(Command::new("sleep").arg("600")).unwrap();
    let stopped = Stopped::new(process.pid()).unwrap();
    let start = Instant::now();
    while !stopped.has_effect().unwrap() {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(stopped);
    let start = Instant::now();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    while state().contains(") T ") {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(5));
    }
}

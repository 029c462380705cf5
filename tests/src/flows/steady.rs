//! Many connections that stay open: full maps, and load for benchmarks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::receive::{Listening, listen, tell};
use super::socket::{connect_from_new_port, raise_file_limit};
use crate::process::ChildGuard;

/// Connections to open and what to send over them.
#[derive(Clone, Copy, Debug)]
pub struct SteadyPlan {
    /// How many, 1 to 22,768: each has a port of its own.
    pub connections: usize,
    /// Bytes over each one at the start.
    pub first_bytes: u64,
    /// Bytes per second over all of them together from then on, in turns; 0 keeps them idle.
    pub rate: u64,
    /// Over ::1 instead of 127.0.0.1.
    pub ipv6: bool,
}

/// What was sent and received, all connections together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SteadyReport {
    /// How many there were.
    pub connections: usize,
    /// What the sender's writes returned, summed.
    pub bytes_written: u64,
    /// What the receiver's reads returned, summed.
    pub bytes_read: u64,
    /// From the last opening to the order to stop.
    pub seconds: f64,
}

/// Opens the connections, prints `{"ready":N}` on stdout, sends at the planned rate until a line or
/// the end comes on stdin, closes all, and returns the totals. `receiver` starts the receiving
/// process (`lab-flows drain`).
///
/// # Errors
/// When a connection fails or the receiver does.
pub fn steady(plan: &SteadyPlan, receiver: &mut Command) -> Result<SteadyReport> {
    raise_file_limit()?;
    let mut process = ChildGuard::spawn(receiver.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let output = process.child().stdout.take().context("no stdout")?;
    let mut lines = BufReader::new(output).lines();
    let first = lines.next().context("the receiver is gone")??;
    let listening: Listening = serde_json::from_str(&first).context("the receiver")?;
    let address = listening.address(plan.ipv6);
    let mut streams = Vec::with_capacity(plan.connections);
    for number in 0..plan.connections {
        let (stream, _) = connect_from_new_port(address)
            .with_context(|| format!("connection {number} of {}", plan.connections))?;
        streams.push(stream);
    }
    let mut bytes_written = 0;
    for stream in &mut streams {
        bytes_written += write_bytes(stream, plan.first_bytes)?;
    }
    tell(&serde_json::json!({ "ready": plan.connections }))?;
    let start = Instant::now();
    let stop = when_stdin(|input| input.read_line(&mut String::new()).map(|_| ()));
    bytes_written += send_in_turns(&mut streams, plan.rate, &stop)?;
    let seconds = start.elapsed().as_secs_f64();
    drop(streams);
    // The receiver ends when its stdin has ended and all connections are closed.
    drop(process.child().stdin.take());
    let last = lines.next().context("the receiver is gone")??;
    let bytes_read = serde_json::from_str(&last).context("the receiver's total")?;
    let status = process.wait_for(Duration::from_secs(60))?.context("the receiver does not end")?;
    ensure!(status.success(), "the receiver ended with {status}");
    Ok(SteadyReport { connections: plan.connections, bytes_written, bytes_read, seconds })
}

/// A flag that is set once `wait` has returned, with or without an error.
fn when_stdin(
    wait: impl FnOnce(&mut io::StdinLock<'_>) -> io::Result<()> + Send + 'static,
) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    std::thread::spawn(move || {
        let _ = wait(&mut io::stdin().lock());
        set.store(true, Ordering::Relaxed);
    });
    flag
}

fn write_bytes(stream: &mut TcpStream, bytes: u64) -> Result<u64> {
    io::copy(&mut io::repeat(0x5a).take(bytes), stream)?;
    Ok(bytes)
}

/// Sends pieces at `rate` until `stop`, 100 times a second.
fn send_in_turns(streams: &mut [TcpStream], rate: u64, stop: &AtomicBool) -> Result<u64> {
    const TICKS_PER_SECOND: u64 = 100;
    static BLOCK: [u8; 256 << 10] = [0x5a; 256 << 10];
    let share = rate / TICKS_PER_SECOND / (streams.len().max(1) as u64);
    let piece = share.clamp(64, BLOCK.len() as u64);
    let block = &BLOCK[..usize::try_from(piece)?];
    let start = Instant::now();
    let (mut sent, mut turn) = (0_u64, 0);
    while !stop.load(Ordering::Relaxed) {
        let due = u128::from(rate) * start.elapsed().as_micros() / 1_000_000;
        while u128::from(sent + piece) <= due && !stop.load(Ordering::Relaxed) {
            streams[turn].write_all(block)?;
            sent += piece;
            turn = (turn + 1) % streams.len();
        }
        std::thread::sleep(Duration::from_millis(1000 / TICKS_PER_SECOND));
    }
    Ok(sent)
}

/// The receiving process of [`steady`]: one thread reads all connections, so that 10,000 of them
/// cost little. Prints where it listens and, when stdin has ended and all connections are closed,
/// the number of bytes read.
///
/// # Errors
/// When it cannot listen.
pub fn drain(port: u16) -> Result<()> {
    raise_file_limit()?;
    let (listening, ipv4, ipv6) = listen(port)?;
    let poll = Epoll::new()?;
    for listener in [&ipv4, &ipv6] {
        listener.set_nonblocking(true)?;
        poll.add(listener.as_raw_fd())?;
    }
    tell(&listening)?;
    let ended = when_stdin(|input| io::copy(input, &mut io::sink()).map(|_| ()));
    tell(&drain_all(&poll, [&ipv4, &ipv6], &ended)?)
}

fn drain_all(poll: &Epoll, listeners: [&TcpListener; 2], ended: &AtomicBool) -> Result<u64> {
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let (mut open, mut total) = (0_usize, 0);
    let mut buffer = vec![0; 256 << 10];
    while open > 0 || !ended.load(Ordering::Relaxed) {
        for fd in poll.wait(Duration::from_millis(50))? {
            if let Some(listener) = listeners.iter().find(|listener| listener.as_raw_fd() == fd) {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    poll.add(stream.as_raw_fd())?;
                    let place = usize::try_from(stream.as_raw_fd())?;
                    if streams.len() <= place {
                        streams.resize_with(place + 1, || None);
                    }
                    streams[place] = Some(stream);
                    open += 1;
                }
                continue;
            }
            let Some(place) = streams.get_mut(usize::try_from(fd)?) else { continue };
            let Some(stream) = place else { continue };
            match stream.read(&mut buffer) {
                Ok(read) if read > 0 => total += read as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Closed or reset: closing the descriptor takes it out of the poll.
                Ok(_) | Err(_) => {
                    *place = None;
                    open -= 1;
                }
            }
        }
    }
    Ok(total)
}

struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> Result<Self> {
        // SAFETY: takes a flag; the result is checked before it is used.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("epoll");
        }
        // SAFETY: the descriptor is open and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn add(&self, fd: RawFd) -> Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
        let poll = self.0.as_raw_fd();
        // SAFETY: the pointer is to a whole event; both descriptors are open.
        let result = unsafe { libc::epoll_ctl(poll, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("epoll");
        }
        Ok(())
    }

    /// The descriptors that can be read.
    fn wait(&self, limit: Duration) -> Result<Vec<RawFd>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        let poll = self.0.as_raw_fd();
        let milliseconds = i32::try_from(limit.as_millis())?;
        // SAFETY: pointer and count describe `events`.
        let count = unsafe {
            libc::epoll_wait(poll, events.as_mut_ptr(), events.len() as i32, milliseconds)
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(Vec::new()),
                _ => Err(error).context("epoll"),
            };
        };
        Ok(events[..count].iter().map(|event| event.u64 as RawFd).collect())
    }
}

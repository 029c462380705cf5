//! The sending process of an exchange: it starts the receiving one and compares notes with it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use super::plan::{Close, FlowPlan};
use super::receive::{Listening, News, Order};
use super::socket::{connect_from_new_port, raise_file_limit, reset, wait_acknowledged};
use crate::process::ChildGuard;

const LIMIT: Duration = Duration::from_secs(120);

/// What became of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// What was planned.
    pub plan: FlowPlan,
    /// The sender's end.
    pub sender: SocketAddr,
    /// The receiver's end.
    pub receiver: SocketAddr,
    /// What the sender's writes returned, summed.
    pub bytes_written: u64,
    /// What the receiver's reads returned, summed.
    pub bytes_read: u64,
}

/// Makes all flows, at most `concurrency` at once, and returns a report for each, in the order of
/// the plan. `receiver` starts the receiving process (`lab-flows receive`).
///
/// # Errors
/// When a flow does not go by its plan.
pub fn exchange(
    plans: &[FlowPlan],
    concurrency: usize,
    receiver: &mut Command,
) -> Result<Vec<FlowReport>> {
    raise_file_limit()?;
    let mut process = ChildGuard::spawn(receiver.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let orders = process.child().stdin.take().context("no stdin")?;
    let output = process.child().stdout.take().context("no stdout")?;
    let mut news = BufReader::new(output);
    let mut first = String::new();
    news.read_line(&mut first)?;
    let News::Listening(listening) = serde_json::from_str(&first).context("the receiver")? else {
        bail!("the receiver does not say where it listens: {first}");
    };
    let exchange = Exchange {
        listening,
        orders: Mutex::new(orders),
        heard: Mutex::default(),
        changed: Condvar::new(),
    };
    let next = AtomicUsize::new(0);
    let mut reports = std::thread::scope(|scope| {
        let listener = scope.spawn(|| exchange.listen(&mut news, plans.len()));
        let senders: Vec<_> = (0..concurrency.clamp(1, plans.len().max(1)))
            .map(|_| {
                scope.spawn(|| {
                    let mut reports = Vec::new();
                    while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let report = exchange.send(plan);
                        reports.push(report.with_context(|| format!("flow {plan:?}"))?);
                    }
                    anyhow::Ok(reports)
                })
            })
            .collect();
        let mut all = Vec::new();
        let mut failure = None;
        for sender in senders {
            match sender.join().map_err(|_| anyhow!("a sender panicked")).flatten() {
                Ok(reports) => all.extend(reports),
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            // Ends the receiver, and with it the thread that listens to it.
            process.signal(libc::SIGKILL)?;
            return Err(error);
        }
        listener.join().map_err(|_| anyhow!("the listening thread panicked"))??;
        Ok(all)
    })?;
    // The end of its stdin ends the receiver.
    drop(exchange);
    let status = process.wait_for(LIMIT)?.context("the receiver does not end")?;
    ensure!(status.success(), "the receiver ended with {status}");
    reports.sort_by_key(|report| report.plan.index);
    Ok(reports)
}

#[derive(Clone, Copy, Default)]
struct Heard {
    read: bool,
    over: Option<(u64, bool)>,
}

struct Exchange {
    listening: Listening,
    orders: Mutex<ChildStdin>,
    heard: Mutex<HashMap<SocketAddr, Heard>>,
    changed: Condvar,
}

impl Exchange {
    fn heard(&self) -> MutexGuard<'_, HashMap<SocketAddr, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: &Order) -> Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.write_all(line.as_bytes()).context("the receiver is gone")
    }

    /// Takes the receiver's news until `flows` are over.
    fn listen(&self, news: &mut impl BufRead, flows: usize) -> Result<()> {
        let mut over = 0;
        while over < flows {
            let mut line = String::new();
            ensure!(news.read_line(&mut line)? > 0, "the receiver is gone");
            match serde_json::from_str(&line).context("news of the receiver")? {
                News::Listening(_) => bail!("the receiver started twice"),
                News::Read { from } => self.heard().entry(from).or_default().read = true,
                News::Over { from, bytes_read, reset } => {
                    self.heard().entry(from).or_default().over = Some((bytes_read, reset));
                    over += 1;
                }
                News::Broken { from, error } => bail!("at the receiver, from {from}: {error}"),
            }
            self.changed.notify_all();
        }
        Ok(())
    }

    fn wait<T>(&self, from: SocketAddr, ready: impl Fn(Heard) -> Option<T>) -> Result<T> {
        let ask = |heard: &HashMap<SocketAddr, Heard>| heard.get(&from).copied().and_then(&ready);
        let (heard, _) = self
            .changed
            .wait_timeout_while(self.heard(), LIMIT, |heard| ask(heard).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        ask(&heard).with_context(|| format!("the receiver says nothing in {LIMIT:?}"))
    }

    fn send(&self, plan: &FlowPlan) -> Result<FlowReport> {
        static BLOCK: [u8; 64 << 10] = [0x5a; 64 << 10];
        let receiver = self.listening.address(plan.ipv6);
        // Both processes know a flow by this address. One that ends with a reset leaves it at once, before the other process has said
        // what it read.
        let (mut stream, sender) = connect_from_new_port(receiver)?;
        self.order(&Order::Flow { from: sender, plan: *plan })?;
        let mut bytes_written = 0;
        while bytes_written < plan.bytes {
            let rest = usize::try_from(plan.bytes - bytes_written).unwrap_or(usize::MAX);
            bytes_written += stream.write(&BLOCK[..rest.min(BLOCK.len())])? as u64;
        }
        match plan.close {
            Close::Sender => drop(stream),
            Close::Receiver => {
                ensure!(stream.read(&mut [0])? == 0, "the receiver sent something");
                drop(stream);
            }
            Close::SenderReset | Close::SenderResetUnread => {
                self.wait(sender, |heard| heard.read.then_some(()))?;
                wait_acknowledged(&stream)?;
                reset(stream)?;
                if plan.close == Close::SenderResetUnread {
                    self.order(&Order::Acknowledged { from: sender })?;
                }
            }
            Close::ReceiverReset => {
                wait_acknowledged(&stream)?;
                self.order(&Order::Acknowledged { from: sender })?;
                match stream.read(&mut [0]) {
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                    other => bail!("a reset was to come: {other:?}"),
                }
            }
        }
        let (bytes_read, was_reset) = self.wait(sender, |heard| heard.over)?;
        let planned = !matches!(plan.close, Close::Sender | Close::Receiver);
        ensure!(was_reset == planned, "reset: planned {planned}, seen {was_reset}");
        Ok(FlowReport { plan: *plan, sender, receiver, bytes_written, bytes_read })
    }
}

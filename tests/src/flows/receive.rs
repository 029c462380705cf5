//! The receiving process of an exchange.
//!
//! The sender tells it on stdin which connections come and how they end; it answers on stdout. Both
//! speak JSON lines.

use std::collections::HashMap;
use std::io::{BufRead, ErrorKind, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::pipe::Source;
use super::plan::{Close, FlowPlan};
use super::socket::{lengthen_backlog, reset};

/// An order from the sender, by the address of its end.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// This connection comes or has come.
    Flow { from: SocketAddr, plan: FlowPlan },
    /// All its bytes are acknowledged at the sender, and where it resets before they are read, it has.
    Acknowledged { from: SocketAddr },
}

/// What the receiver tells.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum News {
    /// Once, at the start.
    Listening(Listening),
    /// All bytes of the plan are read, or the first one where the sender resets before the rest is.
    Read { from: SocketAddr },
    /// The flow is over at this end.
    Over { from: SocketAddr, bytes_read: u64, reset: bool },
    /// The flow did not go by its plan.
    Broken { from: SocketAddr, error: String },
}

/// Where a receiving process listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// On the IPv4 loopback address.
    pub ipv4: SocketAddr,
    /// On the IPv6 loopback address.
    pub ipv6: SocketAddr,
}

impl Listening {
    pub(super) fn address(&self, ipv6: bool) -> SocketAddr {
        if ipv6 { self.ipv6 } else { self.ipv4 }
    }
}

pub(super) fn listen(port: u16) -> Result<(Listening, TcpListener, TcpListener)> {
    let ipv4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("IPv4 listener")?;
    let ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).context("IPv6 listener")?;
    for listener in [&ipv4, &ipv6] {
        lengthen_backlog(listener)?;
    }
    let listening = Listening { ipv4: ipv4.local_addr()?, ipv6: ipv6.local_addr()? };
    Ok((listening, ipv4, ipv6))
}

/// Prints one JSON line.
pub(super) fn tell(news: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(news)?);
    Ok(())
}

#[derive(Default)]
struct Known {
    flows: Mutex<HashMap<SocketAddr, Flow>>,
    changed: Condvar,
}

struct Flow {
    plan: FlowPlan,
    acknowledged: bool,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an order about `from`; the orders and the connections race.
    fn wait<T>(&self, from: SocketAddr, ready: impl Fn(&Flow) -> Option<T>) -> Result<T> {
        const LIMIT: Duration = Duration::from_secs(60);
        let (flows, _) = self
            .changed
            .wait_timeout_while(self.lock(), LIMIT, |flows| {
                flows.get(&from).and_then(&ready).is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
        flows.get(&from).and_then(ready).with_context(|| format!("no order in {LIMIT:?}"))
    }
}

/// Runs the receiver until its stdin ends. `port` 0 lets the kernel choose one for each family. `splice`: no data are received by any
/// other call.
///
/// # Errors
/// When it cannot listen, or an order is not understood.
pub fn receive(port: u16, splice: bool) -> Result<()> {
    let (listening, ipv4, ipv6) = listen(port)?;
    let known = Arc::new(Known::default());
    for listener in [ipv4, ipv6] {
        let known = Arc::clone(&known);
        std::thread::spawn(move || accept(&listener, &known, splice));
    }
    tell(&News::Listening(listening))?;
    for line in std::io::stdin().lock().lines() {
        match serde_json::from_str(&line?).context("an order")? {
            Order::Flow { from, plan } => {
                known.lock().insert(from, Flow { plan, acknowledged: false });
            }
            Order::Acknowledged { from } => match known.lock().get_mut(&from) {
                Some(flow) => flow.acknowledged = true,
                None => bail!("an order about {from}, which is not known"),
            },
        }
        known.changed.notify_all();
    }
    // The sender ends stdin only when it has the news about all flows.
    Ok(())
}

fn accept(listener: &TcpListener, known: &Arc<Known>, splice: bool) {
    while let Ok((stream, from)) = listener.accept() {
        let known = Arc::clone(known);
        std::thread::spawn(move || {
            let news = match Source::new(stream, splice)
                .and_then(|source| receive_flow(source, from, &known))
            {
                Ok(news) => news,
                Err(error) => News::Broken { from, error: format!("{error:#}") },
            };
            // Fails only if the sender is gone, and then nobody waits.
            let _ = tell(&news);
        });
    }
}

fn receive_flow(mut stream: Source, from: SocketAddr, known: &Known) -> Result<News> {
    let plan = known.wait(from, |flow| Some(flow.plan))?;
    let mut buffer = vec![0; 128 << 10];
    let mut bytes_read = 0;
    if plan.close == Close::SenderResetUnread {
        stream.read_exact(&mut buffer[..1])?;
        bytes_read = 1;
        tell(&News::Read { from })?;
        known.wait(from, |flow| flow.acknowledged.then_some(()))?;
    }
    while bytes_read < plan.bytes {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            bail!("the flow ends after {bytes_read} of {} bytes", plan.bytes);
        }
        bytes_read += read as u64;
    }
    let mut was_reset = false;
    match plan.close {
        Close::Receiver => drop(stream),
        Close::ReceiverReset => {
            known.wait(from, |flow| flow.acknowledged.then_some(()))?;
            reset(stream.into_socket())?;
            was_reset = true;
        }
        Close::Sender | Close::SenderReset | Close::SenderResetUnread => {
            if plan.close == Close::SenderReset {
                tell(&News::Read { from })?;
            }
            match stream.read(&mut buffer) {
                Ok(0) => {}
                Ok(more) => bytes_read += more as u64,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => was_reset = true,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(News::Over { from, bytes_read, reset: was_reset })
}

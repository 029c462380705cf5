//! A test whose two halves run on two hosts: what they tell each other, over a cable that one VM has to another.

pub mod clocks;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::qemu::Role;

/// Says which half of the test a host runs: `source` or `destination`.
pub const ROLE: &str = "DWCP_ROLE";
/// The card at either end of the cable.
pub const INTERFACE: &str = "eth0";
/// Where the destination's half waits for the source's.
const PORT: u16 = 7000;
/// The other VM may still boot, on a machine that does other things too.
const MEETING: Duration = Duration::from_secs(180);

/// The half that this host runs.
///
/// # Errors
/// When [`ROLE`] does not say.
pub fn role() -> Result<Role> {
    match std::env::var(ROLE).as_deref() {
        Ok("source") => Ok(Role::Source),
        Ok("destination") => Ok(Role::Destination),
        other => bail!("{ROLE} is {other:?}, and is to be `source` or `destination`"),
    }
}

/// Address of an end of the cable.
#[must_use]
pub const fn address(role: Role) -> Ipv4Addr {
    match role {
        Role::Source => Ipv4Addr::new(10, 9, 1, 1),
        Role::Destination => Ipv4Addr::new(10, 9, 1, 2),
    }
}

/// The other half of the test: one line of JSON per message.
#[derive(Debug)]
pub struct Peer {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Peer {
    /// Waits for the other half. A message that has not come after `limit` is an error.
    ///
    /// # Errors
    /// When it does not come.
    pub fn meet(role: Role, limit: Duration) -> Result<Self> {
        let destination = SocketAddr::from((address(Role::Destination), PORT));
        let writer = match role {
            Role::Source => connect(destination)?,
            Role::Destination => accept(destination)?,
        };
        writer.set_nonblocking(false)?;
        writer.set_nodelay(true)?;
        writer.set_read_timeout(Some(limit))?;
        Ok(Self { reader: BufReader::new(writer.try_clone()?), writer })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the other half is gone.
    pub fn tell(&mut self, message: &impl Serialize) -> Result<()> {
        let line = format!("{}\n", serde_json::to_string(message)?);
        self.writer.write_all(line.as_bytes()).context("the other half is gone")
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// When none comes in time, the other half is gone, or it says something else.
    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).context("the other half says nothing")?;
        ensure!(length > 0, "the other half has ended");
        serde_json::from_str(&line).with_context(|| format!("the other half says: {line}"))
    }

    /// Waits until both halves have come to the same point.
    ///
    /// # Errors
    /// When the other half does not, or comes to another one.
    pub fn together(&mut self, point: &str) -> Result<()> {
        self.tell(&point)?;
        let other: String = self.hear()?;
        ensure!(other == point, "the other half is at {other}, this one at {point}");
        Ok(())
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let start = Instant::now();
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
            Ok(stream) => return Ok(stream),
            Err(error) if start.elapsed() > MEETING => {
                return Err(error).with_context(|| format!("nobody at {address}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn accept(address: SocketAddr) -> Result<TcpStream> {
    let listener = TcpListener::bind(address).with_context(|| address.to_string())?;
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(error.into());
            }
            Err(_) => {}
        }
        ensure!(start.elapsed() < MEETING, "nobody has come to {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

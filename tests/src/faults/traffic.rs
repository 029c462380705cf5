//! Others on the same wire.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};

use super::Injection;
use crate::netns::Wire;
use crate::qemu::Role;

/// No migration listens there.
const PORT: u16 = 5201;

/// TCP connections that send as fast as they can from the source's side to the destination's, of this process. They end on drop.
#[derive(Debug)]
pub struct Traffic {
    connections: Vec<TcpStream>,
    sent: Arc<AtomicU64>,
}

impl Injection for Traffic {
    /// Whether they have got their share.
    fn has_effect(&self) -> Result<bool> {
        Ok(self.sent.load(Ordering::Relaxed) > 16 << 20)
    }
}

impl Traffic {
    /// Starts `count` of them.
    ///
    /// # Errors
    /// When the port is taken, or a namespace cannot be entered.
    pub fn new(wire: &Wire, count: usize) -> Result<Self> {
        let address = SocketAddr::new(Wire::address(Role::Destination), PORT);
        let listener = wire.end(Role::Destination).within(|| Ok(TcpListener::bind(address)?))?;
        let mut traffic = Self { connections: Vec::new(), sent: Arc::default() };
        for _ in 0..count {
            let connection = wire.end(Role::Source).within(|| Ok(TcpStream::connect(address)?))?;
            let (mut accepted, _) = listener.accept()?;
            let mut sender = connection.try_clone()?;
            traffic.connections.push(connection);
            let sent = Arc::clone(&traffic.sent);
            std::thread::spawn(move || {
                let data = vec![0; 1 << 16];
                while let Ok(count) = sender.write(&data) {
                    sent.fetch_add(count as u64, Ordering::Relaxed);
                }
            });
            std::thread::spawn(move || {
                let mut data = vec![0; 1 << 16];
                while matches!(accepted.read(&mut data), Ok(1..)) {}
            });
        }
        ensure!(!traffic.connections.is_empty(), "no traffic was asked for");
        Ok(traffic)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        for connection in &self.connections {
            // Both threads then end; one that is gone already need not be told.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

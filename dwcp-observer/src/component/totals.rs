//! Adds up what the sockets of one component move between samples.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{
    matcher::Matcher,
    sockets::{Counters, TcpSocket},
};

/// A connection without acknowledgement, or whose data is not read, for longer than this is stalled, ms.
pub(super) const STALL_MS: u32 = 3000;

/// The connections of one component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flows {
    pub(super) established: usize,
    pub(super) stalled: usize,
    pub(super) unread: usize,
    /// Ports that are listened on.
    pub(super) listening: BTreeSet<u16>,
    /// Of these, with a full queue.
    pub(super) full: BTreeSet<u16>,
    /// Inodes of listening sockets.
    pub(super) listeners: HashSet<u64>,
}

/// Totals since the observer started; they only grow.
#[derive(Debug, Default)]
pub(super) struct Totals {
    last: HashMap<u64, Counters>,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) retransmitted: u64,
    /// A socket was seen.
    pub(super) ever: bool,
    begun: bool,
}

impl Totals {
    /// Takes in the sockets that belong to `rule`; `held`: inodes of its processes' sockets.
    pub(super) fn take(&mut self, all: &[TcpSocket], rule: &Matcher, held: &HashSet<u64>) -> Flows {
        let mut flows = Flows::default();
        let mut now = HashMap::new();
        for socket in all.iter().filter(|socket| is_of(socket, rule, held)) {
            let Some(counters) = socket.counters else {
                flows.listening.insert(socket.local.port());
                flows.listeners.insert(socket.inode);
                // The queue takes one more than its length.
                if socket.send_queue > 0 && socket.receive_queue > socket.send_queue {
                    flows.full.insert(socket.local.port());
                }
                continue;
            };
            flows.established += 1;
            let waits = counters.unacknowledged > 0 && counters.last_acknowledged_ms > STALL_MS;
            flows.stalled += usize::from(waits);
            let idle = socket.receive_queue > 0 && counters.last_received_ms > STALL_MS;
            flows.unread += usize::from(idle);
            // What was moved before the observer came is not its to count.
            let first = if self.begun { Counters::default() } else { counters };
            let before = self.last.get(&socket.cookie).copied().unwrap_or(first);
            self.sent += counters.sent.saturating_sub(before.sent);
            self.received += counters.received.saturating_sub(before.received);
            self.retransmitted += counters.retransmitted.saturating_sub(before.retransmitted);
            now.insert(socket.cookie, counters);
        }
        self.ever |= flows.established > 0 || !flows.listening.is_empty();
        self.begun = true;
        self.last = now;
        flows
    }
}

fn is_of(socket: &TcpSocket, rule: &Matcher, held: &HashSet<u64>) -> bool {
    if rule.is_empty() {
        return false;
    }
    let peer = if socket.listens() { socket.local.port() } else { socket.peer.port() };
    (!rule.names_processes() || held.contains(&socket.inode))
        && (!rule.has_ports() || rule.ports(socket.local.port(), peer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ComponentConfig;

    fn socket(cookie: u64, sent: u64) -> TcpSocket {
        TcpSocket {
            local: "10.0.0.1:9876".parse().unwrap(),
            peer: "10.0.0.2:40000".parse().unwrap(),
            cookie,
            inode: cookie,
            receive_queue: 0,
            send_queue: 0,
            counters: Some(Counters { sent, ..Counters::default() }),
        }
    }

    fn by_port() -> Matcher {
        Matcher::new(&ComponentConfig { listens: vec![9876], ..ComponentConfig::default() })
    }

    #[test]
    fn totals_count_each_byte_once_and_never_go_back() {
        let (mut totals, rule, none) = (Totals::default(), by_port(), HashSet::new());
        totals.take(&[socket(1, 500)], &rule, &none);
        assert_eq!(totals.sent, 0, "moved before the observer came");
        totals.take(&[socket(1, 700), socket(2, 50)], &rule, &none);
        assert_eq!(totals.sent, 250);
        totals.take(&[socket(2, 60)], &rule, &none);
        totals.take(&[], &rule, &none);
        assert_eq!(totals.sent, 260);
    }

    #[test]
    fn stalls_and_queues() {
        let mut waits = socket(1, 9);
        let counters = waits.counters.as_mut().unwrap();
        (counters.unacknowledged, counters.last_acknowledged_ms) = (3, STALL_MS + 1);
        let mut idle = socket(2, 9);
        idle.receive_queue = 100;
        idle.counters.as_mut().unwrap().last_received_ms = STALL_MS + 1;
        let listener = |queued, limit| TcpSocket {
            receive_queue: queued,
            send_queue: limit,
            counters: None,
            ..socket(3, 0)
        };
        let all = [waits, idle, listener(129, 128)];
        let flows = Totals::default().take(&all, &by_port(), &HashSet::new());
        assert_eq!((flows.established, flows.stalled, flows.unread), (2, 1, 1));
        assert_eq!((flows.listening.len(), flows.full.len()), (1, 1));
        let flows = Totals::default().take(&[listener(128, 128)], &by_port(), &HashSet::new());
        assert!(flows.full.is_empty());
    }

    #[test]
    fn a_rule_that_names_processes_wants_their_sockets() {
        let rule = Matcher::new(&ComponentConfig {
            process: vec!["dwcpd".to_owned()],
            ..ComponentConfig::default()
        });
        let all = [socket(1, 0), socket(2, 0)];
        let flows = Totals::default().take(&all, &rule, &HashSet::from([2]));
        assert_eq!(flows.established, 1);
        let none = Matcher::default();
        assert_eq!(Totals::default().take(&all, &none, &HashSet::from([2])), Flows::default());
    }
}

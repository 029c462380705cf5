//! Limits the number of HTTP connections, and decides which one to close for a new one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;

use crate::metrics::HttpCounts;

/// Time for the head of a request, from the connection or its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two requests on one connection; longer than the usual scrape interval.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);
/// Time in which a client that is being answered must take something.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time in which a client must have taken the whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A client that took nothing for this long has no claim on its place when another one comes.
const STALL_EVICTION: Duration = Duration::from_secs(1);

/// What one connection is doing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Activity {
    phase: ConnectionState,
    /// Start of the phase.
    since: Instant,
    /// Last byte taken by the client.
    progress: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionState {
    /// The head of a request is awaited.
    Head,
    /// Nothing came since the last answer.
    Idle,
    /// A request is being answered; `true` once the client took something.
    Answering(bool),
}

impl Activity {
    pub(super) fn new(now: Instant) -> Self {
        Self { phase: ConnectionState::Head, since: now, progress: now }
    }

    fn enter(&mut self, phase: ConnectionState, now: Instant) {
        *self = Self { phase, since: now, progress: now };
    }

    /// Bytes came in.
    pub(super) fn read(&mut self, now: Instant) {
        if self.phase == ConnectionState::Idle {
            self.enter(ConnectionState::Head, now);
        }
    }

    /// The head is complete.
    pub(super) fn request(&mut self, now: Instant) {
        self.enter(ConnectionState::Answering(false), now);
    }

    /// The client's socket took bytes.
    pub(super) fn wrote(&mut self, now: Instant) {
        if let ConnectionState::Answering(_) = self.phase {
            self.phase = ConnectionState::Answering(true);
            self.progress = now;
        }
    }

    /// Nothing is left to write.
    pub(super) fn flushed(&mut self, now: Instant) {
        if self.phase == ConnectionState::Answering(true) {
            self.enter(ConnectionState::Idle, now);
        }
    }

    fn overdue(&self, now: Instant) -> bool {
        let in_phase = now.saturating_duration_since(self.since);
        match self.phase {
            ConnectionState::Head => in_phase >= HEAD_TIMEOUT,
            ConnectionState::Idle => in_phase >= KEEP_ALIVE_TIMEOUT,
            ConnectionState::Answering(_) => {
                in_phase >= ANSWER_TIMEOUT
                    || now.saturating_duration_since(self.progress) >= STALL_TIMEOUT
            }
        }
    }

    /// Lower goes first; `None` keeps its place.
    fn eviction_rank(&self, now: Instant) -> Option<(u8, Instant)> {
        match self.phase {
            ConnectionState::Head | ConnectionState::Idle => Some((0, self.since)),
            ConnectionState::Answering(_) => {
                let stalled = now.saturating_duration_since(self.progress) >= STALL_EVICTION;
                stalled.then_some((1, self.progress))
            }
        }
    }
}

/// All connections, and the counters of the server.
#[derive(Debug)]
pub(super) struct Connections {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    open: BTreeMap<u64, Connection>,
    counts: HttpCounts,
}

#[derive(Debug)]
struct Connection {
    activity: Arc<Mutex<Activity>>,
    task: Option<AbortHandle>,
}

impl Connections {
    /// At most `limit` (at least one) at a time.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete in itself, so a poisoned lock holds a usable value.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection; at the limit another one is closed for it. `None` when all are being answered.
    pub(super) fn admit(self: &Arc<Self>, now: Instant) -> Option<Admission> {
        let mut inner = self.lock();
        inner.counts.accepted += 1;
        if inner.open.len() >= self.limit {
            let victim = inner
                .open
                .iter()
                .filter_map(|(id, connection)| {
                    lock_activity(&connection.activity).eviction_rank(now).map(|rank| (rank, *id))
                })
                .min();
            let Some((_, victim)) = victim else {
                inner.counts.rejected += 1;
                return None;
            };
            inner.close(victim);
            inner.counts.evicted += 1;
        }
        let id = inner.next;
        inner.next += 1;
        let activity = Arc::new(Mutex::new(Activity::new(now)));
        inner.open.insert(id, Connection { activity: Arc::clone(&activity), task: None });
        Some(Admission { id, activity, connections: Arc::clone(self) })
    }

    /// Names the task that serves a connection, so that it can be closed.
    pub(super) fn served_by(&self, id: u64, task: AbortHandle) {
        match self.lock().open.get_mut(&id) {
            Some(connection) => connection.task = Some(task),
            None => task.abort(),
        }
    }

    /// Closes those that took too long.
    pub(super) fn close_overdue(&self, now: Instant) {
        let mut inner = self.lock();
        let overdue: Vec<u64> = inner
            .open
            .iter()
            .filter(|(_, connection)| lock_activity(&connection.activity).overdue(now))
            .map(|(id, _)| *id)
            .collect();
        inner.counts.timed_out += overdue.len() as u64;
        for id in overdue {
            inner.close(id);
        }
    }

    /// Whether a client is being answered.
    pub(super) fn answering(&self) -> bool {
        let inner = self.lock();
        inner.open.values().any(|connection| {
            matches!(lock_activity(&connection.activity).phase, ConnectionState::Answering(_))
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    pub(super) fn answered(&self, endpoint: &'static str, code: u16) {
        *self.lock().counts.requests.entry((endpoint, code)).or_default() += 1;
    }

    /// A copy of the counters.
    pub(super) fn counts(&self) -> HttpCounts {
        let inner = self.lock();
        HttpCounts { open: inner.open.len() as u64, ..inner.counts.clone() }
    }
}

impl Inner {
    fn close(&mut self, id: u64) {
        if let Some(task) = self.open.remove(&id).and_then(|connection| connection.task) {
            task.abort();
        }
    }
}

pub(super) fn lock_activity(activity: &Mutex<Activity>) -> MutexGuard<'_, Activity> {
    activity.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) id: u64,
    pub(super) activity: Arc<Mutex<Activity>>,
    connections: Arc<Connections>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn full(limit: usize, now: Instant) -> (Arc<Connections>, Vec<Admission>) {
        let connections = Arc::new(Connections::new(limit));
        let places = (0..limit)
            .map(|index| connections.admit(now + SECOND * index as u32 / 100).unwrap())
            .collect();
        (connections, places)
    }

    fn open(connections: &Connections) -> Vec<u64> {
        connections.lock().open.keys().copied().collect()
    }

    #[test]
    fn the_oldest_half_open_connection_makes_room() {
        let now = Instant::now();
        let (connections, _places) = full(3, now);
        let fourth = connections.admit(now + SECOND).unwrap();
        assert_eq!(open(&connections), [1, 2, fourth.id]);
        let counts = connections.counts();
        assert_eq!((counts.open, counts.accepted, counts.evicted, counts.rejected), (3, 4, 1, 0));
    }

    #[test]
    fn a_client_that_is_being_answered_keeps_its_place() {
        let now = Instant::now();
        let (connections, places) = full(2, now);
        lock_activity(&places[0].activity).request(now);
        let third = connections.admit(now + SECOND / 2).unwrap();
        assert_eq!(open(&connections), [0, third.id]);
        lock_activity(&third.activity).request(now + SECOND / 2);
        assert!(connections.admit(now + SECOND / 2).is_none());
        assert_eq!(connections.counts().rejected, 1);
        // Both took nothing for a second: the one that has waited longer goes.
        let fourth = connections.admit(now + SECOND * 2).unwrap();
        assert_eq!(open(&connections), [third.id, fourth.id]);
    }

    #[test]
    fn each_phase_has_its_limit() {
        let now = Instant::now();
        let mut activity = Activity::new(now);
        assert!(!activity.overdue(now + SECOND * 4));
        assert!(activity.overdue(now + HEAD_TIMEOUT));
        // A byte now and then does not buy time.
        activity.read(now + SECOND * 4);
        assert!(activity.overdue(now + HEAD_TIMEOUT));

        activity.request(now);
        activity.wrote(now + SECOND * 9);
        assert!(!activity.overdue(now + SECOND * 18));
        assert!(activity.overdue(now + SECOND * 9 + STALL_TIMEOUT));
        activity.wrote(now + ANSWER_TIMEOUT - SECOND);
        assert!(activity.overdue(now + ANSWER_TIMEOUT));

        activity.flushed(now);
        assert!(!activity.overdue(now + KEEP_ALIVE_TIMEOUT - SECOND));
        assert!(activity.overdue(now + KEEP_ALIVE_TIMEOUT));
        activity.read(now + SECOND * 60);
        assert!(activity.overdue(now + SECOND * 60 + HEAD_TIMEOUT));
    }

    #[test]
    fn a_flush_before_the_answer_does_not_end_it() {
        let now = Instant::now();
        let mut activity = Activity::new(now);
        activity.request(now);
        activity.flushed(now);
        assert_eq!(activity.phase, ConnectionState::Answering(false));
        activity.wrote(now);
        activity.flushed(now);
        assert_eq!(activity.phase, ConnectionState::Idle);
    }

    #[test]
    fn a_place_is_given_back() {
        let now = Instant::now();
        let (connections, places) = full(3, now);
        drop(places);
        assert!(connections.is_empty());
        connections.admit(now).unwrap();
        assert_eq!(connections.counts().evicted, 0);
    }
}

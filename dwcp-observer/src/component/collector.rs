//! The thread that collects the state of all components once a second.

use std::{
    collections::{HashSet, VecDeque},
    io,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    exposition::{self, Merged, Scraped},
    health::{FAILED_SCRAPES, MigrationSign, ScrapeSign, Signs, Status, judge},
    matcher::Matcher,
    processes::{Processes, Usage, owners, socket_inodes},
    rollout::{Control, progress},
    scrape::{DEADLINE, ScrapeError, scrape},
    sockets::{self, TcpSocket},
    totals::{Flows, Totals},
    view::{ComponentView, ConnectionView, ProcessView, ScrapeView, View},
};
use crate::{config::Endpoint, migration::entry::Entry, model::board::Board};
use crate::{
    config::{Component, ComponentConfig, ComponentMode, Config},
    model::{
        record::{State, Version},
        verdict::Health,
    },
};

const PERIOD: Duration = Duration::from_secs(1);
/// Whose a listening socket is is asked this often at most, and only while there is one without a known owner.
const OWNERS_EVERY: Duration = Duration::from_secs(10);
/// Errors on migrations count for this long.
const RECENT: Duration = Duration::from_secs(60);

/// What the cycle and the collector leave for each other.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// From the cycle.
    pub migrations: Board<Migrations>,
    /// From the collector.
    pub view: Board<View>,
}

/// What components are told of migrations.
#[derive(Clone, Debug)]
pub struct Migrations {
    /// Running and finished ones.
    pub entries: Vec<Entry>,
    /// Errors on migration sockets and processes since the observer started.
    pub errors: u64,
}

/// The running thread; stops when dropped.
#[derive(Debug)]
pub struct Collector {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Looks once a second from now on. `is_own`: whether the observer itself serves a sample of that name.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn start(
        config: &Config,
        control: Control,
        shared: Shared,
        is_own: fn(&str) -> bool,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut work = Work::new(config, shared.migrations, control, is_own);
        let (stop, mut stopped) = oneshot::channel();
        let run = async move {
            let mut ticks = interval(PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                tokio::select! {
                    biased;
                    _ = &mut stopped => return,
                    _ = ticks.tick() => {}
                }
                tokio::select! {
                    biased;
                    _ = &mut stopped => return,
                    view = work.collect() => shared.view.publish(view),
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("components".to_owned())
            .spawn(move || runtime.block_on(run))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the components thread panicked");
        }
    }
}

/// One component from look to look.
struct Watch {
    component: Component,
    config: ComponentConfig,
    totals: Totals,
    scrape: Option<Scrape>,
    status: Status,
    /// Listening sockets whose owner was asked for.
    asked: HashSet<u64>,
}

struct Scrape {
    endpoint: Endpoint,
    ever: bool,
    failures: u32,
    view: ScrapeView,
}

/// What is kept between two looks.
pub(super) struct Work {
    watches: Vec<Watch>,
    rules: Vec<Matcher>,
    processes: Processes,
    migrations: Board<Migrations>,
    control: Control,
    is_own: fn(&str) -> bool,
    asked_at: Option<Instant>,
    errors: VecDeque<(Instant, u64)>,
    sockets_failed: bool,
}

impl Work {
    pub(super) fn new(
        config: &Config,
        migrations: Board<Migrations>,
        control: Control,
        is_own: fn(&str) -> bool,
    ) -> Self {
        let watches: Vec<Watch> = Component::ALL
            .into_iter()
            .map(|component| Watch::new(component, config.components.get(component)))
            .filter(|watch| watch.config.mode != ComponentMode::Off)
            .collect();
        Self {
            rules: watches.iter().map(|watch| Matcher::new(&watch.config)).collect(),
            watches,
            processes: Processes::default(),
            migrations,
            control,
            is_own,
            asked_at: None,
            errors: VecDeque::new(),
            sockets_failed: false,
        }
    }

    /// One look at everything.
    pub(super) async fn collect(&mut self) -> View {
        let mut scraped = self.scrape().await;
        let usages = self.processes.sample(&self.rules);
        let all = self.read_sockets();
        let published = self.migrations.latest();
        let migrations = self.migrations(published.as_deref());
        let mut merged = Merged::default();
        let mut components = Vec::with_capacity(self.watches.len());
        let mut unowned = Vec::new();
        for (index, usage) in usages.into_iter().enumerate() {
            let (Some(watch), Some(rule)) = (self.watches.get_mut(index), self.rules.get(index))
            else {
                continue;
            };
            let mut held = HashSet::new();
            if rule.names_processes() {
                held.extend(usage.processes.iter().flat_map(|id| socket_inodes(*id)));
            }
            let flows = watch.totals.take(all.as_deref().unwrap_or_default(), rule, &held);
            if !rule.names_processes() && !rule.is_empty() {
                unowned.extend(flows.listeners.iter().map(|inode| (index, *inode)));
            }
            let answer = scraped.iter().position(|(at, _)| *at == index);
            let carried = answer.map_or_else(String::new, |at| {
                watch.carry(scraped.swap_remove(at).1, &mut merged, self.is_own)
            });
            let signs = watch.signs(rule, &usage, &flows, all.is_some(), migrations);
            components.push(watch.view(&signs, &usage, &flows, carried));
        }
        self.find_owners(&unowned);
        let now = Timestamp::now();
        let rollout = published
            .and_then(|published| progress(&published.entries, now, self.control.labels()));
        View { at: Some(now), components, rollout, carried: merged.text() }
    }

    /// All endpoints at once; within the deadline in any case.
    async fn scrape(&mut self) -> Vec<(usize, Scraped)> {
        let mut running = JoinSet::new();
        for (index, watch) in self.watches.iter().enumerate() {
            let Some(endpoint) = watch.scrape.as_ref().map(|it| it.endpoint.clone()) else {
                continue;
            };
            running.spawn(async move {
                let begun = Instant::now();
                let result = scrape(&endpoint, DEADLINE).await;
                (index, begun.elapsed(), result)
            });
        }
        let mut results = Vec::new();
        while let Some(joined) = running.join_next().await {
            let Ok((index, took, result)) = joined else { continue };
            let answer = self.watches.get_mut(index).and_then(|it| it.scraped(took, result));
            results.extend(answer.map(|scraped| (index, scraped)));
        }
        results
    }

    /// All sockets, where any rule asks for them; `None` when the kernel does not tell.
    fn read_sockets(&mut self) -> Option<Vec<TcpSocket>> {
        if self.rules.iter().all(Matcher::is_empty) {
            return Some(Vec::new());
        }
        match sockets::read() {
            Ok(found) => Some(found),
            Err(error) => {
                if !self.sockets_failed {
                    log::warn!("cannot list the connections of components: {error}");
                }
                self.sockets_failed = true;
                None
            }
        }
    }

    /// How running migrations fare, v1 left out; `None` before the first cycle.
    fn migrations(&mut self, published: Option<&Migrations>) -> Option<MigrationSign> {
        let published = published?;
        let running = || {
            let records = published.entries.iter().map(|entry| entry.record.as_ref());
            records.filter(|it| it.state == State::Active && it.version != Some(Version::V1))
        };
        let stalled = running()
            .filter(|it| it.verdict.as_ref().is_some_and(|it| it.state == Health::Stalled))
            .count();
        let total: u64 = published.errors;
        let now = Instant::now();
        self.errors.push_back((now, total));
        while self.errors.len() > 1
            && self.errors.front().is_some_and(|(at, _)| now.duration_since(*at) > RECENT)
        {
            self.errors.pop_front();
        }
        let before = self.errors.front().map_or(total, |(_, before)| *before);
        let recent_errors = total.saturating_sub(before);
        Some(MigrationSign { running: running().count(), stalled, recent_errors })
    }

    /// A rule by port alone says nothing of processes: those that listen there are its.
    fn find_owners(&mut self, listeners: &[(usize, u64)]) {
        let is_new = |(index, inode): &&(usize, u64)| {
            self.watches.get(*index).is_some_and(|watch| !watch.asked.contains(inode))
        };
        let wanted: HashSet<u64> = listeners
            .iter()
            .filter(is_new)
            .map(|(_, inode)| *inode)
            .filter(|it| *it != 0)
            .collect();
        let asked_lately = self.asked_at.is_some_and(|at| at.elapsed() < OWNERS_EVERY);
        if wanted.is_empty() || asked_lately {
            return;
        }
        self.asked_at = Some(Instant::now());
        let found = owners(&wanted);
        for watch in &mut self.watches {
            watch.asked.clear();
        }
        for (index, inode) in listeners {
            if let Some(watch) = self.watches.get_mut(*index) {
                watch.asked.insert(*inode);
            }
            for (_, id) in found.iter().filter(|(owned, _)| owned == inode) {
                if let Some(rule) = self.rules.get(*index) {
                    self.processes.adopt(*index, *id, rule);
                }
            }
        }
    }
}

impl Watch {
    fn new(component: Component, config: &ComponentConfig) -> Self {
        let port = config.port.unwrap_or(component.default_port());
        let scrape = (config.mode == ComponentMode::Scrape).then(|| {
            let given = config.endpoint.as_deref().and_then(Endpoint::parse);
            let endpoint = given.unwrap_or_else(|| Endpoint::local(port));
            let errors = ScrapeError::REASONS.map(|reason| (reason.into(), 0)).into();
            let dropped = DROP_REASONS.map(|reason| (reason.into(), 0)).into();
            let view = ScrapeView {
                endpoint: endpoint.to_string(),
                errors,
                dropped,
                ..Default::default()
            };
            Scrape { endpoint, ever: false, failures: 0, view }
        });
        Self {
            component,
            config: config.clone(),
            totals: Totals::default(),
            scrape,
            status: Status::Unknown,
            asked: HashSet::new(),
        }
    }

    /// Takes in how a scrape went.
    fn scraped(&mut self, took: Duration, result: Result<Scraped, ScrapeError>) -> Option<Scraped> {
        let state = self.scrape.as_mut()?;
        state.view.scrapes += 1;
        state.view.seconds = took.as_secs_f64();
        match result {
            Ok(scraped) => {
                if state.failures >= FAILED_SCRAPES {
                    log::info!("{} answers again", state.endpoint);
                }
                (state.ever, state.failures) = (true, 0);
                state.view.failure = None;
                Some(scraped)
            }
            Err(error) => {
                state.failures += 1;
                *state.view.errors.entry(error.reason().into()).or_default() += 1;
                let text = error.to_string();
                if state.failures == FAILED_SCRAPES {
                    log::warn!("component {}: {text}", self.component.as_str());
                }
                state.view.failure = Some(text);
                state.view.series = 0;
                None
            }
        }
    }

    /// What is carried on of a scrape, as text.
    fn carry(&mut self, scraped: Scraped, merged: &mut Merged, is_own: fn(&str) -> bool) -> String {
        let Some(state) = &mut self.scrape else { return String::new() };
        let (over_limit, within) = (scraped.over_limit, scraped.duplicates);
        let (kept, left_out) = merged.add(scraped, is_own);
        state.view.series = kept.values().map(|family| family.series.len() as u64).sum();
        for (reason, count) in
            DROP_REASONS.into_iter().zip([left_out.own, left_out.duplicates + within, over_limit])
        {
            *state.view.dropped.entry(reason.into()).or_default() += count;
        }
        exposition::text(&kept)
    }

    fn signs(
        &self,
        rule: &Matcher,
        usage: &Usage,
        flows: &Flows,
        sockets_known: bool,
        migrations: Option<MigrationSign>,
    ) -> Signs {
        let silent = self.config.listens.iter().filter(|port| !flows.listening.contains(port));
        Signs {
            component: self.component.as_str(),
            ever: usage.ever || self.totals.ever,
            required: self.config.required,
            has_processes: rule.names_processes(),
            processes: usage.processes.len(),
            stopped: usage.stopped as usize,
            listening: flows.listening.len(),
            silent_ports: silent.copied().filter(|_| sockets_known).collect(),
            full_ports: flows.full.iter().copied().collect(),
            flows: flows.established,
            stalled_flows: flows.stalled,
            unread_flows: flows.unread,
            scrape: self.scrape.as_ref().map(|state| ScrapeSign {
                ever: state.ever,
                failures: state.failures,
                last: state.view.failure.clone().unwrap_or_default(),
            }),
            migrations: migrations.filter(|_| self.component == Component::Amst),
        }
    }

    fn view(
        &mut self,
        signs: &Signs,
        usage: &Usage,
        flows: &Flows,
        carried: String,
    ) -> ComponentView {
        let judgement = judge(signs);
        if judgement.status != self.status {
            let (name, word) = (self.component.as_str(), judgement.status.as_str());
            let why = judgement.reasons.join("; ");
            let level = match (self.status, judgement.status) {
                (_, Status::Unhealthy) => log::Level::Warn,
                (_, Status::Degraded) | (Status::Degraded | Status::Unhealthy, _) => {
                    log::Level::Info
                }
                // With each migration.
                _ => log::Level::Debug,
            };
            let colon = if why.is_empty() { "" } else { ": " };
            log::log!(level, "component {name} is {word}{colon}{why}");
            self.status = judgement.status;
        }
        ComponentView {
            component: self.component,
            version: self.config.version.clone(),
            mode: self.config.mode,
            status: judgement.status,
            reasons: judgement.reasons,
            processes: usage.ever.then_some(ProcessView {
                pids: usage.processes.iter().map(|id| id.pid).collect(),
                left_out: usage.left_out,
                threads: usage.threads,
                cpu_seconds: usage.cpu_seconds,
                resident_bytes: usage.resident_bytes,
            }),
            connections: self.totals.ever.then(|| ConnectionView {
                established: flows.established,
                stalled: flows.stalled,
                unread: flows.unread,
                listening: flows.listening.iter().copied().collect(),
                sent_bytes: self.totals.sent,
                received_bytes: self.totals.received,
                retransmitted_segments: self.totals.retransmitted,
            }),
            scrape: self.scrape.as_ref().map(|state| state.view.clone()),
            carried,
            watched: signs.ever || signs.required || self.scrape.as_ref().is_some_and(|it| it.ever),
            by_migrations_alone: judgement.by_migrations_alone,
        }
    }
}

/// Why a series is not carried on: the observer serves it, it was there already, one component gave too many.
const DROP_REASONS: [&str; 3] = ["own_name", "duplicate", "over_limit"];

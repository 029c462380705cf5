//! Judges the health of a component: a pure function of measurements.

crate::model::named! {
    /// The word, best first but for `unknown`.
    #[derive(Default)]
    pub enum Status {
        /// Nothing that belongs to it was ever seen, or nothing is there now.
        #[default]
        Unknown = "unknown",
        /// Nothing is wrong.
        Healthy = "healthy",
        /// It works, with something wrong.
        Degraded = "degraded",
        /// It does not work.
        Unhealthy = "unhealthy",
    }
}

impl Status {
    /// The value of `dwcp_v3_component_health`; `None` when there is nothing to say.
    #[must_use]
    pub const fn value(self) -> Option<f64> {
        match self {
            Self::Unknown => None,
            Self::Healthy | Self::Degraded => Some(1.0),
            Self::Unhealthy => Some(0.0),
        }
    }
}

/// Failed scrapes in a row that make a component unhealthy; fewer degrade it.
pub const FAILED_SCRAPES: u32 = 3;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Signs {
    /// `amst`, `hde`, ...
    pub component: &'static str,
    /// Something that belongs to it was seen since the observer started.
    pub ever: bool,
    /// Unhealthy, not unknown, as long as nothing was.
    pub required: bool,
    /// Its rule names processes (or the owner of its port is known).
    pub has_processes: bool,
    /// Live processes.
    pub processes: usize,
    /// Of these, stopped by a signal.
    pub stopped: usize,
    /// Ports on which it listens.
    pub listening: usize,
    /// Ports on which it must listen and does not.
    pub silent_ports: Vec<u16>,
    /// Ports whose queue of waiting connections is full.
    pub full_ports: Vec<u16>,
    /// Its established connections.
    pub flows: usize,
    /// Of these, without an acknowledgement for what was sent.
    pub stalled_flows: usize,
    /// Of these, with data that the process does not read.
    pub unread_flows: usize,
    /// Its own endpoint; `None` when it is not scraped.
    pub scrape: Option<ScrapeSign>,
    /// Migrations; `None` for all components but amst.
    pub migrations: Option<MigrationSign>,
}

/// How the scrapes of its endpoint go.
#[derive(Clone, Debug, Default)]
pub struct ScrapeSign {
    /// It has answered at least once.
    pub ever: bool,
    /// Failures since the last answer.
    pub failures: u32,
    /// The last failure.
    pub last: String,
}

/// How running migrations fare.
#[derive(Clone, Copy, Debug, Default)]
pub struct MigrationSign {
    /// Running.
    pub running: usize,
    /// Of these, stalled.
    pub stalled: usize,
    /// Failures on migration sockets and processes in the last minute.
    pub recent_errors: u64,
}

/// The status and the reasons for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// The status.
    pub status: Status,
    /// One line each; for `healthy` and `unknown` the evidence.
    pub reasons: Vec<String>,
    /// It is unhealthy only because migrations are stalled.
    pub by_migrations_alone: bool,
}

/// Judges.
#[must_use]
pub fn judge(signs: &Signs) -> Judgement {
    let running = signs.migrations.is_some_and(|migrations| migrations.running > 0);
    let answered = signs.scrape.as_ref().is_some_and(|scrape| scrape.ever);
    if !signs.ever && !running && !answered {
        let nothing = match signs.migrations {
            Some(_) => "no migration runs, and no process or connection matches",
            None => "no process or connection matches",
        };
        let status = if signs.required { Status::Unhealthy } else { Status::Unknown };
        let mut reasons = vec![format!("{nothing} [components.{}]", signs.component)];
        reasons.extend(signs.scrape.iter().filter(|it| it.failures > 0).map(|it| it.last.clone()));
        return Judgement { status, reasons, ..Judgement::default() };
    }
    let must_be_there = signs.has_processes || answered || !signs.silent_ports.is_empty();
    if !must_be_there && !running && signs.flows + signs.listening == 0 {
        // Connections come and go: unless the configuration requires one, its end is not a fault.
        let reasons = vec![format!(
            "no process or connection matches [components.{}] any more",
            signs.component
        )];
        return Judgement { reasons, ..Judgement::default() };
    }
    let (mut down, mut wrong) = (Vec::new(), Vec::new());
    if signs.has_processes && signs.processes == 0 {
        down.push("all of its processes have exited".to_owned());
    } else if signs.stopped > 0 {
        let text =
            format!("{} of {} processes are stopped by a signal", signs.stopped, signs.processes);
        if signs.stopped == signs.processes { &mut down } else { &mut wrong }.push(text);
    }
    for port in &signs.silent_ports {
        down.push(format!("nothing listens on port {port}"));
    }
    for port in &signs.full_ports {
        wrong.push(format!("port {port} accepts no connection: its queue is full"));
    }
    if signs.stalled_flows > 0 {
        let text = format!(
            "{} of {} connections have had no acknowledgement for more than {} s",
            signs.stalled_flows,
            signs.flows,
            super::totals::STALL_MS / 1000
        );
        if signs.stalled_flows == signs.flows { &mut down } else { &mut wrong }.push(text);
    }
    if signs.unread_flows > 0 {
        let (unread, flows) = (signs.unread_flows, signs.flows);
        wrong.push(format!("received data on {unread} of {flows} connections is not read"));
    }
    if let Some(scrape) = signs.scrape.as_ref().filter(|scrape| scrape.failures > 0) {
        let text = format!("{} scrapes in a row failed: {}", scrape.failures, scrape.last);
        if scrape.failures >= FAILED_SCRAPES { &mut down } else { &mut wrong }.push(text);
    }
    let mut by_migrations_alone = false;
    if let Some(MigrationSign { running, stalled, recent_errors }) = signs.migrations {
        by_migrations_alone = down.is_empty() && stalled == running && stalled > 0;
        if stalled > 0 {
            let text = format!("{stalled} of {running} migrations are stalled");
            if stalled == running { &mut down } else { &mut wrong }.push(text);
        }
        if recent_errors > 0 {
            wrong.push(format!("{recent_errors} errors in the last minute"));
        }
    }
    let status = if !down.is_empty() {
        Status::Unhealthy
    } else if wrong.is_empty() {
        Status::Healthy
    } else {
        Status::Degraded
    };
    down.extend(wrong);
    Judgement { status, reasons: down, by_migrations_alone }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Signs {
        Signs { ever: true, has_processes: true, processes: 2, ..Signs::default() }
    }

    #[test]
    fn nothing_seen_is_unknown_unless_it_is_required() {
        assert_eq!(judge(&Signs::default()).status, Status::Unknown);
        assert_eq!(Status::Unknown.value(), None);
        let required = judge(&Signs { required: true, ..Signs::default() });
        assert_eq!(required.status, Status::Unhealthy);
        let refused = ScrapeSign { ever: false, failures: 9, last: "refused".to_owned() };
        let never = judge(&Signs { scrape: Some(refused), ..Signs::default() });
        assert_eq!(never.status, Status::Unknown);
        assert!(never.reasons.contains(&"refused".to_owned()));
    }

    #[test]
    fn each_sign_alone_has_its_weight() {
        type Change = fn(&mut Signs);
        let scrape =
            |failures| Some(ScrapeSign { ever: true, failures, last: "timeout".to_owned() });
        assert_eq!(judge(&Signs { scrape: scrape(0), ..seen() }).status, Status::Healthy);
        assert_eq!(judge(&Signs { scrape: scrape(2), ..seen() }).status, Status::Degraded);
        assert_eq!(judge(&Signs { scrape: scrape(3), ..seen() }).status, Status::Unhealthy);
        let cases: [(Change, Status, &str); 9] = [
            (|_| {}, Status::Healthy, ""),
            (|signs| signs.processes = 0, Status::Unhealthy, "exited"),
            (|signs| signs.stopped = 1, Status::Degraded, "1 of 2 processes"),
            (|signs| signs.stopped = 2, Status::Unhealthy, "2 of 2 processes"),
            (|signs| signs.silent_ports = vec![9876], Status::Unhealthy, "port 9876"),
            (|signs| signs.full_ports = vec![9876], Status::Degraded, "queue is full"),
            (
                |signs| (signs.flows, signs.stalled_flows) = (3, 1),
                Status::Degraded,
                "1 of 3 connections",
            ),
            (
                |signs| (signs.flows, signs.stalled_flows) = (3, 3),
                Status::Unhealthy,
                "3 of 3 connections",
            ),
            (
                |signs| (signs.flows, signs.unread_flows) = (3, 1),
                Status::Degraded,
                "1 of 3 connections",
            ),
        ];
        for (change, status, part) in cases {
            let mut signs = seen();
            change(&mut signs);
            let found = judge(&signs);
            assert_eq!(found.status, status, "{found:?}");
            assert!(found.reasons.iter().any(|it| it.contains(part)) || part.is_empty());
        }
    }

    #[test]
    fn amst_is_judged_by_the_migrations() {
        let with = |running, stalled, recent_errors| {
            let migrations = Some(MigrationSign { running, stalled, recent_errors });
            judge(&Signs { migrations, ..Signs::default() }).status
        };
        assert_eq!(with(0, 0, 0), Status::Unknown);
        assert_eq!(with(2, 0, 0), Status::Healthy);
        assert_eq!(with(2, 1, 0), Status::Degraded);
        assert_eq!(with(2, 2, 0), Status::Unhealthy);
        assert_eq!(with(2, 0, 1), Status::Degraded);
        let idle =
            Signs { ever: true, migrations: Some(MigrationSign::default()), ..Signs::default() };
        assert_eq!(judge(&idle).status, Status::Unknown, "after the end there is nothing to say");
    }
}

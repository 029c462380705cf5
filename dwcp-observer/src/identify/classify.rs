//! Decides whether a flow carries migration data.
//!
//! Each piece of evidence has a weight, the probability that it gives alone; together they give
//! `1 - (1 - w1)(1 - w2)...`, at most 0.99 ([`evidence::confidence`](super::evidence::confidence)). A flow is a migration when
//! at least one piece is about the flow itself and the confidence reaches `identify.min_confidence`.

use std::net::SocketAddr;

use super::evidence::{Case, confidence};
use super::flow::{has_moved, likely_role, mib, one_way, service_port, thread};
use super::qemu;
use super::rejection::Rejection;
use super::rules::{CompiledRule, Kind, RuleSet, kind, other_program, thread_name};
use super::table;
use crate::model::facts::{FlowFacts, ProcessFacts};
use crate::model::record::{Evidence, Role};

/// What a flow is taken for.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It carries migration data.
    Migration {
        /// Kind of migrator or name of a rule; `port` where only a port of the configuration tells.
        migrator: String,
        /// `identify.min_confidence` to 0.99.
        confidence: f64,
        /// Why.
        evidence: Vec<Evidence>,
        /// The end that this flow seems to be at.
        role_hint: Option<Role>,
    },
    /// It does not, and more of the same traffic will not change that.
    NotMigration {
        /// Why, as a class.
        class: Rejection,
        /// Why.
        reason: String,
    },
    /// Not known yet: to be asked again in the next cycle.
    Undecided {
        /// What is missing, as a class.
        class: Rejection,
        /// What is missing.
        reason: String,
    },
}

/// What else is known at this moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// Flows of the same process that were called migrations and whose migration runs, or ran when this flow opened.
    pub siblings: &'a [Sibling],
    /// The decision about the other end of this connection, when that end is on this host and a migration.
    pub other_end: Option<&'a OtherEnd>,
    /// A migration into this process has completed: its `-incoming` says nothing any more.
    pub incoming_done: bool,
}

/// A flow that was called a migration.
#[derive(Clone, Debug, PartialEq)]
pub struct Sibling {
    /// Own address.
    pub local: SocketAddr,
    /// Peer's address.
    pub peer: SocketAddr,
    /// The end that it is at.
    pub role: Role,
    /// First sign of the connection, `CLOCK_BOOTTIME` ns.
    pub opened_boottime_ns: u64,
}

/// The other end of a connection within this host.
#[derive(Clone, Debug, PartialEq)]
pub struct OtherEnd {
    /// Migrator of its migration.
    pub migrator: String,
    /// Confidence that it is one, 0 to 1.
    pub confidence: f64,
    /// The end that it is at.
    pub role: Option<Role>,
}

/// Bytes one way that make a cloud-hypervisor's or a DWCP port's flow a migration.
const BULK_BYTES: u64 = 1 << 20;
/// Bytes one way that make any flow of a DWCP daemon a migration.
const DWCP_BULK_BYTES: u64 = 16 << 20;
/// Ports of DWCP, metrics, discovery and cluster traffic that carry no guest.
const DWCP_OTHER_PORTS: &[u16] = &[
    22, 53, 3000, 3100, 4317, 4318, 6060, 7700, 7701, 7946, 8080, 9090, 9091, 9092, 9093, 9094,
    9095, 9096, 9100, 16686,
];
/// Further ports on which a DWCP daemon moves guests.
const DWCP_DATA_PORTS: &[u16] = &[8081, 9000];

/// Decides about one flow of `process`, which the kernel side found by rule `rule_number` (0: by port).
///
/// The process is the one that moves the data; while nobody has, the one that opened the connection. Ask on new flows
/// and in each cycle while the answer is [`Decision::Undecided`]; for a closed flow that is never the answer. More
/// bytes never turn a [`Decision::Migration`] of an open flow into [`Decision::NotMigration`].
///
/// Evidence passes between flows through `context`, so a cycle asks twice: once for all, then again, with what the first
/// round found, for those that it did not call migrations. A short channel that has closed by then is found that way.
#[must_use]
pub fn classify(
    rules: &RuleSet,
    process: &ProcessFacts,
    rule_number: u32,
    flow: &FlowFacts,
    context: &Context<'_>,
) -> Decision {
    let mut case = Case::default();
    let (migrator, refusal) = gather(rules, process, rule_number, flow, context, &mut case);
    let confidence = confidence(&case.evidence);
    if case.decided && confidence >= rules.min_confidence {
        let role_hint = case.role.or_else(|| likely_role(flow));
        return Decision::Migration { migrator, confidence, evidence: case.evidence, role_hint };
    }
    let refusal = if case.decided {
        let reason = format!(
            "confidence {confidence:.2} is below identify.min_confidence {:.2}",
            rules.min_confidence
        );
        Refusal::Yet(Rejection::LowConfidence, reason)
    } else {
        refusal
    };
    match refusal {
        Refusal::Never(class, reason) => Decision::NotMigration { class, reason },
        Refusal::Yet(class, reason) if flow.closed => {
            Decision::NotMigration { class, reason: format!("closed: {reason}") }
        }
        Refusal::Yet(class, reason) => Decision::Undecided { class, reason },
    }
}

/// Why a flow is not called a migration, if nothing decides that it is.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It cannot become one.
    Never(Rejection, String),
    /// It may become one.
    Yet(Rejection, String),
}

fn gather(
    rules: &RuleSet,
    process: &ProcessFacts,
    rule_number: u32,
    flow: &FlowFacts,
    context: &Context<'_>,
    case: &mut Case,
) -> (String, Refusal) {
    let no_data = || Refusal::Yet(Rejection::NoData, "no data has moved".to_owned());
    if let Some(rule) = rules.user.iter().find(|rule| rule_matches(rule, process, flow)) {
        if has_moved(flow) {
            case.decide("config", describe(rule), rule.rule.confidence, None);
        }
        return (rule.rule.name.clone(), no_data());
    }
    if let Some(other) = context.other_end {
        let role = other.role.map(opposite);
        let detail = format!("the other end on this host is a migration ({})", other.migrator);
        case.decide("peer", detail, 0.9 * other.confidence.clamp(0.0, 1.0), role);
    }
    let kind = kind(process, rule_number);
    let configured = |port| rules.user_ports.iter().any(|range| range.contains(port));
    if let Some((port, _)) = service_port(flow, configured)
        && has_moved(flow)
    {
        case.decide("port", format!("port {port} is one of identify.ports"), 0.9, None);
    }
    let refusal = match kind {
        Some(Kind::Qemu) => qemu::gather(case, process, flow, context),
        Some(Kind::CloudHypervisor) => cloud_hypervisor(case, process, flow),
        Some(Kind::Criu) => criu(case, process, flow),
        Some(Kind::Dwcp) => dwcp(case, process, flow),
        None => by_port(case, process, flow),
    };
    let migrator = match (kind, context.other_end) {
        (Some(kind), _) => kind.as_str().to_owned(),
        (None, Some(other)) => other.migrator.clone(),
        (None, None) if service_port(flow, |port| port == table::DWCP_PORT).is_some() => {
            Kind::Dwcp.as_str().to_owned()
        }
        (None, None) => "port".to_owned(),
    };
    (migrator, refusal)
}

/// The role at the other end.
const fn opposite(role: Role) -> Role {
    match role {
        Role::Source => Role::Destination,
        Role::Destination => Role::Source,
    }
}

fn rule_matches(rule: &CompiledRule, process: &ProcessFacts, flow: &FlowFacts) -> bool {
    let ports = &rule.rule.ports;
    (ports.is_empty()
        || service_port(flow, |port| ports.iter().any(|range| range.contains(port))).is_some())
        && rule.matches_process(process)
}

fn describe(rule: &CompiledRule) -> String {
    let name = &rule.rule.name;
    match rule.rule.component {
        Some(component) => format!("rule `{name}`, component {}", component.as_str()),
        None => format!("rule `{name}`"),
    }
}

fn cloud_hypervisor(case: &mut Case, process: &ProcessFacts, flow: &FlowFacts) -> Refusal {
    case.support("comm", format!("process `{}` is cloud-hypervisor", process.comm), 0.3);
    for (tid, verb, role, bytes) in [
        (flow.send_tid, "sends", Role::Source, flow.bytes_queued),
        (flow.recv_tid, "receives", Role::Destination, flow.bytes_received),
    ] {
        if let Some(thread) = thread(process, tid)
            && bytes > 0
            && thread_name(&thread.comm).is_some_and(|name| name.comm.starts_with("migrat"))
        {
            let role = (!thread.comm.starts_with("migration-work")).then_some(role);
            case.decide("thread", format!("thread `{}` {verb}", thread.comm), 0.9, role);
        }
    }
    if let Some(role) = one_way(flow, BULK_BYTES) {
        case.decide("behaviour", bulk(flow, role), 0.6, Some(role));
    }
    let reason = "little data, and no migration thread moves it";
    Refusal::Yet(Rejection::LittleData, reason.to_owned())
}

fn criu(case: &mut Case, process: &ProcessFacts, flow: &FlowFacts) -> Refusal {
    // A restored process's own connections belong to `criu` while it sets them up, without data.
    if has_moved(flow) {
        // `lazy-pages` calls the source and receives from it.
        let lazy = process.cmdline.iter().any(|argument| argument == "lazy-pages");
        let role = lazy.then_some(Role::Destination);
        let detail = format!("process `{}` is CRIU, whose TCP data is page images", process.comm);
        case.decide("comm", detail, 0.9, role);
    }
    Refusal::Yet(Rejection::NoData, "no data has moved".to_owned())
}

fn dwcp(case: &mut Case, process: &ProcessFacts, flow: &FlowFacts) -> Refusal {
    if let Some((port, _)) = service_port(flow, |port| DWCP_OTHER_PORTS.contains(&port)) {
        let reason = format!("port {port} of a DWCP daemon carries no guest data");
        return Refusal::Never(Rejection::Service, reason);
    }
    case.support("comm", format!("process `{}` is a DWCP daemon", process.comm), 0.3);
    let data = |port| is_migration_port(port) || DWCP_DATA_PORTS.contains(&port);
    if let Some((port, _)) = service_port(flow, data)
        && has_moved(flow)
    {
        case.decide("port", format!("port {port} is a DWCP migration port"), 0.6, None);
    }
    if let Some(role) = one_way(flow, DWCP_BULK_BYTES) {
        case.decide("behaviour", bulk(flow, role), 0.5, Some(role));
    }
    let reason = "little data on a port that DWCP does not use for migrations";
    Refusal::Yet(Rejection::LittleData, reason.to_owned())
}

/// A process of no known kind.
fn by_port(case: &mut Case, process: &ProcessFacts, flow: &FlowFacts) -> Refusal {
    if let Some(name) = other_program(process) {
        return Refusal::Never(
            Rejection::OtherProgram,
            format!("`{name}` does not migrate guests"),
        );
    }
    if let Some((port, calls)) = service_port(flow, |port| port == table::DWCP_PORT) {
        // DWCP dials the destination and sends.
        let sender = if calls { Role::Source } else { Role::Destination };
        if one_way(flow, BULK_BYTES) == Some(sender) {
            case.support("port", format!("port {port} is DWCP's"), 0.3);
            case.decide("behaviour", bulk(flow, sender), 0.4, Some(sender));
        }
        let reason = format!("port {port}, but not {} from the connecting end", mib(BULK_BYTES));
        return Refusal::Yet(Rejection::LittleData, reason);
    }
    if flow.send_tid == 0 && flow.recv_tid == 0 {
        // A manager may pass the connection on to the migrator.
        return Refusal::Yet(Rejection::NoData, "no data has moved".to_owned());
    }
    let reason = format!(
        "`{}` is not a known migrator, and any program may use ports {}",
        process.comm,
        table::MIGRATION_PORTS
    );
    Refusal::Never(Rejection::UnknownProgram, reason)
}

/// Whether a port is DWCP's or in the range of libvirt.
pub(super) fn is_migration_port(port: u16) -> bool {
    port == table::DWCP_PORT || table::MIGRATION_PORTS.contains(port)
}

/// Evidence text of a one-way bulk flow.
pub(super) fn bulk(flow: &FlowFacts, role: Role) -> String {
    match role {
        Role::Source => format!("{} sent, nearly all one way", mib(flow.bytes_queued)),
        Role::Destination => format!("{} received, nearly all one way", mib(flow.bytes_received)),
    }
}

//! One live migration between two QEMU processes on this host, and QEMU's own figures about it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

use crate::qemu::{Qemu, QemuSpec, Role};
use crate::qmp::Event;
use crate::temp::loopback;

/// How a migration runs.
#[derive(Clone, Debug)]
pub struct MigrationPlan {
    /// Number of multifd channels beside the main one; `None` for plain precopy.
    pub multifd_channels: Option<u8>,
    /// Bytes per second; `None` for no limit.
    pub max_bandwidth: Option<u64>,
    /// The downtime in ms that QEMU may plan for its last pass, 1 to 2000000.
    pub downtime_limit_ms: u32,
    /// Over ::1 instead of 127.0.0.1.
    pub ipv6: bool,
    /// The destination's address instead of these, for ends in their own network namespaces.
    pub host: Option<IpAddr>,
    /// Where the destination listens.
    pub port: u16,
    /// Both ends are ready for postcopy, which [`Pair::start_postcopy`] begins. Not with multifd.
    pub postcopy: bool,
    /// What carries it.
    pub transport: Transport,
    /// More capabilities that are switched on at both ends.
    pub capabilities: Vec<&'static str>,
    /// More parameters of both ends.
    pub parameters: Vec<(&'static str, Value)>,
}

/// What carries a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// RDMA verbs, memory registered as it is sent.
    Rdma,
    /// RDMA verbs, all memory registered before (`rdma-pin-all`).
    RdmaPinAll,
}

impl Default for MigrationPlan {
    fn default() -> Self {
        Self {
            multifd_channels: None,
            max_bandwidth: None,
            downtime_limit_ms: 300,
            ipv6: false,
            host: None,
            port: 49152,
            postcopy: false,
            transport: Transport::Tcp,
            capabilities: Vec::new(),
            parameters: Vec::new(),
        }
    }
}

impl MigrationPlan {
    /// Where the destination listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host.unwrap_or_else(|| loopback(self.ipv6)), self.port)
    }

    /// How many TCP connections it takes.
    #[must_use]
    pub fn connections(&self) -> usize {
        usize::from(self.multifd_channels.unwrap_or(0)) + 1
    }

    /// How QEMU writes the address.
    #[must_use]
    pub fn uri(&self) -> String {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Rdma | Transport::RdmaPinAll => "rdma",
        };
        format!("{transport}:{}", self.address())
    }

    /// Gives an end its settings; both ends need them.
    ///
    /// # Errors
    /// When QEMU refuses one.
    pub fn prepare(&self, end: &mut Qemu) -> Result<()> {
        let mut parameters = json!({ "downtime-limit": self.downtime_limit_ms });
        // QEMU's default is 128 MiB/s; 0 stands for no limit.
        parameters["max-bandwidth"] = self.max_bandwidth.unwrap_or(0).into();
        if let Some(channels) = self.multifd_channels {
            parameters["multifd-channels"] = channels.into();
        }
        for (name, value) in &self.parameters {
            parameters[*name] = value.clone();
        }
        let switched = [
            ("multifd", self.multifd_channels.is_some()),
            ("events", true),
            ("postcopy-ram", self.postcopy),
            ("rdma-pin-all", self.transport == Transport::RdmaPinAll),
        ];
        let more = self.capabilities.iter().map(|name| (*name, true));
        let capabilities: Vec<Value> = switched
            .into_iter()
            .chain(more)
            .map(|(name, state)| json!({ "capability": name, "state": state }))
            .collect();
        let capabilities = json!({ "capabilities": capabilities });
        end.qmp().execute("migrate-set-capabilities", &capabilities)?;
        end.qmp().execute("migrate-set-parameters", &parameters)?;
        Ok(())
    }

    /// The destination listens from now on.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn listen(&self, destination: &mut Qemu) -> Result<()> {
        destination.qmp().execute("migrate-incoming", &json!({ "uri": self.uri() }))?;
        Ok(())
    }

    /// The source begins, and this returns at once.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn begin(&self, source: &mut Qemu) -> Result<()> {
        source.qmp().execute("migrate", &json!({ "uri": self.uri() }))?;
        Ok(())
    }
}

/// What QEMU itself says about a migration (`query-migrate` on the source).
///
/// # What `transferred` holds
///
/// Found with QEMU 7.2 by comparing with the kernel's own counters of the sockets (256 MiB guest,
/// `tests/lab_qemu.rs` compares again at each run); bytes:
///
/// | | precopy | multifd, 4 channels |
/// |---|---:|---:|
/// | `transferred` | 271,913,354 | 275,737,538 |
/// | of it `multifd-bytes` | 0 | 275,734,720 |
/// | of it `precopy-bytes` + `downtime-bytes` (main channel) | 271,913,354 | 2,818 |
/// | payload of all source sockets | 272,025,949 | 275,850,429 |
/// | payload of the multifd sockets | - | 275,734,976 |
/// | sockets minus `transferred` | 112,595 | 112,891 |
///
/// So `transferred` does include page addresses (8 bytes a page), multifd packet headers and
/// multifd bytes; it leaves out the device state with its description (112,595 bytes on this
/// machine type, on the main channel) and one packet of 64 bytes with which each multifd channel
/// begins. The sockets therefore carry 0.04 % more for a 256 MiB guest; below about 24 MiB sent
/// the difference would pass 0.5 %. No TLS, no compression.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct QemuFigures {
    /// `setup`, `active`, `completed`, `cancelled`, `failed`, ...; `none` before the first one.
    pub status: String,
    /// From the `migrate` command to the end, in ms. While it runs: so far.
    pub total_time_ms: Option<u64>,
    /// Source stop to end on the source, whole ms; only when completed.
    pub downtime_ms: Option<u64>,
    /// Preparation (connections, dirty log), ms.
    pub setup_time_ms: Option<u64>,
    /// `ram.transferred`, bytes.
    pub transferred: u64,
    /// `ram.multifd-bytes`: what of it went through multifd channels.
    pub multifd_bytes: u64,
    /// `ram.precopy-bytes`: what of it the main channel carried while the guest ran.
    pub precopy_bytes: u64,
    /// `ram.downtime-bytes`: what of it the main channel carried while the guest stood still.
    pub downtime_bytes: u64,
    /// RAM of the guest as QEMU counts it, bytes (more than `-m`: ROMs).
    pub total: u64,
    /// Pages sent whole.
    pub normal: u64,
    /// Zero pages, of which only the address is sent.
    pub duplicate: u64,
    /// Passes over the dirty log.
    pub dirty_sync_count: u64,
    /// `ram.postcopy-requests`: pages that the destination asked for.
    pub postcopy_requests: u64,
    /// Mbit/s over the last 100 ms or, once completed, over the whole migration.
    pub mbps: f64,
    /// Why it failed.
    pub error: Option<String>,
}

impl QemuFigures {
    /// Of a source at this moment.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn of(source: &mut Qemu) -> Result<Self> {
        Ok(Self::parse(&source.qmp().execute("query-migrate", &Value::Null)?))
    }

    /// Waits until those of a source satisfy `condition`, asking every 10 ms.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or the source does not answer.
    pub fn wait(
        source: &mut Qemu,
        limit: Duration,
        condition: impl Fn(&Self) -> bool,
    ) -> Result<Self> {
        let start = Instant::now();
        loop {
            let figures = Self::of(source)?;
            if condition(&figures) {
                return Ok(figures);
            }
            if start.elapsed() > limit {
                bail!("the migration is still not there after {limit:?}: {figures:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn parse(answer: &Value) -> Self {
        let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64);
        let ram = answer.get("ram").unwrap_or(&Value::Null);
        let counter = |key| number(ram, key).unwrap_or(0);
        let text = |key| answer.get(key).and_then(Value::as_str).map(str::to_owned);
        Self {
            status: text("status").unwrap_or_else(|| "none".to_owned()),
            total_time_ms: number(answer, "total-time"),
            downtime_ms: number(answer, "downtime"),
            setup_time_ms: number(answer, "setup-time"),
            transferred: counter("transferred"),
            multifd_bytes: counter("multifd-bytes"),
            precopy_bytes: counter("precopy-bytes"),
            downtime_bytes: counter("downtime-bytes"),
            total: counter("total"),
            normal: counter("normal"),
            duplicate: counter("duplicate"),
            dirty_sync_count: counter("dirty-sync-count"),
            postcopy_requests: counter("postcopy-requests"),
            mbps: ram.get("mbps").and_then(Value::as_f64).unwrap_or(0.0),
            error: text("error-desc"),
        }
    }

    /// Whether the migration has come to its end, good or bad, and its times are settled: QEMU says
    /// `completed` a moment before it has computed them, and shows 0 until then.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self.status.as_str() {
            "completed" => self.total_time_ms.is_some_and(|time| time > 0),
            status => matches!(status, "cancelled" | "failed"),
        }
    }
}

/// Two QEMU processes, between which a guest can migrate once.
#[derive(Debug)]
pub struct Pair {
    /// Where the guest runs first.
    pub source: Qemu,
    /// Where it goes.
    pub destination: Qemu,
}

impl Pair {
    /// Starts both and waits until the guest has filled its RAM.
    ///
    /// # Errors
    /// When QEMU is missing or does not start, or the guest takes more than two minutes.
    pub fn start(spec: &QemuSpec) -> Result<Self> {
        let mut source = Qemu::start(spec, Role::Source)?;
        let destination = Qemu::start(spec, Role::Destination)?;
        source.wait_filled(Duration::from_secs(120))?;
        Ok(Self { source, destination })
    }

    /// Starts the migration and returns at once.
    ///
    /// # Errors
    /// When QEMU refuses a setting, or the port is taken.
    pub fn migrate(&mut self, plan: &MigrationPlan) -> Result<()> {
        for end in [&mut self.source, &mut self.destination] {
            plan.prepare(end)?;
        }
        plan.listen(&mut self.destination)?;
        plan.begin(&mut self.source)
    }

    /// Goes over to postcopy: the guest moves now, and what is left of its memory follows.
    ///
    /// # Errors
    /// When the plan does not allow it, or no migration is under way.
    pub fn start_postcopy(&mut self) -> Result<()> {
        self.source.qmp().execute("migrate-start-postcopy", &Value::Null)?;
        Ok(())
    }

    /// Binds the threads of both ends: [`Qemu::pin`].
    ///
    /// # Errors
    /// When an end is gone, or the host has no such CPU.
    pub fn pin(&mut self, vcpus: usize, others: usize) -> Result<()> {
        self.source.pin(vcpus, others)?;
        self.destination.pin(vcpus, others)
    }

    /// The events of both ends since they were last taken, up to this moment: `MIGRATION` (its
    /// `data.status` is the new state), `STOP`, `RESUME`, `MIGRATION_PASS`, ...
    ///
    /// # Errors
    /// When an end does not answer.
    pub fn take_events(&mut self) -> Result<[Vec<Event>; 2]> {
        let take = |end: &mut Qemu| -> Result<Vec<Event>> {
            // Events come before the answers that follow them.
            end.qmp().execute("query-status", &Value::Null)?;
            Ok(end.qmp().take_events())
        };
        Ok([take(&mut self.source)?, take(&mut self.destination)?])
    }

    /// QEMU's figures at this moment.
    ///
    /// # Errors
    /// When the source does not answer.
    pub fn figures(&mut self) -> Result<QemuFigures> {
        QemuFigures::of(&mut self.source)
    }

    /// Waits for the end, good or bad; the destination runs the guest if it is a good one.
    ///
    /// # Errors
    /// When it has not ended after `limit`, or the source does not answer.
    pub fn wait_end(&mut self, limit: Duration) -> Result<QemuFigures> {
        let figures = self.wait_until(limit, QemuFigures::is_final)?;
        if figures.status == "completed" {
            wait_running(&mut self.destination, Duration::from_secs(10))?;
        }
        Ok(figures)
    }

    /// Waits until the figures satisfy `condition`, asking every 10 ms.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or the source does not answer.
    pub fn wait_until(
        &mut self,
        limit: Duration,
        condition: impl Fn(&QemuFigures) -> bool,
    ) -> Result<QemuFigures> {
        QemuFigures::wait(&mut self.source, limit, condition)
    }

    /// Asks the source to give up; the end is to be waited for.
    ///
    /// # Errors
    /// When the source does not answer.
    pub fn cancel(&mut self) -> Result<()> {
        self.source.qmp().execute("migrate_cancel", &Value::Null)?;
        Ok(())
    }

    /// Changes the limit of a running migration, bytes per second.
    ///
    /// # Errors
    /// When the source does not answer.
    pub fn set_max_bandwidth(&mut self, bytes_per_second: u64) -> Result<()> {
        let parameters = json!({ "max-bandwidth": bytes_per_second });
        self.source.qmp().execute("migrate-set-parameters", &parameters)?;
        Ok(())
    }

    /// Tells the guest on the source to dirty pages much faster, or at its ordinary rate again:
    /// [`Qemu::set_storm`].
    ///
    /// # Errors
    /// When the source is gone.
    pub fn set_storm(&mut self, storm: bool) -> Result<()> {
        self.source.set_storm(storm)
    }
}

/// Waits until a destination runs the guest.
///
/// # Errors
/// When it does not within `limit`.
pub fn wait_running(destination: &mut Qemu, limit: Duration) -> Result<()> {
    let start = Instant::now();
    loop {
        let answer = destination.qmp().execute("query-status", &Value::Null)?;
        if answer.get("status").and_then(Value::as_str) == Some("running") {
            return Ok(());
        }
        if start.elapsed() > limit {
            bail!("the destination does not run the guest: {answer}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs one migration from start to end.
///
/// # Errors
/// When it cannot be started, does not complete, or takes more than five minutes.
pub fn run(spec: &QemuSpec, plan: &MigrationPlan) -> Result<QemuFigures> {
    let mut pair = Pair::start(spec)?;
    pair.migrate(plan).context("the migration does not start")?;
    let figures = pair.wait_end(Duration::from_secs(300))?;
    if figures.status != "completed" {
        bail!("the migration ended as `{}`: {:?}", figures.status, figures.error);
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uri_names_the_address() {
        assert_eq!(MigrationPlan::default().uri(), "tcp:127.0.0.1:49152");
        let plan = MigrationPlan { ipv6: true, port: 5, ..MigrationPlan::default() };
        assert_eq!(plan.uri(), "tcp:[::1]:5");
    }

    #[test]
    fn figures_are_read_from_an_answer() {
        let answer = json!({
            "status": "completed", "total-time": 1201, "downtime": 3, "setup-time": 2,
            "ram": {
                "transferred": 30, "multifd-bytes": 20, "precopy-bytes": 9, "downtime-bytes": 1,
                "total": 99, "normal": 5, "duplicate": 6, "dirty-sync-count": 7, "mbps": 12.5,
                "postcopy-requests": 3,
            },
        });
        let figures = QemuFigures::parse(&answer);
        let expected = QemuFigures {
            status: "completed".to_owned(),
            total_time_ms: Some(1201),
            downtime_ms: Some(3),
            setup_time_ms: Some(2),
            transferred: 30,
            multifd_bytes: 20,
            precopy_bytes: 9,
            downtime_bytes: 1,
            total: 99,
            normal: 5,
            duplicate: 6,
            dirty_sync_count: 7,
            postcopy_requests: 3,
            mbps: 12.5,
            error: None,
        };
        assert_eq!(figures, expected);
        assert!(figures.is_final());
    }

    #[test]
    fn a_source_that_has_not_migrated_has_no_times() {
        let figures = QemuFigures::parse(&json!({}));
        assert_eq!(figures.status, "none");
        assert_eq!(figures.total_time_ms, None);
        assert!(!figures.is_final());
    }
}

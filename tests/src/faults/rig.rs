//! One migration over a wire of its own, and what is done to it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{
    BASELINE_RATE, Competitors, CpuQuota, Fault, Injection, Loss, Shaper, Stopped, managed,
};
use crate::guest::Guest;
use crate::migration::{MigrationPlan, Pair};
use crate::netns::{INTERFACE, Wire};
use crate::qemu::{QemuSpec, Role};

/// What differs from run to run of one fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Variant {
    /// Multifd channels beside the main one; `None` for plain precopy.
    pub channels: Option<u8>,
    /// The source's congestion control; `None` for this host's.
    pub congestion: Option<&'static str>,
}

impl Variant {
    /// Of the run with this number.
    #[must_use]
    pub fn of_run(run: usize) -> Self {
        // The one that every kernel has; unlike BBR it slows down after a loss.
        const RENO: Option<&str> = Some("reno");
        let (channels, congestion) =
            [(None, None), (Some(2), RENO), (None, RENO), (Some(4), None), (None, None)][run % 5];
        Self { channels, congestion }
    }
}

/// Two QEMU processes, the wire between them, and the bucket that paces what goes over it.
#[derive(Debug)]
pub struct Rig {
    // Order of drop: the processes end before their network goes.
    /// The processes.
    pub pair: Pair,
    fault: Fault,
    plan: MigrationPlan,
    /// Another VM that can migrate over the same wire.
    neighbour: Option<(Pair, MigrationPlan)>,
    shaper: Option<Shaper>,
    wire: Wire,
}

impl Rig {
    /// Starts both ends and waits until the guest has filled its RAM.
    ///
    /// # Errors
    /// Without root, or when a program is missing or fails.
    pub fn start(fault: Fault, variant: Variant) -> Result<Self> {
        let storm = fault.is_storm();
        // Enough for the fault to be over before the memory is sent. A storm is of no consequence before the first pass ends,
        // so that must be short.
        let (memory_mib, downtime_limit_ms) = if storm { (224, 50) } else { (768, 300) };
        Self::start_sized(fault, variant, memory_mib, downtime_limit_ms)
    }

    /// The same with a guest of this size, which QEMU may stop for so long.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn start_sized(
        fault: Fault,
        variant: Variant,
        memory_mib: u32,
        downtime_limit_ms: u32,
    ) -> Result<Self> {
        let wire = Wire::new()?;
        let source = wire.end(Role::Source);
        // Reno's newcomer gets 0.9 MB/s of 57 behind a full bucket: then nothing is shared.
        let congestion = variant.congestion.filter(|_| fault != Fault::SharedLink);
        if let Some(name) = congestion {
            source.set("ipv4/tcp_congestion_control", name)?;
        }
        if fault == Fault::NetworkCutTimeout {
            // TCP gives up after some 6 s instead of a quarter of an hour.
            source.set("ipv4/tcp_retries2", "4")?;
        }
        let shaper = Shaper::new(&wire, BASELINE_RATE)?;
        let guest = Guest {
            memory_mib,
            // More than may be left when the guest is stopped, dirtied at a quarter of the rate
            // at most.
            working_set_mib: 32,
            dirty_delay: 80_000,
            ..Guest::default()
        };
        let spec = QemuSpec { guest, wire: Some(wire.clone()), ..QemuSpec::default() };
        let plan = MigrationPlan {
            // Neither recovery nor postcopy goes with multifd in QEMU 7.2.
            multifd_channels: variant.channels.filter(|_| fault != Fault::PostcopyPaused),
            postcopy: fault == Fault::PostcopyPaused,
            max_bandwidth: (fault == Fault::SteadyAtLimit).then_some(BASELINE_RATE / 2),
            downtime_limit_ms,
            host: Some(Wire::address(Role::Destination)),
            ..MigrationPlan::default()
        };
        let neighbour = if fault == Fault::SharedLink {
            let name = Some(Fault::NEIGHBOUR.to_owned());
            let other = QemuSpec { name, uuid: None, ..spec.clone() };
            let plan = MigrationPlan { port: plan.port + 1, ..plan.clone() };
            Some((Pair::start(&other)?, plan))
        } else {
            None
        };
        let pair = if matches!(fault, Fault::NotResumed | Fault::ResumedTwice) {
            managed::start_stopped(&spec)?
        } else {
            Pair::start(&spec)?
        };
        Ok(Self { pair, fault, plan, neighbour, shaper: Some(shaper), wire })
    }

    /// Starts the migration.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn migrate(&mut self) -> Result<()> {
        managed::prepare(&mut self.pair, self.fault)?;
        self.pair.migrate(&self.plan)
    }

    /// Does to the migration what the fault says. What is returned keeps it in force.
    ///
    /// # Errors
    /// When that is not possible here.
    pub fn inject(&mut self, fault: Fault) -> Result<Option<Box<dyn Injection>>> {
        let (source, destination) = (self.pair.source.pid(), self.pair.destination.pid());
        Ok(match fault {
            Fault::Clean | Fault::SteadyAtLimit => None,
            Fault::LargePacketsDropped => Some(Box::new(Loss::of_larger(&self.wire, 1000)?)),
            Fault::ReceiverCpuQuota => Some(Box::new(CpuQuota::new(destination, 2)?)),
            Fault::SharedLink => {
                let (pair, plan) = self.neighbour.as_mut().context("no neighbour")?;
                pair.migrate(plan)?;
                None
            }
            // Both are to come to their end at once.
            Fault::HeldBeforeSwitchOver | Fault::NotResumed => {
                self.shaper = None;
                None
            }
            Fault::ResumedTwice => {
                self.shaper = None;
                managed::resume_both(&mut self.pair)?;
                None
            }
            Fault::PostcopyPaused => {
                managed::break_postcopy(&mut self.pair, &self.wire, self.plan.port)?;
                None
            }
            Fault::BandwidthCut => {
                self.shape(BASELINE_RATE / 24)?;
                None
            }
            Fault::RandomDrop => Some(Box::new(Loss::new(&self.wire, 5)?)),
            Fault::NetworkCutCancel | Fault::NetworkCutTimeout => {
                Some(Box::new(Loss::new(&self.wire, 100)?))
            }
            Fault::ReceiverStopped => Some(Box::new(Stopped::new(destination)?)),
            // Sending takes 1 to 2 % of a CPU, the guest all that it gets. With 5 % for both three
            // quarters of the rate are left.
            Fault::SourceCpuQuota => Some(Box::new(CpuQuota::new(source, 2)?)),
            Fault::SourceCpuContended => Some(Box::new(Competitors::new(source, destination, 2)?)),
            Fault::DirtyStorm | Fault::AutoConverge => {
                self.pair.set_storm(true)?;
                None
            }
            Fault::MaxBandwidth => {
                self.pair.set_max_bandwidth(BASELINE_RATE / 12)?;
                None
            }
            Fault::DestinationKilled => {
                self.pair.destination.end()?;
                None
            }
            Fault::SourceKilled => {
                self.pair.source.end()?;
                None
            }
            Fault::Cancel => {
                self.pair.cancel()?;
                None
            }
        })
    }

    /// Takes back what [`Rig::inject`] did by a setting, and lets the rest of the migration run as
    /// fast as it can.
    ///
    /// # Errors
    /// When the source is gone.
    pub fn undo(&mut self, fault: Fault, injection: Option<Box<dyn Injection>>) -> Result<()> {
        if fault != Fault::BandwidthCut {
            self.lift(fault, injection)?;
        }
        self.shaper = None;
        Ok(())
    }

    /// Takes back what [`Rig::inject`] did by a setting; the network goes on as it was before.
    ///
    /// # Errors
    /// When the source is gone, or `tc` fails.
    pub fn lift(&mut self, fault: Fault, injection: Option<Box<dyn Injection>>) -> Result<()> {
        drop(injection);
        match fault {
            Fault::BandwidthCut => self.shape(BASELINE_RATE),
            Fault::DirtyStorm | Fault::AutoConverge => self.pair.set_storm(false),
            Fault::HeldBeforeSwitchOver | Fault::NotResumed | Fault::PostcopyPaused => {
                managed::go_on(&mut self.pair, fault, &self.plan)
            }
            Fault::MaxBandwidth | Fault::SteadyAtLimit => self.pair.set_max_bandwidth(0),
            _ => Ok(()),
        }
    }

    /// Whether the fault shows by now. What the guest writes does not matter before the first pass over its memory is done; what
    /// waits for a manager has to come that far.
    ///
    /// # Errors
    /// When the source is gone.
    pub fn shows(&mut self, fault: Fault) -> Result<bool> {
        Ok(match fault {
            Fault::DirtyStorm => self.pair.figures()?.dirty_sync_count >= 2,
            Fault::AutoConverge => managed::is_throttled(&mut self.pair)?,
            Fault::HeldBeforeSwitchOver => self.pair.figures()?.status == "pre-switchover",
            Fault::NotResumed => self.pair.figures()?.status == "completed",
            Fault::PostcopyPaused => self.pair.figures()?.status == "postcopy-paused",
            _ => true,
        })
    }

    /// Whether QEMU says that the migration is over.
    ///
    /// # Errors
    /// When the source is gone.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.pair.figures()?.is_final())
    }

    /// Waits for the end, which must be as expected, and returns when that was.
    ///
    /// # Errors
    /// When it ends otherwise, or not within a minute.
    pub fn wait_end(&mut self, expected: &str) -> Result<Instant> {
        let figures = self.pair.wait_end(Duration::from_secs(60))?;
        ensure!(figures.status == expected, "QEMU ended otherwise: {figures:?}");
        Ok(Instant::now())
    }

    /// Waits for the destination to end by itself, as QEMU does when its source is gone.
    ///
    /// # Errors
    /// When it does not within 20 s.
    pub fn wait_destination_gives_up(&mut self) -> Result<()> {
        let ended = self.pair.destination.wait_ended(Duration::from_secs(20))?;
        ensure!(ended, "the destination still waits for its source");
        Ok(())
    }

    /// Ends the destination (SIGKILL), as what manages both ends does once a migration has failed.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn end_destination(&mut self) -> Result<()> {
        self.pair.destination.end()
    }

    /// The source's ports of its streams, those that have carried most first.
    ///
    /// # Errors
    /// When `ss` fails.
    pub fn ports(&self) -> Result<Vec<u16>> {
        let listing = self.wire.end(Role::Source).run("ss", &["-tinOH", "state", "established"])?;
        Ok(busiest(&listing, self.plan.port))
    }

    /// The wire between both ends.
    #[must_use]
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Lets the stream that has carried most pass at `slow` bytes per second, and all else at `fast`, until the rig ends: as where the
    /// path is chosen by port and one of them is bad.
    ///
    /// # Errors
    /// When a program fails, or there is no stream.
    pub fn slow_one_down(&self, slow: u64, fast: u64) -> Result<()> {
        let source = self.wire.end(Role::Source);
        let port = *self.ports()?.first().context("no stream")?;
        let bits = |rate: u64| format!("{}bit", 8 * rate);
        let class = |id: &str, rate: u64| {
            let rate = bits(rate);
            let arguments =
                ["class", "add", "dev", INTERFACE, "parent", "1:", "classid", id, "htb", "rate"];
            source.run("tc", &[&arguments[..], &[&rate]].concat())
        };
        source.run("tc", &["qdisc", "delete", "dev", INTERFACE, "root"])?;
        source.run(
            "tc",
            &["qdisc", "add", "dev", INTERFACE, "root", "handle", "1:", "htb", "default", "10"],
        )?;
        class("1:10", fast)?;
        class("1:20", slow)?;
        let rules = format!(
            "add table inet lab; \
             add chain inet lab leaving {{ type filter hook postrouting priority 300; }}; \
             add rule inet lab leaving tcp sport {port} meta priority set 1:20"
        );
        source.run("nft", &[&rules])?;
        Ok(())
    }

    /// Changes what the network carries.
    ///
    /// # Errors
    /// When it is no longer shaped, or `tc` fails.
    pub fn shape(&self, bytes_per_second: u64) -> Result<()> {
        self.shaper.as_ref().context("no longer shaped")?.set(bytes_per_second)
    }
}

/// The local ports of the connections to `port`, those that have carried most first; of `ss -tinOH state established`.
fn busiest(listing: &str, port: u16) -> Vec<u16> {
    let called = format!(":{port}");
    let mut found: Vec<(u64, u16)> = listing
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = words.iter().position(|word| word.ends_with(&called))?;
            let local = words.get(at.checked_sub(1)?)?.rsplit_once(':')?.1.parse().ok()?;
            let acked = words.iter().find_map(|word| word.strip_prefix("bytes_acked:"));
            Some((acked.and_then(|acked| acked.parse().ok()).unwrap_or(0), local))
        })
        .collect();
    found.sort_unstable_by(|left, right| right.cmp(left));
    found.into_iter().map(|(_, local)| local).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_streams_come_first() {
        let listing = "0 0 198.51.100.1:4001 198.51.100.2:49152 cubic bytes_acked:5 segs_out:1\n\
                       0 9 198.51.100.1:4002 198.51.100.2:49152 cubic bytes_acked:700\n\
                       0 0 198.51.100.1:4003 198.51.100.2:22 cubic bytes_acked:9000\n\
                       0 0 198.51.100.1:4004 198.51.100.2:49152 cubic rto:200\n";
        assert_eq!(busiest(listing, 49152), [4002, 4001, 4004]);
        assert!(busiest("", 49152).is_empty());
    }
}

//! A worse network between the two ends.

use anyhow::{Context, Result};

use super::Injection;
use crate::netns::{INTERFACE, Wire};
use crate::qemu::Role;

/// A token bucket on the source's interface: what the migration sends passes at this rate at most.
/// Without one the cable is as fast as the host. Removed on drop.
#[derive(Debug)]
pub struct Shaper {
    wire: Wire,
}

impl Shaper {
    /// Lets `bytes_per_second` pass.
    ///
    /// # Errors
    /// When `tc` is missing, or the kernel has no TBF.
    pub fn new(wire: &Wire, bytes_per_second: u64) -> Result<Self> {
        let shaper = Self { wire: wire.clone() };
        shaper.set(bytes_per_second)?;
        Ok(shaper)
    }

    /// Changes the rate, at once.
    ///
    /// # Errors
    /// When `tc` fails.
    pub fn set(&self, bytes_per_second: u64) -> Result<()> {
        // What passes between two timer ticks of the slowest kernel (10 ms), and more than the
        // largest packet that TCP hands down, 64 KiB and headers: one that waits here when the
        // bucket becomes smaller than it is would wait forever, and all others behind it.
        let burst = (bytes_per_second / 100).max(128 << 10);
        let source = self.wire.end(Role::Source);
        let [rate, burst] = [format!("{}bit", 8 * bytes_per_second), format!("{burst}b")];
        source.run(
            "tc",
            &[
                "qdisc", "replace", "dev", INTERFACE, "root", "handle", "1:", "tbf", "rate", &rate,
                "burst", &burst, "latency", "50ms",
            ],
        )?;
        Ok(())
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        // If it fails, the namespace is gone or about to.
        let delete = ["qdisc", "delete", "dev", INTERFACE, "root"];
        let _ = self.wire.end(Role::Source).run("tc", &delete);
    }
}

/// Packets that get lost on their way to the destination.
///
/// They are dropped where they arrive: a drop where they leave is no loss to the sender's TCP, which
/// sees the error and does not count the packet as sent.
#[derive(Debug)]
pub struct Loss {
    wire: Wire,
}

impl Injection for Loss {
    fn has_effect(&self) -> Result<bool> {
        Ok(self.dropped()? > 0)
    }
}

impl Loss {
    /// Drops `percent` (1 to 100) of the packets at random, and with 100 the answers too: the
    /// network is cut.
    ///
    /// # Errors
    /// When `nft` is missing or the kernel has no nf_tables.
    pub fn new(wire: &Wire, percent: u8) -> Result<Self> {
        Self::of(wire, percent, "")
    }

    /// Drops `percent` (1 to 99) of what one connection sends, the one with this port at the source.
    ///
    /// # Errors
    /// As [`Loss::new`].
    pub fn of_stream(wire: &Wire, percent: u8, port: u16) -> Result<Self> {
        Self::of(wire, percent, &format!("tcp sport {port} "))
    }

    /// Drops what is larger than so many bytes, headers included, as a path whose MTU is smaller than its ends believe, with the
    /// ICMP that would say so filtered.
    ///
    /// # Errors
    /// As [`Loss::new`].
    pub fn of_larger(wire: &Wire, bytes: u32) -> Result<Self> {
        Self::by(wire, &format!("meta length > {bytes} counter drop"), false)
    }

    fn of(wire: &Wire, percent: u8, whose: &str) -> Result<Self> {
        let rule = if percent >= 100 {
            format!("{whose}counter drop")
        } else {
            format!(
                "{whose}tcp flags & (syn | fin | rst) == 0 \
                 numgen random mod 100 < {percent} counter drop"
            )
        };
        Self::by(wire, &rule, percent >= 100)
    }

    /// `both_ways`: what the destination sends is dropped as well.
    fn by(wire: &Wire, rule: &str, both_ways: bool) -> Result<Self> {
        let loss = Self { wire: wire.clone() };
        let mut commands = format!(
            "add table inet lab; \
             add chain inet lab arriving {{ type filter hook prerouting priority -300; }}; \
             add rule inet lab arriving meta iifname {INTERFACE} {rule}"
        );
        if both_ways {
            commands.push_str(&format!(
                "; add chain inet lab leaving {{ type filter hook postrouting priority 300; }}; \
                 add rule inet lab leaving meta oifname {INTERFACE} drop"
            ));
        }
        loss.wire.end(Role::Destination).run("nft", &[&commands])?;
        Ok(loss)
    }

    /// How many packets were dropped.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn dropped(&self) -> Result<u64> {
        let listing =
            self.wire.end(Role::Destination).run("nft", &["list chain inet lab arriving"])?;
        parse_counter(&listing).with_context(|| format!("no counter: {listing}"))
    }
}

fn parse_counter(listing: &str) -> Option<u64> {
    let (_, rest) = listing.split_once("counter packets ")?;
    rest.split(' ').next()?.parse().ok()
}

impl Drop for Loss {
    fn drop(&mut self) {
        // If it fails, the namespace is gone or about to.
        let _ = self.wire.end(Role::Destination).run("nft", &["delete table inet lab"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_a_rule_is_read() {
        let listing =
            "\t\tiifname \"wire0\" numgen random mod 100 < 5 counter packets 17 bytes 900 drop\n";
        assert_eq!(parse_counter(listing), Some(17));
        assert_eq!(parse_counter("drop"), None);
    }
}

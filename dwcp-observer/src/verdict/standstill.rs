//! Judges a guest that is stopped and waits for its manager.

use super::inputs::Second;
use crate::model::{
    record::{Awaited, Role},
    verdict::{Cause, Fractions, Standing},
};

/// A manager that has not answered after this time does not answer: it takes milliseconds, over a slow path some hundred. With the
/// second that a tick may be late it is said within three.
const PROMPT_SECONDS: f64 = 1.5;

/// What is said of such a guest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Waiting {
    /// Who keeps it waiting.
    pub(super) cause: Cause,
    /// It should have gone on by now.
    pub(super) too_long: bool,
}

impl Waiting {
    /// The migrator has nothing to send meanwhile: that time is the manager's, or the lost connection's.
    pub(super) fn takes_over(self, mut fractions: Fractions) -> Fractions {
        let idle = std::mem::take(&mut fractions[Cause::Application]);
        fractions[self.cause] += idle;
        fractions
    }
}

/// `None` for a guest that waits for the migrator's own work.
pub(super) fn waiting(standing: Standing) -> Option<Waiting> {
    match standing.awaits {
        Awaited::SwitchOver => None,
        Awaited::MigrateContinue | Awaited::Resume => {
            Some(Waiting { cause: Cause::Manager, too_long: standing.seconds >= PROMPT_SECONDS })
        }
        // QEMU pauses a postcopy when its connection breaks (migration/migration.c, postcopy_pause); by itself it never goes on.
        Awaited::Recovery => Some(Waiting { cause: Cause::Network, too_long: true }),
    }
}

/// Where, since when, for what, and what to do.
pub(super) fn words(second: &Second, standing: Standing) -> String {
    let Standing { pid, seconds, .. } = standing;
    let (here, there) = match standing.at {
        Role::Source => ("source", "destination"),
        Role::Destination => ("destination", "source"),
    };
    let process = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
    let stands = format!("the guest has been stopped at the {here}{process} for {seconds:.1} s");
    match standing.awaits {
        Awaited::SwitchOver => format!("{stands}: the switch-over is under way"),
        Awaited::MigrateContinue => format!(
            "{stands}: it waits for the manager's `migrate-continue` (pause-before-switchover): check what the manager waits for (copied disks, the {there}), or cancel, and the guest continues here"
        ),
        Awaited::Resume => format!(
            "{stands}: everything is loaded, it waits for the manager's `cont`: check the manager on the {here} (libvirt, virt-handler), or resume the guest there after making sure that it cannot run at the {there}"
        ),
        Awaited::Recovery => {
            let source = second
                .source
                .as_ref()
                .map_or_else(String::new, |source| format!(" (pid {})", source.pid));
            let destination = second
                .destination
                .as_ref()
                .map_or_else(String::new, |destination| format!(" (pid {})", destination.pid));
            format!(
                "postcopy has been paused for {seconds:.1} s, and vCPUs stop at the first missing page: repair the network, then `migrate-recover` at the destination{destination} and `migrate` with `resume` at the source{source} (libvirt: `virsh migrate --postcopy-resume`); do not end either QEMU"
            )
        }
    }
}

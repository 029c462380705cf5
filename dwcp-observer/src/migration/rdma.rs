//! What registered memory gives to the record.

use super::{end::Registrations, live::LiveMigration};
use crate::model::record::RegisteredMemory;

/// What each end has registered since the migration began.
pub(super) fn registered_memory(live: &LiveMigration) -> Vec<RegisteredMemory> {
    let ends = live
        .roles()
        .filter_map(|(role, end)| Some((role, end.registered_base, end.registered.as_ref()?)));
    ends.map(|(end, base, now)| {
        let Registrations { count, bytes, ns } = Registrations::of(now).since(base);
        RegisteredMemory {
            end,
            registrations: count,
            bytes,
            seconds: ns as f64 / 1e9,
            pinned_peak_bytes: now.bytes_pinned_peak,
        }
    })
    .collect()
}

//! Which running migrations share a path: the verdict names the one that takes the other's bandwidth.

use std::{collections::BTreeSet, net::IpAddr};

use super::{end::EndState, live::LiveMigration};
use crate::model::record::Role;
use crate::{process::vm_from_cmdline, verdict::inputs::Neighbour};

/// Longest name in a sentence: a stranger chose it.
const NAME_CHARS: usize = 64;

/// What a running migration moves, and between which addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct PathUse {
    id: String,
    name: String,
    role: Role,
    /// Network namespace and address, own ones and the peer's: the same own address leaves through the same interface, the same
    /// peer is reached through the same one. Loopback is no path that has a speed.
    addresses: BTreeSet<(u32, IpAddr)>,
    bytes_per_second: f64,
}

/// Of all running migrations of which a rate is known.
pub(super) fn paths(all: &[LiveMigration]) -> Vec<PathUse> {
    all.iter().filter(|live| !live.life.is_finished()).filter_map(path).collect()
}

/// The others over the path of this one, in the same direction: full duplex carries both ways at once.
pub(super) fn of(live: &LiveMigration, paths: &[PathUse]) -> Vec<Neighbour> {
    let Some(own) = paths.iter().find(|path| path.id == live.id) else { return Vec::new() };
    paths.iter().filter(|other| shares(own, other)).map(neighbour).collect()
}

fn shares(own: &PathUse, other: &PathUse) -> bool {
    own.id != other.id
        && own.role == other.role
        && own.addresses.intersection(&other.addresses).next().is_some()
}

fn neighbour(other: &PathUse) -> Neighbour {
    Neighbour { name: other.name.clone(), bytes_per_second: other.bytes_per_second }
}

fn path(live: &LiveMigration) -> Option<PathUse> {
    let (role, end) = live.roles().next()?;
    let open = end.flows.values().map(|flow| &flow.reading).filter(|reading| !reading.closed);
    let addresses = open
        .flat_map(|reading| [reading.local, reading.peer].map(|at| (reading.netns, at.ip())))
        .filter(|(_, address)| !address.to_canonical().is_loopback())
        .collect();
    Some(PathUse {
        id: live.id.clone(),
        name: name(live, end),
        role,
        addresses,
        bytes_per_second: live.rate?,
    })
}

/// The VM's name, or the migration's id.
fn name(live: &LiveMigration, end: &EndState) -> String {
    let known = |end: &EndState| vm_from_cmdline(&end.facts.cmdline).name;
    let named = known(end).or_else(|| live.ends.iter().find_map(known));
    let named = named.filter(|name| !name.is_empty()).unwrap_or_else(|| live.id.clone());
    named.chars().filter(|letter| !letter.is_control()).take(NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str, role: Role, netns: u32, addresses: &[&str]) -> PathUse {
        PathUse {
            id: id.to_owned(),
            name: format!("vm-{id}"),
            role,
            addresses: addresses.iter().map(|it| (netns, it.parse().unwrap())).collect(),
            bytes_per_second: 30e6,
        }
    }

    #[test]
    fn a_path_is_shared_by_an_address_a_namespace_and_a_direction() {
        let own = user("1", Role::Source, 5, &["10.0.0.1", "10.0.0.2"]);
        let same_peer = user("2", Role::Source, 5, &["10.0.1.1", "10.0.0.2"]);
        let same_egress = user("3", Role::Source, 5, &["10.0.0.1", "10.0.0.9"]);
        assert!(shares(&own, &same_peer) && shares(&own, &same_egress));
        let elsewhere = user("4", Role::Source, 6, &["10.0.0.1", "10.0.0.2"]);
        let other_way = user("5", Role::Destination, 5, &["10.0.0.1", "10.0.0.2"]);
        let other_path = user("6", Role::Source, 5, &["10.0.3.1", "10.0.3.2"]);
        let loopback = user("7", Role::Source, 5, &[]);
        for other in [&own, &elsewhere, &other_way, &other_path, &loopback] {
            assert!(!shares(&own, other), "{other:?}");
        }
        assert!(!shares(&loopback, &user("8", Role::Source, 5, &[])));
    }
}

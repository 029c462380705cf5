//! All kinds of migrations.

use std::time::Duration;

use super::case::{Case, Inside, Resume, Transfer, Turn};
use super::images::Mount;
use super::version::Version;
use crate::qemu::{Accelerator, Role};

/// From a version to itself, and from each to those that a rolling upgrade leads to.
const PATHS: [(Version, Version); 8] = [
    (Version::V5_2, Version::V5_2),
    (Version::V7_2, Version::V7_2),
    (Version::V10_0, Version::V10_0),
    (Version::V11_1, Version::V11_1),
    (Version::V5_2, Version::V7_2),
    (Version::V7_2, Version::V10_0),
    (Version::V10_0, Version::V11_1),
    (Version::V7_2, Version::V11_1),
];
/// When the guest moves.
const MOVES: Duration = Duration::from_millis(400);

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// All, in an order that is the same each time; times and sizes depend on `seed`.
#[must_use]
pub fn cases(seed: u64) -> Vec<Case> {
    let mut random = Random(seed);
    let mut all = Vec::new();
    transfers(&mut all, &mut random);
    managers(&mut all, &mut random);
    holds(&mut all, &mut random);
    linux(&mut all);
    kvm(&mut all);
    options(&mut all);
    overlays(&mut all);
    failures(&mut all, &mut random);
    postcopy_failures(&mut all, &mut random);
    all
}

/// So many: evenly taken out of all, or all and again with other times and sizes.
#[must_use]
pub fn some_cases(count: usize, seed: u64) -> Vec<Case> {
    let first = cases(seed);
    if count <= first.len() {
        let total = first.len();
        let mut taken = first.into_iter().enumerate();
        let mut chosen = Vec::with_capacity(count);
        for number in 0..count {
            let wanted = number * total / count;
            chosen.extend(taken.find(|(index, _)| *index == wanted).map(|(_, case)| case));
        }
        return chosen;
    }
    let mut chosen = first;
    for seed in seed + 1.. {
        if chosen.len() >= count {
            break;
        }
        chosen.extend(cases(seed));
    }
    chosen.truncate(count);
    chosen
}

/// Those that the ordinary tests run, so mixed that the first ones are of each kind.
#[must_use]
pub fn ci_cases(seed: u64) -> Vec<Case> {
    let mut random = Random(seed);
    let part = cases(seed).into_iter().filter(|case| case.ci);
    let mut mixed: Vec<(u64, Case)> = part.map(|case| (random.next(), case)).collect();
    mixed.sort_by_key(|(key, _)| *key);
    mixed.into_iter().map(|(_, case)| case).collect()
}

fn transfers(all: &mut Vec<Case>, random: &mut Random) {
    for (from, to) in PATHS {
        let case = |name: &str| Case::new(name, from, to);
        let sized = |case: Case, random: &mut Random| {
            let (memory, bandwidth) = (random.pick(&[64, 96, 128]), random.pick(&[0, 60, 150]));
            case.with(|case| (case.memory_mib, case.bandwidth_mib) = (memory, bandwidth))
        };
        let precopy = sized(case("precopy"), random);
        all.push(precopy.ci());
        for channels in [2, 4, 8] {
            let multifd = sized(case(&format!("multifd {channels}")), random)
                .with(|case| case.transfer = Transfer::Multifd(channels));
            all.push(if channels == 4 && from == to { multifd.ci() } else { multifd });
        }
        let after = ms(200 + random.below(500));
        let postcopy = case("postcopy").with(|case| case.transfer = Transfer::Postcopy(after));
        all.push(if from == to { postcopy.ci() } else { postcopy });
        // QEMU 7.1 brought it.
        if from >= Version::V7_2 {
            let preempt =
                case("postcopy with preempt").with(|case| case.transfer = Transfer::Preempt(after));
            all.push(if from == to { preempt.ci() } else { preempt });
        }
        let dirty = case("precopy, many rounds").with(|case| {
            (case.dirty, case.bandwidth_mib) = ((24, 8_000), 60);
        });
        all.push(dirty);
    }
}

/// As libvirt and all that builds on it do: the destination waits for `cont`.
fn managers(all: &mut Vec<Case>, random: &mut Random) {
    for (number, (from, to)) in PATHS.into_iter().enumerate() {
        for (nth, wait) in [20, 300, 1_500].into_iter().enumerate() {
            let case = Case::new(&format!("-S, cont after {wait} ms"), from, to)
                .with(|case| case.resume = Resume::Manager(ms(wait)));
            all.push(if (number + nth) % 3 == 0 { case.ci() } else { case });
        }
        let wait = ms(100 + random.below(900));
        let multifd = Case::new("-S, multifd 4", from, to).with(|case| {
            (case.resume, case.transfer) = (Resume::Manager(wait), Transfer::Multifd(4));
        });
        let postcopy = Case::new("-S, postcopy", from, to).with(|case| {
            (case.resume, case.transfer) = (Resume::Manager(ms(20)), Transfer::Postcopy(MOVES));
        });
        all.extend([multifd, postcopy]);
        if from == to {
            let never =
                Case::new("-S, never resumed", from, to).with(|case| case.resume = Resume::Never);
            all.push(if from >= Version::V10_0 { never.ci() } else { never });
        }
    }
    for (from, to, seconds) in [
        (Version::V11_1, Version::V11_1, 5),
        (Version::V7_2, Version::V10_0, 5),
        (Version::V10_0, Version::V10_0, 12),
        (Version::V7_2, Version::V7_2, 45),
    ] {
        let case = Case::new(&format!("-S, cont after {seconds} s"), from, to)
            .with(|case| case.resume = Resume::Manager(Duration::from_secs(seconds)));
        all.push(case);
    }
}

fn holds(all: &mut Vec<Case>, random: &mut Random) {
    for (from, to) in PATHS {
        let hold = ms(200 + random.below(1_500));
        let held = |name: &str| Case::new(name, from, to).with(|case| case.hold = Some(hold));
        let plain = held("held before the switch-over");
        all.push(if from == to { plain.ci() } else { plain });
        let managed = held("held before the switch-over, -S")
            .with(|case| case.resume = Resume::Manager(ms(200)));
        all.push(managed);
    }
    let long = Case::new("held for 20 s", Version::V7_2, Version::V7_2)
        .with(|case| case.hold = Some(Duration::from_secs(20)));
    all.push(long);
}

fn linux(all: &mut Vec<Case>) {
    for version in Version::ALL {
        for cpus in [1, 4] {
            let case = |name: &str, inside| {
                let name = format!("{name}, {cpus} CPU");
                Case::new(&name, version, version).with(|case| {
                    (case.inside, case.memory_mib) = (inside, 192);
                })
            };
            let idle = case("idle Linux", Inside::IdleLinux(cpus));
            all.push(if version == Version::V7_2 || cpus == 1 { idle.ci() } else { idle });
            let managed = case("idle Linux, -S", Inside::IdleLinux(cpus))
                .with(|case| case.resume = Resume::Manager(ms(300)));
            all.push(managed);
        }
        let postcopy = Case::new("idle Linux, postcopy", version, version).with(|case| {
            (case.inside, case.memory_mib) = (Inside::IdleLinux(1), 192);
            case.transfer = Transfer::Postcopy(MOVES);
        });
        let busy = Case::new("busy Linux, 4 CPUs", version, version)
            .with(|case| (case.inside, case.memory_mib) = (Inside::BusyLinux(4), 192));
        all.push(postcopy);
        all.push(if version == Version::V10_0 { busy.ci() } else { busy });
    }
}

fn kvm(all: &mut Vec<Case>) {
    for (from, to) in PATHS {
        let case = |name: &str| {
            Case::new(name, from, to).with(|case| {
                (case.accelerator, case.dirty) = (Accelerator::Kvm, (1, 100));
            })
        };
        all.push(if from == to { case("KVM").ci() } else { case("KVM") });
        if from == to {
            all.push(case("KVM, multifd 4").with(|case| case.transfer = Transfer::Multifd(4)));
            all.push(case("KVM, postcopy").with(|case| case.transfer = Transfer::Postcopy(MOVES)));
            all.push(case("KVM, -S").with(|case| case.resume = Resume::Manager(ms(200))));
        }
    }
}

fn options(all: &mut Vec<Case>) {
    for version in Version::ALL {
        let case = |name: &str| Case::new(name, version, version);
        all.push(case("TLS").with(|case| case.tls = true).ci());
        all.push(case("TLS, multifd 2").with(|case| {
            (case.tls, case.transfer) = (true, Transfer::Multifd(2));
        }));
        all.push(case("paused by its operator").with(|case| case.paused = true).ci());
        all.push(case("IPv6").with(|case| case.ipv6 = true));
        all.push(case("no thread names").with(|case| case.thread_names = false));
        all.push(case("auto-converge").with(|case| {
            (case.auto_converge, case.dirty) = (true, (32, 3_000));
            (case.memory_mib, case.bandwidth_mib) = (64, 40);
        }));
        all.push(case("10 MiB/s").with(|case| {
            // What is left of a larger working set takes longer than the downtime limit at this rate, for ever.
            (case.memory_mib, case.bandwidth_mib, case.dirty) = (32, 10, (1, 20_000));
        }));
    }
}

/// Containers: one image below several mounts.
fn overlays(all: &mut Vec<Case>) {
    for version in [Version::V5_2, Version::V10_0, Version::V11_1] {
        for (name, mounts, bystanders) in [
            ("in 1 overlay", [Mount::Overlay, Mount::Plain], 0),
            ("in 2 overlays", [Mount::Overlay, Mount::Overlay], 0),
            ("in 12 overlays", [Mount::Overlay, Mount::Overlay], 10),
            ("plain, beside 2 overlays", [Mount::Plain, Mount::Plain], 2),
        ] {
            let case = Case::new(name, version, version)
                .with(|case| (case.mounts, case.bystanders) = (mounts, bystanders));
            all.push(if bystanders < 10 && version != Version::V5_2 { case.ci() } else { case });
        }
    }
}

fn failures(all: &mut Vec<Case>, random: &mut Random) {
    for version in Version::ALL {
        let slow = |name: &str, turn| {
            let case = Case::new(name, version, version);
            case.with(|case| (case.turn, case.bandwidth_mib) = (turn, 40))
        };
        let mut when = || ms(50 + random.below(1_800));
        all.push(slow("cancelled", Turn::Cancel(when())).ci());
        all.push(slow("cancelled soon", Turn::Cancel(ms(20))));
        let multifd = slow("cancelled, multifd 4", Turn::Cancel(when()));
        all.push(multifd.with(|case| case.transfer = Transfer::Multifd(4)));
        all.push(slow("source killed", Turn::Kill(Role::Source, when())).ci());
        all.push(slow("destination killed", Turn::Kill(Role::Destination, when())).ci());
        let multifd = slow("destination killed, multifd 2", Turn::Kill(Role::Destination, when()));
        all.push(multifd.with(|case| case.transfer = Transfer::Multifd(2)));
        all.push(slow("both killed", Turn::KillBoth(when())).ci());
        all.push(slow("source quits", Turn::Quit(when())).ci());
        let case =
            |name: &str, turn| Case::new(name, version, version).with(|case| case.turn = turn);
        all.push(case("refused", Turn::Refused).ci());
        let unanswered = case("no answer", Turn::Unanswered);
        all.push(if version == Version::V7_2 { unanswered.ci() } else { unanswered });
        all.push(case("a device is missing", Turn::LoadFails).ci());
        let blackhole = slow("packets are dropped midway", Turn::Blackhole(ms(600)));
        all.push(if version == Version::V10_0 { blackhole.ci() } else { blackhole });
        let both = case("runs at both ends", Turn::BothRun);
        all.push(if version == Version::V7_2 { both.ci() } else { both });
    }
}

fn postcopy_failures(all: &mut Vec<Case>, random: &mut Random) {
    for version in Version::ALL {
        let case = |name: &str, turn| {
            Case::new(name, version, version).with(|case| {
                (case.turn, case.transfer) = (turn, Transfer::Postcopy(MOVES));
                (case.bandwidth_mib, case.postcopy_bandwidth_mib) = (40, 10);
            })
        };
        let mut when = || ms(50 + random.below(800));
        let destination = Turn::Kill(Role::Destination, when());
        all.push(case("destination killed in postcopy", destination).ci());
        all.push(case("source killed in postcopy", Turn::Kill(Role::Source, when())).ci());
        let broken = case("broken postcopy, recovered", Turn::Broken(ms(3_000)));
        all.push(if version >= Version::V10_0 { broken.ci() } else { broken });
    }
}

/// Steele, Lea and Flood's `SplitMix64`: the same numbers for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn pick<T: Copy + Default>(&mut self, from: &[T]) -> T {
        let index = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        from.get(index).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn they_differ_and_are_the_same_each_time() {
        let all = cases(1);
        let names: BTreeSet<&str> = all.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        assert_eq!(format!("{all:?}"), format!("{:?}", cases(1)));
        assert_ne!(format!("{all:?}"), format!("{:?}", cases(2)));
        for version in Version::ALL {
            assert!(all.iter().any(|case| case.from == version));
        }
    }

    #[test]
    fn as_many_as_are_asked_for() {
        for count in [1, 7, 100, 300, 500] {
            assert_eq!(some_cases(count, 1).len(), count);
        }
        let few: Vec<String> = some_cases(60, 1).into_iter().map(|case| case.name).collect();
        assert!(few.iter().any(|name| name.contains("-S")), "{few:?}");
        assert!(few.iter().any(|name| name.contains("killed")), "{few:?}");
    }

    #[test]
    fn the_tests_part_has_every_kind_but_the_long_ones() {
        let part = ci_cases(1);
        assert!((60..=100).contains(&part.len()), "{}", part.len());
        assert!(part.iter().all(|case| !case.name.contains("45 s")));
    }
}

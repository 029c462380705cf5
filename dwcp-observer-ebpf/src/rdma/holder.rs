//! Who has a queue pair number of a process: one by its slot, or several by how many they are. Numbers are a device's own, so a process
//! may have the same one on two devices; which of them a call means is not told then, nor once all but one are gone.

/// Set where there are, or were, several.
const SHARED: u32 = 1 << 31;

/// The slot, where there is one alone.
#[inline(always)]
#[must_use]
pub const fn slot(holder: u32) -> Option<u32> {
    if holder & SHARED == 0 { Some(holder) } else { None }
}

/// After the queue pair of `slot` was created.
#[inline(always)]
#[must_use]
pub const fn joined(known: Option<u32>, slot: u32) -> u32 {
    match known {
        None => slot,
        Some(holder) if holder & SHARED == 0 => SHARED | 2,
        Some(holder) => holder + 1,
    }
}

/// After the queue pair of `slot` was destroyed; `None`: nobody has it.
#[inline(always)]
#[must_use]
pub const fn left(holder: u32, slot: u32) -> Option<u32> {
    if holder == slot || holder == SHARED | 1 {
        None
    } else if holder & SHARED == 0 {
        Some(holder)
    } else {
        Some(holder - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_on_two_devices_is_nobodys_until_all_are_gone() {
        let first = joined(None, 7);
        assert_eq!(slot(first), Some(7));
        assert_eq!(left(first, 7), None);
        let both = joined(Some(first), 9);
        assert_eq!(slot(both), None);
        let second = left(both, 7).expect("the other one is there");
        assert_eq!(slot(second), None);
        let third = joined(Some(second), 11);
        assert_eq!(slot(third), None, "a call may be the second's");
        let last = left(third, 9).expect("the third is there");
        assert_eq!(left(last, 11), None);
        assert_eq!(left(first, 9), Some(first), "one that found no room for its own");
    }
}

//! Preallocated hashes for kernels that need them.
//!
//! Before 6.1 a tracing program cannot safely have memory allocated in any context, and the kernel warns of a hash that would do so
//! (`check_map_prog_compatibility`, kernel/bpf/verifier.c). Since then `bpf_mem_alloc` is safe, and costs memory only for what is used.
//! aya cannot change a map's flags, so they are changed in the object before it is loaded.

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

/// `BPF_F_NO_PREALLOC`, include/uapi/linux/bpf.h.
const NO_PREALLOC: u32 = 1;
/// Where `map_flags` is in a map's definition (`struct bpf_map_def`): after type, key size, value size and number of entries.
const FLAGS: usize = 16;

/// The object with its hashes preallocated; `None` when it is not what it should be.
pub(crate) fn preallocated(object: &[u8], maps: &[&str]) -> Option<Vec<u8>> {
    let file = object::File::parse(object).ok()?;
    let section = file.section_by_name("maps")?;
    let (begin, _) = section.file_range()?;
    let mut changed = object.to_vec();
    for map in maps {
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(*map))?;
        let at = usize::try_from(begin + symbol.address()).ok()? + FLAGS;
        let flags: &mut [u8; 4] = changed.get_mut(at..at + 4)?.try_into().ok()?;
        *flags = (u32::from_ne_bytes(*flags) & !NO_PREALLOC).to_ne_bytes();
    }
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keeper::load::HASHES, kernel::objects::PROBED};

    #[test]
    #[cfg_attr(not(ebpf_objects), ignore = "built without eBPF objects")]
    fn one_flag_of_each_hash_changes_and_nothing_else() {
        let probed = PROBED.unpack().unwrap();
        let changed = preallocated(&probed, &HASHES).unwrap();
        let differ = probed.iter().zip(&changed).filter(|(before, after)| before != after);
        assert_eq!(differ.map(|(before, after)| before ^ after).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(preallocated(&changed, &HASHES).unwrap(), changed);
        assert!(preallocated(&probed, &["NO_SUCH_MAP"]).is_none());
        assert!(preallocated(b"not an object", &HASHES).is_none());
    }
}

//! An object's maps, taken and checked by name.

use std::ops::Range;

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, Stack},
};
use thiserror::Error;

use super::sys::Mapped;

/// A map is missing or has another shape than the agent expects.
#[derive(Debug, Error)]
#[error("map {map}: {source}")]
pub struct MapError {
    /// Name of the map.
    pub map: &'static str,
    /// What went wrong.
    pub source: anyhow::Error,
}

impl MapError {
    /// What aya or the kernel says of a map.
    pub(crate) fn new(
        map: &'static str,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { map, source: error.into() }
    }

    fn absent(map: &'static str) -> Self {
        Self { map, source: anyhow::anyhow!("not in the eBPF object") }
    }
}

/// Makes ABI types readable through aya's maps.
macro_rules! pod {
    ($($name:ident: $inner:ty;)*) => {
        $(
            /// The ABI type, readable through aya's maps.
            #[derive(Clone, Copy)]
            #[repr(transparent)]
            pub(crate) struct $name(pub(super) $inner);
            // SAFETY: the ABI type is repr(C), Copy, without padding, and valid for any bit pattern.
            unsafe impl aya::Pod for $name {}
        )*
    };
}
pub(crate) use pod;

/// Takes a map out of the object.
pub(crate) fn take<T>(ebpf: &mut Ebpf, map: &'static str) -> Result<T, MapError>
where
    T: TryFrom<Map>,
    T::Error: std::error::Error + Send + Sync + 'static,
{
    let found = ebpf.take_map(map).ok_or_else(|| MapError::absent(map))?;
    found.try_into().map_err(|error| MapError::new(map, error))
}

/// An array that stays in the object.
pub(crate) fn borrow<'a, T: aya::Pod>(
    ebpf: &'a mut Ebpf,
    map: &'static str,
) -> Result<Array<&'a mut MapData, T>, MapError> {
    let found = ebpf.map_mut(map).ok_or_else(|| MapError::absent(map))?;
    found.try_into().map_err(|error| MapError::new(map, error))
}

/// Maps the first `count` values of an array; the map stays with the object, which still needs it to load programs.
pub(crate) fn mapped<T: Copy>(
    ebpf: &Ebpf,
    map: &'static str,
    count: u32,
) -> Result<Mapped<T>, MapError> {
    let Some(Map::Array(data)) = ebpf.map(map) else {
        return Err(MapError {
            map,
            source: anyhow::anyhow!("is not an array of the eBPF object"),
        });
    };
    let info = data.info().map_err(|error| MapError::new(map, error))?;
    if info.value_size() as usize != size_of::<T>() {
        let source = anyhow::anyhow!("holds values of {} bytes", info.value_size());
        return Err(MapError { map, source });
    }
    let mut mapped =
        Mapped::new(data.fd(), info.max_entries()).map_err(|error| MapError::new(map, error))?;
    mapped.reach(count).map_err(|error| MapError::new(map, error))?;
    Ok(mapped)
}

/// Takes a stack and puts free slots on it. Last in, first out: low slots are handed out first, so that few pages are touched.
pub(crate) fn free_slots(
    ebpf: &mut Ebpf,
    map: &'static str,
    slots: Range<u32>,
) -> Result<Stack<MapData, u32>, MapError> {
    let mut stack: Stack<MapData, u32> = take(ebpf, map)?;
    for slot in slots.rev() {
        stack.push(slot, 0).map_err(|error| MapError::new(map, error))?;
    }
    Ok(stack)
}

//! The few `bpf(2)` calls and the memory mapping that aya 0.14 does not offer.

use std::{
    fs::File,
    io::{self, Read as _},
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr::NonNull,
};

pub(crate) const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_ITER_CREATE: libc::c_int = 33;
const BPF_TRACE_ITER: u32 = 28;

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    reserved: u32,
}

/// `union bpf_iter_link_info`, member `task`.
#[repr(C)]
#[derive(Default)]
struct IterTaskInfo {
    tid: u32,
    pid: u32,
    pid_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// A call that returns a descriptor.
pub(crate) fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: the kernel has just handed out this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Any call; what it returns.
pub(crate) fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are a live, properly sized part of `union bpf_attr`; the kernel zero-extends it.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(done).map_err(|_| io::Error::other("bpf(2) returned no descriptor"))
}

/// Runs an iterator program to its end, over all tasks or over one process (kernel 6.1 and later).
///
/// # Errors
/// The kernel refuses the link or the iterator; `EINVAL` with a process: it does not know the filter.
pub fn run_iterator(program: BorrowedFd<'_>, process: Option<u32>) -> io::Result<()> {
    let info = IterTaskInfo { pid: process.unwrap_or_default(), ..IterTaskInfo::default() };
    let mut attributes = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_TRACE_ITER,
        ..LinkCreate::default()
    };
    if process.is_some() {
        attributes.iter_info = std::ptr::from_ref(&info) as u64;
        attributes.iter_info_len = size_of::<IterTaskInfo>() as u32;
    }
    let link = bpf(BPF_LINK_CREATE, &mut attributes)?;
    let mut create = IterCreate { link_fd: link.as_raw_fd().cast_unsigned(), flags: 0 };
    let mut output = File::from(bpf(BPF_ITER_CREATE, &mut create)?);
    let mut buffer = [0u8; 64];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => return Ok(()),
            // EAGAIN: a million objects were visited without output (bpf_seq_read); go on.
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The values of a `BPF_F_MMAPABLE` array, mapped as far as they are asked for: reading costs no system
/// call, and all pages of a mapping count in the resident memory, touched or not, since the kernel enters
/// them at once (`remap_vmalloc_range`, Linux 5.5 to 6.18).
#[derive(Debug)]
pub struct Mapped<T> {
    map: OwnedFd,
    parts: Vec<Part>,
    /// Values in a part: as few as end at the end of a page, whatever their size.
    step: u32,
    entries: u32,
    _values: PhantomData<T>,
}

/// One `mmap(2)`, undone with it.
#[derive(Debug)]
struct Part {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone and is reached through volatile accesses only.
unsafe impl Send for Part {}

impl Part {
    fn new(map: BorrowedFd<'_>, offset: usize, length: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a fresh mapping of a descriptor that lives for the call; the result is checked.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap(2) returned null"))?;
        Ok(Self { base, length })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and nothing borrows from it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

impl<T: Copy> Mapped<T> {
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Of an array of `entries` values of type `T`; maps none of them.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn new(map: impl AsFd, entries: u32) -> io::Result<Self> {
        let map = map.as_fd().try_clone_to_owned()?;
        // SAFETY: no arguments beyond a known name; -1 is dealt with.
        let page = u32::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        Ok(Self { map, parts: Vec::new(), step: page / 8, entries, _values: PhantomData })
    }

    /// Maps the first `entries` values, and those behind them that come along.
    ///
    /// # Errors
    /// What `mmap(2)` says; the values that were mapped before stay so.
    pub fn reach(&mut self, entries: u32) -> io::Result<()> {
        let entries = entries.min(self.entries);
        while (self.parts.len() as u32) * self.step < entries {
            let first = self.parts.len() as u32 * self.step;
            let count = self.step.min(self.entries - first);
            let offset = Self::STRIDE * first as usize;
            self.parts.push(Part::new(self.map.as_fd(), offset, Self::STRIDE * count as usize)?);
        }
        Ok(())
    }

    /// Number of values, mapped or not.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.entries
    }

    /// Whether the array holds no value.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Where value `index` lies; `None` where nothing is mapped. The kernel writes to it at any time: use volatile accesses.
    #[must_use]
    pub fn slot(&self, index: u32) -> Option<NonNull<T>> {
        let part = self.parts.get((index / self.step) as usize)?;
        let offset = Self::STRIDE * (index % self.step) as usize;
        // SAFETY: the value ends within the part.
        (offset + size_of::<T>() <= part.length).then(|| unsafe { part.base.add(offset) }.cast())
    }
}

/// Reads one field of a value in a mapping.
macro_rules! peek {
    ($slot:expr, $($field:tt)+) => {{
        let slot = $slot;
        // SAFETY: the slot lies in a live mapping and all its bit patterns are valid for plain integers.
        unsafe { (&raw const (*slot.as_ptr()).$($field)+).read_volatile() }
    }};
}

/// Writes one field of a value in a mapping.
macro_rules! poke {
    ($slot:expr, $($field:ident).+, $value:expr) => {{
        let slot = $slot;
        // SAFETY: the slot lies in a live, writable mapping.
        unsafe { (&raw mut (*slot.as_ptr()).$($field).+).write_volatile($value) };
    }};
}

/// Makes a record ready for its next user: all zero but the generation, which moves on before anything else is written.
macro_rules! renew {
    ($slot:expr, $record:ty) => {{
        let slot: std::ptr::NonNull<$record> = $slot;
        let generation = $crate::kernel::sys::peek!(slot, generation).wrapping_add(1);
        $crate::kernel::sys::poke!(slot, generation, generation);
        // SAFETY: zero is valid for all fields of the record.
        let mut empty: $record = unsafe { std::mem::zeroed() };
        empty.generation = generation;
        // SAFETY: the slot lies in a live, writable mapping; what else writes there does so field by field.
        unsafe { slot.as_ptr().write_volatile(empty) };
    }};
}

pub(crate) use {peek, poke, renew};

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// A file, which is mapped like an array; each value holds its index.
    fn numbers(count: u64) -> File {
        // SAFETY: the name is a C string; the result is checked.
        let fd = unsafe { libc::memfd_create(c"numbers".as_ptr(), 0) };
        assert!(fd >= 0);
        // SAFETY: a fresh descriptor that nothing else owns.
        let mut file = unsafe { File::from_raw_fd(fd) };
        for value in 0..count {
            file.write_all(&[value; 3].map(u64::to_ne_bytes).concat()).unwrap();
        }
        file
    }

    #[test]
    fn an_array_is_mapped_as_far_as_it_is_asked_for() {
        let count = 3000;
        let mut mapped = Mapped::<[u64; 3]>::new(numbers(u64::from(count)), count).unwrap();
        assert_eq!(mapped.len(), count);
        assert_eq!(mapped.slot(0), None);
        let mut reached = 0;
        for entries in [1, 600, 512, 1024, count, u32::MAX] {
            mapped.reach(entries).unwrap();
            reached = reached.max(entries.min(count));
            for index in 0..reached {
                let slot = mapped.slot(index).unwrap();
                // SAFETY: the slot lies in a live mapping.
                assert_eq!(unsafe { slot.as_ptr().read_volatile() }, [u64::from(index); 3]);
            }
        }
        assert_eq!(mapped.parts.len(), count.div_ceil(mapped.step) as usize);
        assert_eq!(mapped.slot(count), None);
        assert_eq!(mapped.slot(u32::MAX), None);
    }

    #[test]
    fn what_was_mapped_stays_when_more_cannot_be() {
        // Such a file cannot be mapped.
        let file = File::open("/proc/self/stat").unwrap();
        let mut mapped = Mapped::<u64>::new(file, 8).unwrap();
        assert!(mapped.reach(1).is_err());
        assert_eq!(mapped.slot(0), None);
        assert!(mapped.reach(0).is_ok());
    }
}

//! Probes in executables by raw `bpf(2)` and `perf_event_open(2)`: aya 0.14 has no `uprobe_multi` links (Linux 6.6), and its perf
//! links cannot be placed by another process than the one that loaded the programs.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use aya_obj::Object;
use thiserror::Error;

use super::sys::{BPF_LINK_CREATE, bpf};

const BPF_PROG_LOAD: libc::c_int = 5;
/// `enum bpf_prog_type`.
const BPF_PROG_TYPE_KPROBE: u32 = 2;
/// `enum bpf_attach_type`.
const BPF_PERF_EVENT: u32 = 41;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;
/// `BPF_F_UPROBE_MULTI_RETURN`.
const MULTI_RETURN: u32 = 1;
/// `include/uapi/linux/perf_event.h`.
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_ATTR_SIZE_VER1: u32 = 72;
/// The PMU of uprobes in sysfs.
const PMU: &str = "/sys/bus/event_source/devices/uprobe";

/// Where a probe lies in its executable, and what it tells its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Offset in the file, bytes.
    pub offset: u64,
    /// What `bpf_get_attach_cookie` returns.
    pub cookie: u64,
    /// At the function's return.
    pub at_return: bool,
}

/// Why a program could not be loaded for `uprobe_multi` links.
#[derive(Debug, Error)]
pub enum MultiError {
    /// The object is not what it should be.
    #[error("cannot read the eBPF object again: {0}")]
    Object(String),
    /// The program is not in it.
    #[error("the eBPF object does not contain {0}")]
    Absent(&'static str),
    /// What the kernel says.
    #[error(transparent)]
    Kernel(#[from] io::Error),
}

/// `union bpf_attr`, `BPF_PROG_LOAD`, up to `expected_attach_type`.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The same, `BPF_LINK_CREATE` with `uprobe_multi`.
#[repr(C)]
#[derive(Default)]
struct LinkMulti {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    cnt: u32,
    multi_flags: u32,
    pid: u32,
    reserved: u32,
}

/// The same, with `perf_event`.
#[repr(C)]
#[derive(Default)]
struct LinkPerf {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    cookie: u64,
}

/// `struct perf_event_attr`, first published size with `config2`.
#[repr(C)]
#[derive(Default)]
struct PerfAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
}

const _: () = assert!(size_of::<PerfAttr>() == PERF_ATTR_SIZE_VER1 as usize);

/// Loads programs of an object a second time, as programs of `uprobe_multi` links. They share the maps of the first.
///
/// # Errors
/// [`MultiError`]; `EINVAL` where the kernel has no such links.
pub fn load_multi<const N: usize>(
    object: &[u8],
    ebpf: &Ebpf,
    names: [&'static str; N],
) -> Result<[OwnedFd; N], MultiError> {
    supported()?;
    let object = relocated(object, ebpf)?;
    let mut programs = Vec::with_capacity(N);
    for name in names {
        let program = object.programs.get(name).ok_or(MultiError::Absent(name))?;
        let function = object.functions.get(&program.function_key());
        let code = &function.ok_or(MultiError::Absent(name))?.instructions;
        let mut attributes = ProgLoad {
            prog_type: BPF_PROG_TYPE_KPROBE,
            insn_cnt: u32::try_from(code.len()).map_err(io::Error::other)?,
            insns: code.as_ptr() as u64,
            license: program.license.as_ptr() as u64,
            expected_attach_type: BPF_TRACE_UPROBE_MULTI,
            ..ProgLoad::default()
        };
        for (to, from) in attributes.prog_name.iter_mut().take(15).zip(name.bytes()) {
            *to = from;
        }
        programs.push(bpf(BPF_PROG_LOAD, &mut attributes)?);
    }
    programs
        .try_into()
        .map_err(|_| MultiError::Object("the list of programs is incomplete".to_owned()))
}

/// Asks for a link in a directory: a kernel that knows such links says that this is no file (`bpf_uprobe_multi_link_attach`,
/// 6.6 to 7.3: `EBADF`), an older one refuses whatever it is given.
fn supported() -> Result<(), MultiError> {
    // `r0 = 0; exit`: BPF_ALU64 | BPF_MOV | BPF_K, BPF_JMP | BPF_EXIT.
    let code: [u64; 2] = [0xb7, 0x95].map(|op: u64| u64::from_ne_bytes(op.to_le_bytes()));
    let mut attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_KPROBE,
        insn_cnt: 2,
        insns: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: BPF_TRACE_UPROBE_MULTI,
        ..ProgLoad::default()
    };
    let program = bpf(BPF_PROG_LOAD, &mut attributes)?;
    let target = Target { offset: 0, cookie: 0, at_return: false };
    match link_multi(program.as_fd(), c"/", &[target], false) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(io::Error::other("probing a directory did not fail").into()),
    }
}

/// The object with the descriptors of the maps that it was loaded with.
fn relocated(object: &[u8], ebpf: &Ebpf) -> Result<Object, MultiError> {
    let broken = |error: &dyn std::error::Error| MultiError::Object(error.to_string());
    let mut object = Object::parse(object).map_err(|error| broken(&error))?;
    let definitions = std::mem::take(&mut object.maps);
    let loaded = ebpf.maps().filter_map(|(name, map)| {
        let fd = data(map)?.fd().as_fd().as_raw_fd();
        Some((name, fd, definitions.get(name)?))
    });
    let text = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_maps(loaded, &text).map_err(|error| broken(&error))?;
    object.relocate_calls(&text).map_err(|error| broken(&error))?;
    Ok(object)
}

/// The kinds of maps that the objects have.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerfEventArray(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data)
        | Map::Stack(data)
        | Map::Unsupported(data) => Some(data),
        _ => None,
    }
}

/// Places all probes of one kind by one link. Closing it takes them off, which waits for grace periods of the kernel: 31 to 48 ms
/// on Linux 6.18.
///
/// # Errors
/// What the kernel says.
pub fn link_multi(
    program: BorrowedFd<'_>,
    file: &CStr,
    targets: &[Target],
    at_return: bool,
) -> io::Result<OwnedFd> {
    let of_kind = || targets.iter().filter(|target| target.at_return == at_return);
    let offsets: Vec<u64> = of_kind().map(|target| target.offset).collect();
    let cookies: Vec<u64> = of_kind().map(|target| target.cookie).collect();
    let mut attributes = LinkMulti {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_TRACE_UPROBE_MULTI,
        path: file.as_ptr() as u64,
        offsets: offsets.as_ptr() as u64,
        cookies: cookies.as_ptr() as u64,
        cnt: u32::try_from(offsets.len()).map_err(io::Error::other)?,
        multi_flags: if at_return { MULTI_RETURN } else { 0 },
        ..LinkMulti::default()
    };
    bpf(BPF_LINK_CREATE, &mut attributes)
}

/// Places one probe by a perf event, with a cookie where the kernel has them (5.15). What is returned holds it.
///
/// # Errors
/// What the kernel says.
pub fn link_perf(
    program: BorrowedFd<'_>,
    file: &CStr,
    target: Target,
    with_cookie: bool,
) -> io::Result<OwnedFd> {
    let event = perf_event(file, target)?;
    if !with_cookie {
        control(&event, PERF_EVENT_IOC_SET_BPF, program.as_raw_fd())?;
        control(&event, PERF_EVENT_IOC_ENABLE, 0)?;
        return Ok(event);
    }
    let mut attributes = LinkPerf {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_fd: event.as_raw_fd().cast_unsigned(),
        attach_type: BPF_PERF_EVENT,
        cookie: target.cookie,
        ..LinkPerf::default()
    };
    let link = bpf(BPF_LINK_CREATE, &mut attributes)?;
    control(&event, PERF_EVENT_IOC_ENABLE, 0)?;
    Ok(link)
}

fn perf_event(file: &CStr, target: Target) -> io::Result<OwnedFd> {
    let attributes = PerfAttr {
        kind: number(&fs::read_to_string(format!("{PMU}/type"))?)?,
        size: PERF_ATTR_SIZE_VER1,
        config: if target.at_return { 1 << return_bit()? } else { 0 },
        config1: file.as_ptr() as u64,
        config2: target.offset,
        ..PerfAttr::default()
    };
    // Every process, as seen from CPU 0: the program runs on whatever CPU the probe is passed (`uprobe_perf_func`).
    // SAFETY: the attributes and the path outlive the call; the result is checked.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            -1,
            0,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just handed out this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Which bit of `config` asks for a probe at the return.
fn return_bit() -> io::Result<u32> {
    let format = fs::read_to_string(format!("{PMU}/format/retprobe"))?;
    number(format.trim().trim_start_matches("config:"))
}

fn number(text: &str) -> io::Result<u32> {
    text.trim().parse().map_err(io::Error::other)
}

fn control(event: &OwnedFd, request: libc::c_ulong, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: both requests take a plain number.
    let done = unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A path as the kernel takes it.
///
/// # Errors
/// It has a NUL.
pub fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

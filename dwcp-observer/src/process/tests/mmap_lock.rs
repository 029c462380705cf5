//! A process whose memory does not answer: one of its threads faults on a page of a file system that keeps silent, and holds the
//! `mmap_lock`; another one waits to write it. Whoever reads its arguments then waits, too.

use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

/// Tells the child that is to hang which descriptor to map.
const FILE: &str = "DWCP_TEST_SILENT_FILE";

/// A file of a FUSE file system in a mount namespace of its own. Reads ahead and without the lock fail, and the third one, which the retried
/// fault makes with the `mmap_lock` held (`filemap_fault`, mm/filemap.c, 6.18), is not answered as long as this lives.
struct SilentFile {
    file: File,
    over: Arc<AtomicBool>,
    server: Option<thread::JoinHandle<()>>,
}

impl SilentFile {
    /// `None` without the right to mount one.
    fn new() -> Option<Self> {
        let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
        let fd = fuse.as_raw_fd();
        let path = std::env::temp_dir().join(format!("dwcp-mmap-lock-{}", std::process::id()));
        fs::write(&path, "").unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let server = Some(thread::spawn(move || serve(fuse, &until)));
        let at = path.clone();
        let file = thread::spawn(move || mount(fd, &at)).join().unwrap();
        fs::remove_file(path).unwrap();
        let mut this = Self { file: File::open("/dev/zero").unwrap(), over, server };
        this.file = file?;
        Some(this)
    }
}

impl Drop for SilentFile {
    fn drop(&mut self) {
        // With the server's descriptor all that waits for an answer ends.
        self.over.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Mounts the file system on a file, in a mount namespace of this thread alone, and opens it.
fn mount(server: i32, at: &Path) -> Option<File> {
    let text = |text: &str| CString::new(text).unwrap();
    let (target, root, none, fuse) = (text(at.to_str()?), text("/"), text("none"), text("fuse"));
    let options = text(&format!("fd={server},rootmode=100444,user_id=0,group_id=0"));
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    let nothing = std::ptr::null();
    // SAFETY: changes this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return None;
    }
    // SAFETY: all strings outlive the call, which changes the namespace of this thread alone.
    let private =
        unsafe { libc::mount(none.as_ptr(), root.as_ptr(), nothing, flags, nothing.cast()) };
    if private != 0 {
        return None;
    }
    let (kind, options) = (fuse.as_ptr(), options.as_ptr().cast());
    // SAFETY: as above.
    let mounted = unsafe { libc::mount(kind, target.as_ptr(), kind, 0, options) } == 0;
    let file = mounted.then(|| File::open(at).unwrap())?;
    // Only then its size is known to the kernel.
    assert_eq!(file.metadata().unwrap().len(), 4096);
    Some(file)
}

/// Answers what the kernel asks to open and map the file (include/uapi/linux/fuse.h).
fn serve(mut fuse: File, over: &AtomicBool) {
    const HEADER: usize = 40;
    let mut reads = 0;
    let mut request = vec![0; 1 << 17];
    while !over.load(Ordering::Relaxed) {
        let soon = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        if poll(&mut [PollFd::new(&fuse, PollFlags::IN)], Some(&soon)) != Ok(1) {
            continue;
        }
        let Ok(length) = fuse.read(&mut request) else { continue };
        assert!(length >= HEADER);
        let opcode = u32::from_ne_bytes(request[4..8].try_into().unwrap());
        let answer = match opcode {
            // FUSE_INIT: protocol 7.31, and nothing special.
            26 => Ok(words(&[7, 31, 1 << 16, 0, 0, 1 << 16], 64)),
            // FUSE_GETATTR: a file of one page, good for long.
            3 => Ok(words(
                &[
                    1000, 0, 0, 0, 1, 0, 4096, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o100_444, 1, 0,
                    0, 0, 4096,
                ],
                104,
            )),
            // FUSE_OPEN.
            14 => Ok(vec![0; 16]),
            // FUSE_READ.
            15 => {
                reads += 1;
                if reads > 2 {
                    continue;
                }
                Err(libc::EIO)
            }
            // FUSE_FORGET, FUSE_INTERRUPT, FUSE_BATCH_FORGET want no answer.
            2 | 36 | 42 => continue,
            _ => Err(libc::ENOSYS),
        };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(error) => (-error, Vec::new()),
        };
        let mut reply = (16 + body.len() as u32).to_ne_bytes().to_vec();
        reply.extend(error.to_ne_bytes());
        reply.extend(&request[8..16]);
        reply.extend(body);
        // The request may be gone by now.
        let _ = fuse.write(&reply);
    }
}

fn words(words: &[u32], length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.resize(length, 0);
    bytes
}

/// The process that hangs: no test by itself.
#[test]
#[ignore = "is started by the test that watches it"]
fn hangs() {
    let Some(fd) = std::env::var(FILE).ok().and_then(|fd| fd.parse().ok()) else { return };
    // SAFETY: the descriptor was left open for this process.
    let file = unsafe { File::from_raw_fd(fd) };
    // SAFETY: a new mapping of a file that nobody writes.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    assert_ne!(page, libc::MAP_FAILED);
    let page = page as usize;
    thread::spawn(move || {
        // SAFETY: within the mapping.
        let byte = unsafe { std::ptr::read_volatile(page as *const u8) };
        panic!("the file has answered: {byte}");
    });
    loop {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0) };
        // SAFETY: nobody uses it.
        unsafe { libc::munmap(map, 4096) };
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_process_whose_memory_does_not_answer_holds_up_nobody() {
    let Some(silent) = SilentFile::new() else {
        eprintln!("no right to mount: not tested");
        return;
    };
    rustix::io::fcntl_setfd(&silent.file, rustix::io::FdFlags::empty()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "--ignored", "process::tests::mmap_lock::hangs"]);
    let child = child.env(FILE, silent.file.as_raw_fd().to_string()).stdin(Stdio::piped());
    let child = Shell(child.spawn().unwrap());
    let mut lines = CommandLines::new();
    let pid = child.0.id();
    // Until it hangs, it answers.
    let hung = loop {
        let facts = facts_now(pid, &mut lines).unwrap();
        assert!(!facts.threads.is_empty(), "it has ended");
        if facts.unread == Some(Unread::Silent) {
            break facts;
        }
        thread::sleep(Duration::from_millis(1));
    };
    assert_eq!((hung.pid, hung.cmdline.len()), (pid, 0));
    assert_eq!(lines.losses()[0], ("cmdlines:silent", 1));
    // Others are read, and it is not asked again.
    let own = open_now(std::process::id()).unwrap();
    while lines.of(id(std::process::id()), &own).is_err() {
        thread::yield_now();
    }
    assert_eq!(facts_now(pid, &mut lines).unwrap().unread, Some(Unread::Silent));
    assert_eq!(lines.losses(), [("cmdlines:silent", 1), ("cmdlines:full", 0)]);
    drop(silent);
    drop(child);
}

//! Faults beside the migrations: of the host, of components, of the monitoring itself.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::ChildGuard;

/// A thread that stands still while the others of its process go on.
#[derive(Debug)]
pub(super) struct HaltedThread {
    thread: i32,
}

impl HaltedThread {
    /// Halts the thread with this id; with the id of a process its first one.
    pub(super) fn new(thread: u32) -> Result<Self> {
        let thread = i32::try_from(thread)?;
        request(libc::PTRACE_SEIZE, thread)?;
        let this = Self { thread };
        request(libc::PTRACE_INTERRUPT, thread)?;
        Ok(this)
    }
}

impl Drop for HaltedThread {
    fn drop(&mut self) {
        // It fails only if the thread is gone.
        let _ = request(libc::PTRACE_DETACH, self.thread);
    }
}

fn request(request: libc::c_uint, thread: i32) -> Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests take no address and no data.
    match unsafe { libc::ptrace(request, thread, nothing, nothing) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("ptrace of thread {thread}")),
    }
}

/// A small file system in memory; unmounted on drop.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
}

impl Disk {
    pub(super) fn mount(path: PathBuf, mebibytes: u32) -> Result<Self> {
        fs::create_dir(&path)?;
        let size = format!("size={mebibytes}m");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &size, "none"]).arg(&path);
        ensure!(command.status().context("mount")?.success(), "mount of {}", path.display());
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves no byte free.
    pub(super) fn fill(&self) -> Result<()> {
        let mut file = File::create(self.path.join("full"))?;
        match io::copy(&mut io::repeat(1), &mut file) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            other => Err(other.err().unwrap_or_else(|| io::Error::other("no end")).into()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the observer may still have its file open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Memory that is in use, as a file in memory; removed on drop.
#[derive(Debug)]
pub(super) struct FullMemory {
    path: PathBuf,
}

impl FullMemory {
    /// Takes `percent` of this host's memory.
    pub(super) fn new(percent: u64) -> Result<Self> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib: u64 =
            total.context("no MemTotal")?.trim().trim_end_matches(" kB").trim().parse()?;
        let path = PathBuf::from(format!("/dev/shm/dwcp-lab-{}", std::process::id()));
        let this = Self { path: path.clone() };
        let mut file = File::create(path)?;
        let block = vec![1; 1 << 20];
        for _ in 0..kib * percent / 100 / 1024 {
            file.write_all(&block)?;
        }
        Ok(this)
    }
}

impl Drop for FullMemory {
    fn drop(&mut self) {
        // It is there unless it could not be made.
        let _ = fs::remove_file(&self.path);
    }
}

/// A busy process for each CPU, at the lowest priority, so that others do not suffer.
pub(super) fn busy_cpus() -> Result<Vec<ChildGuard>> {
    let count = std::thread::available_parallelism()?.get();
    let busy = || {
        let mut command = Command::new("nice");
        ChildGuard::spawn(command.args(["-n", "19", "sh", "-c", "while :; do :; done"]))
    };
    (0..count).map(|_| busy()).collect()
}

/// The metrics endpoint of a component, or of several: each path has its text. Ends on drop.
#[derive(Debug)]
pub(super) struct Endpoint {
    address: SocketAddr,
    texts: Arc<Mutex<Vec<(&'static str, &'static str)>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    pub(super) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let texts = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let (said, ends) = (Arc::clone(&texts), Arc::clone(&over));
        let answers = AtomicU64::new(0);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                let texts = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let number = answers.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = answer(stream, &texts, number) {
                    eprintln!("component: {error:#}");
                }
            }
        });
        Ok(Self { address, texts, over, thread: Some(thread) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is reported from now on; `%` in it becomes the number of the answer.
    pub(super) fn say(&self, texts: [(&'static str, &'static str); 3]) {
        *self.texts.lock().unwrap_or_else(PoisonError::into_inner) = texts.to_vec();
    }
}

fn answer(stream: TcpStream, texts: &[(&str, &str)], number: u64) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    while !line.trim_end().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let text = texts.iter().find(|(name, _)| *name == path).map_or("", |(_, text)| *text);
    let text = text.replace('%', &number.to_string());
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{text}", text.len());
    reader.into_inner().write_all(answer.as_bytes())?;
    Ok(())
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the thread; if nobody listens any more it has ended.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_says_what_it_is_told() {
        let endpoint = Endpoint::start().unwrap();
        endpoint.say([("a", "x %\n"), ("b", "y 1\n"), ("c", "")]);
        let get = |path| crate::http::get(endpoint.address(), path).unwrap();
        assert_eq!(get("/a").body, b"x 0\n");
        assert_eq!(get("/a").body, b"x 1\n");
        assert_eq!(get("/b").body, b"y 1\n");
        assert!(get("/d").body.is_empty());
    }

    #[test]
    fn a_halted_thread_stands_still_and_goes_on() {
        let child = ChildGuard::spawn(Command::new("sleep").arg("600")).unwrap();
        let state = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap();
            stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
        };
        let until = |wanted: &dyn Fn(char) -> bool| {
            let start = std::time::Instant::now();
            while !wanted(state()) {
                assert!(start.elapsed() < Duration::from_secs(30), "state {}", state());
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let halted = HaltedThread::new(child.pid()).unwrap();
        until(&|state| state == 't');
        drop(halted);
        until(&|state| state != 't');
    }
}

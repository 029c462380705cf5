//! Real CRIU: a process is dumped to a page server over TCP. CRIU of Debian 12 does not know the vDSO of newer kernels, so that of Debian 13
//! is unpacked into a directory of its own.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use crate::process::ChildGuard;
use crate::temp::TempDir;
use crate::vm::{apt::Apt, apt::Suite, kernels::unpack};

const SUITES: &[Suite] = &[("trixie", false)];
const BECOME: &str = include_str!("criu.sh");
const LIMIT: Duration = Duration::from_secs(60);
/// A process with so much memory of its own, in the host's mount namespace, where no network namespace may be mounted meanwhile: CRIU dumps
/// neither those, nor what is in a mount namespace that was made for the process alone (a tmpfs with others' files in it).
const MEMORY: u64 = 64 << 20;
/// What it does: it has memory, a second thread, and writes down the time each millisecond.
const WORK: &str = include_str!("criu_target.py");

/// CRIU, ready to be started.
#[derive(Clone, Debug)]
pub struct Criu {
    root: PathBuf,
}

/// What is to become of a dump.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// The page server is killed before the dump is over.
    pub server_dies: bool,
    /// The dumped process runs on after its dump, else it is killed.
    pub leave_running: bool,
}

/// What CRIU itself says of a dump (its `stats-dump`), seconds.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// Stopping all tasks.
    pub freezing: f64,
    /// From then on until they were killed or let go.
    pub frozen: f64,
    /// Reading their memory, a part of that.
    pub reading_memory: f64,
}

/// A dump to a page server, both over.
#[derive(Clone, Debug)]
pub struct Dump {
    /// `criu dump` and how it ended.
    pub dump: (u32, ExitStatus),
    /// `criu page-server` and how it ended.
    pub server: (u32, ExitStatus),
    /// The process that was to be dumped.
    pub dumped: u32,
    /// When that process was at work, ns since 1970.
    pub beats: Vec<u64>,
    /// Absent where it has failed.
    pub stats: Option<Stats>,
}

impl Criu {
    /// From `target/zoo/criu`, where it is unpacked once (some 10 MB to fetch).
    ///
    /// # Errors
    /// When it must be fetched and cannot be.
    pub fn get() -> Result<Self> {
        let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/zoo");
        let done = zoo.join("criu");
        if !done.is_dir() {
            let work = zoo.join(format!("new-criu-{}", std::process::id()));
            let fetched = fetch(&work).and_then(|()| {
                if !done.is_dir() {
                    fs::rename(work.join("root"), &done)?;
                }
                Ok(())
            });
            fs::remove_dir_all(&work)?;
            fetched?;
        }
        Ok(Self { root: done.canonicalize()? })
    }

    fn start(&self, directory: &TempDir, arguments: &[&str]) -> Result<ChildGuard> {
        let output = File::create(directory.join(&format!("{}.output", arguments[0])))?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "--", "sh", "-e", "-c", BECOME, "sh"])
            .arg(&self.root)
            .arg(std::env::temp_dir().strip_prefix("/")?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        ChildGuard::spawn(&mut command)
    }

    /// Dumps a process to a page server on this port of 127.0.0.1.
    ///
    /// # Errors
    /// When CRIU does not run here at all.
    pub fn dump(&self, port: u16, plan: Plan) -> Result<Dump> {
        let directory = TempDir::new()?;
        let images = |name: &str| -> Result<String> {
            let path = directory.join(name);
            fs::create_dir(&path)?;
            Ok(path.to_string_lossy().into_owned())
        };
        let (from, to, port) = (images("source")?, images("destination")?, port.to_string());
        let mut target = target(&directory)?;
        let dumped = target.pid();
        let address = ["--address", "127.0.0.1", "--port", &port];
        let serve = [&["page-server", "--images-dir", &to][..], &address].concat();
        let mut server = self.start(&directory, &serve)?;
        wait_listening(&port)?;
        let tree = dumped.to_string();
        let send = ["dump", "--tree", &tree, "--images-dir", &from, "--page-server"];
        if plan.server_dies {
            server.signal(libc::SIGSTOP)?;
        }
        let stay: &[&str] = if plan.leave_running { &["--leave-running"] } else { &[] };
        let mut dump = self.start(&directory, &[&send[..], &address, stay].concat())?;
        if plan.server_dies {
            // The dump waits for what the stopped server does not take.
            std::thread::sleep(Duration::from_secs(2));
            server.signal(libc::SIGKILL)?;
        }
        let ended =
            |process: &mut ChildGuard| process.wait_for(LIMIT)?.context("CRIU does not end");
        let dump = (dump.pid(), ended(&mut dump)?);
        let server = (server.pid(), ended(&mut server)?);
        let whole = dump.1.success();
        let runs_on = plan.leave_running || !whole;
        let beats = beats(&directory, if runs_on { now_ns()? } else { 0 })?;
        // Dumped, it is gone; else it runs on.
        target.child().kill()?;
        let stats = if whole {
            Some(stats(&fs::read(Path::new(&from).join("stats-dump"))?)?)
        } else {
            None
        };
        Ok(Dump { dump, server, dumped, beats, stats })
    }
}

fn fetch(work: &Path) -> Result<()> {
    let root = work.join("root");
    for name in ["usr/bin", "usr/lib", "usr/lib64", "usr/sbin"] {
        fs::create_dir_all(root.join(name))?;
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    let apt = Apt::of(work.join("apt"), SUITES);
    apt.update()?;
    for package in apt.download_closure("criu", "trixie")? {
        unpack(&package, &root)?;
    }
    ensure!(root.join("usr/sbin/criu").is_file(), "the package has no criu");
    Ok(())
}

/// A process in a session of its own, without a terminal, that says when its memory is there.
fn target(directory: &TempDir) -> Result<ChildGuard> {
    let ready = directory.join(BEATS);
    let become_it = "exec < /dev/null > /dev/null 2>&1; exec setsid python3 -c \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", become_it, "sh", WORK, &MEMORY.to_string()])
        .arg(&ready)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let target = ChildGuard::spawn(&mut command)?;
    let start = Instant::now();
    while !ready.exists() {
        ensure!(start.elapsed() < LIMIT, "the process to be dumped does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(target)
}

/// The file of the process' beats.
const BEATS: &str = "beats";

fn now_ns() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// All beats, once there is one after `until_ns`.
fn beats(directory: &TempDir, until_ns: u64) -> Result<Vec<u64>> {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(directory.join(BEATS))?;
        // The last line may be half written.
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let beats: Vec<u64> = whole.map(|line| line.trim().parse()).collect::<Result<_, _>>()?;
        if beats.last().is_some_and(|last| *last >= until_ns) {
            return Ok(beats);
        }
        ensure!(start.elapsed() < LIMIT, "the process does not run on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `DumpStatsEntry` of `StatsEntry` (CRIU's images/stats.proto): its first fields are numbers.
fn stats(image: &[u8]) -> Result<Stats> {
    /// Two magic numbers, and the length of the entry.
    const HEAD: usize = 12;
    let mut entry = image.get(HEAD..).context("stats-dump is cut off")?;
    // The field `dump`, and its length.
    number(&mut entry)?;
    number(&mut entry)?;
    let mut seconds = [0.0; 3];
    for field in &mut seconds {
        number(&mut entry)?;
        *field = number(&mut entry)? as f64 / 1e6;
    }
    let [freezing, frozen, reading_memory] = seconds;
    Ok(Stats { freezing, frozen, reading_memory })
}

/// A variable-length integer of protobuf.
fn number(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().context("stats-dump is cut off")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("no number");
}

fn wait_listening(port: &str) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        let table = fs::read_to_string("/proc/net/tcp")?;
        let local = format!("0100007F:{:04X} 00000000:0000 0A", port.parse::<u16>()?);
        if table.contains(&local) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("the page server does not listen on {port}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_dump_are_read_from_its_statistics() {
        // freezing_time 300 us, frozen_time 70000 us, memdump_time 1 us.
        let image =
            [&[0; 12][..], &[0x0a, 9, 0x08, 0xac, 0x02, 0x10, 0xf0, 0xa2, 0x04, 0x18, 1]].concat();
        let found = stats(&image).unwrap();
        assert_eq!((found.freezing, found.frozen, found.reading_memory), (3e-4, 0.07, 1e-6));
        assert!(stats(&image[..20]).is_err());
    }
}

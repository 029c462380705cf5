//! Real CRIU: a process is dumped to a page server over TCP. CRIU of Debian 12 does not know the vDSO of newer kernels, so that of Debian 13
//! is unpacked into a directory of its own.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process::ChildGuard;
use crate::temp::TempDir;
use crate::vm::{apt::Apt, apt::Suite, kernels::unpack};

const SUITES: &[Suite] = &[("trixie", false)];
const BECOME: &str = include_str!("criu.sh");
const LIMIT: Duration = Duration::from_secs(60);
/// A process with so much memory of its own, in the host's mount namespace, where no network namespace may be mounted meanwhile: CRIU dumps
/// neither those, nor what is in a mount namespace that was made for the process alone (a tmpfs with others' files in it).
const MEMORY: u64 = 32 << 20;

/// CRIU, ready to be started.
#[derive(Clone, Debug)]
pub struct Criu {
    root: PathBuf,
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

    /// Dumps a process to a page server on this port of 127.0.0.1. `server_dies`: it is killed before the dump is over.
    ///
    /// # Errors
    /// When CRIU does not run here at all.
    pub fn dump(&self, port: u16, server_dies: bool) -> Result<Dump> {
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
        if server_dies {
            server.signal(libc::SIGSTOP)?;
        }
        let mut dump = self.start(&directory, &[&send[..], &address].concat())?;
        if server_dies {
            // The dump waits for what the stopped server does not take.
            std::thread::sleep(Duration::from_secs(2));
            server.signal(libc::SIGKILL)?;
        }
        let ended =
            |process: &mut ChildGuard| process.wait_for(LIMIT)?.context("CRIU does not end");
        let dump = (dump.pid(), ended(&mut dump)?);
        let server = (server.pid(), ended(&mut server)?);
        // Dumped, it is gone; else it runs on.
        target.child().kill()?;
        Ok(Dump { dump, server, dumped })
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
    let ready = directory.join("ready");
    let work = format!(
        "import os, time\nos.closerange(3, 64)\nmemory = os.urandom({MEMORY})\nopen('{}', 'w').close()\nwhile True: time.sleep(0.01)",
        ready.display()
    );
    let become_it = "exec < /dev/null > /dev/null 2>&1; exec setsid python3 -c \"$1\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", become_it, "sh", &work])
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

//! What all migrations of the zoo share: the observer, the images, the guests' kernel; and how both
//! ends of one of them are started.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::json;

use super::case::{Case, Inside, Resume, Turn};
use super::images::{Image, Images, Mount};
use super::version::Version;
use crate::clock::ClockPorts;
use crate::guest::Guest;
use crate::linux_guest::{Linux, Work};
use crate::migration::{MigrationPlan, QemuFigures};
use crate::netns::Wire;
use crate::observer::Observer;
use crate::qemu::{Accelerator, Qemu, QemuSpec, Role};
use crate::temp::{TempDir, loopback};
use crate::vm::kernels::{Kernels, Series};

/// The period of the clock of a guest without a system.
pub const TICK: Duration = Duration::from_micros(100);
/// Not the ports that libvirt uses: QEMU is known by what it is.
const PORTS: RangeInclusive<u16> = 47_500..=47_599;
/// A name and a key of 32 bytes, as GnuTLS reads them.
const TLS_KEYS: &str = "qemu:9b1f0c63d27e458aa4f35b7d10c86e2298f4a7710e5d3cb6487b12f09ed53ac1\n";
/// The kernel of the Linux guests.
const KERNEL: Series = Series::Number(6, 1);

/// What differs in what a source sends beside RAM.
type Sort = (Version, Accelerator, Inside, bool);

/// What all migrations share.
#[derive(Debug)]
pub struct Zoo {
    /// Who is judged.
    pub observer: Observer,
    images: Images,
    kernel: OnceCell<PathBuf>,
    overheads: RefCell<BTreeMap<String, u64>>,
    next_port: Cell<u16>,
    // Goes last.
    directory: TempDir,
}

impl Zoo {
    /// Under the eyes of this observer.
    ///
    /// # Errors
    /// When there is no directory for temporary files.
    pub fn new(observer: Observer) -> Result<Self> {
        let directory = TempDir::new()?;
        std::fs::write(directory.join("keys.psk"), TLS_KEYS)?;
        Ok(Self {
            observer,
            images: Images::of_workspace(),
            kernel: OnceCell::new(),
            overheads: RefCell::default(),
            next_port: Cell::new(*PORTS.start()),
            directory,
        })
    }

    /// Why a case cannot run here; `None` if it can.
    #[must_use]
    pub fn cannot_run(case: &Case) -> Option<String> {
        if case.accelerator == Accelerator::Tcg {
            return None;
        }
        let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
        opened.err().map(|error| format!("/dev/kvm: {error}"))
    }

    /// A free port, each time another one.
    ///
    /// # Errors
    /// When all are taken.
    pub fn port(&self, ipv6: bool) -> Result<u16> {
        for _ in PORTS {
            let port = self.next_port.get();
            self.next_port.set(if port >= *PORTS.end() { *PORTS.start() } else { port + 1 });
            if TcpListener::bind((loopback(ipv6), port)).is_ok() {
                return Ok(port);
            }
        }
        bail!("no free port in {PORTS:?}")
    }

    /// How an end of this case is started.
    ///
    /// # Errors
    /// When QEMU or the kernel must be fetched and cannot be.
    pub fn spec(
        &self,
        case: &Case,
        role: Role,
        clock: Option<ClockPorts>,
        wire: Option<Wire>,
    ) -> Result<QemuSpec> {
        let (version, mount) = match role {
            Role::Source => (case.from, case.mounts[0]),
            Role::Destination => (case.to, case.mounts[1]),
        };
        Ok(QemuSpec {
            name: Some("zoo".to_owned()),
            debug_threads: case.thread_names,
            guest: guest(case),
            linux: self.linux(case)?,
            accelerator: case.accelerator,
            clock,
            program: self.image(case, version)?.program(mount)?,
            machine: case.from.machine(),
            wire,
            extra_args: self.arguments(case, role),
            ..QemuSpec::default()
        })
    }

    /// Starts QEMUs of the destination's image, each in an overlay mount of its own, that do nothing.
    ///
    /// # Errors
    /// When one does not start.
    pub fn bystanders(&self, case: &Case) -> Result<Vec<Qemu>> {
        let program = || self.image(case, case.to)?.program(Mount::Overlay);
        let start = |_| {
            let spec = QemuSpec {
                name: Some("bystander".to_owned()),
                guest: Guest { memory_mib: 8, working_set_mib: 0, ..Guest::default() },
                program: program()?,
                extra_args: vec!["-S".into()],
                ..QemuSpec::default()
            };
            Qemu::start(&spec, Role::Source)
        };
        (0..case.bystanders).map(start).collect()
    }

    /// What the source of such a case sends beside what QEMU counts as `ram.transferred`, in bytes:
    /// device state and descriptions. Measured once of each sort by a migration whose bytes are counted here.
    ///
    /// # Errors
    /// When QEMU cannot do that.
    pub fn overhead(&self, case: &Case) -> Result<u64> {
        let missing = case.turn == Turn::LoadFails;
        let sort: Sort = (case.from, case.accelerator, case.inside, missing);
        let key = format!("{sort:?}");
        if let Some(known) = self.overheads.borrow().get(&key) {
            return Ok(*known);
        }
        let found = self.measure_overhead(case).context("what is sent beside RAM")?;
        self.overheads.borrow_mut().insert(key, found);
        Ok(found)
    }

    fn measure_overhead(&self, case: &Case) -> Result<u64> {
        let mut spec = self.spec(case, Role::Source, None, None)?;
        spec.extra_args.push("-S".into());
        if case.has_clock() {
            spec.extra_args.extend(
                ["-chardev", "null,id=clock", "-serial", "chardev:clock"].map(OsString::from),
            );
        }
        let mut source = Qemu::start(&spec, Role::Source)?;
        MigrationPlan::default().prepare(&mut source)?;
        let path = self.directory.join("state");
        let listener = UnixListener::bind(&path)?;
        let counted = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            std::io::copy(&mut stream, &mut std::io::sink())
        });
        let uri = format!("unix:{}", path.display());
        source.qmp().execute("migrate", &json!({ "uri": uri }))?;
        let limit = Duration::from_secs(30);
        let figures = QemuFigures::wait(&mut source, limit, QemuFigures::is_final)?;
        ensure!(figures.status == "completed", "{figures:?}");
        drop(source);
        let sent = counted.join().map_err(|_| anyhow!("the reader panicked"))??;
        std::fs::remove_file(&path)?;
        Ok(sent.saturating_sub(figures.transferred))
    }

    fn image(&self, case: &Case, version: Version) -> Result<Image> {
        let contained = case.bystanders > 0 || case.mounts.contains(&Mount::Overlay);
        if contained { self.images.unpacked(version) } else { self.images.get(version) }
    }

    fn linux(&self, case: &Case) -> Result<Option<Linux>> {
        let (cpus, work) = match case.inside {
            Inside::Bare => return Ok(None),
            Inside::IdleLinux(cpus) => (cpus, Work::Sleep),
            Inside::BusyLinux(cpus) => (cpus, Work::Write),
        };
        let kernel = self.kernel()?;
        let directory = self.directory.join(&format!("linux-{cpus}-{work:?}"));
        std::fs::create_dir_all(&directory)?;
        Linux::new(&kernel, &directory, cpus, work).map(Some)
    }

    /// A copy where every image sees it.
    fn kernel(&self) -> Result<PathBuf> {
        if let Some(kernel) = self.kernel.get() {
            return Ok(kernel.clone());
        }
        let kernels = Kernels::of_workspace().get(&[KERNEL])?;
        let original = kernels.first().context("no kernel")?.image();
        let copy = self.directory.join("vmlinux");
        std::fs::copy(&original, &copy).with_context(|| original.display().to_string())?;
        Ok(self.kernel.get_or_init(|| copy).clone())
    }

    fn arguments(&self, case: &Case, role: Role) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        if role == Role::Destination && case.resume != Resume::Itself {
            arguments.push("-S".into());
        }
        if case.tls {
            arguments.extend(["-object".into(), tls(self.directory.path(), role).into()]);
        }
        if case.turn == Turn::LoadFails && role == Role::Source {
            arguments.extend(["-device", "virtio-rng-pci,id=missing"].map(OsString::from));
        }
        arguments
    }
}

fn guest(case: &Case) -> Guest {
    let (working_set_mib, _) = case.dirty;
    Guest {
        memory_mib: case.memory_mib,
        working_set_mib,
        dirty_delay: case.dirty_delay(),
        tick: case.has_clock().then_some(TICK),
        ..Guest::default()
    }
}

fn tls(directory: &Path, role: Role) -> String {
    let directory = directory.display();
    match role {
        Role::Source => {
            format!("tls-creds-psk,id=tls0,endpoint=client,username=qemu,dir={directory}")
        }
        Role::Destination => format!("tls-creds-psk,id=tls0,endpoint=server,dir={directory}"),
    }
}

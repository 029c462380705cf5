//! Probes on phase functions where hosts are unlike the lab: one image under many mounts, many
//! executables, executables that go, and executables that are no QEMU's.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dwcp_observer_lab::guest::Guest;
use dwcp_observer_lab::migration::{MigrationPlan, Pair};
use dwcp_observer_lab::observer::{Observer, binary, shared_host};
use dwcp_observer_lab::process::ChildGuard;
use dwcp_observer_lab::qemu::{QEMU, Qemu, QemuSpec, Role};
use dwcp_observer_lab::record::RecordExt as _;
use dwcp_observer_lab::temp::{TempDir, free_migration_port};
use dwcp_observer_model::record::Migration;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

fn observer() -> Observer {
    Observer::start(&binary().unwrap(), &[]).unwrap()
}

/// `/usr` under another overlay mount, as each container of one image has it; undone on drop.
struct Overlay {
    directory: TempDir,
}

impl Overlay {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        // The upper layer may not be on an overlay itself, as the temporary directory of a container is.
        mount(&["-t", "tmpfs", "lab", &directory.path().display().to_string()]);
        for name in ["upper", "work", "merged"] {
            fs::create_dir(directory.join(name)).unwrap();
        }
        let of = |name: &str| directory.join(name).display().to_string();
        let options = format!("lowerdir=/usr,upperdir={},workdir={}", of("upper"), of("work"));
        mount(&["-t", "overlay", "lab", "-o", &options, &of("merged")]);
        Self { directory }
    }

    fn program(&self) -> PathBuf {
        self.directory.join("merged/bin").join(QEMU)
    }

    /// Whether the file system can be unmounted: nothing in it is held.
    fn unmount(&self) -> bool {
        unmount(&self.directory.join("merged"))
    }
}

impl Drop for Overlay {
    /// Lazily: on a shared host another observer may hold a file of it.
    fn drop(&mut self) {
        for path in [self.directory.join("merged"), self.directory.path().to_path_buf()] {
            let _ = Command::new("umount").arg("--lazy").arg(path).stderr(Stdio::null()).status();
        }
    }
}

fn mount(arguments: &[&str]) {
    assert!(Command::new("mount").args(arguments).status().unwrap().success(), "{arguments:?}");
}

fn unmount(path: &Path) -> bool {
    let mut umount = Command::new("umount");
    umount.arg(path).stderr(Stdio::null()).status().unwrap().success()
}

fn spec(program: &Path) -> QemuSpec {
    QemuSpec {
        guest: Guest { memory_mib: 64, ..Guest::default() },
        program: program.into(),
        ..QemuSpec::default()
    }
}

/// A migration between two programs: its record, and the rounds that QEMU counted.
fn migrate(observer: &Observer, source: &Path, destination: &Path) -> (Migration, usize) {
    let plan = MigrationPlan {
        max_bandwidth: Some(40 * MIB),
        port: free_migration_port(false).unwrap(),
        ..MigrationPlan::default()
    };
    let mut from = Qemu::start(&spec(source), Role::Source).unwrap();
    let to = Qemu::start(&spec(destination), Role::Destination).unwrap();
    from.wait_filled(LIMIT).unwrap();
    let mut pair = Pair { source: from, destination: to };
    pair.migrate(&plan).unwrap();
    let figures = pair.wait_end(LIMIT).unwrap();
    assert_eq!(figures.status, "completed", "{figures:?}");
    let pid = pair.source.pid();
    let records = observer
        .wait_records(LIMIT, |records| {
            records.iter().any(|record| record.pid(Role::Source) == Some(pid) && record.is_final())
        })
        .unwrap();
    let mine = records.into_iter().find(|record| record.pid(Role::Source) == Some(pid));
    (mine.unwrap(), usize::try_from(figures.dirty_sync_count).unwrap())
}

fn check(observer: &Observer, source: &Path, destination: &Path) {
    let (record, rounds) = migrate(observer, source, destination);
    assert_eq!(record.rounds.len(), rounds, "{record:#?}");
    for end in ["source", "destination"] {
        let probed = record.evidence.iter().any(|line| {
            line.kind == "phase_functions" && line.detail.contains(&format!("probed at the {end}"))
        });
        assert!(probed, "{end}: {:#?}", record.evidence);
    }
    let blackout = record.blackout.as_ref().unwrap();
    let measured = blackout.by_method.phase_functions.unwrap();
    // Doubled marks gave 128 ms of 23: from one stop to another's resume.
    assert!(measured < 1.0, "{blackout:#?}");
}

#[test]
fn one_image_under_many_mounts_counts_each_passage_once() {
    let observer = observer();
    let plain = PathBuf::from("/usr/bin").join(QEMU);
    let overlays: Vec<Overlay> = (0..12).map(|_| Overlay::new()).collect();
    check(&observer, &overlays[0].program(), &overlays[0].program());
    check(&observer, &overlays[0].program(), &overlays[1].program());
    check(&observer, &plain, &overlays[1].program());
    // Twelve containers run beside the migration: each passage runs the probes of all.
    let start = |overlay: &Overlay| Qemu::start(&spec(&overlay.program()), Role::Destination);
    let beside: Vec<Qemu> = overlays.iter().map(|overlay| start(overlay).unwrap()).collect();
    observer.wait_cycles().unwrap();
    check(&observer, &overlays[3].program(), &overlays[9].program());
    check(&observer, &plain, &plain);
    drop(beside);
    assert!(observer.stop().unwrap().status.success());
}

#[test]
fn nine_executables_are_probed_and_let_go_with_their_last_process() {
    let observer = observer();
    let overlays: Vec<Overlay> = (0..9).map(|_| Overlay::new()).collect();
    let start = |overlay: &Overlay| Qemu::start(&spec(&overlay.program()), Role::Destination);
    let beside: Vec<Qemu> = overlays.iter().map(|overlay| start(overlay).unwrap()).collect();
    observer.wait_cycles().unwrap();
    let plain = PathBuf::from("/usr/bin").join(QEMU);
    check(&observer, &plain, &plain);
    drop(beside);
    for overlay in &overlays {
        wait(|| !holds(&observer, overlay), "an executable is held after its last process");
        // On a shared host another observer may hold it.
        if !shared_host() {
            wait(|| overlay.unmount(), "the file system is busy");
        }
    }
    assert!(observer.stop().unwrap().status.success());
}

/// Whether a link of the observer is about an executable of this file system (Linux 6.17 tells).
fn holds(observer: &Observer, overlay: &Overlay) -> bool {
    let path = overlay.directory.path().display().to_string();
    let descriptors = fs::read_dir(format!("/proc/{}/fdinfo", observer.pid())).unwrap();
    let mut texts = descriptors.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    texts.any(|text| text.contains(&format!("{path}/")))
}

/// What is no QEMU's: the observer goes on, small and on time, and says why it is not probed.
#[test]
fn a_strangers_executable_costs_a_bounded_amount() {
    let directory = TempDir::new().unwrap();
    let stranger = directory.join(QEMU);
    huge(&stranger);
    let observer = observer();
    let mut sleeper = Command::new(&stranger);
    let mut sleeper = ChildGuard::spawn(sleeper.arg("60").stdout(Stdio::null())).unwrap();
    observer.wait_cycles().unwrap();
    let plain = PathBuf::from("/usr/bin").join(QEMU);
    check(&observer, &plain, &plain);
    assert!(sleeper.try_wait().unwrap().is_none(), "the stranger still runs");
    let status = fs::read_to_string(format!("/proc/{}/status", observer.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
    assert!(peak < 200 << 10, "{peak} kB");
    assert!(observer.stop().unwrap().status.success());
}

/// `sleep` with a table of dynamic symbols of 512 MiB, nearly all of it a hole.
fn huge(path: &Path) {
    let sleep = fs::read("/bin/sleep").unwrap();
    let mut file: File = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .mode(0o755)
        .truncate(true)
        .open(path)
        .unwrap();
    file.write_all(&sleep).unwrap();
    let table = u64::from_le_bytes(sleep[40..48].try_into().unwrap());
    let count = u64::from(u16::from_le_bytes(sleep[60..62].try_into().unwrap()));
    let kind = |at: u64| sleep[usize::try_from(at).unwrap() + 4];
    let dynsym = (0..count).map(|index| table + index * 64).find(|at| kind(*at) == 11).unwrap();
    file.write_all_at(&(sleep.len() as u64).to_le_bytes(), dynsym + 24).unwrap();
    file.write_all_at(&(512 * MIB).to_le_bytes(), dynsym + 32).unwrap();
    file.set_len(sleep.len() as u64 + 512 * MIB).unwrap();
}

fn wait(mut done: impl FnMut() -> bool, otherwise: &str) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "{otherwise}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

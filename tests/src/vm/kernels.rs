//! Which Debian kernels there are, and what a VM needs of one, cached.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, run};
use super::{image, modules, siw};
use crate::qemu::Role;

/// Older package lists are fetched again, so that new kernels are noticed.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Packages that older lists name may be gone from the mirror.
const FRESH: Duration = Duration::from_secs(3600);
/// Beside a kernel: which modules it was unpacked for.
const WANTED: &str = "modules.wanted";
const PREFIX: &str = "linux-image-";
pub(super) const ARCHITECTURE: &str = "-amd64";
/// Software iWARP, beside a kernel once it has been built for it.
const SIW: &str = "siw.ko";
/// The packages that together make a kernel: newer ones are split.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];

/// Which kernel is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Series {
    /// The newest of one series, as 6.12.
    Number(u32, u32),
    /// The newest of all.
    Newest,
}

impl Series {
    /// Those that the project's test command boots: the oldest that is supported, and those of
    /// Debian 12 and its backport.
    pub const DEFAULT: [Self; 3] = [Self::Number(5, 10), Self::Number(6, 1), Self::Number(6, 12)];
    /// All that are tested.
    pub const ALL: [Self; 5] = [
        Self::Number(5, 10),
        Self::Number(6, 1),
        Self::Number(6, 12),
        Self::Number(6, 18),
        Self::Newest,
    ];
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(major, minor) => write!(f, "{major}.{minor}"),
            Self::Newest => f.write_str("newest"),
        }
    }
}

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = || {
            let (major, minor) = text.split_once('.')?;
            Some(Self::Number(major.parse().ok()?, minor.parse().ok()?))
        };
        if text == "newest" { Ok(Self::Newest) } else { number().ok_or_else(wrong_series) }
    }
}

fn wrong_series() -> String {
    "a kernel is two numbers, as 6.12, or `newest`".to_owned()
}

/// A kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What `uname -r` says there.
    pub release: String,
    directory: PathBuf,
    /// Whether software iWARP is loaded as well.
    siw: bool,
}

impl Kernel {
    /// Whole, and with the modules that are wanted today.
    fn is_cached(&self) -> bool {
        std::fs::read_to_string(self.directory.join(WANTED))
            .is_ok_and(|wanted| wanted == modules::wanted())
    }

    /// The uncompressed kernel.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// Where the console of its VM is kept; `end` tells two VMs at once apart.
    #[must_use]
    pub fn log(&self, end: Option<Role>) -> PathBuf {
        self.directory.join(match end {
            None => "console.log".to_owned(),
            Some(end) => format!("console-{}.log", end.as_str()),
        })
    }

    /// Its modules, in the order in which they are to be loaded.
    ///
    /// # Errors
    /// When the cache is damaged.
    pub fn modules(&self) -> Result<Vec<PathBuf>> {
        let path = self.directory.join(modules::ORDER);
        let order = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let built = self.siw.then_some(SIW);
        Ok(order.lines().chain(built).map(|name| self.directory.join(name)).collect())
    }
}

/// The cache of kernels.
#[derive(Debug)]
pub struct Kernels {
    directory: PathBuf,
    apt: Apt,
}

impl Kernels {
    /// Uses `directory`, which is made when it is needed.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), apt: Apt::new(directory.join("apt")) }
    }

    /// The cache in this workspace: `target/vm`, whatever cargo's target directory is.
    #[must_use]
    pub fn of_workspace() -> Self {
        Self::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/vm"))
    }

    /// The kernel of each series, fetched unless it is in the cache. Says on stderr what it fetches.
    ///
    /// # Errors
    /// When there is none of a series, or it must be fetched and cannot be.
    pub fn get(&self, wanted: &[Series]) -> Result<Vec<Kernel>> {
        match self.apt.age() {
            None => self.update()?,
            Some(age) if age > MAX_AGE => {
                // What is in the cache serves without a network, too.
                if let Err(error) = self.update() {
                    eprintln!("vm: old package lists are used: {error:#}");
                }
            }
            Some(_) => {}
        }
        let mut found = self.resolve(wanted)?;
        if found.iter().any(|(kernel, _)| !kernel.is_cached())
            && self.apt.age().is_none_or(|age| age > FRESH)
        {
            self.update()?;
            found = self.resolve(wanted)?;
        }
        for (kernel, packages) in &found {
            if !kernel.is_cached() {
                self.fetch(kernel, packages).with_context(|| packages.join(", "))?;
            }
        }
        Ok(found.into_iter().map(|(kernel, _)| kernel).collect())
    }

    /// The same kernel with software iWARP, built unless it is in the cache. Says on stderr when it is built.
    ///
    /// # Errors
    /// When its source cannot be fetched, or the kernel's compiler is not here.
    pub fn with_siw(&self, kernel: Kernel) -> Result<Kernel> {
        let module = kernel.directory.join(SIW);
        if !module.is_file() {
            eprintln!("vm: siw for {}", kernel.release);
            let work = self.directory.join(format!("siw-{}", std::process::id()));
            std::fs::create_dir_all(&work)?;
            let built = siw::build(&self.apt, &kernel.release, &work)
                .and_then(|built| Ok(std::fs::rename(built, module)?));
            std::fs::remove_dir_all(&work)?;
            built.with_context(|| format!("siw for {}", kernel.release))?;
        }
        Ok(Kernel { siw: true, ..kernel })
    }

    fn update(&self) -> Result<()> {
        eprintln!("vm: package lists");
        self.apt.update().context("no list of kernels")
    }

    /// The newest kernel of each series and its packages, by the lists.
    fn resolve(&self, wanted: &[Series]) -> Result<Vec<(Kernel, Vec<String>)>> {
        let names = self.apt.names("linux-")?;
        let releases: Vec<Release> = names.iter().filter_map(|name| Release::parse(name)).collect();
        let kernel = |series: &Series| {
            let Release { name, .. } = newest(*series, &releases)
                .with_context(|| format!("Debian's mirror has no kernel {series}"))?;
            let parts = PARTS.map(|part| format!("{part}{name}{ARCHITECTURE}"));
            let packages = parts.into_iter().filter(|part| names.contains(part)).collect();
            let directory = self.directory.join("kernels").join(name);
            let release = format!("{name}{ARCHITECTURE}");
            Ok((Kernel { release, directory, siw: false }, packages))
        };
        wanted.iter().map(kernel).collect()
    }

    /// Downloads and unpacks beside its place, so that what is in its place is whole.
    fn fetch(&self, kernel: &Kernel, packages: &[String]) -> Result<()> {
        eprintln!("vm: kernel {}", kernel.release);
        let work = self.directory.join(format!("new-{}", std::process::id()));
        let (packed, root, made) = (work.join("packed"), work.join("root"), work.join("made"));
        for directory in [&packed, &root, &made] {
            std::fs::create_dir_all(directory)?;
        }
        let done = (|| {
            for package in self.apt.download(packages, &packed)? {
                unpack(&package, &root)?;
            }
            prepare(&root, &kernel.release, &made)?;
            std::fs::create_dir_all(self.directory.join("kernels"))?;
            if kernel.directory.is_dir() {
                std::fs::remove_dir_all(&kernel.directory)?;
            }
            std::fs::rename(&made, &kernel.directory)?;
            Ok(())
        })();
        std::fs::remove_dir_all(&work)?;
        done
    }
}

/// Unpacks a package below `root`.
///
/// # Errors
/// When `dpkg-deb` fails.
pub(crate) fn unpack(package: &Path, root: &Path) -> Result<()> {
    run(Command::new("dpkg-deb").arg("--extract").args([package, root]))
        .with_context(|| package.display().to_string())?;
    Ok(())
}

/// Takes what a VM needs out of unpacked packages.
fn prepare(root: &Path, release: &str, made: &Path) -> Result<()> {
    // Before and after the move of / into /usr.
    let trees =
        [root.join("lib/modules").join(release), root.join("usr/lib/modules").join(release)];
    let images = [root.join(format!("boot/vmlinuz-{release}")), trees[1].join("vmlinuz")];
    let Some(image) = images.iter().find(|path| path.is_file()) else {
        bail!("the packages hold no kernel {release}");
    };
    std::fs::write(made.join("vmlinux"), image::unpack(&std::fs::read(image)?)?)?;
    let Some(tree) = trees.iter().find(|path| path.is_dir()) else {
        bail!("the packages hold no modules of {release}");
    };
    modules::collect(tree, made)?;
    Ok(std::fs::write(made.join(WANTED), modules::wanted())?)
}

/// A version that there is a package of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Release {
    /// As in the packages' names: `6.1.0-56`, `6.12.117+deb12`.
    name: String,
    /// The numbers before a `+`.
    numbers: Vec<u32>,
}

impl Release {
    /// From the name of a package. `None` for meta-packages, other builds (cloud, rt, debug) and
    /// backports to an older Debian (`6.1.0-0.deb11.52`).
    fn parse(package: &str) -> Option<Self> {
        let name = package.strip_prefix(PREFIX)?.strip_suffix(ARCHITECTURE)?;
        let version = match name.split_once("+deb") {
            Some((version, debian)) => {
                debian.parse::<u32>().ok()?;
                version
            }
            None => name,
        };
        let numbers: Vec<u32> =
            version.split(['.', '-']).map(str::parse).collect::<Result<_, _>>().ok()?;
        (numbers.len() >= 3).then(|| Self { name: name.to_owned(), numbers })
    }
}

fn newest(series: Series, releases: &[Release]) -> Option<&Release> {
    releases
        .iter()
        .filter(|release| match series {
            Series::Number(major, minor) => release.numbers.starts_with(&[major, minor]),
            Series::Newest => true,
        })
        .max_by(|a, b| a.numbers.cmp(&b.numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_series_is_found() {
        let names = [
            "linux-image-5.10.0-9-amd64",
            "linux-image-5.10.0-46-amd64",
            "linux-image-6.1-amd64",
            "linux-image-6.1.0-9-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.1.0-57-cloud-amd64",
            "linux-image-6.1.0-57-rt-amd64",
            "linux-image-6.1.0-57-amd64-dbg",
            "linux-image-6.1.0-0.deb11.58-amd64",
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.12.9+deb12-amd64",
            "linux-image-amd64",
            "linux-binary-7.3.4+deb13-amd64",
            "linux-image-7.3.4+deb13-amd64",
            "linux-image-7.3.4+deb13-amd64-unsigned",
        ];
        let releases: Vec<Release> = names.into_iter().filter_map(Release::parse).collect();
        let found = |series: &str| {
            newest(series.parse().unwrap(), &releases).map(|release| release.name.as_str())
        };
        assert_eq!(found("5.10"), Some("5.10.0-46"));
        assert_eq!(found("6.1"), Some("6.1.0-56"));
        assert_eq!(found("6.12"), Some("6.12.117+deb12"));
        assert_eq!(found("newest"), Some("7.3.4+deb13"));
        assert_eq!(found("5.15"), None);
    }

    #[test]
    fn a_series_is_written_as_it_is_read() {
        for series in Series::ALL {
            assert_eq!(series.to_string().parse(), Ok(series));
        }
        for wrong in ["6", "6.", "x.1", "", "6.1.2"] {
            assert!(wrong.parse::<Series>().is_err(), "{wrong}");
        }
    }
}

//! Debian packages of releases that this host does not run, with package lists of their own: the
//! host's lists, cache and installed packages are not touched, and no root is needed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A part of the archive, as `bullseye-security`; `true` for one that the security mirror has.
pub type Suite = (&'static str, bool);

/// The releases whose kernels are wanted.
const KERNELS: [Suite; 5] = [
    ("bullseye", false),
    ("bullseye-security", true),
    ("bookworm", false),
    ("bookworm-security", true),
    ("trixie-backports", false),
];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What to do when there is no way to get packages.
const ADVICE: &str = "packages of other releases come from the Debian mirror in this system's apt \
                      sources: check the network and `apt-get update`, or copy target/vm and \
                      target/zoo from a machine that has them";

/// Package lists in a directory of their own.
#[derive(Debug)]
pub struct Apt {
    directory: PathBuf,
    suites: &'static [Suite],
}

impl Apt {
    /// Of the releases whose kernels are wanted. Uses `directory`, which is made when it is needed.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self::of(directory, &KERNELS)
    }

    /// Of other releases.
    #[must_use]
    pub fn of(directory: PathBuf, suites: &'static [Suite]) -> Self {
        Self { directory, suites }
    }

    /// How old the lists are; `None` if there are none.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let written = self.stamp().metadata().and_then(|data| data.modified()).ok()?;
        // A clock that was set back makes the lists old.
        Some(written.elapsed().unwrap_or(Duration::MAX))
    }

    /// Fetches the lists (some 30 MB).
    ///
    /// # Errors
    /// When this is no Debian system, or its mirror cannot be reached.
    pub fn update(&self) -> Result<()> {
        let sources = sources(self.suites).context(ADVICE)?;
        for name in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(self.directory.join(name))?;
        }
        std::fs::write(self.directory.join("sources.list"), sources)?;
        // Without this option a mirror that does not answer is a warning only.
        let mut update = self.command("apt-get");
        run(update.args(["-q", "-q", "-o", "APT::Update::Error-Mode=any", "update"]))
            .context(ADVICE)?;
        std::fs::write(self.stamp(), "")?;
        Ok(())
    }

    /// The names of all packages that begin with `prefix`.
    ///
    /// # Errors
    /// When the lists were never fetched.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let output = run(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(output.lines().map(str::to_owned).collect())
    }

    /// Downloads packages into `directory` and returns their files.
    ///
    /// # Errors
    /// When the mirror does not have them, as when the lists are old.
    pub fn download(&self, packages: &[String], directory: &Path) -> Result<Vec<PathBuf>> {
        let mut download = self.command("apt-get");
        download.args(["-q", "-q", "download"]).args(packages).current_dir(directory);
        run(&mut download).context(ADVICE)?;
        let files = packages_in(directory)?;
        ensure!(files.len() == packages.len(), "{packages:?}: {files:?}");
        Ok(files)
    }

    /// Downloads a package of one release and all that it needs to run, as for a system on which
    /// nothing is installed, and returns their files.
    ///
    /// # Errors
    /// When the lists were never fetched, or the mirror does not have what they name.
    pub fn download_closure(&self, package: &str, release: &str) -> Result<Vec<PathBuf>> {
        let nothing = self.directory.join("status");
        std::fs::write(&nothing, "")?;
        let mut download = self.command("apt-get");
        download
            .arg("-o")
            .arg(format!("Dir::State::status={}", nothing.display()))
            .args(["-o", "Debug::NoLocking=1", "-t", release])
            .args(["-q", "-q", "-y", "--no-install-recommends", "--download-only", "install"])
            .arg(package);
        run(&mut download).context(ADVICE)?;
        packages_in(&self.directory.join("cache/archives"))
    }

    fn stamp(&self) -> PathBuf {
        self.directory.join("updated")
    }

    /// With the host's own configuration, which may name a proxy, but other lists.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |name: &str, value: &str| {
            command.arg("-o").arg(format!("{name}={value}"));
        };
        let path = |name: &str| self.directory.join(name).display().to_string();
        option("Dir::Etc::SourceList", &path("sources.list"));
        option("Dir::Etc::SourceParts", "/dev/null");
        option("Dir::State::Lists", &path("lists"));
        option("Dir::Cache", &path("cache"));
        // Its own user could not write there.
        option("APT::Sandbox::User", "root");
        command
    }
}

fn packages_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)?.collect::<std::io::Result<Vec<_>>>()?;
    let is_package = |path: &PathBuf| path.extension().is_some_and(|end| end == "deb");
    Ok(entries.into_iter().map(|entry| entry.path()).filter(is_package).collect())
}

/// Our list of sources, on the mirrors that this system uses.
fn sources(suites: &[Suite]) -> Result<String> {
    let release = std::fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release has no VERSION_CODENAME")?
        .trim_matches('"');
    let uris = run(Command::new("apt-get").args(["update", "--print-uris"]))?;
    sources_of(&uris, codename, suites)
}

/// `uris` as `apt-get update --print-uris` prints them.
fn sources_of(uris: &str, codename: &str, suites: &[Suite]) -> Result<String> {
    let mirror = |suite: &str| {
        let end = format!("/dists/{suite}/InRelease");
        uris.lines().find_map(|line| line.split('\'').nth(1)?.strip_suffix(&end))
    };
    let (Some(main), Some(security)) = (mirror(codename), mirror(&format!("{codename}-security")))
    else {
        bail!("apt's sources have no mirror with {codename} and {codename}-security");
    };
    let line = |&(suite, is_security): &Suite| {
        let mirror = if is_security { security } else { main };
        format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n")
    };
    Ok(suites.iter().map(line).collect())
}

/// What a command printed.
///
/// # Errors
/// What it said on stderr, when it failed.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{name}`"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("`{name}` failed ({}): {}", output.status, errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const URIS: &str = "\
'http://mirror.example/debian/dists/bookworm/InRelease' mirror_bookworm_InRelease 0 \n\
'http://mirror.example/debian/dists/bookworm-updates/InRelease' mirror_updates_InRelease 0 \n\
'http://security.example/sec/dists/bookworm-security/InRelease' sec_InRelease 0 \n";

    #[test]
    fn the_mirrors_of_this_system_are_used() {
        let sources = sources_of(URIS, "bookworm", &KERNELS).unwrap();
        let lines: Vec<&str> = sources.lines().collect();
        assert_eq!(lines.len(), KERNELS.len());
        assert!(lines[0].ends_with(" http://mirror.example/debian bullseye main"), "{sources}");
        assert!(
            lines[3].ends_with(" http://security.example/sec bookworm-security main"),
            "{sources}"
        );
        assert!(sources_of(URIS, "trixie", &KERNELS).is_err());
        assert!(sources_of("", "bookworm", &KERNELS).is_err());
    }
}

//! QEMU of other Debian releases, unpacked with all that it needs into a directory of its own. The
//! host's packages are not touched, and unpacking needs no root.
//!
//! Each is started by a script that becomes QEMU (one process, one pid) in a mount namespace of its
//! own, with that directory as its root: nothing is left mounted, and `/proc/PID/exe` is QEMU, as in
//! a container. The host's `/dev`, `/proc` and directory of temporary files are seen there too.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::version::Version;
use crate::qemu::QEMU;
use crate::vm::apt::{Apt, run};

const PACKAGE: &str = "qemu-system-x86";
const LAUNCHER: &str = include_str!("launch.sh");
/// The name of its copy beside the root, and of the one that puts an overlay mount between.
const PLAIN: &str = "qemu";
const OVERLAY: &str = "qemu-in-overlay";

/// What the file system of a QEMU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mount {
    /// The directory itself.
    #[default]
    Plain,
    /// An overlay mount of this process alone, with the directory below: a container.
    Overlay,
}

/// One version, ready to be started.
#[derive(Clone, Debug)]
pub struct Image {
    /// Which one.
    pub version: Version,
    /// `None` for the host's own QEMU.
    directory: Option<PathBuf>,
}

impl Image {
    /// What to start: [`crate::qemu::QemuSpec::program`].
    ///
    /// # Errors
    /// When an overlay of the host's own QEMU is asked for.
    pub fn program(&self, mount: Mount) -> Result<OsString> {
        match (&self.directory, mount) {
            (None, Mount::Plain) => Ok(QEMU.into()),
            (Some(directory), Mount::Plain) => Ok(directory.join(PLAIN).into()),
            (Some(directory), Mount::Overlay) => Ok(directory.join(OVERLAY).into()),
            (None, Mount::Overlay) => {
                anyhow::bail!("QEMU {} is the host's: it has no image of its own", self.version)
            }
        }
    }

    /// Its root directory; `None` for the host's own QEMU.
    #[must_use]
    pub fn root(&self) -> Option<PathBuf> {
        self.directory.as_deref().map(|directory| directory.join("root"))
    }
}

/// The cache of images.
#[derive(Clone, Debug)]
pub struct Images {
    directory: PathBuf,
}

impl Images {
    /// Uses `directory`, which is made when it is needed.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The cache in this workspace: `target/zoo`, whatever cargo's target directory is;
    /// `$DWCP_ZOO_IMAGES` is another place.
    #[must_use]
    pub fn of_workspace() -> Self {
        match std::env::var_os("DWCP_ZOO_IMAGES") {
            Some(place) => Self::new(Path::new(&place)),
            None => Self::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/zoo")),
        }
    }

    /// One version: the host's own QEMU if it is that, else unpacked, once (some 40 MB to fetch and
    /// 180 MB on disk). Says on stderr what it fetches.
    ///
    /// # Errors
    /// When it must be fetched and cannot be.
    pub fn get(&self, version: Version) -> Result<Image> {
        let own = run(Command::new(QEMU).arg("--version")).unwrap_or_default();
        if version.is_told_by(&own) {
            return Ok(Image { version, directory: None });
        }
        self.unpacked(version)
    }

    /// The same, unpacked also where the host's own QEMU is of this version: a container's image.
    ///
    /// # Errors
    /// When it must be fetched and cannot be.
    pub fn unpacked(&self, version: Version) -> Result<Image> {
        let directory = self.directory.join(version.name());
        if !directory.is_dir() {
            self.fetch(version, &directory).with_context(|| format!("QEMU {version}"))?;
        }
        let directory = directory.canonicalize()?;
        // Each time: where this workspace and the temporary files are may have changed.
        let scratch = std::env::temp_dir();
        let inside = directory.join("root").join(scratch.strip_prefix("/").unwrap_or(&scratch));
        std::fs::create_dir_all(inside)?;
        write_launcher(&directory, PLAIN)?;
        write_launcher(&directory, OVERLAY)?;
        Ok(Image { version, directory: Some(directory) })
    }

    /// Unpacks beside its place, so that what is in its place is whole.
    fn fetch(&self, version: Version, directory: &Path) -> Result<()> {
        eprintln!("zoo: QEMU {version}");
        let work = self.directory.join(format!("new-{}", std::process::id()));
        let done = unpack(version, &work).and_then(|()| {
            // Somebody else may have been faster.
            if !directory.is_dir() {
                std::fs::rename(work.join("image"), directory)?;
            }
            Ok(())
        });
        std::fs::remove_dir_all(&work)?;
        done
    }
}

fn unpack(version: Version, work: &Path) -> Result<()> {
    let image = work.join("image");
    let root = image.join("root");
    make_root(version, &root)?;
    let apt = Apt::of(work.join("apt"), version.suites());
    apt.update()?;
    let (release, _) = version.suites().last().context("no release")?;
    for package in apt.download_closure(PACKAGE, release)? {
        crate::vm::kernels::unpack(&package, &root)?;
    }
    std::fs::create_dir_all(image.join("overlay"))?;
    ensure!(root.join("usr/bin").join(QEMU).is_file(), "{PACKAGE} has no {QEMU}");
    Ok(())
}

/// The directories that no package brings or that are to be mounted on. From Debian 13 on, packages
/// have only `/usr` and rely on links to it.
fn make_root(version: Version, root: &Path) -> Result<()> {
    for name in ["dev", "proc", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    if version >= Version::V10_0 {
        for name in ["bin", "lib", "lib64", "sbin"] {
            std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name))?;
        }
    }
    Ok(())
}

/// By a new file that takes the old one's place: a script that somebody starts just now stays whole.
fn write_launcher(directory: &Path, name: &str) -> Result<()> {
    let path = directory.join(name);
    let text = launcher(directory, &std::env::temp_dir(), name == OVERLAY);
    if std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    let new = directory.join(format!("{name}.{}", std::process::id()));
    std::fs::write(&new, text)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
    Ok(std::fs::rename(&new, &path)?)
}

fn launcher(directory: &Path, scratch: &Path, overlay: bool) -> String {
    LAUNCHER
        .replace("@DIRECTORY@", &directory.display().to_string())
        .replace("@SCRATCH@", &scratch.display().to_string())
        .replace("@OVERLAY@", if overlay { "yes" } else { "no" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp::TempDir;

    #[test]
    fn the_launcher_is_whole() {
        let text = launcher(Path::new("/images/5.2"), Path::new("/tmp"), true);
        assert_eq!(text.matches('@').count(), 2, "only the arguments: {text}");
        assert!(text.contains("directory=/images/5.2\n"), "{text}");
        assert!(text.contains("overlay=yes\n"), "{text}");
    }

    #[test]
    fn newer_releases_have_links_to_usr() {
        let directory = TempDir::new().unwrap();
        make_root(Version::V5_2, &directory.join("old")).unwrap();
        make_root(Version::V11_1, &directory.join("new")).unwrap();
        assert!(!directory.join("old/lib64").exists());
        assert!(directory.join("new/lib64").is_symlink());
        assert!(directory.join("new/lib64").is_dir());
    }

    #[test]
    fn the_hosts_own_qemu_has_no_overlay() {
        let image = Image { version: Version::V7_2, directory: None };
        assert_eq!(image.program(Mount::Plain).unwrap(), QEMU);
        assert!(image.program(Mount::Overlay).is_err());
    }
}

//! Debian's packages: what is missing is installed; nothing that is there goes or changes before somebody agreed.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{as_root, ask, find, run as run_command};

/// Set, it is the agreement to whatever an installation takes away or replaces: for a machine of its own, as in CI.
const CONSENT: &str = "DWCP_SETUP_YES";

/// apt-get, whose package lists are fetched at most once and only if something is to be installed.
#[derive(Default)]
pub(crate) struct Apt {
    updated: bool,
}

impl Apt {
    /// Fetches the package lists.
    pub(crate) fn update(&mut self) -> Result<()> {
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

    /// Installs packages. What that would take away or replace is shown first; without a terminal to agree at, nothing is taken away.
    pub(crate) fn install(&mut self, packages: &[&str]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        self.update()?;
        let changes = Changes::read(&simulate(packages)?);
        let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if std::env::var_os(CONSENT).is_none() {
            changes.agree(packages, terminal, ask_user)?;
        }
        eprintln!("install  {}", packages.join(" "));
        let mut command = as_root("env")?;
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"])
            .args(["--no-install-recommends", "install"]);
        if changes.removed.is_empty() {
            command.arg("--no-remove");
        }
        run_command(command.args(packages))
    }
}

/// What an installation does to packages that are there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    removed: Vec<String>,
    /// Another version takes their place.
    replaced: Vec<String>,
}

impl Changes {
    /// Of what `apt-get --simulate` prints: `Remv NAME [OLD]`, `Inst NAME [OLD] (NEW ...)`.
    fn read(simulation: &str) -> Self {
        let mut changes = Self::default();
        for line in simulation.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("Remv"), Some(name), _) => changes.removed.push(name.to_owned()),
                (Some("Inst"), Some(name), Some(old)) if old.starts_with('[') => {
                    changes.replaced.push(name.to_owned());
                }
                _ => {}
            }
        }
        changes
    }

    /// # Errors
    /// When the user does not agree, or packages would go and there is nobody to ask.
    fn agree(
        &self,
        packages: &[&str],
        terminal: bool,
        ask: impl FnOnce(&str) -> Result<bool>,
    ) -> Result<()> {
        let Self { removed, replaced } = self;
        if removed.is_empty() && (replaced.is_empty() || !terminal) {
            return Ok(());
        }
        let mut text = format!("To install {}, apt-get", packages.join(" "));
        for (verb, names) in [("removes", removed), ("replaces by another version", replaced)] {
            if !names.is_empty() {
                text.push_str(&format!("\n  {verb}: {}", names.join(" ")));
            }
        }
        if !terminal {
            bail!(
                "{text}\nNothing is removed without a terminal to ask at: run it at one, install them by hand, or agree \
                 with {CONSENT}=1"
            );
        }
        if !ask(&text)? {
            bail!("not installed: {}", packages.join(" "));
        }
        Ok(())
    }
}

fn simulate(packages: &[&str]) -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["-q", "--simulate", "--no-install-recommends", "install"]).args(packages);
    let output = command.env("LC_ALL", "C").output().context("cannot run `apt-get`")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("apt-get cannot install {}:\n{}", packages.join(" "), said.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ask_user(text: &str) -> Result<bool> {
    eprint!("{text}\nGo on? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Whether this distribution has the package.
pub(crate) fn has_candidate(package: &str) -> bool {
    let answer = ask(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    answer.lines().any(|line| {
        line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)")
    })
}

/// Whether the package is installed.
pub(crate) fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status}", package]);
    ask(&mut query).is_some_and(|status| status == "installed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `apt-get --simulate install rustc-web` on Debian 12 with rustc, shortened.
    const SIMULATION: &str = "\
Reading package lists...
The following packages will be REMOVED:
  libstd-rust-dev rustc
Remv rustc [1.63.0+dfsg1-2]
Remv libstd-rust-dev [1.63.0+dfsg1-2]
Inst libc6 [2.36-9+deb12u9] (2.36-9+deb12u10 Debian:12 [amd64])
Inst rustc-web (1.96.0+dfsg1-1~deb12u1 Debian-Security:12 [amd64])
Conf rustc-web (1.96.0+dfsg1-1~deb12u1 Debian-Security:12 [amd64])
";

    #[test]
    fn what_goes_and_what_changes_is_read_from_a_simulation() {
        let changes = Changes::read(SIMULATION);
        assert_eq!(changes.removed, ["rustc", "libstd-rust-dev"]);
        assert_eq!(changes.replaced, ["libc6"]);
        assert_eq!(Changes::read("Inst qemu (7.2 Debian:12 [amd64])"), Changes::default());
    }

    #[test]
    fn nothing_goes_before_somebody_agreed() {
        let changes = Changes::read(SIMULATION);
        let names = ["rustc-web"];
        assert!(changes.agree(&names, false, |_| Ok(true)).is_err(), "there is nobody to ask");
        assert!(changes.agree(&names, true, |_| Ok(false)).is_err());
        let mut shown = String::new();
        let agreed = changes.agree(&names, true, |text| {
            text.clone_into(&mut shown);
            Ok(true)
        });
        assert!(agreed.is_ok());
        for name in ["rustc-web", "libstd-rust-dev", "libc6"] {
            assert!(shown.contains(name), "{shown}");
        }
        let nobody = |_: &str| -> Result<bool> { panic!("there is nothing to ask") };
        assert!(Changes::default().agree(&names, true, nobody).is_ok());
        let upgrade = Changes { replaced: vec!["libc6".to_owned()], ..Changes::default() };
        assert!(upgrade.agree(&names, false, nobody).is_ok());
        assert!(upgrade.agree(&names, true, |_| Ok(false)).is_err());
    }
}

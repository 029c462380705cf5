//! Running other programs, as root where that is needed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where programs go that no package gives: `$DWCP_TOOLS` or `target/tools`.
pub(crate) fn tools() -> PathBuf {
    match std::env::var_os("DWCP_TOOLS") {
        Some(path) => PathBuf::from(path),
        None => workspace().join("target/tools"),
    }
}

/// The virtual environment of programs in Python.
pub(crate) fn python_environment() -> PathBuf {
    tools().join("python")
}

/// Where cargo puts what it builds for the host.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => workspace().join(path),
        None => workspace().join("target"),
    }
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The search path for programs: ours, the user's, and where Debian keeps root's programs.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let mut path = vec![tools().join("bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    for directory in ["/usr/sbin", "/sbin"] {
        if !path.iter().any(|known| known == Path::new(directory)) {
            path.push(directory.into());
        }
    }
    // Behind all others: it has a python3 of its own.
    path.push(python_environment().join("bin"));
    path
}

/// All programs called `name` in the search path, in its order.
pub(crate) fn find_all(name: &str) -> Vec<PathBuf> {
    search_path().into_iter().map(|dir| dir.join(name)).filter(|path| path.is_file()).collect()
}

/// The first program called `name` in the search path.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    find_all(name).into_iter().next()
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// `program` as root: itself if this is root, else through sudo.
///
/// # Errors
/// When this is not root and there is no sudo.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    let program = program.as_ref();
    if is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = find("sudo") else {
        bail!(
            "`{}` must run as root, and there is no sudo: run this command as root",
            program.to_string_lossy()
        );
    };
    let mut command = Command::new(sudo);
    command.arg(program);
    Ok(command)
}

/// Runs this program again as root, with `--no-build`: loading BPF programs needs root, and building
/// as root would leave root's files in the clone.
pub(crate) fn run_as_root() -> Result<ExitCode> {
    let mut command: Command = as_root(std::env::current_exe()?)?;
    let status = command.args(std::env::args_os().skip(1)).arg("--no-build").status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs to the end; what it prints on stdout goes to stderr, which is for progress.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let text = describe(command);
    let status = command
        .stdout(Stdio::from(std::io::stderr()))
        .status()
        .with_context(|| format!("cannot run `{text}`"))?;
    if !status.success() {
        bail!("`{text}` failed ({status})");
    }
    Ok(())
}

/// Runs to the end and returns stdout without its trailing newline; `None` if it cannot be started
/// or fails.
pub(crate) fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}

/// Removes what cargo and rustup set for the programs they run: another toolchain must not see it.
pub(crate) fn without_cargo_env(command: &mut Command) -> &mut Command {
    const KEPT: [&str; 4] = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTRIES_"];
    const REMOVED: [&str; 5] =
        ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "LD_LIBRARY_PATH"];
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let kept = KEPT.iter().any(|prefix| text.starts_with(prefix));
        if REMOVED.contains(&text)
            || (!kept && (text.starts_with("CARGO_") || text.starts_with("RUSTC_")))
        {
            command.env_remove(text);
        }
    }
    command
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

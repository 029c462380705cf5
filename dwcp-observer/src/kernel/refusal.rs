//! Explains a kernel error in one line: no permission, not supported, or rejected.

use aya::{EbpfError, maps::MapError, programs::ProgramError};

use super::privileged;

/// The map of tags on tasks, in the object with typed pointers.
const TASK_STORAGE: &str = "TASK_TAGS";

/// Why an object's maps were refused.
pub(crate) fn of_maps(error: EbpfError) -> anyhow::Error {
    match error {
        // A kernel that does not know a kind of map says EINVAL.
        EbpfError::MapError(MapError::CreateError { name, io_error })
            if name == TASK_STORAGE && io_error.raw_os_error() == Some(libc::EINVAL) =>
        {
            anyhow::anyhow!("needs task storage (Linux 5.11)")
        }
        other => other.into(),
    }
}

/// Whether what the program attaches to does not exist.
#[must_use]
pub(crate) fn is_absent(error: &ProgramError) -> bool {
    first_os_error(error) == Some(libc::ENOENT)
}

/// One line of an error: its own text, and the last line of the verifier's log that is not statistics.
#[must_use]
pub(crate) fn brief(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return with_causes(error);
    };
    let log = verifier_log.to_string();
    log::debug!("verifier: {log}");
    const STATISTICS: [&str; 4] = ["processed ", "verification time", "stack depth", "subprog "];
    let last = log
        .lines()
        .rev()
        .find(|line| !line.is_empty() && !STATISTICS.iter().any(|prefix| line.starts_with(prefix)));
    match last {
        Some(last) => format!("{io_error}: {last}"),
        None => io_error.to_string(),
    }
}

/// An error and what caused it, each said once: some errors repeat their cause in their own text.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

/// Whether the first cause is a lack of privilege.
pub(crate) fn denied(error: &(dyn std::error::Error + 'static)) -> bool {
    first_os_error(error) == Some(libc::EPERM) && !privileged()
}

/// The error of the system call that began it.
fn first_os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn refused(map: &str, errno: i32) -> String {
        let io_error = io::Error::from_raw_os_error(errno);
        let error = MapError::CreateError { name: map.to_owned(), io_error };
        format!("{:#}", of_maps(EbpfError::MapError(error)))
    }

    #[test]
    fn a_kernel_without_task_storage_is_told_by_name_and_any_other_refusal_by_its_cause() {
        let said = refused("TASK_TAGS", libc::EINVAL);
        assert!(said.contains("task storage") && said.contains("5.11"), "{said}");
        for (map, errno) in [("TASK_TAGS", libc::ENOMEM), ("FLOWS", libc::EINVAL)] {
            let said = refused(map, errno);
            let cause = io::Error::from_raw_os_error(errno).to_string();
            assert!(said.contains(map) && said.ends_with(&cause), "{said}");
        }
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let absent = || io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(brief(&ProgramError::IOError(absent())), absent().to_string());
        let call = aya::sys::SyscallError { call: "bpf_link_create", io_error: absent() };
        let error = ProgramError::SyscallError(call);
        assert!(is_absent(&error));
        assert_eq!(brief(&error), format!("`bpf_link_create` failed: {}", absent()));
    }
}

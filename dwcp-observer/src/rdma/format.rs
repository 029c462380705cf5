//! Fields of classic tracepoints, from the `format` files of tracefs.

use std::path::{Path, PathBuf};

/// Where tracefs may be mounted.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The directory of an event of `category`; `None` when its module is not loaded or tracefs not mounted.
pub(super) fn event(category: &str, name: &str) -> Option<PathBuf> {
    TRACEFS
        .iter()
        .map(|root| Path::new(root).join("events").join(category).join(name))
        .find(|path| path.is_dir())
}

/// The offset of a field in an event's record.
pub(super) fn offset(format: &str, field: &str) -> Option<u32> {
    format.lines().find_map(|line| {
        let (declaration, rest) = line.trim().strip_prefix("field:")?.split_once(';')?;
        // `unsigned char srcaddr[28]`, `u32 cm_id`.
        let name = declaration.split('[').next()?.rsplit([' ', '\t']).next()?;
        if name != field {
            return None;
        }
        let (_, rest) = rest.split_once("offset:")?;
        rest.split(';').next()?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "name: cm_event_handler
ID: 1421
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:u32 cm_id;\toffset:8;\tsize:4;\tsigned:0;
\tfield:u32 tos;\toffset:12;\tsize:4;\tsigned:0;
\tfield:unsigned long event;\toffset:16;\tsize:8;\tsigned:0;
\tfield:int status;\toffset:24;\tsize:4;\tsigned:1;
\tfield:unsigned char srcaddr[sizeof(struct sockaddr_in6)];\toffset:28;\tsize:28;\tsigned:0;
\tfield:unsigned char dstaddr[28];\toffset:56;\tsize:28;\tsigned:0;

print fmt: \"cm.id=%u src=%pISpc\", REC->cm_id, REC->srcaddr
";

    #[test]
    fn finds_fields_by_name_and_not_by_place() {
        for (field, at) in
            [("cm_id", 8), ("event", 16), ("status", 24), ("srcaddr", 28), ("dstaddr", 56)]
        {
            assert_eq!(offset(SAMPLE, field), Some(at), "{field}");
        }
        assert_eq!(offset(SAMPLE, "qp_num"), None);
        assert_eq!(offset("", "cm_id"), None);
    }
}

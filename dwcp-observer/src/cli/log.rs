//! The format of the log.

use std::io::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    anomaly::feed::LOG_TARGET,
    config::{Config, LogFormat, LogLevel},
};

/// From here on messages are written to standard error.
pub(super) fn start(config: &Config) {
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(LogLevel::Warn.min(config.log_level).filter())
        .filter_module("dwcp_observer", config.log_level.filter())
        // Lines of the kernel side come under its crate's name.
        .filter_module("dwcp_observer_ebpf", config.log_level.filter());
    if config.log_format == LogFormat::Json {
        builder.format(|out, record| {
            let message = record.args().to_string();
            writeln!(out, "{}", line(Timestamp::now(), record.level(), record.target(), &message))
        });
    }
    builder.init();
}

/// One JSON object per line. An anomaly is an object in it, not text.
fn line(at: Timestamp, level: log::Level, target: &str, message: &str) -> Value {
    let mut line = json!({ "at": at, "level": level.as_str().to_lowercase(), "target": target });
    match serde_json::from_str::<Value>(message) {
        Ok(anomaly) if target == LOG_TARGET => line["anomaly"] = anomaly,
        _ => line["message"] = message.into(),
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anomaly_is_an_object_and_all_else_a_message() {
        let at = Timestamp::UNIX_EPOCH;
        let told = line(at, log::Level::Warn, LOG_TARGET, r#"{"kind":"rtt"}"#);
        assert_eq!(
            told.to_string(),
            r#"{"anomaly":{"kind":"rtt"},"at":"1970-01-01T00:00:00Z","level":"warn","target":"dwcp_observer::anomaly"}"#
        );
        let other = line(at, log::Level::Info, "dwcp_observer", "1\n\"two\"");
        assert_eq!(other["message"], "1\n\"two\"");
        assert!(!other.to_string().contains('\n'));
    }
}

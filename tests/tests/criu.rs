//! Real CRIU: what it dumps, and how that ends.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::time::Duration;

use dwcp_observer_lab::criu::{Criu, Dump};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::temp::free_port;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// The finished record of a dump.
fn record(observer: &Observer, dump: &Dump) -> Value {
    let of_dump = |record: &Value| {
        let mut ends = record["ends"].as_array().into_iter().flatten();
        ends.any(|end| end["pid"] == dump.dump.0) && !record["outcome"].is_null()
    };
    observer.wait_migration(LIMIT, of_dump).unwrap()
}

#[test]
fn a_dump_that_succeeds_and_one_that_fails() {
    let criu = Criu::get().unwrap();
    let observer = Observer::start(&binary().unwrap(), &[]).unwrap();

    let good = criu.dump(free_port().unwrap(), false).unwrap();
    assert!(good.dump.1.success() && good.server.1.success(), "{good:?}");
    let found = record(&observer, &good);
    assert_eq!(found["outcome"], "completed", "{found:#}");
    assert_eq!(found["dumped_process"]["pid"], good.dumped, "{found:#}");
    assert_eq!(found["dumped_process"]["name"], "python3", "{found:#}");
    let pids: Vec<_> = found["ends"].as_array().unwrap().iter().map(|end| &end["pid"]).collect();
    assert_eq!(pids, [good.dump.0, good.server.0], "{found:#}");
    assert!(found["bytes"]["received"].as_u64().unwrap() > 32 << 20, "{found:#}");

    let bad = criu.dump(free_port().unwrap(), true).unwrap();
    assert!(!bad.dump.1.success(), "{bad:?}");
    let found = record(&observer, &bad);
    assert_eq!(found["outcome"], "failed", "{found:#}");
    assert_eq!(found["reason"]["class"], "source_exited", "{found:#}");
    for evidence in found["evidence"].as_array().unwrap() {
        assert!(!evidence["detail"].as_str().unwrap().contains("guest CPU"), "{found:#}");
    }
    assert!(observer.stop().unwrap().status.success());
}

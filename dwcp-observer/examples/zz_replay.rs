//! throwaway
#![expect(clippy::unwrap_used, reason = "throwaway")]
use dwcp_observer::anomaly::replay::{Second, replay};
fn main() {
    for path in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&path).unwrap();
        let seconds: Vec<Second<'_>> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let n = seconds.len();
        println!("{path}: {n} seconds");
        for event in replay(seconds.into_iter().map(|s| (s.at, s.samples))) {
            println!(
                "  {} {:?} {} {} {}",
                event.began_at.strftime("%H:%M:%S"),
                event.mode.map(|m| m.as_str()),
                event.severity.as_str(),
                event.kind.as_str(),
                event.why()
            );
        }
    }
}

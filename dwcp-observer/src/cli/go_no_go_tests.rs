use super::*;
use crate::metrics::sample;

#[test]
fn the_answer_is_readable_and_survives_json() {
    let published = sample::published();
    let text = render(&published.sla);
    // One of four failed, and the transfer is far below 2.4 GB/s.
    assert!(text.starts_with("NO-GO\n  no-go    "), "{text}");
    let one_line_has =
        |facts: &[&str]| text.lines().any(|line| facts.iter().all(|fact| line.contains(fact)));
    assert!(one_line_has(&["error rate", "hour", "25.00 %", "1.00 %", "1 of 4"]), "{text}");
    assert!(text.contains("\nlast 30d\n"), "{text}");
    assert!(one_line_has(&["latency", "met", "7.8 ms", "500 ms", "0 of 1"]), "{text}");

    let json = serde_json::to_string(published.sla.as_ref()).unwrap();
    let view: View = serde_json::from_str(&json).unwrap();
    assert_eq!(render(&view), text);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["decision"], "no-go");
    assert!(value["anomalies"].is_null());
    assert_eq!(value["windows"][1]["window"], "1h");
    assert_eq!(value["windows"][1]["error_rate"]["burn_rate"], 25.0);
}

#[test]
fn no_observer_is_none_of_the_three() {
    // A port that nothing listens on.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}", socket.local_addr().unwrap())).unwrap();
    drop(socket);
    assert!(answer(&GoNoGoArgs { json: false, url }).is_err());
}

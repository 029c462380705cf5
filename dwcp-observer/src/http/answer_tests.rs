use std::time::Duration;

use super::*;
use crate::{
    metrics::{SeriesLimits, sample},
    model::record::{Mode, Outcome},
};

fn endpoints(board: Board) -> Endpoints {
    Endpoints {
        board,
        exporter: Exporter::new("node-7".to_owned(), SeriesLimits::default()),
        connections: Arc::new(Connections::new(4)),
        metrics: PerCycle::default(),
        migrations: PerCycle::default(),
        control: Control::default(),
    }
}

fn published(change: impl FnOnce(&mut Published)) -> Endpoints {
    let board = Board::default();
    let mut published = sample::published();
    change(&mut published);
    board.publish(published);
    endpoints(board)
}

fn healthy(published: &mut Published) {
    published.kernel.probes.truncate(1);
}

fn get(endpoints: &Endpoints, path: &str) -> (u16, Value) {
    let answer = endpoints.answer(&Method::GET, path, sample::at());
    assert_eq!(answer.content_type, JSON, "{path}");
    (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap())
}

#[test]
fn list_and_single_record() {
    let endpoints = published(|_| {});
    let (status, list) = get(&endpoints, "/api/v1/migrations");
    assert_eq!(status, 200);
    let migrations = list["migrations"].as_array().unwrap();
    assert_eq!(migrations.len(), 3);
    assert_eq!(migrations[0]["state"], "active");
    assert!(migrations[0].get("history").is_none());
    assert!(migrations[0]["ended_at"].is_null());

    let (status, record) = get(&endpoints, "/api/v1/migrations/1795350596500-4711");
    assert_eq!(status, 200);
    assert_eq!(record["vm"]["name"], "web-01");
    assert_eq!(record["history"][0]["bytes_delivered"], 3_800_000);
}

#[test]
fn the_list_is_empty_before_the_first_cycle() {
    let (status, list) = get(&endpoints(Board::default()), "/api/v1/migrations");
    assert_eq!((status, list), (200, json!({ "migrations": [] })));
}

#[test]
fn unknown_paths_and_ids_are_404() {
    let endpoints = published(|_| {});
    for path in [
        "/nope",
        "/metrics/",
        "//metrics",
        "/api/v1/migrations/",
        "/api/v1/migrations/a/b",
        "/api/v1/migrations/1\"}",
        "/../etc/passwd",
        "*",
        "",
    ] {
        let (status, body) = get(&endpoints, path);
        assert_eq!(status, 404, "{path}");
        assert!(body["error"].is_string(), "{path}");
    }
}

#[test]
fn service_levels_and_their_summary() {
    let endpoints = published(|_| {});
    let (status, view) = get(&endpoints, "/api/v1/sla");
    assert_eq!((status, &view["decision"]), (200, &json!("no-go")));
    assert_eq!(view["windows"].as_array().unwrap().len(), 4);
    assert_eq!(view["targets"]["latency_datacenter_seconds"], 0.5);
    let (_, summary) = get(&endpoints, "/metrics/summary");
    assert_eq!(summary["decision"], "no-go");
    let kept =
        json!({ "latency": true, "throughput": false, "error_rate": false, "availability": true });
    assert_eq!(summary["sla"], kept);

    let before = self::endpoints(Board::default());
    assert_eq!(get(&before, "/api/v1/sla").0, 503);
}

#[test]
fn a_history_that_is_not_written_is_a_degradation() {
    let endpoints = published(|published| {
        healthy(published);
        published.history.state = crate::history::State::Failing {
            since: sample::at(),
            reason: "history.sqlite: the disk is full".to_owned(),
        };
    });
    let (status, health) = get(&endpoints, "/health");
    assert_eq!((status, &health["status"]), (200, &json!("degraded")));
    let reason = health["reason"].as_str().unwrap();
    assert!(reason.contains("history") && reason.contains("2026-11-22T12:30:00.5Z"), "{reason}");
    let metrics = endpoints.answer(&Method::GET, "/metrics", sample::at());
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(text.contains("dwcp_observer_history_up 0\n"), "{text}");

    let off = published_off();
    let metrics = off.answer(&Method::GET, "/metrics", sample::at());
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(!text.contains("dwcp_observer_history"), "what is switched off has no figures");
    assert_eq!(get(&off, "/health").1["status"], "healthy");
}

fn published_off() -> Endpoints {
    published(|published| {
        healthy(published);
        published.history = crate::history::Status::default();
    })
}

#[test]
fn other_methods_are_405_everywhere() {
    let endpoints = published(|_| {});
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH] {
        for path in ["/", "/metrics", "/health", "/api/v1/migrations", "/api/v1/migrations/1-2"] {
            let answer = endpoints.answer(&method, path, sample::at());
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
    let head = endpoints.answer(&Method::HEAD, "/metrics", sample::at());
    assert_eq!(head.status, StatusCode::OK);
}

#[test]
fn metrics_are_rendered_once_per_cycle() {
    let endpoints = published(|_| {});
    let metrics = || endpoints.answer(&Method::GET, "/metrics", sample::at());
    let first = metrics();
    assert_eq!(first.content_type, "text/plain; version=0.0.4; charset=utf-8");
    endpoints.connections.answered("/metrics", 200);
    assert_eq!(metrics().body.as_ptr(), first.body.as_ptr());

    let mut next = sample::published();
    next.cycle.missed = 77;
    endpoints.board.publish(next);
    let text = String::from_utf8(metrics().body.to_vec()).unwrap();
    assert!(text.contains("dwcp_observer_cycles_missed_total 77\n"));
    assert!(
        text.contains(r#"dwcp_observer_http_requests_total{endpoint="/metrics",code="200"} 1"#)
    );
}

#[test]
fn the_index_lists_every_endpoint() {
    let endpoints = published(|_| {});
    let index = endpoints.answer(&Method::GET, "/", sample::at());
    let index = String::from_utf8(index.body.to_vec()).unwrap();
    let paths: Vec<&str> = index
        .lines()
        .filter_map(|line| line.strip_prefix("GET ")?.split_whitespace().next())
        .collect();
    assert_eq!(paths.len(), 12);
    for path in paths {
        let path = path.replace("{id}", "1795350596500-4711").replace("{component}", "hde");
        let answer = endpoints.answer(&Method::GET, &path, sample::at());
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
}

#[test]
fn healthy_with_all_probes() {
    let (status, body) = get(&published(healthy), "/health");
    assert_eq!(status, 200);
    assert_eq!(body["status"], "healthy");
    assert_eq!(body["uptime"], 100_000_000_000_u64);
    assert_eq!(body["uptime_seconds"], 100.0);
    assert_eq!(body["timestamp"], "2026-11-22T12:30:00.5Z");
    assert_eq!(body["probes"][0]["rung"], "tp_btf");
    assert!(body.get("reason").is_none());
    assert_eq!(get(&published(healthy), "/ready"), (200, json!({ "ready": true })));
}

#[test]
fn degraded_without_an_optional_probe() {
    let (status, body) = get(&published(|_| {}), "/health");
    assert_eq!((status, &body["status"]), (200, &json!("degraded")));
    let reason = body["reason"].as_str().unwrap();
    for fact in ["tcp_retransmit_skb", "retransmits", "no such tracepoint"] {
        assert!(reason.contains(fact), "{reason}");
    }
}

#[test]
fn unhealthy_without_a_required_probe() {
    let endpoints = published(|published| published.kernel.probes[0].rung = None);
    let (status, body) = get(&endpoints, "/health");
    assert_eq!((status, &body["status"]), (503, &json!("unhealthy")));
    assert!(body["reason"].as_str().unwrap().contains("inet_sock_set_state"));
    let (status, body) = get(&endpoints, "/ready");
    assert_eq!((status, &body["ready"]), (503, &json!(false)));
}

#[test]
fn unhealthy_before_the_first_cycle_and_when_the_last_is_old() {
    let (status, body) = get(&endpoints(Board::default()), "/health");
    assert_eq!(status, 503);
    assert!(body["reason"].as_str().unwrap().contains("no cycle"));
    for (age, status) in [(4.9, 200), (5.0, 200), (5.1, 503), (-3600.0, 200)] {
        let age = jiff::SignedDuration::from_secs_f64(age);
        let endpoints = published(|published| {
            healthy(published);
            published.at = sample::at() - age;
        });
        assert_eq!(get(&endpoints, "/health").0, status, "cycle {age:?} old");
    }
    // A long period is no hang.
    let endpoints = published(|published| {
        healthy(published);
        published.at = sample::at() - Duration::from_secs(20);
        published.cycle.period = Duration::from_secs(10);
    });
    assert_eq!(get(&endpoints, "/health").0, 200);
}

#[test]
fn summary_has_the_units_of_its_names() {
    let (status, body) = get(&published(|_| {}), "/metrics/summary");
    assert_eq!(status, 200);
    let close = |path: &str, want: f64| {
        let got = body.pointer(path).and_then(Value::as_f64).unwrap();
        assert!((got - want).abs() < 1e-12, "{path}: {got}");
    };
    // One active migration at 950 kB/s; two finished ones of 3.8 MB in 10 s.
    close("/throughput/current_gbps", 0.000_95);
    close("/throughput/average_gbps", 0.000_38);
    close("/throughput/max_gbps", 0.000_95);
    close("/error_rate", 0.25);
    assert_eq!(body["timestamp"], "2026-11-22T12:30:00.5Z");
    assert_eq!(body["latency"]["p99_ms"], json!(7.8125));
}

#[test]
fn summary_leaves_out_what_there_is_not() {
    let idle = published(|published| {
        published.entries.clear();
        published.totals.finished.clear();
    });
    for endpoints in [idle, endpoints(Board::default())] {
        let (_, body) = get(&endpoints, "/metrics/summary");
        assert_eq!(body["throughput"], json!({}));
        assert!(body.get("error_rate").is_none());
    }
}

#[test]
fn a_destination_alone_counts_what_it_received() {
    let endpoints = published(|published| {
        let mut record = sample::finished("1-1", Outcome::Completed, 3);
        record.ends.remove(0);
        record.mode = Some(Mode::Hybrid);
        let bytes = record.bytes.as_mut().unwrap();
        (bytes.delivered, bytes.received) = (5, 20_000_000_000);
        published.entries = vec![sample::entry(record)];
    });
    let (_, body) = get(&endpoints, "/metrics/summary");
    assert_eq!(body["throughput"]["average_gbps"], 2.0);
    assert!(body["throughput"].get("current_gbps").is_none());
}

#[test]
fn every_endpoint_of_the_contract_answers() {
    use crate::metrics::contract::{NAMES, Served};
    let endpoints = published(healthy);
    let mut asked = 0;
    for entry in NAMES {
        match entry.served {
            Served::Path(path) => {
                let answer = endpoints.answer(&Method::GET, path, sample::at());
                assert_eq!(answer.status, 200, "{path}");
                assert!(!answer.body.is_empty() || path.starts_with("/metrics/"), "{path}");
            }
            Served::ComponentPort(path) => {
                for component in Component::ALL {
                    let now = sample::at();
                    let answer = endpoints.component_answer(component, &Method::GET, path, now);
                    let down = path == "/health" && component == Component::Acp;
                    assert_eq!(answer.status, if down { 503 } else { 200 }, "{component:?} {path}");
                }
            }
            _ => continue,
        }
        asked += 1;
    }
    assert_eq!(asked, 12);
}

#[test]
fn a_component_has_its_health_and_its_part_of_the_metrics() {
    use crate::config::Component;
    let endpoints = published(healthy);
    let health = |component, now| {
        let answer = endpoints.component_answer(component, &Method::GET, "/health", now);
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status.as_u16(), body["status"].as_str().unwrap().to_owned(), body)
    };
    let (code, status, body) = health(Component::Amst, sample::at());
    assert_eq!((code, status.as_str()), (200, "healthy"));
    assert_eq!(body["processes"]["pids"], json!([4711]));
    let (code, status, body) = health(Component::Acp, sample::at());
    assert_eq!((code, status.as_str()), (503, "unhealthy"));
    assert_eq!(body["reasons"].as_array().map(Vec::len), Some(1), "{body}");
    assert_eq!(health(Component::Itp, sample::at()).1, "unknown");
    let later = sample::at() + jiff::SignedDuration::from_secs(60);
    assert_eq!(health(Component::Amst, later).1, "unknown", "nobody has looked for a minute");

    let metrics = |component| {
        let answer = endpoints.component_answer(component, &Method::GET, "/metrics", sample::at());
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    let amst = metrics(Component::Amst);
    for part in [
        "dwcp_v3_component_health{component=\"amst\"",
        "dwcp_v3_amst_active_streams 2",
        "dwcp_v3_throughput_bytes_per_second{component=\"amst\"",
    ] {
        assert!(amst.contains(part), "{part}\n{amst}");
    }
    assert!(!amst.contains("hde") && !amst.contains("dwcp_v3_rtt_seconds"), "{amst}");
    assert!(metrics(Component::Hde).contains("\ndwcp_v3_hde_compression_ratio 0.8125\n"));
    let same = endpoints.answer(&Method::GET, "/metrics/hde", sample::at());
    assert_eq!(String::from_utf8(same.body.to_vec()).unwrap(), metrics(Component::Hde));
    let other =
        endpoints.component_answer(Component::Hde, &Method::GET, "/api/v1/sla", sample::at());
    assert_eq!(other.status, 404);
    let post = endpoints.component_answer(Component::Hde, &Method::POST, "/metrics", sample::at());
    assert_eq!(post.status, 405);
}

#[test]
fn an_operator_sets_stage_and_region() {
    let endpoints = published(|_| {});
    let set = |is_local, is_json, body: &str| {
        endpoints.set_rollout(is_local, is_json, body.as_bytes()).status.as_u16()
    };
    let good = r#"{"stage":"25%","region":"us-east-1"}"#;
    assert_eq!(set(false, true, good), 403);
    assert_eq!(set(true, false, good), 415);
    let long = format!(r#"{{"stage":"{}"}}"#, "x".repeat(65));
    for wrong in ["", "{", "[]", r#"{"step":"1"}"#, r#"{"stage":""}"#, r#"{"stage":7}"#, &long] {
        assert_eq!(set(true, true, wrong), 400, "{wrong}");
    }
    assert_eq!(get(&endpoints, "/api/v1/rollout").1["stage"], Value::Null);
    assert_eq!(set(true, true, good), 200);
    let (_, body) = get(&endpoints, "/api/v1/rollout");
    assert_eq!((&body["stage"], &body["percent"]), (&json!("25%"), &json!(75.0)));
}

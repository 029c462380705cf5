//! Fixed components for tests.

use super::{
    exposition::{self, Merged},
    health::Status,
    rollout::{Labels, Progress},
    view::{ComponentView, ConnectionView, ProcessView, ScrapeView, View},
};
use crate::{
    config::{Component, ComponentMode},
    metrics::{is_own, sample::at},
};

/// amst by rule, hde by its own endpoint, acp down, the others never seen.
pub(crate) fn view() -> View {
    let mut merged = Merged::default();
    let text = "# HELP dwcp_v3_hde_compression_ratio Share of bytes saved.\n\
                # TYPE dwcp_v3_hde_compression_ratio gauge\n\
                dwcp_v3_hde_compression_ratio 0.8125\n";
    let (kept, _) = merged.add(exposition::parse(text).unwrap(), is_own);
    let components = Component::ALL.map(|component| {
        let status = match component {
            Component::Amst | Component::Hde => Status::Healthy,
            Component::Acp => Status::Unhealthy,
            Component::Pba | Component::Ass | Component::Itp => Status::Unknown,
        };
        let mut view = ComponentView {
            component,
            version: "v3".to_owned(),
            mode: ComponentMode::Serve,
            status,
            reasons: Vec::new(),
            processes: None,
            connections: None,
            scrape: None,
            carried: String::new(),
            watched: status != Status::Unknown,
            by_migrations_alone: false,
        };
        match component {
            Component::Amst => {
                view.processes = Some(ProcessView {
                    pids: vec![4711],
                    left_out: 0,
                    threads: 9,
                    cpu_seconds: 1.5,
                    resident_bytes: 64 << 20,
                });
                view.connections = Some(ConnectionView {
                    established: 8,
                    stalled: 1,
                    unread: 0,
                    listening: vec![9876],
                    sent_bytes: 7_000_000,
                    received_bytes: 4_000,
                    retransmitted_segments: 3,
                });
            }
            Component::Hde => {
                view.mode = ComponentMode::Scrape;
                view.carried = exposition::text(&kept);
                view.scrape = Some(ScrapeView {
                    endpoint: "http://127.0.0.1:9092/metrics".to_owned(),
                    scrapes: 60,
                    errors: [("timeout".into(), 2), ("connect".into(), 0)].into(),
                    failure: None,
                    seconds: 0.0025,
                    series: 1,
                    dropped: [("duplicate".into(), 1), ("own_name".into(), 0)].into(),
                });
            }
            Component::Acp => view.reasons = vec!["no process of it is left".to_owned()],
            Component::Pba | Component::Ass | Component::Itp => {}
        }
        view
    });
    View {
        at: Some(at()),
        components: components.into(),
        rollout: Some(Progress {
            percent: 75.0,
            v3: 3,
            v1: 1,
            labels: Labels {
                stage: Some("canary".to_owned()),
                region: Some("eu-west-1".to_owned()),
            },
        }),
        carried: merged.text(),
    }
}

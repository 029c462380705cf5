//! The answers of all endpoints. Only `PUT /api/v1/rollout` changes anything: two labels.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::{cache::PerCycle, connections::Connections, health::health, summary::summary};
use crate::{
    anomaly::feed::View as Anomalies,
    component::{View as Components, rollout::Control},
    config::Component,
    cycle::published::{Board, Published},
    metrics::{Exporter, Input, ProcessUsage},
    model::record::{List, Migration},
};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// The text format's own content type.
pub(super) const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const MIGRATION: &str = "/api/v1/migrations/";

const INDEX: &str = "\
dwcp-observer: VM live migrations seen from inside the kernel

GET /metrics                  Prometheus exposition
GET /metrics/{component}      the part of amst, hde, pba, acp, ass or itp; on their ports 9091 to 9096 it is /metrics
GET /metrics/summary          latency, throughput, error rate as JSON
GET /health                   200 healthy or degraded, 503 with the reason when nothing can be measured
GET /ready                    200 or 503, as /health
GET /api/v1/migrations        running and finished migrations as JSON
GET /api/v1/migrations/{id}   one of them with its per-second history
GET /api/v1/sla               service levels, error budgets, go / caution / no-go as JSON
GET /api/v1/anomalies         anomalies that go on and the last 256, each with its reason, as JSON
GET /api/v1/components        health and figures of the six components, with reasons, as JSON
GET /api/v1/rollout           stage, region and progress of the rollout; PUT sets stage and region
GET /api/v1/rdma              every queue pair of this host, migrations or not
";

/// What the endpoints read from.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) board: Board,
    pub(super) exporter: Exporter,
    pub(super) connections: Arc<Connections>,
    pub(super) metrics: PerCycle,
    pub(super) migrations: PerCycle,
    pub(super) control: Control,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// The path as a metric label: one of a fixed few.
    pub(super) endpoint: &'static str,
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
}

impl Endpoints {
    /// Answers `method` on `path` (without query).
    pub(super) fn answer(&self, method: &Method, path: &str, now: Timestamp) -> Answer {
        let endpoint = endpoint(path);
        if endpoint.is_empty() {
            return error(
                "other",
                StatusCode::NOT_FOUND,
                "unknown path; GET / lists the endpoints",
            );
        }
        if method != Method::GET && method != Method::HEAD {
            let text = "only GET and HEAD are allowed, and PUT on /api/v1/rollout";
            return error(endpoint, StatusCode::METHOD_NOT_ALLOWED, text);
        }
        let published = self.board.latest();
        match endpoint {
            "/" => Answer {
                endpoint,
                status: StatusCode::OK,
                content_type: TEXT,
                body: Bytes::from_static(INDEX.as_bytes()),
            },
            "/metrics" => self.metrics(endpoint, published.as_ref()),
            "/metrics/summary" => {
                json_answer(endpoint, StatusCode::OK, &summary(published.as_deref(), now))
            }
            "/health" => {
                let (status, body) = health(published.as_deref(), now);
                json_answer(endpoint, status, &body)
            }
            "/ready" => {
                let (status, health) = health(published.as_deref(), now);
                let mut body = json!({ "ready": status == StatusCode::OK });
                if let Some(reason) = health.get("reason") {
                    body["reason"] = reason.clone();
                }
                json_answer(endpoint, status, &body)
            }
            "/api/v1/migrations" => self.list(endpoint, published.as_ref()),
            "/api/v1/anomalies" => anomalies(endpoint, published.as_deref()),
            "/api/v1/components" => components(endpoint, published.as_deref()),
            "/api/v1/rollout" => self.rollout(endpoint, published.as_deref()),
            "/metrics/{component}" => match path.rsplit('/').next().and_then(Component::by_name) {
                Some(component) => self.component_metrics(endpoint, component),
                None => error(endpoint, StatusCode::NOT_FOUND, "unknown component"),
            },
            "/api/v1/sla" => sla(endpoint, published.as_deref()),
            "/api/v1/rdma" => rdma(endpoint, published.as_deref()),
            _ => one(endpoint, published.as_deref(), path.strip_prefix(MIGRATION).unwrap_or("")),
        }
    }

    fn metrics(&self, endpoint: &'static str, published: Option<&Arc<Published>>) -> Answer {
        let render = || {
            let http = self.connections.counts();
            let process = ProcessUsage::read();
            let published = published.map(AsRef::as_ref);
            let input = Input { published, http: &http, process: &process };
            self.exporter.render(&input).map(String::into_bytes)
        };
        let body = match published {
            Some(published) => self.metrics.get(published, render),
            None => render().map(Bytes::from),
        };
        match body {
            Ok(body) => Answer { endpoint, status: StatusCode::OK, content_type: EXPOSITION, body },
            Err(failure) => {
                error(endpoint, StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string())
            }
        }
    }

    fn list(&self, endpoint: &'static str, published: Option<&Arc<Published>>) -> Answer {
        let Some(published) = published else {
            let none: List = List { migrations: Vec::new() };
            return json_answer(endpoint, StatusCode::OK, &none);
        };
        let body = self.migrations.get(published, || {
            let records = published.entries.iter().map(|entry| entry.record.as_ref());
            serde_json::to_vec(&List::<&Migration> { migrations: records.collect() })
        });
        match body {
            Ok(body) => Answer { endpoint, status: StatusCode::OK, content_type: JSON, body },
            Err(failure) => {
                error(endpoint, StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string())
            }
        }
    }
}

/// The label of a path; empty when there is no such endpoint.
fn endpoint(path: &str) -> &'static str {
    const PLAIN: [&str; 11] = [
        "/",
        "/metrics",
        "/metrics/summary",
        "/health",
        "/ready",
        "/api/v1/migrations",
        "/api/v1/anomalies",
        "/api/v1/components",
        "/api/v1/rollout",
        "/api/v1/sla",
        "/api/v1/rdma",
    ];
    if let Some(plain) = PLAIN.iter().find(|plain| **plain == path) {
        return plain;
    }
    if path.strip_prefix("/metrics/").and_then(Component::by_name).is_some() {
        return "/metrics/{component}";
    }
    if path.strip_prefix(MIGRATION).is_some_and(|id| !id.is_empty() && !id.contains('/')) {
        return "/api/v1/migrations/{id}";
    }
    ""
}

fn one(endpoint: &'static str, published: Option<&Published>, id: &str) -> Answer {
    let entry = published
        .into_iter()
        .flat_map(|published| &published.entries)
        .find(|entry| entry.record.id == id);
    let Some(entry) = entry else {
        let text =
            format!("no migration has the id {id}; GET /api/v1/migrations lists all in memory");
        return error(endpoint, StatusCode::NOT_FOUND, &text);
    };
    let mut record = Migration::clone(&entry.record);
    let history = entry.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner).samples();
    record.history = Some(history);
    json_answer(endpoint, StatusCode::OK, &record)
}

fn rdma(endpoint: &'static str, published: Option<&Published>) -> Answer {
    let view = published.map(|published| published.rdma.view()).unwrap_or_default();
    json_answer(endpoint, StatusCode::OK, &view)
}

fn anomalies(endpoint: &'static str, published: Option<&Published>) -> Answer {
    let none = Anomalies::default();
    let view = published.map_or(&none, |published| published.anomalies.as_ref());
    json_answer(endpoint, StatusCode::OK, view)
}

fn components(endpoint: &'static str, published: Option<&Published>) -> Answer {
    let none = Components::default();
    let view = published.map_or(&none, |published| published.components.as_ref());
    json_answer(endpoint, StatusCode::OK, view)
}

fn sla(endpoint: &'static str, published: Option<&Published>) -> Answer {
    match published {
        Some(published) => json_answer(endpoint, StatusCode::OK, published.sla.as_ref()),
        None => {
            let text = "no cycle has been completed yet";
            error(endpoint, StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

pub(super) fn json_answer(
    endpoint: &'static str,
    status: StatusCode,
    body: &impl Serialize,
) -> Answer {
    match serde_json::to_vec(body) {
        Ok(body) => Answer { endpoint, status, content_type: JSON, body: body.into() },
        Err(failure) => error(endpoint, StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string()),
    }
}

pub(super) fn error(endpoint: &'static str, status: StatusCode, text: &str) -> Answer {
    let body: Value = json!({ "error": text });
    Answer { endpoint, status, content_type: JSON, body: body.to_string().into() }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;

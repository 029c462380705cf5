//! The answers about components and the rollout.

use hyper::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    answer::{Answer, EXPOSITION, Endpoints, error, json_answer},
    health::is_stale,
};
use crate::{
    component::{ComponentView, health::Status, rollout::Labels},
    config::Component,
    cycle::published::Published,
    metrics::{Input, ProcessUsage},
};

/// Longest body of `PUT /api/v1/rollout`, bytes.
pub(super) const MAX_BODY: usize = 4 << 10;

impl Endpoints {
    /// Answers on the port of a component.
    pub(super) fn component_answer(
        &self,
        component: Component,
        method: &Method,
        path: &str,
        now: Timestamp,
    ) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            return error(
                "component",
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are allowed",
            );
        }
        match path {
            "/metrics" => self.component_metrics("component /metrics", component),
            "/health" | "/ready" => {
                let published = self.board.latest();
                let (status, body) = component_health(component, published.as_deref(), now);
                json_answer("component /health", status, &body)
            }
            _ => error("component", StatusCode::NOT_FOUND, "this port serves /metrics and /health"),
        }
    }

    /// The exposition of one component.
    pub(super) fn component_metrics(&self, endpoint: &'static str, component: Component) -> Answer {
        let published = self.board.latest();
        let (http, process) = (self.connections.counts(), ProcessUsage::default());
        let input = Input { published: published.as_deref(), http: &http, process: &process };
        match self.exporter.render_component(&input, component) {
            Ok(text) => Answer {
                endpoint,
                status: StatusCode::OK,
                content_type: EXPOSITION,
                body: text.into(),
            },
            Err(failure) => {
                error(endpoint, StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string())
            }
        }
    }

    /// `PUT /api/v1/rollout`: sets stage and region until the observer stops.
    pub(super) fn set_rollout(&self, is_local: bool, is_json: bool, body: &[u8]) -> Answer {
        let endpoint = "/api/v1/rollout";
        if !self.control.allows(is_local) {
            let text = "not allowed from this address; see rollout.control in the configuration";
            return error(endpoint, StatusCode::FORBIDDEN, text);
        }
        if !is_json {
            // A page in an operator's browser cannot send this type without being asked first.
            let text = "the content type must be application/json";
            return error(endpoint, StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
        }
        // A struct would be read from an array as well.
        let object = serde_json::from_slice::<serde_json::Map<_, _>>(body);
        let labels: Labels = match object.and_then(|it| serde_json::from_value(it.into())) {
            Ok(labels) => labels,
            Err(failure) => {
                return error(
                    endpoint,
                    StatusCode::BAD_REQUEST,
                    &format!("invalid rollout: {failure}"),
                );
            }
        };
        if !labels.are_valid() {
            let text = "stage and region must have 1 to 64 characters, without control characters";
            return error(endpoint, StatusCode::BAD_REQUEST, text);
        }
        self.control.set(labels);
        self.rollout(endpoint, None)
    }

    /// `GET /api/v1/rollout`.
    pub(super) fn rollout(&self, endpoint: &'static str, published: Option<&Published>) -> Answer {
        let labels = self.control.labels();
        let mut body = json!({ "stage": labels.stage, "region": labels.region });
        if let Some(progress) = published.and_then(|it| it.components.rollout.as_ref()) {
            body["percent"] = json!(progress.percent);
            body["v3"] = json!(progress.v3);
            body["v1"] = json!(progress.v1);
        }
        json_answer(endpoint, StatusCode::OK, &body)
    }
}

/// The answer of `/health` on a component's port: 503 only for what is known not to work.
fn component_health(
    component: Component,
    published: Option<&Published>,
    now: Timestamp,
) -> (StatusCode, Value) {
    let view = published
        .filter(|published| !is_stale(published, now))
        .and_then(|published| published.components.get(component));
    let status = view.map_or(Status::Unknown, |view: &ComponentView| view.status);
    let code = match status {
        Status::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
        Status::Unknown | Status::Healthy | Status::Degraded => StatusCode::OK,
    };
    let mut body = json!({
        "status": status,
        "component": component,
        "timestamp": now.to_string(),
    });
    match view.map(serde_json::to_value) {
        Some(Ok(Value::Object(fields))) => {
            for (name, value) in fields {
                body[name] = value;
            }
        }
        _ => body["reasons"] = json!(["the observer has not checked this component recently"]),
    }
    (code, body)
}

//! Panels and dashboards as Grafana reads them.

use serde_json::{Value, json};

/// Matchers that every selector carries: written `@` in the expressions of the dashboards.
const MATCHERS: &str = r#"job=~"$job", instance=~"$instance""#;
/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;

/// One query of a panel.
pub(super) struct Target {
    expr: String,
    legend: &'static str,
}

/// One panel.
pub(super) struct Panel {
    kind: &'static str,
    title: &'static str,
    description: &'static str,
    unit: &'static str,
    width: u64,
    height: u64,
    targets: Vec<Target>,
    /// From this value on, this colour; the first has no lower bound.
    thresholds: Vec<(Option<f64>, &'static str)>,
    /// Words for values.
    words: Vec<(&'static str, &'static str, &'static str)>,
    range: Option<(f64, f64)>,
    link: Option<(&'static str, &'static str)>,
}

impl Panel {
    fn new(kind: &'static str, size: (u64, u64), title: &'static str, unit: &'static str) -> Self {
        Self {
            kind,
            title,
            description: "",
            unit,
            width: size.0,
            height: size.1,
            targets: Vec::new(),
            thresholds: vec![(None, "green")],
            words: Vec::new(),
            range: None,
            link: None,
        }
    }

    /// Lines over time, 12 columns wide.
    pub(super) fn series(title: &'static str, unit: &'static str) -> Self {
        Self::new("timeseries", (12, 8), title, unit)
    }

    /// The last value as a number.
    pub(super) fn stat(title: &'static str, unit: &'static str) -> Self {
        Self::new("stat", (4, 4), title, unit)
    }

    /// The last value between two bounds.
    pub(super) fn gauge(title: &'static str, unit: &'static str, range: (f64, f64)) -> Self {
        Self { range: Some(range), ..Self::new("gauge", (6, 6), title, unit) }
    }

    /// Labels and last values in rows.
    pub(super) fn table(title: &'static str, unit: &'static str) -> Self {
        Self::new("table", (24, 7), title, unit)
    }

    /// Shares of a whole.
    pub(super) fn pie(title: &'static str, unit: &'static str) -> Self {
        Self::new("piechart", (8, 7), title, unit)
    }

    /// Buckets of a histogram over time.
    pub(super) fn heatmap(title: &'static str, unit: &'static str) -> Self {
        Self::new("heatmap", (12, 8), title, unit)
    }

    /// One row of states over time for each series.
    pub(super) fn states(title: &'static str) -> Self {
        Self::new("status-history", (8, 7), title, "none")
    }

    /// Alerts that fire now: asks the rules, not the metrics.
    pub(super) fn alerts(title: &'static str) -> Self {
        Self::new("alertlist", (12, 8), title, "none")
    }

    /// What a reader should know; one or two sentences.
    pub(super) fn about(mut self, text: &'static str) -> Self {
        self.description = text;
        self
    }

    /// Adds a query. `@` stands for the matchers of job and instance.
    pub(super) fn query(mut self, expr: &str, legend: &'static str) -> Self {
        let expr = expr.split_whitespace().collect::<Vec<_>>().join(" ");
        self.targets.push(Target { expr: expr.replace('@', MATCHERS), legend });
        self
    }

    /// Yellow and red from these values on.
    pub(super) fn worse_above(mut self, yellow: f64, red: f64) -> Self {
        self.thresholds = vec![(None, "green"), (Some(yellow), "yellow"), (Some(red), "red")];
        self
    }

    /// Red below the first, yellow below the second.
    pub(super) fn worse_below(mut self, red: f64, yellow: f64) -> Self {
        self.thresholds = vec![(None, "red"), (Some(red), "yellow"), (Some(yellow), "green")];
        self
    }

    /// Red from this value on.
    pub(super) fn limit(mut self, red: f64) -> Self {
        self.thresholds = vec![(None, "green"), (Some(red), "red")];
        self
    }

    /// A value shown as a word in a colour.
    pub(super) fn word(
        mut self,
        value: &'static str,
        word: &'static str,
        color: &'static str,
    ) -> Self {
        self.words.push((value, word, color));
        self
    }

    /// Bounds of the axis.
    pub(super) fn within(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }

    /// Columns and rows of the grid.
    pub(super) fn size(mut self, width: u64, height: u64) -> Self {
        (self.width, self.height) = (width, height);
        self
    }

    /// A link from the panel's corner.
    pub(super) fn link(mut self, title: &'static str, url: &'static str) -> Self {
        self.link = Some((title, url));
        self
    }

    fn json(&self, id: usize, x: u64, y: u64) -> Value {
        let table = self.kind == "table";
        let targets: Vec<Value> = (b'A'..=b'Z')
            .zip(&self.targets)
            .map(|(letter, target)| {
                json!({
                    "refId": char::from(letter).to_string(),
                    "datasource": datasource(),
                    "expr": target.expr,
                    "legendFormat": target.legend,
                    "instant": table,
                    "range": !table,
                    "format": match self.kind {
                        "table" => "table",
                        "heatmap" => "heatmap",
                        _ => "time_series",
                    },
                })
            })
            .collect();
        let steps: Vec<Value> = self
            .thresholds
            .iter()
            .map(|(from, color)| json!({ "value": from, "color": color }))
            .collect();
        let mut defaults = json!({
            "unit": self.unit,
            "thresholds": { "mode": "absolute", "steps": steps },
            "color": { "mode": if self.kind == "timeseries" || self.kind == "piechart" { "palette-classic" } else { "thresholds" } },
            "mappings": [],
            "noValue": "no data",
        });
        if !self.words.is_empty() {
            let options: serde_json::Map<String, Value> = (0..)
                .zip(&self.words)
                .map(|(index, (value, word, color))| {
                    let word = json!({ "text": word, "color": color, "index": index });
                    ((*value).to_owned(), word)
                })
                .collect();
            defaults["mappings"] = json!([{ "type": "value", "options": options }]);
        }
        if let Some((low, high)) = self.range {
            defaults["min"] = low.into();
            defaults["max"] = high.into();
        }
        if self.kind == "timeseries" {
            let lines = if self.thresholds.len() > 1 { "line" } else { "off" };
            defaults["custom"] = json!({
                "lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": false,
                "thresholdsStyle": { "mode": lines },
            });
        }
        let mut panel = json!({
            "id": id,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "gridPos": { "x": x, "y": y, "w": self.width, "h": self.height },
            "datasource": datasource(),
            "fieldConfig": { "defaults": defaults, "overrides": [] },
            "options": self.options(),
            "targets": targets,
        });
        if table {
            panel["transformations"] = json!([
                { "id": "merge", "options": {} },
                { "id": "organize", "options": {
                    "excludeByName": { "Time": true, "__name__": true, "job": true },
                } },
            ]);
        }
        if let Some((title, url)) = self.link {
            panel["links"] = json!([link("link", title, url)]);
        }
        panel
    }

    fn options(&self) -> Value {
        let last = json!({ "calcs": ["lastNotNull"], "fields": "", "values": false });
        match self.kind {
            "timeseries" => json!({
                "legend": legend("table", "bottom", &["lastNotNull", "max"]), "tooltip": tooltip("multi"),
            }),
            "stat" => json!({
                "reduceOptions": last, "colorMode": "background", "graphMode": "area", "justifyMode": "auto",
                "orientation": "auto", "showPercentChange": false, "wideLayout": true,
                "textMode": if self.targets.len() > 1 { "value_and_name" } else { "auto" },
            }),
            "gauge" => json!({
                "reduceOptions": last, "showThresholdMarkers": true, "showThresholdLabels": false,
                "orientation": "auto", "sizing": "auto", "minVizHeight": 75, "minVizWidth": 75,
            }),
            "piechart" => {
                let mut legend = legend("table", "right", &[]);
                legend["values"] = json!(["value"]);
                json!({
                    "reduceOptions": last, "pieType": "donut", "displayLabels": [], "orientation": "auto",
                    "legend": legend, "tooltip": tooltip("single"),
                })
            }
            "heatmap" => json!({
                "calculate": false, "yAxis": { "unit": self.unit }, "showValue": "never",
                "color": {
                    "mode": "scheme", "scheme": "Oranges", "fill": "dark-orange", "exponent": 0.5, "reverse": false,
                    "steps": 64,
                },
                "exemplars": { "color": "red" }, "legend": { "show": true },
                "tooltip": { "mode": "single", "yHistogram": false },
            }),
            "status-history" => json!({
                "showValue": "auto", "rowHeight": 0.9, "legend": legend("list", "bottom", &[]), "tooltip": tooltip("single"),
            }),
            "alertlist" => json!({
                "alertName": "DWCPv3", "datasource": "${datasource}", "viewMode": "list", "sortOrder": 3,
                "stateFilter": { "firing": true, "pending": true, "error": true },
            }),
            _ => json!({ "showHeader": true, "cellHeight": "sm", "frameIndex": 0 }),
        }
    }
}

fn legend(mode: &str, placement: &str, calculations: &[&str]) -> Value {
    json!({ "displayMode": mode, "placement": placement, "calcs": calculations, "showLegend": true })
}

fn tooltip(mode: &str) -> Value {
    json!({ "mode": mode, "sort": "desc" })
}

/// One dashboard.
pub(super) struct Dashboard {
    /// In links between dashboards, and the file's name.
    pub(super) uid: &'static str,
    pub(super) title: &'static str,
    pub(super) about: &'static str,
    pub(super) refresh: &'static str,
    pub(super) from: &'static str,
    /// Variables beside data source, job and instance: name, label, query, more than one value.
    pub(super) variables: Vec<(&'static str, &'static str, &'static str, bool)>,
    pub(super) panels: Vec<Panel>,
}

impl Dashboard {
    /// As Grafana imports it.
    pub(super) fn json(&self) -> Value {
        let (mut x, mut y, mut row) = (0, 0, 0);
        let mut panels = Vec::new();
        for (index, panel) in self.panels.iter().enumerate() {
            if x + panel.width > COLUMNS {
                (x, y, row) = (0, y + row, 0);
            }
            panels.push(panel.json(index + 1, x, y));
            x += panel.width;
            row = row.max(panel.height);
        }
        let mut variables = vec![
            json!({
                "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
                "refresh": 1, "hide": 0, "multi": false, "includeAll": false,
            }),
            variable("job", "Job", "label_values(dwcp_observer_build_info, job)", true),
            variable(
                "instance",
                "Instance",
                r#"label_values(dwcp_observer_build_info{job=~"$job"}, instance)"#,
                true,
            ),
        ];
        variables.extend(self.variables.iter().map(|(name, label, query, multi)| {
            variable(name, label, &query.replace('@', MATCHERS), *multi)
        }));
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": ["dwcp-v3", "live-migration"],
            "schemaVersion": 38,
            "version": 1,
            "editable": false,
            "graphTooltip": 1,
            "refresh": self.refresh,
            "timezone": "browser",
            "time": { "from": self.from, "to": "now" },
            "templating": { "list": variables },
            "annotations": { "list": [
                annotation("Alerts", "red", r#"ALERTS{alertname=~"DWCPv3.*", alertstate="firing"}"#, "{{alertname}}"),
                annotation("Anomalies", "orange",
                    &format!("sum by (anomaly_type) (increase(dwcp_v3_anomaly_detections_total{{{MATCHERS}}}[$__rate_interval])) > 0"),
                    "{{anomaly_type}}"),
            ] },
            "links": [link("dashboards", "DWCP v3", "")],
            "panels": panels,
        })
    }
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// To one dashboard, or to all that carry this tag.
fn link(kind: &str, title: &str, url: &str) -> Value {
    let all = kind == "dashboards";
    json!({
        "type": kind, "title": title, "url": url, "tags": if all { vec!["dwcp-v3"] } else { Vec::new() },
        "asDropdown": all, "includeVars": true, "keepTime": true, "targetBlank": false, "icon": "dashboard", "tooltip": "",
    })
}

fn variable(name: &str, label: &str, query: &str, multi: bool) -> Value {
    let mut value = json!({
        "name": name, "label": label, "type": "query", "datasource": datasource(),
        "query": { "query": query, "refId": name },
        // On each change of the time range, as what there is changes with it.
        "refresh": 2, "sort": 1, "multi": multi, "includeAll": multi,
    });
    if multi {
        value["allValue"] = ".+".into();
        value["current"] = json!({ "text": ["All"], "value": ["$__all"] });
    }
    value
}

fn annotation(name: &str, color: &str, expr: &str, title: &str) -> Value {
    json!({
        "name": name, "iconColor": color, "enable": true, "datasource": datasource(),
        "expr": expr, "titleFormat": title, "step": "5s",
    })
}

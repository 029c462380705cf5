use std::collections::BTreeSet;

use serde_json::json;

use super::check::OF_SOME_HOSTS;
use super::documented::Documented;
use super::*;

#[test]
fn the_files_are_what_the_code_makes() {
    for dashboard in all() {
        let path = directory().join(format!("{}.json", dashboard.uid));
        let written = std::fs::read_to_string(&path).unwrap();
        let made = text(&dashboard.json()).unwrap();
        assert!(written == made, "{}: run `cargo xtask dashboards`", path.display());
    }
    assert_eq!(std::fs::read_dir(directory()).unwrap().count(), all().len());
}

#[test]
fn no_rule_of_the_linter_is_broken() {
    for dashboard in all() {
        assert_eq!(lint::lint(&dashboard.json()), Vec::<String>::new(), "{}", dashboard.uid);
    }
}

#[test]
fn live_operations_have_the_panels_that_were_promised() {
    assert!(live::dashboard().panels.len() >= 29);
}

#[test]
fn every_metric_and_label_is_documented() {
    let documented = Documented::read();
    for dashboard in all() {
        let json = dashboard.json();
        for panel in json["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let found = documented.missing(target["expr"].as_str().unwrap());
                assert_eq!(found, Vec::<String>::new(), "{}: {}", dashboard.uid, panel["title"]);
            }
        }
    }
}

#[test]
fn what_some_hosts_give_is_documented() {
    let documented = Documented::read();
    for (prefix, _) in OF_SOME_HOSTS {
        assert!(documented.metrics().any(|metric| metric.starts_with(prefix)), "{prefix}");
    }
}

/// Grafana's own types as a JSON Schema, each kind of panel against the options of its kind; see schema/README.md.
#[test]
fn each_dashboard_keeps_grafanas_schema() {
    let schema: Value = serde_json::from_str(include_str!("schema/grafana-10.4.15.json")).unwrap();
    let kinds = schema["properties"]["panels"]["items"]["anyOf"].as_array().unwrap();
    let of_kind = |kind: &Value| {
        let branch = kinds.iter().find(|branch| branch["properties"]["type"]["const"] == *kind);
        jsonschema::validator_for(branch.unwrap_or_else(|| panic!("no schema of {kind}"))).unwrap()
    };
    let whole = jsonschema::validator_for(&schema).unwrap();
    let errors = |validator: &jsonschema::Validator, json: &Value| -> Vec<String> {
        let errors = validator.iter_errors(json);
        errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
    };
    for dashboard in all() {
        let mut json = dashboard.json();
        // Panels one by one first: against all kinds at once the messages say nothing.
        for panel in json["panels"].as_array().unwrap() {
            let found = errors(&of_kind(&panel["type"]), panel);
            assert_eq!(found, Vec::<String>::new(), "{}: {}", dashboard.uid, panel["title"]);
        }
        assert_eq!(errors(&whole, &json), Vec::<String>::new(), "{}", dashboard.uid);
        // It is strict, or the lines above say nothing.
        for (at, value) in [
            ("/panels/0/options/colour", json!(true)),
            ("/panels/0/gridPos/w", json!("4")),
            ("/panels/0/targets/0/expr", json!(null)),
            ("/panels/0/type", json!("singlestat")),
            ("/templating/list/0/multiple", json!(true)),
        ] {
            let (parent, key) = at.rsplit_once('/').unwrap();
            let before = json.clone();
            json.pointer_mut(parent).unwrap()[key] = value;
            assert!(!whole.is_valid(&json), "{}: {at}", dashboard.uid);
            json = before;
        }
    }
}

#[test]
fn every_variable_is_used_and_every_link_leads_somewhere() {
    let uids: Vec<&str> = all().iter().map(|dashboard| dashboard.uid).collect();
    for dashboard in all() {
        let json = dashboard.json();
        let panels = json["panels"].to_string();
        for variable in json["templating"]["list"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            let used =
                panels.contains(&format!("${name}")) || panels.contains(&format!("${{{name}}}"));
            assert!(used, "{}: ${name}", dashboard.uid);
        }
        for panel in json["panels"].as_array().unwrap() {
            for link in panel["links"].as_array().into_iter().flatten() {
                let uid = link["url"].as_str().unwrap().strip_prefix("/d/").unwrap();
                assert!(uids.contains(&uid), "{uid}");
            }
        }
    }
}

#[test]
fn panels_do_not_overlap_and_stay_in_the_grid() {
    for dashboard in all() {
        let json = dashboard.json();
        let mut taken = BTreeSet::new();
        for panel in json["panels"].as_array().unwrap() {
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(taken.insert((x, y)), "{}: {}", dashboard.uid, panel["title"]);
                }
            }
        }
    }
}

/// Each rule must find what it is for, or the clean run above says nothing.
#[test]
fn each_rule_finds_its_fault() {
    type Break = fn(&mut Value);
    let faults: [(&str, Break); 15] = [
        ("template-datasource-rule", |json| {
            json["templating"]["list"][0]["name"] = json!("source");
        }),
        ("template-job-rule", |json| json["templating"]["list"][1]["multi"] = json!(false)),
        ("template-instance-rule", |json| json["templating"]["list"][2]["allValue"] = json!("")),
        ("template-label-promql-rule", |json| {
            json["templating"]["list"][1]["query"]["query"] = json!("label_values(up{, job)");
        }),
        ("template-on-time-change-reload-rule", |json| {
            json["templating"]["list"][1]["refresh"] = json!(1);
        }),
        ("uneditable-dashboard", |json| json["editable"] = json!(true)),
        ("panel-datasource-rule", |json| json["panels"][0]["datasource"]["uid"] = json!("abc")),
        ("panel-title-description-rule", |json| json["panels"][0]["description"] = json!("")),
        ("panel-units-rule", |json| {
            json["panels"][0]["fieldConfig"]["defaults"]["unit"] = json!("GB");
        }),
        ("panel-no-targets-rule", |json| json["panels"][0]["targets"] = json!([])),
        ("target-logql-rule", |json| expr(json, r#"{job="alertmanager"} |= "firing""#)),
        ("target-promql-rule", |json| expr(json, "sum(")),
        ("target-job-rule", |json| expr(json, r#"up{instance=~"$instance"}"#)),
        ("target-instance-rule", |json| expr(json, r#"up{job=~"$job"}"#)),
        ("target-rate-interval-rule", |json| {
            expr(json, r#"rate(a_total{job=~"$job", instance=~"$instance"}[5m])"#);
        }),
    ];
    for (rule, fault) in faults {
        let mut json = live::dashboard().json();
        fault(&mut json);
        let findings = lint::lint(&json);
        assert!(findings.iter().any(|finding| finding.starts_with(rule)), "{rule}: {findings:?}");
    }
    let mut json = live::dashboard().json();
    expr(&mut json, r#"sum(a_total{job=~"$job", instance=~"$instance"})"#);
    assert!(lint::lint(&json)[0].starts_with("target-counter-agg-rule"));
}

fn expr(json: &mut Value, expr: &str) {
    json["panels"][0]["targets"][0]["expr"] = json!(expr);
}

use std::collections::BTreeSet;
use std::process::Command;

use dwcp_observer_lab::{process::tool, temp::TempDir};

use super::cookbook::recipes;
use super::documented::Documented;

#[test]
fn there_are_at_least_fifty_and_each_asks_something_else() {
    let recipes = recipes().unwrap();
    assert!(recipes.len() >= 50, "{}", recipes.len());
    let queries: BTreeSet<&str> = recipes.iter().map(|recipe| &*recipe.query).collect();
    assert_eq!(queries.len(), recipes.len());
    let questions: BTreeSet<&str> = recipes.iter().map(|recipe| &*recipe.question).collect();
    assert_eq!(questions.len(), recipes.len());
    for recipe in &recipes {
        assert!(!recipe.section.is_empty(), "{}", recipe.question);
        assert!(!recipe.answer.is_empty(), "{}", recipe.question);
    }
}

#[test]
fn every_metric_and_label_is_documented() {
    let documented = Documented::read();
    for recipe in recipes().unwrap() {
        assert_eq!(documented.missing(&recipe.query), Vec::<String>::new(), "{}", recipe.question);
    }
    // It finds what it is for.
    assert_eq!(documented.missing("sum(dwcp_v3_streams)"), ["dwcp_v3_streams"]);
    assert_eq!(documented.missing(r#"up{mode="internet"}"#), ["mode of up"]);
    assert_eq!(documented.missing("sum by (mode) (up)"), ["mode"]);
}

/// Prometheus' own parser and type checker, by rules that record each query.
#[test]
fn promtool_accepts_every_query() {
    let Some(promtool) = tool("promtool") else { return };
    let check = |queries: &[&str]| {
        let directory = TempDir::new().unwrap();
        let mut text = "groups:\n- name: cookbook\n  rules:\n".to_owned();
        for (number, query) in queries.iter().enumerate() {
            text.push_str(&format!("  - record: recipe:{number}\n    expr: >-\n      {query}\n"));
        }
        let path = directory.join("rules.yml");
        std::fs::write(&path, text).unwrap();
        let output = Command::new(&promtool).args(["check", "rules"]).arg(path).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let recipes = recipes().unwrap();
    let queries: Vec<&str> = recipes.iter().map(|recipe| &*recipe.query).collect();
    let (good, text) = check(&queries);
    assert!(good && text.contains(&format!("{} rules found", queries.len())), "{text}");
    assert!(!check(&["sum(rate(up))"]).0);
}

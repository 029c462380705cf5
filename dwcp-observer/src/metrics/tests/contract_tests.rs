use std::collections::BTreeSet;

use super::*;

fn of(section: &str) -> Vec<&'static Name> {
    NAMES.iter().filter(|entry| entry.section == section).collect()
}

#[test]
fn every_name_is_where_the_table_says() {
    for entry in NAMES {
        match entry.served {
            Metric => {
                assert!(
                    TABLE.iter().any(|row| row.name == entry.name),
                    "{} is in no table",
                    entry.name
                );
            }
            // A name that has become measurable must not go on being declared as somebody else's.
            Served::Component(component) => {
                assert!(!is_own(entry.name), "{} is measured", entry.name);
                let whose = format!("dwcp_v3_{}_", component.as_str());
                assert!(
                    entry.name.starts_with(&whose)
                        || entry.name == "dwcp_v3_compression_ratio_bucket",
                    "{}",
                    entry.name
                );
            }
            Alert(needs) => {
                for metric in needs {
                    assert!(is_served(metric), "{} needs {metric}", entry.name);
                }
            }
            // Asked for over HTTP by `http::answer_tests`.
            Path(path) | ComponentPort(path) => assert!(entry.name.contains(path), "{path}"),
            Served::No(why) => assert!(why.len() > 20),
        }
    }
}

#[test]
fn nothing_of_the_contract_is_left_out_or_twice() {
    let names: BTreeSet<&str> = NAMES.iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), NAMES.len());
    assert_eq!(of("1.1").len(), 8, "families");
    // The contract's table, with the rows for several names and the grep prefix taken apart.
    assert_eq!(of("1.2").len(), 30, "further names");
    assert_eq!(of("2").len(), 26, "alerts");
    assert_eq!((of("9.1").len(), of("9.2").len()), (3, 11), "endpoints");
}

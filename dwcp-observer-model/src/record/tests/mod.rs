//! The record's JSON, byte by byte: what the API, the history and the readers of other versions rest on.

use std::path::Path;

use super::{
    samples::{records, whole, words},
    *,
};

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/record/tests/golden/{name}"))
}

fn assert_golden(name: &str, got: &str) {
    let path = golden(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap();
    assert_eq!(got, want, "{name} (UPDATE_GOLDEN=1 writes the file anew)");
}

#[test]
fn json_is_golden_byte_by_byte() {
    for (name, record) in records() {
        assert_golden(name, &(serde_json::to_string(&record).unwrap() + "\n"));
    }
    let words: Vec<String> =
        words().into_iter().map(|(of, words)| format!("{of}: {}\n", words.join(" "))).collect();
    assert_golden("words.txt", &words.concat());
}

/// A golden record, as a reader gets it.
fn read(name: &str) -> Migration {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

#[test]
fn what_is_read_is_written_byte_by_byte() {
    for (name, record) in records() {
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::to_string(&read(name)).unwrap(), json, "{name}");
    }
}

#[test]
fn fields_and_words_of_a_newer_observer_are_passed_over() {
    fn add(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                fields.values_mut().for_each(add);
                fields.insert("newer".to_owned(), serde_json::json!([{ "x": 1 }]));
            }
            serde_json::Value::Array(all) => all.iter_mut().for_each(add),
            _ => {}
        }
    }
    let mut newer = serde_json::to_value(whole()).unwrap();
    for field in ["verdict", "history"] {
        // Shares by cause: numbers alone.
        newer.as_object_mut().unwrap().remove(field);
    }
    add(&mut newer);
    newer["outcome"] = "evacuated".into();
    newer["reason"]["class"] = "out_of_paper".into();
    newer["threads"][0]["role"] = "io".into();
    let record: Migration = serde_json::from_value(newer).unwrap();
    assert_eq!(record.outcome, Some(Outcome::Unknown));
    assert_eq!(record.reason.unwrap().class, ReasonClass::NotKnown);
    assert_eq!(record.threads[0].role, ThreadRole::Other);
    assert_eq!(record.streams[0].tcp.as_ref().unwrap().resets, 1);
}

/// As the first version that kept a history wrote it.
#[test]
fn a_record_of_an_older_observer_is_read() {
    let record = read("older.json");
    assert_eq!((record.name(), record.outcome), ("web-01", Some(Outcome::Completed)));
    assert_eq!(record.transferred(), Some(3_800_000));
    assert_eq!(record.blackout_seconds(), Some(0.0078125));
    assert_eq!((record.streams.len(), record.rounds.len()), (1, 1));
    assert!(record.reason.is_none() && record.version.is_none() && !record.split_brain);
}

#[test]
fn without_detail_its_streams_still_count() {
    let record = whole();
    let (streams, bytes) = (record.stream_count(), record.transferred());
    assert_eq!(streams, 5);
    let lean = record.without_detail();
    assert!(lean.streams.is_empty() && lean.threads.is_empty() && lean.history.is_none());
    assert_eq!((lean.stream_count(), lean.transferred()), (streams, bytes));
}

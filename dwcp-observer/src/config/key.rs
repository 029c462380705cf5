//! Finds each key's position in the text, so that errors have line and column.

use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::check;
use super::{Config, ConfigError};

/// A key of the text.
struct Key {
    /// As `limits.max_flows` or `rule[0].name`.
    path: String,
    key: Range<usize>,
    value: Range<usize>,
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    // toml skips a byte order mark, and counts what follows it.
    let config = toml::from_str::<Config>(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        wrong(text, path, offset, describe(&keys(text), offset, error.message()))
    })?;
    let Some(mistake) = check::first_mistake(&config) else { return Ok(config) };
    let keys = keys(text);
    let found = keys.iter().find(|key| key.path == mistake.key);
    let given = found.and_then(|key| text.get(key.value.clone()));
    let message = match given.filter(|_| mistake.show_value) {
        Some(given) => format!("`{}` is {given}; {}", mistake.key, mistake.message),
        None => format!("`{}`: {}", mistake.key, mistake.message),
    };
    let offset =
        found.map_or(0, |key| if mistake.show_value { key.value.start } else { key.key.start });
    Err(wrong(text, path, offset, message))
}

/// A message of toml or serde, with the key it is about and what is allowed there.
fn describe(keys: &[Key], offset: usize, message: &str) -> String {
    let message = message.lines().collect::<Vec<_>>().join(" ");
    let (what, expected) = match message.split_once(", expected ") {
        Some((what, expected)) => (what, Some(expected)),
        None => (message.as_str(), None),
    };
    let key = keys
        .iter()
        .filter(|key| key.key.contains(&offset) || key.value.contains(&offset))
        .min_by_key(|key| if key.key.contains(&offset) { key.key.len() } else { key.value.len() });
    let name = key.map(|key| key.path.as_str());
    if what.starts_with("unknown field") {
        let names = expected.unwrap_or_default();
        let names = names.strip_prefix("one of ").unwrap_or(names);
        return match name {
            Some(name) => format!("unknown key `{name}`; allowed here: {names}"),
            None => format!("{}; allowed here: {names}", what.replace("field", "key")),
        };
    }
    let Some(name) = name else { return message };
    let what = what.replace("unknown variant", "unknown value").replace("field", "key");
    match (check::allowed(name), expected) {
        (Some(allowed), _) => format!("`{name}`: {what}; allowed: {allowed}"),
        (None, Some(expected)) => format!("`{name}`: {what}; expected {expected}"),
        (None, None) => format!("`{name}`: {what}"),
    }
}

/// All keys of a text; none when it is no TOML.
fn keys(text: &str) -> Vec<Key> {
    let mut keys = Vec::new();
    if let Ok(table) = DeTable::parse(text) {
        collect_table(table.get_ref(), "", &mut keys);
    }
    keys
}

fn collect_table(table: &DeTable<'_>, parent: &str, keys: &mut Vec<Key>) {
    for (key, value) in table {
        let name = key.get_ref();
        let path = if parent.is_empty() { name.to_string() } else { format!("{parent}.{name}") };
        keys.push(Key { path: path.clone(), key: key.span(), value: value.span() });
        collect_value(value.get_ref(), &path, keys);
    }
}

fn collect_value(value: &DeValue<'_>, path: &str, keys: &mut Vec<Key>) {
    match value {
        DeValue::Table(table) => collect_table(table, path, keys),
        DeValue::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                let path = format!("{path}[{index}]");
                keys.push(Key { path: path.clone(), key: value.span(), value: value.span() });
                collect_value(value.get_ref(), &path, keys);
            }
        }
        _ => {}
    }
}

fn wrong(text: &str, path: &Path, offset: usize, message: String) -> ConfigError {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    ConfigError::Wrong {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message,
    }
}

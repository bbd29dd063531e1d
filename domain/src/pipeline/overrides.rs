//! `--set jobs.train.epochs=3`: values put into a document before it is read.

use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::Override;
use super::table::Errors;

/// Puts each override into `root`, making tables on the way.
pub(super) fn apply(
    root: &mut Map<String, Value>,
    prefix: &str,
    overrides: &[Override],
    errors: &Errors,
) {
    for Override { path, value } in overrides {
        let keys: Vec<&str> = path.split('.').collect();
        if keys.iter().any(|key| key.is_empty()) {
            errors.add(
                format!("{prefix}{path}"),
                "is no path; write keys joined by dots, such as jobs.train.epochs=3",
            );
            continue;
        }
        if let Err(at) = put(root, &keys, read_value(value)) {
            errors.add(at, format!("is no table, so {path:?} cannot be set in it"));
        }
    }
}

/// A TOML value; text that is none is taken as a string, so that quotes are not needed in a shell.
fn read_value(text: &str) -> Value {
    toml::de::ValueDeserializer::parse(text)
        .ok()
        .and_then(|value| Value::deserialize(value).ok())
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Sets `keys` to `value`, or gives back the path at which no table stands.
fn put(table: &mut Map<String, Value>, keys: &[&str], value: Value) -> Result<(), String> {
    let Some((key, rest)) = keys.split_first() else {
        return Ok(());
    };
    if rest.is_empty() {
        table.insert((*key).to_owned(), value);
        return Ok(());
    }
    match table
        .entry(*key)
        .or_insert_with(|| Value::Object(Map::new()))
    {
        Value::Object(inner) => put(inner, rest, value).map_err(|at| format!("{key}.{at}")),
        _ => Err((*key).to_owned()),
    }
}

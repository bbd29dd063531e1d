//! `--set jobs.train.epochs=3`: values put into a document before it is read.

use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::Override;
use super::bounds::start_of;
use super::table::Errors;
use crate::limits::OVERRIDE_PATH_MAX_KEYS;

/// Puts each override into `root`, making tables on the way.
pub(super) fn apply(root: &mut Map<String, Value>, overrides: &[Override], errors: &Errors) {
    for Override { path, value } in overrides {
        // One key more than may be tells that there are too many, however many there are.
        let keys: Vec<&str> = path.splitn(OVERRIDE_PATH_MAX_KEYS + 1, '.').collect();
        if keys.len() > OVERRIDE_PATH_MAX_KEYS {
            errors.add(
                start_of(path),
                format!(
                    "is a path of more than {OVERRIDE_PATH_MAX_KEYS} keys, deeper than any key of a document; \
                     write keys joined by dots, such as jobs.train.epochs=3"
                ),
            );
            continue;
        }
        if keys.iter().any(|key| key.is_empty()) {
            errors.add(
                start_of(path),
                "is no path; write keys joined by dots, such as jobs.train.epochs=3",
            );
            continue;
        }
        // Never in place of something that is no table: the rest of the path would silently vanish.
        if let Err(at) = put(root, &keys, read_value(value)) {
            errors.add(
                start_of(&at),
                format!("is no table, so {:?} cannot be set in it", start_of(path)),
            );
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
fn put(root: &mut Map<String, Value>, keys: &[&str], value: Value) -> Result<(), String> {
    let Some((last, tables)) = keys.split_last() else {
        return Ok(());
    };
    let mut table = root;
    for (depth, key) in tables.iter().enumerate() {
        let inner = table
            .entry(*key)
            // Made where it is missing: `--set jobs.train.loss.name=focal` needs no table `loss` in
            // the document.
            .or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(inner) = inner else {
            return Err(tables[..=depth].join("."));
        };
        table = inner;
    }
    table.insert((*last).to_owned(), value);
    Ok(())
}

//! What a document may weigh: its size before it is parsed, its depth and its characters before it is read.
//!
//! Everything after this door may call itself once a level, and copy what it is given.

use serde_json::{Map, Value};

use super::table::Errors;
use super::{DocumentText, FieldError, Override};
use crate::limits::{DOCUMENT_MAX_BYTES, DOCUMENT_MAX_DEPTH, OVERRIDES_MAX, OVERRIDES_MAX_BYTES};

/// Bytes of a sender's own text that an error repeats.
const REPEATED_MAX_BYTES: usize = 80;
/// Bytes of a key: names of labels and variables, which users choose, are far shorter.
const KEY_MAX_BYTES: usize = 256;

/// Refuses what is larger than a document may be, without reading it.
///
/// # Errors
/// One for each limit that is passed.
pub fn check_size(
    document: DocumentText<'_>,
    overrides: &[Override],
) -> Result<(), Vec<FieldError>> {
    // By its length alone: a reader of TOML builds its tree before anybody could say that it is too
    // large.
    let (DocumentText::Toml(text) | DocumentText::Json(text)) = document;
    let mut errors = Vec::new();
    let mut refuse = |field: &str, message: String| {
        errors.push(FieldError {
            field: field.to_owned(),
            message,
        });
    };
    let size = text.len();
    if size > DOCUMENT_MAX_BYTES {
        refuse(
            "document",
            format!("{size} bytes are too many; at most {DOCUMENT_MAX_BYTES} fit"),
        );
    }
    let count = overrides.len();
    if count > OVERRIDES_MAX {
        refuse(
            "overrides",
            format!(
                "{count} values to set are too many; at most {OVERRIDES_MAX} fit, write the others into the document"
            ),
        );
    }
    let sizes = overrides.iter().map(|set| set.path.len() + set.value.len());
    let size: usize = sizes.sum();
    if size > OVERRIDES_MAX_BYTES {
        refuse(
            "overrides",
            format!("{size} bytes to set are too many; at most {OVERRIDES_MAX_BYTES} fit"),
        );
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

/// Whether every value can be read: none lies too deep, no key is endless, and no text holds what cannot be
/// stored.
///
/// It keeps its own list of what is still to be looked at, so that no depth is too much for it.
pub(super) fn check_values(root: &Map<String, Value>, errors: &Errors) -> bool {
    let mut refused = 0;
    let mut refuse = |path: &str, message: String| {
        errors.add(path, message);
        refused += 1;
    };
    let mut left: Vec<(String, Place<'_>)> = vec![(String::new(), Place::Table(root, 0))];
    // A list instead of calls: a document of a million brackets would otherwise end the process by its stack.
    while let Some((path, place)) = left.pop() {
        let (place, depth) = match place {
            Place::Table(map, depth) => {
                for (key, item) in map {
                    let path = if path.is_empty() {
                        start_of(key)
                    } else {
                        format!("{path}.{}", start_of(key))
                    };
                    if key.len() > KEY_MAX_BYTES {
                        let bytes = key.len();
                        refuse(
                            &path,
                            format!("is a key of {bytes} bytes; at most {KEY_MAX_BYTES} fit"),
                        );
                    } else if key.contains('\0') {
                        refuse(
                            &path,
                            "holds a NUL character, which no key can; leave it out".to_owned(),
                        );
                    } else {
                        left.push((path, Place::Value(item, depth + 1)));
                    }
                }
                continue;
            }
            Place::Value(value, depth) => (value, depth),
        };
        let is_inner = matches!(place, Value::Array(_) | Value::Object(_));
        if is_inner && depth >= DOCUMENT_MAX_DEPTH {
            refuse(
                &path,
                format!(
                    "lies {depth} tables and lists deep; at most {DOCUMENT_MAX_DEPTH} stand within each other"
                ),
            );
            continue;
        }
        match place {
            Value::String(text) if text.contains('\0') => refuse(
                &path,
                "holds a NUL character, which no program and no table takes; leave it out"
                    .to_owned(),
            ),
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::Array(items) => {
                let items = items.iter().enumerate();
                left.extend(
                    items
                        // Numbers cannot offend. A list of a hundred thousand of them would only be copied for
                        // its paths.
                        .filter(|(_, item)| !matches!(item, Value::Number(_) | Value::Bool(_)))
                        .map(|(index, item)| {
                            (format!("{path}[{index}]"), Place::Value(item, depth + 1))
                        }),
                );
            }
            Value::Object(map) => left.push((path, Place::Table(map, depth))),
        }
    }
    refused == 0
}

/// What is still to be looked at, and in how many others it lies.
enum Place<'a> {
    Value(&'a Value, usize),
    Table(&'a Map<String, Value>, usize),
}

/// As much of a sender's text as an error repeats.
pub(super) fn start_of(text: &str) -> String {
    if text.len() <= REPEATED_MAX_BYTES {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(REPEATED_MAX_BYTES);
    format!("{}…", &text[..end])
}

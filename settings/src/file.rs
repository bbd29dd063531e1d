//! A settings file as keys with the text of their values.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use toml::{Table, Value};

use crate::{Origin, SettingsError};

/// A key with sections joined by dots, and its value as text.
pub(crate) type Pair = (String, String);

/// Reads a file; None where there is none and there need not be one.
///
/// Keys among `lists` may hold a list of texts, which is then one text with commas between them.
pub(crate) fn read(
    path: &Path,
    must_exist: bool,
    lists: &[&str],
) -> Result<Option<Vec<Pair>>, SettingsError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        // A file that somebody named and that is not there is an error: going on with the defaults would be going
        // on with other settings than he believes.
        Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(source) => {
            return Err(SettingsError::Unreadable {
                path: path.to_owned(),
                source,
            });
        }
    };
    let table: Table = toml::from_str(&text).map_err(|error| syntax(path, &text, &error))?;
    let mut pairs = Vec::new();
    flatten(
        "",
        &table,
        lists,
        &Origin::File(path.to_owned()),
        &mut pairs,
    )?;
    Ok(Some(pairs))
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> SettingsError {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or(text);
    SettingsError::Syntax {
        path: path.to_owned(),
        // Counted here, since the parser's own message would repeat the line itself.
        line: before.matches('\n').count() + 1,
        problem: error.message().to_owned(),
    }
}

fn flatten(
    section: &str,
    table: &Table,
    lists: &[&str],
    origin: &Origin,
    pairs: &mut Vec<Pair>,
) -> Result<(), SettingsError> {
    for (name, value) in table {
        let key = if section.is_empty() {
            name.clone()
        } else {
            format!("{section}.{name}")
        };
        let text = match value {
            Value::Table(inner) => {
                flatten(&key, inner, lists, origin, pairs)?;
                continue;
            }
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(truth) => truth.to_string(),
            Value::Datetime(at) => at.to_string(),
            // No setting is a list in the environment or on the command line, and a file must not be able to say
            // more than those; the keys in `lists` are read there with commas.
            Value::Array(items) => {
                let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
                match texts {
                    Some(texts) if lists.contains(&key.as_str()) => texts.join(", "),
                    Some(_) | None => {
                        return Err(SettingsError::List {
                            key,
                            origin: origin.clone(),
                        });
                    }
                }
            }
        };
        pairs.push((key, text));
    }
    Ok(())
}

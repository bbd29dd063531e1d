//! Arrays over lists of values: one element for each combination of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::CommandSettings;

/// The values of an array, and those of an element. A value is text, a number, `true` or `false`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ArrayValues {
    /// Of an array: by name, what its elements go through. Element 0 has the first of each; the last name in the
    /// alphabet changes from each element to the next.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub over: BTreeMap<String, Vec<Value>>,
    /// Of an element: its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub here: BTreeMap<String, Value>,
}

impl ArrayValues {
    /// Whether there are none, as of most jobs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.over.is_empty() && self.here.is_empty()
    }

    /// How many combinations there are; None: more than can be counted.
    #[must_use]
    pub fn combinations(&self) -> Option<u32> {
        let mut lists = self.over.values();
        lists.try_fold(1_u32, |all, list| {
            all.checked_mul(u32::try_from(list.len()).ok()?)
        })
    }

    /// The values of element `index`. An index beyond the last combination begins again with the first, which only a
    /// damaged row can have.
    #[must_use]
    pub fn at(&self, index: u32) -> BTreeMap<String, Value> {
        let mut left = index as usize;
        let mut values = BTreeMap::new();
        // From the last name on: it is the lowest digit of the index, as people count through
        // combinations.
        for (name, list) in self.over.iter().rev() {
            let count = list.len().max(1);
            if let Some(value) = list.get(left % count) {
                values.insert(name.clone(), value.clone());
            }
            left /= count;
        }
        values
    }
}

/// A value as a program is given it: text as it is, anything else as JSON writes it.
#[must_use]
pub fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Array(_)
        | Value::Object(_)) => other.to_string(),
    }
}

/// The variable by which an element's program reads a value: `MARQUEE_VALUE_LR` for `lr`.
#[must_use]
pub fn value_variable(name: &str) -> String {
    format!("MARQUEE_VALUE_{}", name.to_ascii_uppercase())
}

impl CommandSettings {
    /// The settings of an element with these values: each stands in its variable, and in place of `{name}` in
    /// arguments and variables. Other braces are left alone.
    #[must_use]
    pub fn with_values(&self, values: &BTreeMap<String, Value>) -> Self {
        let texts = values.iter();
        let texts: BTreeMap<&str, String> = texts
            .map(|(name, value)| (name.as_str(), value_text(value)))
            .collect();
        let filled = |text: &String| fill_in(text, &texts);
        let mut env: BTreeMap<String, String> = self
            .env
            .iter()
            .map(|(name, text)| (name.clone(), filled(text)))
            .collect();
        let own = texts.iter();
        env.extend(own.map(|(name, text)| (value_variable(name), text.clone())));
        Self {
            argv: self.argv.iter().map(filled).collect(),
            env,
            env_from_worker: self.env_from_worker.clone(),
        }
    }
}

/// `text` with each `{name}` that is among `values` replaced. In one go: a value that holds `{other}` is text.
fn fill_in(text: &str, values: &BTreeMap<&str, String>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        let (before, from) = rest.split_at(start);
        filled.push_str(before);
        let named = from.find('}').and_then(|end| {
            let value = values.get(from.get(1..end)?)?;
            Some((value, end))
        });
        match named {
            Some((value, end)) => {
                filled.push_str(value);
                rest = &from[end + 1..];
            }
            None => {
                filled.push('{');
                // One character on and not past the brace's end: "{{lr}" has a value inside.
                rest = &from[1..];
            }
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn over() -> ArrayValues {
        let lists = [
            ("lr", vec![json!(0.1), json!(1e-7)]),
            ("name", vec![json!("a {seed}"), json!("b")]),
            ("seed", vec![json!(1), json!(2), json!(3)]),
        ];
        ArrayValues {
            over: lists.map(|(name, list)| (name.to_owned(), list)).into(),
            here: BTreeMap::new(),
        }
    }

    #[test]
    fn each_combination_comes_once_and_the_last_name_changes_fastest() {
        let values = over();
        assert_eq!(values.combinations(), Some(12));
        let all: Vec<String> = (0..12)
            .map(|index| json!(values.at(index)).to_string())
            .collect();
        let mut distinct = all.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 12);
        assert_eq!(all[1], r#"{"lr":0.1,"name":"a {seed}","seed":2}"#);
        assert_eq!(all[3], r#"{"lr":0.1,"name":"b","seed":1}"#);
        assert_eq!(all[11], r#"{"lr":1e-7,"name":"b","seed":3}"#);
        // A row that names an element beyond the end is damaged; it must not end the process.
        assert_eq!(values.at(u32::MAX).len(), 3);
        let endless = vec![json!(0); 100_000];
        let many = ["a", "b"]
            .map(|name| (name.to_owned(), endless.clone()))
            .into();
        let many = ArrayValues {
            over: many,
            here: BTreeMap::new(),
        };
        assert_eq!(many.combinations(), None);
    }

    #[test]
    fn values_stand_in_arguments_and_variables_and_nothing_else_is_touched() {
        let plain = CommandSettings {
            argv: [
                "run",
                "--lr={lr}",
                "{seed}{seed}",
                "{print $1}",
                "{",
                "{x}",
                "ä{name}ö",
            ]
            .map(str::to_owned)
            .to_vec(),
            env: BTreeMap::from([("TAG".to_owned(), "s{seed}".to_owned())]),
            env_from_worker: Vec::new(),
        };
        let element = plain.with_values(&over().at(1));
        assert_eq!(
            element.argv,
            [
                "run",
                "--lr=0.1",
                "22",
                "{print $1}",
                "{",
                "{x}",
                "äa {seed}ö"
            ]
        );
        let env: Vec<String> = element
            .env
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(
            env,
            [
                "MARQUEE_VALUE_LR=0.1",
                "MARQUEE_VALUE_NAME=a {seed}",
                "MARQUEE_VALUE_SEED=2",
                "TAG=s2"
            ]
        );
    }

    #[test]
    fn what_has_no_values_is_stored_as_nothing() {
        assert_eq!(json!(ArrayValues::default()), json!({}));
        assert_eq!(
            serde_json::from_value::<ArrayValues>(json!({})).unwrap(),
            ArrayValues::default()
        );
        let stored = json!(over());
        assert_eq!(
            serde_json::from_value::<ArrayValues>(stored).unwrap(),
            over()
        );
    }
}

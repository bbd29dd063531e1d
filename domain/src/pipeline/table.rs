//! Reads keys of a table one by one, and notes every error instead of stopping at the first.
//!
//! A getter that meets an error notes it and returns a stand-in; nothing built from stand-ins
//! leaves the module, because [`Errors::into_result`] yields a value only when no error was noted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::FieldError;
use crate::nearest::nearest;

/// How many errors are told at once: enough for a page, few enough for a message.
const ERRORS_MAX: usize = 100;
/// Names that an error proposes: a page of them helps nobody.
const NAMES_TOLD_MAX: usize = 60;
/// Bytes of a value that an error repeats.
const QUOTED_MAX_BYTES: usize = 80;

/// The key under which the TOML reader hands over a date and time.
const TOML_DATETIME: &str = "$__toml_private_datetime";
/// The last second of the year 9999.
const TIMESTAMP_MAX: i64 = 253_402_300_799;

/// The errors met so far.
#[derive(Debug, Default)]
pub(super) struct Errors(RefCell<Vec<FieldError>>);

impl Errors {
    /// Whether no further error would be told: looking for one is work for nothing, which a hostile document
    /// could make endless.
    pub(super) fn is_full(&self) -> bool {
        self.0.borrow().len() >= ERRORS_MAX
    }

    pub(super) fn add(&self, field: impl Into<String>, message: impl Into<String>) {
        let mut errors = self.0.borrow_mut();
        if errors.len() < ERRORS_MAX {
            errors.push(FieldError {
                field: field.into(),
                message: message.into(),
            });
        }
    }

    pub(super) fn into_result<T>(self, value: Option<T>) -> Result<T, Vec<FieldError>> {
        let mut errors = self.0.into_inner();
        match value {
            Some(value) if errors.is_empty() => Ok(value),
            _ => {
                // Who reads a value twice notes the same twice.
                errors.dedup();
                Err(errors)
            }
        }
    }
}

/// A table under `path`, with the keys that were asked for.
#[derive(Debug)]
pub(super) struct Table<'a> {
    path: String,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
    errors: &'a Errors,
}

impl<'a> Table<'a> {
    pub(super) fn new(path: String, map: &'a Map<String, Value>, errors: &'a Errors) -> Self {
        Self {
            path,
            map,
            known: Vec::new(),
            errors,
        }
    }

    /// The full name of `key` in error messages.
    pub(super) fn field(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn add_error(&self, key: &str, message: impl Into<String>) {
        self.errors.add(self.field(key), message);
    }

    pub(super) fn errors(&self) -> &'a Errors {
        self.errors
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Whether `key` holds text, where a table would do too.
    pub(super) fn is_text(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_string)
    }

    /// Whether `key` holds a table, where a single value would do too.
    pub(super) fn is_table(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_object)
    }

    fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.map.get(key)
    }

    pub(super) fn wrong_type(&self, key: &str, expected: &str, value: &Value) {
        if self.errors.is_full() {
            return;
        }
        self.add_error(
            key,
            format!(
                "must be {expected}, not {} {}",
                kind_of(value),
                quoted(value)
            ),
        );
    }

    fn missing(&self, key: &str, expected: &str) {
        self.add_error(key, format!("is missing; give {expected}"));
    }

    /// Text, or None where the key is absent or wrong.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.get(key)? {
            Value::String(text) => Some(text.clone()),
            other => {
                self.wrong_type(key, "text", other);
                None
            }
        }
    }

    /// Text that must be there; `example` shows what.
    pub(super) fn required_text(&mut self, key: &'static str, example: &str) -> String {
        if !self.has(key) {
            self.missing(key, example);
        }
        let text = self.text(key).unwrap_or_default();
        if self.map.get(key).is_some_and(|v| v.as_str() == Some("")) {
            self.add_error(key, format!("is empty; give {example}"));
        }
        text
    }

    /// Text that must be there and parse.
    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<T> {
        if !self.has(key) {
            // Known from now on, so that a slip of the hand in it is told with the right word.
            self.known.push(key);
            self.missing(key, example);
            return None;
        }
        let text = self.text(key)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(why) => {
                self.add_error(key, format!("{text:?} {why}"));
                None
            }
        }
    }

    /// A whole number in `range`, or `default` where the key is absent. None: it must be there.
    pub(super) fn int<T>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
        default: Option<T>,
    ) -> T
    where
        T: TryFrom<i128> + Into<i128> + Copy + Display,
    {
        let low = *range.start();
        let Some(value) = self.get(key) else {
            if default.is_none() {
                self.missing(
                    key,
                    &format!("a whole number from {low} to {}", range.end()),
                );
            }
            // Something in range, so that the checks that follow do not tell of the stand-in.
            return default.unwrap_or(low);
        };
        let Value::Number(number) = value else {
            self.wrong_type(key, "a whole number", value);
            return low;
        };
        // By way of i128, which holds both signs of 64 bits: one check of the range serves every
        // type.
        let whole = number
            .as_i64()
            .map(i128::from)
            .or(number.as_u64().map(i128::from));
        let fits = whole.filter(|n| (low.into()..=(*range.end()).into()).contains(n));
        fits.and_then(|n| T::try_from(n).ok()).unwrap_or_else(|| {
            let problem = if whole.is_some() {
                "is out of range"
            } else {
                "is not a whole number"
            };
            self.add_error(
                key,
                format!("{number} {problem}; give {low} to {}", range.end()),
            );
            low
        })
    }

    /// A number in `range`, or `default` where the key is absent. None: it must be there.
    pub(super) fn float(
        &mut self,
        key: &'static str,
        range: RangeInclusive<f64>,
        default: Option<f64>,
    ) -> f64 {
        let (low, high) = (*range.start(), *range.end());
        match self.get(key) {
            None => {
                if default.is_none() {
                    self.missing(key, &format!("a number from {low} to {high}"));
                }
                default.unwrap_or(low)
            }
            Some(value) => self.float_value(key, value, range),
        }
    }

    /// Three numbers in `range`, one for each of red, green and blue.
    pub(super) fn channels(
        &mut self,
        key: &'static str,
        range: RangeInclusive<f64>,
        default: [f64; 3],
    ) -> [f64; 3] {
        let Some(value) = self.get(key) else {
            return default;
        };
        let given = value.as_array().map(Vec::as_slice);
        let Some([red, green, blue]) = given else {
            self.wrong_type(key, "a list of three numbers", value);
            return default;
        };
        [red, green, blue].map(|value| self.float_value(key, value, range.clone()))
    }

    fn float_value(&self, key: &str, value: &Value, range: RangeInclusive<f64>) -> f64 {
        let (low, high) = (*range.start(), *range.end());
        let Some(number) = value.as_f64() else {
            self.wrong_type(key, "a number", value);
            return low;
        };
        if !range.contains(&number) {
            self.add_error(
                key,
                format!("{number} is out of range; give {low} to {high}"),
            );
        }
        number
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        match self.get(key) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.wrong_type(key, "true or false", other);
                default
            }
        }
    }

    /// An instant: RFC 3339 text, or a TOML date and time, with its offset from UTC. None where the key is absent
    /// or wrong.
    pub(super) fn instant(&mut self, key: &'static str) -> Option<DateTime<Utc>> {
        let value = self.get(key)?;
        let text = match value {
            Value::String(text) => Some(text.as_str()),
            // As the TOML reader hands over a date and time that is not in quotes.
            Value::Object(map) => map.get(TOML_DATETIME).and_then(Value::as_str),
            _ => None,
        };
        let Some(text) = text else {
            self.wrong_type(key, "a date and time", value);
            return None;
        };
        match DateTime::parse_from_rfc3339(text) {
            // Stored as whole seconds, within the years that every calendar has.
            Ok(at) if (0..=TIMESTAMP_MAX).contains(&at.timestamp()) => Some(at.to_utc()),
            Ok(_) | Err(_) => {
                self.add_error(
                    key,
                    format!(
                        "{text:?} is no instant from 1970 to 9999; write date, time and offset from UTC, such as \
                         \"2027-03-01T06:00:00+01:00\""
                    ),
                );
                None
            }
        }
    }

    /// One of `choices`, or `default` where the key is absent. None: it must be there.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, T)],
        default: Option<T>,
    ) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        if !self.has(key) {
            self.known.push(key);
            if default.is_none() {
                self.missing(key, &one_of(&names));
            }
            return default;
        }
        let text = self.text(key)?;
        let found = choices
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            self.add_error(key, unknown(&text, &names));
        }
        found
    }

    /// A list, or None where the key is absent or no list.
    pub(super) fn list(&mut self, key: &'static str) -> Option<&'a [Value]> {
        match self.get(key)? {
            Value::Array(items) => Some(items),
            other => {
                self.wrong_type(key, "a list", other);
                None
            }
        }
    }

    /// What stands in a table whose keys the user chooses.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.map.iter()
    }

    /// A list of texts, or None where the key is absent.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let value = self.get(key)?;
        let Value::Array(items) = value else {
            self.wrong_type(key, "a list of texts", value);
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match item {
                Value::String(text) => texts.push(text.clone()),
                other => self.wrong_type(&format!("{key}[{index}]"), "text", other),
            }
        }
        Some(texts)
    }

    /// A list of whole numbers in `range`; empty where the key is absent.
    pub(super) fn ints(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Vec<u32> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let Value::Array(items) = value else {
            self.wrong_type(key, "a list of whole numbers", value);
            return Vec::new();
        };
        let number = |(index, item): (usize, &Value)| {
            self.u32_value(&format!("{key}[{index}]"), item, &range)
        };
        items.iter().enumerate().map(number).collect()
    }

    /// A table from names that the user chooses to whole numbers in `range`.
    pub(super) fn int_map(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> BTreeMap<String, u32> {
        let Some(table) = self.table(key) else {
            return BTreeMap::new();
        };
        let entry =
            |(name, value): (&String, &Value)| (name.clone(), table.u32_value(name, value, &range));
        table.map.iter().map(entry).collect()
    }

    fn u32_value(&self, key: &str, value: &Value, range: &RangeInclusive<u32>) -> u32 {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let fits = number.filter(|number| range.contains(number));
        fits.unwrap_or_else(|| {
            let (low, high) = (range.start(), range.end());
            self.wrong_type(key, &format!("a whole number from {low} to {high}"), value);
            *range.start()
        })
    }

    /// A table, or None where the key is absent or no table.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Table<'a>> {
        match self.get(key)? {
            Value::Object(map) => Some(Table::new(self.field(key), map, self.errors)),
            other => {
                self.wrong_type(key, "a table", other);
                None
            }
        }
    }

    /// Each key of a table whose keys the user chooses, with the table under it.
    pub(super) fn tables(self) -> impl Iterator<Item = (String, Table<'a>)> {
        self.map.iter().filter_map(move |(key, value)| match value {
            Value::Object(map) => {
                Some((key.clone(), Table::new(self.field(key), map, self.errors)))
            }
            other => {
                self.wrong_type(key, "a table", other);
                None
            }
        })
    }

    /// A table from names that the user chooses to texts.
    pub(super) fn text_map(&mut self, key: &'static str) -> BTreeMap<String, String> {
        let Some(table) = self.table(key) else {
            return BTreeMap::new();
        };
        let entries = table.map.iter().filter_map(|(name, value)| match value {
            Value::String(text) => Some((name.clone(), text.clone())),
            other => {
                table.wrong_type(name, "text", other);
                None
            }
        });
        entries.collect()
    }

    /// A table from names that the user chooses to numbers in `range`.
    pub(super) fn float_map(
        &mut self,
        key: &'static str,
        range: RangeInclusive<f64>,
    ) -> BTreeMap<String, f64> {
        let Some(table) = self.table(key) else {
            return BTreeMap::new();
        };
        let entry = |(name, value): (&String, &Value)| {
            (name.clone(), table.float_value(name, value, range.clone()))
        };
        table.map.iter().map(entry).collect()
    }

    /// Notes every key that nobody asked for. The last call on each table.
    pub(super) fn finish(self) {
        // A key that is misspelt would silently have its default: for a learning rate nobody would
        // notice for days.
        for key in self.map.keys() {
            if self.errors.is_full() {
                return;
            }
            if !self.known.contains(&key.as_str()) {
                self.add_error(
                    key,
                    format!("unknown key; {}", suggestion(key, &self.known)),
                );
            }
        }
    }
}

/// What a value is, for messages.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "the flag",
        Value::Number(_) => "the number",
        Value::String(_) => "the text",
        Value::Array(_) => "the list",
        Value::Object(_) => "the table",
    }
}

fn quoted(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > QUOTED_MAX_BYTES {
        let end = (0..=QUOTED_MAX_BYTES)
            .rev()
            .find(|i| text.is_char_boundary(*i))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The message for a word that is none of `known`.
pub(super) fn unknown(word: &str, known: &[&str]) -> String {
    format!("{word:?} is unknown; {}", suggestion(word, known))
}

fn suggestion(word: &str, known: &[&str]) -> String {
    if known.is_empty() {
        return "leave it out: nothing may stand here".to_owned();
    }
    match nearest(word, known.iter().copied()) {
        Some(name) => format!("did you mean {name:?}?"),
        None => format!("use {}", one_of(known)),
    }
}

fn one_of(names: &[&str]) -> String {
    let mut quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    if quoted.len() > NAMES_TOLD_MAX {
        let others = quoted.len() - NAMES_TOLD_MAX;
        quoted.truncate(NAMES_TOLD_MAX);
        quoted.push(format!("one of {others} others"));
    }
    match quoted.as_slice() {
        [] => "none of them".into(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

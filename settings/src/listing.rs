//! The settings in force, each with the place where it was written: what `config show` prints.

use serde::Serialize;

use crate::{Origin, Values};

/// What stands in place of a value that may hold a password.
const SECRET: &str = "(not shown)";

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub key: &'static str,
    /// What is in force; None where nothing was written and the program has no value of its own.
    pub value: Option<String>,
    /// Where it was written, in words.
    pub origin: String,
}

impl Values {
    /// Every key, in the order of the program's list. `in_force` gives the value of a key that was not written;
    /// of the keys in `secret` nobody gets to see the value.
    #[must_use]
    pub fn listing(
        &self,
        in_force: impl Fn(&'static str) -> Option<String>,
        secret: &[&str],
    ) -> Vec<Setting> {
        let setting = |key: &'static str| {
            let value = self.text(key).map(str::to_owned);
            // Only the program knows what becomes of a key that nobody wrote: it may depend on its
            // host.
            let value = value.or_else(|| in_force(key));
            Setting {
                key,
                value: value.map(|value| match secret.contains(&key) {
                    true => SECRET.to_owned(),
                    false => value,
                }),
                origin: match self.origin(key) {
                    Origin::Default => "default".to_owned(),
                    written @ (Origin::File(_) | Origin::Variable(_) | Origin::CommandLine) => {
                        written.to_string()
                    }
                },
            }
        };
        self.keys.iter().map(|key| setting(key)).collect()
    }
}

/// The listing as a settings file would have it, so that it can be copied; where each value was written is a
/// comment beside it.
#[must_use]
pub fn as_toml(settings: &[Setting], with_origin: bool) -> String {
    let line = |setting: &Setting| match &setting.value {
        Some(value) => format!("{} = {}", setting.key, toml::Value::from(value.as_str())),
        None => format!("# {} is not set", setting.key),
    };
    let lines: Vec<String> = settings.iter().map(line).collect();
    let width = lines.iter().map(|line| line.chars().count()).max();
    let width = width.unwrap_or_default().min(LINE_CHARS_MAX);
    let mut text = String::new();
    for (line, setting) in lines.iter().zip(settings) {
        match with_origin && setting.value.is_some() {
            true => text.push_str(&format!("{line:<width$}  # {}\n", setting.origin)),
            false => text.push_str(&format!("{line}\n")),
        }
    }
    text
}

/// Longer lines don't move the comments of all others.
const LINE_CHARS_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const KEYS: [&str; 4] = ["listen", "database_url", "tls.ca", "lease_ms"];

    fn listing() -> Vec<Setting> {
        let variables = [
            ("MARQUEE_D__DATABASE_URL", "postgres://a:secret@b/c"),
            ("MARQUEE_D__TLS__CA", "/a \"quoted\" path"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let values = Values::of(&KEYS)
            .file(None, Path::new("/there/is/none"))
            .and_then(|values| values.environment("MARQUEE_D", &variables.into()))
            .unwrap();
        let in_force = |key| (key == "listen").then(|| "127.0.0.1:1".to_owned());
        values.listing(in_force, &["database_url"])
    }

    #[test]
    fn each_key_has_the_value_in_force_and_its_origin_and_secrets_have_none() {
        let text = as_toml(&listing(), true);
        let says = |line: &str| assert!(text.lines().any(|is| is == line), "{text}");
        says("listen = \"127.0.0.1:1\"        # default");
        says(
            "database_url = \"(not shown)\"  # in the variable MARQUEE_D__DATABASE_URL of the environment",
        );
        says("# lease_ms is not set");
        assert!(!text.contains("secret"), "{text}");
        assert!(!format!("{:?}", listing()).contains("secret"));
    }

    #[test]
    fn what_is_shown_is_a_settings_file() {
        for with_origin in [false, true] {
            let text = as_toml(&listing(), with_origin);
            let table: toml::Table = text.parse().unwrap();
            assert_eq!(table["tls"]["ca"].as_str(), Some("/a \"quoted\" path"));
        }
    }
}

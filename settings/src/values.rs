//! The values of all keys, each with the place where it was written.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use marquee_domain::nearest::nearest;

use crate::{Origin, SettingsError, file};

/// Between the parts of a variable's name: `MARQUEE_WORKER__TLS__CA` is the worker's `tls.ca`.
const SEPARATOR: &str = "__";
/// Before the name of a credential of the service manager's (`LoadCredential=`), in place of a path.
const CREDENTIAL: &str = "credential:";
/// Where the service manager puts them, for this service alone.
const CREDENTIALS_FOLDER: &str = "CREDENTIALS_DIRECTORY";

/// What was written, by key.
pub struct Values {
    pub(crate) keys: &'static [&'static str],
    lists: &'static [&'static str],
    values: BTreeMap<&'static str, (String, Origin)>,
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origins = self.values.iter().map(|(key, (_, origin))| (key, origin));
        f.debug_map().entries(origins).finish()
    }
}

impl Values {
    /// None yet. `keys` are all that there are; a key in a section is `section.key`.
    #[must_use]
    pub fn of(keys: &'static [&'static str]) -> Self {
        Self {
            keys,
            lists: &[],
            values: BTreeMap::new(),
        }
    }

    /// Keys that a file may also write as a list of texts. Elsewhere, and in [`text`](Self::text), it is one text with
    /// commas between them.
    #[must_use]
    pub fn lists(mut self, lists: &'static [&'static str]) -> Self {
        self.lists = lists;
        self
    }

    /// Takes what stands in a file: the one that was named, which must be there, or the usual one.
    pub fn file(mut self, named: Option<&Path>, usual: &Path) -> Result<Self, SettingsError> {
        let path = named.unwrap_or(usual);
        for (key, text) in file::read(path, named.is_some(), self.lists)?.unwrap_or_default() {
            self.set(&key, text, Origin::File(path.to_owned()))?;
        }
        Ok(self)
    }

    /// Takes the variables whose names begin with `prefix` and two underscores. A value `credential:NAME`, from here or
    /// from the file, becomes the path of that credential.
    pub fn environment(
        mut self,
        prefix: &str,
        variables: &HashMap<String, String>,
    ) -> Result<Self, SettingsError> {
        let prefix = format!("{prefix}{SEPARATOR}");
        // In the order of their names, so that of several wrong ones it is always the same that is told.
        let mut ours: Vec<(&String, &String)> = variables
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .collect();
        ours.sort();
        for (name, text) in ours {
            // Two underscores, since names of keys have single ones.
            let key = name[prefix.len()..].to_lowercase().replace(SEPARATOR, ".");
            self.set(&key, text.clone(), Origin::Variable(name.clone()))?;
        }
        self.find_credentials(variables.get(CREDENTIALS_FOLDER))?;
        Ok(self)
    }

    /// Outside of the service there are none, and what was written stays: commands that need no such value work there.
    fn find_credentials(&mut self, folder: Option<&String>) -> Result<(), SettingsError> {
        let Some(folder) = folder else {
            return Ok(());
        };
        for (key, (text, origin)) in &mut self.values {
            let Some(name) = text.strip_prefix(CREDENTIAL) else {
                continue;
            };
            let wrong = |problem: String| SettingsError::Value {
                key,
                value: text.clone(),
                origin: origin.clone(),
                problem,
            };
            if name.is_empty() || name.contains('/') {
                return Err(wrong("a credential has a name without \"/\"".into()));
            }
            let path = Path::new(folder).join(name);
            // systemd leaves out what it was not told of, and would say so nowhere else.
            if !path.exists() {
                return Err(wrong(format!(
                    "the unit has no such credential: add LoadCredential={name}:FILE to it (systemctl edit)"
                )));
            }
            *text = path.to_string_lossy().into_owned();
        }
        Ok(())
    }

    /// Takes what the command line said of a key, if it did.
    pub fn argument(
        mut self,
        key: &str,
        said: Option<impl Display>,
    ) -> Result<Self, SettingsError> {
        if let Some(said) = said {
            self.set(key, said.to_string(), Origin::CommandLine)?;
        }
        Ok(self)
    }

    /// The same for a path, which must be text as everything in a file and the environment is.
    pub fn path_argument(
        self,
        key: &'static str,
        said: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let Some(path) = said else { return Ok(self) };
        let text = path.to_str().ok_or_else(|| SettingsError::NotText {
            key,
            path: path.to_owned(),
        })?;
        self.argument(key, Some(text))
    }

    fn set(&mut self, key: &str, text: String, origin: Origin) -> Result<(), SettingsError> {
        // Refused wherever it stands: a misspelt key that was passed over would leave the default in force
        // without a word.
        let Some(known) = self.keys.iter().find(|known| **known == key) else {
            return Err(self.unknown(key, origin));
        };
        self.values.insert(known, (text, origin));
        Ok(())
    }

    fn unknown(&self, key: &str, origin: Origin) -> SettingsError {
        if let Some(such_as) = self.keys.iter().find(|known| is_section_of(key, known)) {
            return SettingsError::Section {
                key: key.to_owned(),
                origin,
                such_as,
            };
        }
        let hint = match self.meant(key) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("the keys are {}", self.keys.join(", ")),
        };
        SettingsError::UnknownKey {
            key: key.to_owned(),
            origin,
            hint,
        }
    }

    /// The key that was probably meant: one that is spelt alike, else one that begins like it
    /// (`tls.ca_file` is `tls.ca`).
    fn meant(&self, key: &str) -> Option<&'static str> {
        nearest(key, self.keys.iter().copied()).or_else(|| {
            let alike = |known: &&&str| key.starts_with(**known) || known.starts_with(key);
            self.keys
                .iter()
                .filter(alike)
                .max_by_key(|known| known.len())
                .copied()
        })
    }

    /// Where the value of a key was written.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.values
            .get(key)
            .map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    /// The value of a key as it was written.
    #[must_use]
    pub fn text(&self, key: &'static str) -> Option<&str> {
        debug_assert!(self.keys.contains(&key), "{key} is none of the keys");
        self.values.get(key).map(|(text, _)| text.as_str())
    }

    #[must_use]
    pub fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// A whole number within bounds.
    pub fn number<N>(
        &self,
        key: &'static str,
        bounds: RangeInclusive<N>,
    ) -> Result<Option<N>, SettingsError>
    where
        N: FromStr + PartialOrd + Display,
    {
        let must_be = format!(
            "it must be a whole number from {} to {}",
            bounds.start(),
            bounds.end()
        );
        let number = |text: &str| text.parse().ok().filter(|number| bounds.contains(number));
        self.parsed(key, &must_be, number)
    }

    /// One of a few words, and what it stands for.
    pub fn word<T: Copy>(
        &self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, SettingsError> {
        let quoted: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let must_be = format!("it must be {}", quoted.join(" or "));
        self.parsed(key, &must_be, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, meaning)| *meaning)
        })
    }

    /// Whatever `parse` makes of a value; `must_be` is the error where it makes nothing of it.
    pub fn parsed<T>(
        &self,
        key: &'static str,
        must_be: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, SettingsError> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        match parse(text) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(key, text, must_be)),
        }
    }

    /// The error for a value that makes no sense.
    #[must_use]
    pub fn wrong(
        &self,
        key: &'static str,
        value: impl Display,
        problem: impl Into<String>,
    ) -> SettingsError {
        SettingsError::Value {
            key,
            value: value.to_string(),
            origin: self.origin(key),
            problem: problem.into(),
        }
    }
}

/// Whether `key` stands in a section.
fn is_section_of(section: &str, key: &str) -> bool {
    key.strip_prefix(section)
        .is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 5] = ["listen", "cpu_slots", "on_stop", "tls.ca", "tls.cert"];

    fn read(file: &str, variables: &[(&str, &str)]) -> Result<Values, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.toml");
        std::fs::write(&path, file).unwrap();
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Values::of(&KEYS)
            .file(Some(&path), Path::new("/usual"))?
            .environment("MARQUEE_DAEMON", &variables)
    }

    #[test]
    fn some_keys_may_be_lists_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let values = Values::of(&KEYS).lists(&["listen"]);
            values.file(Some(&path), Path::new("/usual"))
        };
        let values = read("listen = [\"a:1\", \"b:2\"]").unwrap();
        assert_eq!(values.text("listen"), Some("a:1, b:2"));
        assert_eq!(
            read("listen = \"a:1\"").unwrap().text("listen"),
            Some("a:1")
        );
        for wrong in ["listen = [1, 2]", "on_stop = [\"keep\"]"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[track_caller]
    fn error(file: &str, variables: &[(&str, &str)]) -> String {
        read(file, variables).unwrap_err().to_string()
    }

    #[test]
    fn the_later_wins_and_says_where_it_was_written() {
        let file = "listen = \"a\"\ncpu_slots = 1\n[tls]\nca = \"/file\"";
        let variables = [
            ("MARQUEE_DAEMON__CPU_SLOTS", "2"),
            ("MARQUEE_DAEMON__TLS__CA", "/variable"),
            ("MARQUEE_OTHER__CPU_SLOT", "3"),
        ];
        let values = read(file, &variables).unwrap();
        let values = values.argument("tls.ca", Some("/said")).unwrap();
        let values = values.argument("on_stop", None::<&str>).unwrap();
        assert_eq!(values.text("listen"), Some("a"));
        assert_eq!(values.number("cpu_slots", 0..=9_u32).unwrap(), Some(2));
        assert_eq!(values.path("tls.ca"), Some("/said".into()));
        assert_eq!(values.text("on_stop"), None);
        assert!(values.origin("listen").to_string().ends_with("daemon.toml"));
        let variable = Origin::Variable("MARQUEE_DAEMON__CPU_SLOTS".into());
        assert_eq!(values.origin("cpu_slots"), variable);
        assert_eq!(values.origin("tls.ca"), Origin::CommandLine);
        assert_eq!(values.origin("on_stop"), Origin::Default);
    }

    #[test]
    fn an_unknown_key_is_refused_wherever_it_stands_with_the_one_that_was_meant() {
        for (text, says) in [
            (
                error("cpu_slot = 1", &[]),
                "daemon.toml: unknown key \"cpu_slot\"; did you mean \"cpu_slots\"?",
            ),
            (
                error("[tls]\nca_file = \"x\"", &[]),
                "unknown key \"tls.ca_file\"; did you mean \"tls.ca\"?",
            ),
            (
                error("", &[("MARQUEE_DAEMON__LISTNE", "x")]),
                "in the variable MARQUEE_DAEMON__LISTNE of the environment: unknown key \"listne\"; \
                 did you mean \"listen\"?",
            ),
            (
                error("quantum_flux = 1", &[]),
                "the keys are listen, cpu_slots, on_stop, tls.ca, tls.cert",
            ),
            (
                error("listen.port = 1", &[]),
                "unknown key \"listen.port\"; did you mean \"listen\"?",
            ),
        ] {
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn a_credential_is_a_path_for_the_service_alone() {
        let credentials = tempfile::tempdir().unwrap();
        std::fs::write(credentials.path().join("ca"), "").unwrap();
        let folder = credentials.path().to_str().unwrap();
        let service = [("CREDENTIALS_DIRECTORY", folder)];
        let values = read("[tls]\nca = \"credential:ca\"", &service).unwrap();
        assert_eq!(values.path("tls.ca"), Some(credentials.path().join("ca")));
        // For a command that a person types, and that may not need it.
        let typed = read("[tls]\nca = \"credential:ca\"", &[]).unwrap();
        assert_eq!(typed.text("tls.ca"), Some("credential:ca"));
        for (name, says) in [
            (
                "cb",
                "the unit has no such credential: add LoadCredential=cb:FILE",
            ),
            ("../ca", "a name without \"/\""),
        ] {
            let text = error(&format!("[tls]\nca = \"credential:{name}\""), &service);
            assert!(text.contains("\"tls.ca\"") && text.contains(says), "{text}");
        }
    }

    #[test]
    fn a_section_and_a_list_are_no_values() {
        let text = error("tls = \"x\"", &[]);
        assert!(
            text.contains("is a section; write its keys, such as \"tls.ca\""),
            "{text}"
        );
        let text = error("listen = [\"a\", \"b\"]", &[]);
        assert!(text.contains("holds a list; write one value"), "{text}");
    }

    #[test]
    fn a_value_that_makes_no_sense_is_named_with_its_key_its_place_and_what_it_must_be() {
        let values = read(
            "cpu_slots = \"many\"",
            &[("MARQUEE_DAEMON__ON_STOP", "halt")],
        )
        .unwrap();
        let text = values
            .number("cpu_slots", 1..=8_u32)
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("key \"cpu_slots\" is \"many\" (in /"),
            "{text}"
        );
        assert!(
            text.ends_with("it must be a whole number from 1 to 8"),
            "{text}"
        );
        let words = [("stop", 1), ("keep", 2)];
        let text = values.word("on_stop", &words).unwrap_err().to_string();
        assert!(text.ends_with("it must be \"stop\" or \"keep\""), "{text}");
        for outside in ["0", "9", "-1", "2.5", "99999999999999999999", ""] {
            let values = read("", &[("MARQUEE_DAEMON__CPU_SLOTS", outside)]).unwrap();
            assert!(values.number("cpu_slots", 1..=8_u32).is_err(), "{outside}");
        }
    }

    #[test]
    fn a_file_that_was_named_must_be_there_and_a_usual_one_need_not() {
        let nowhere = Path::new("/nowhere/daemon.toml");
        assert!(Values::of(&KEYS).file(None, nowhere).is_ok());
        let error = Values::of(&KEYS).file(Some(nowhere), nowhere).unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/daemon.toml"),
            "{error}"
        );
    }

    #[test]
    fn a_path_that_is_no_text_is_refused_and_not_changed_into_another() {
        use std::os::unix::ffi::OsStrExt as _;
        let odd = Path::new(std::ffi::OsStr::from_bytes(b"/data/\xff"));
        let error = Values::of(&KEYS)
            .path_argument("tls.ca", Some(odd))
            .unwrap_err();
        assert!(error.to_string().contains("\"tls.ca\""), "{error}");
        let values = Values::of(&KEYS)
            .path_argument("tls.ca", Some(Path::new("/ca")))
            .unwrap();
        assert_eq!(values.path("tls.ca"), Some("/ca".into()));
    }

    #[test]
    fn what_may_be_a_password_is_in_no_error_about_the_file_and_in_no_debug() {
        let text = error("listen = \"a\"\ncpu_slots = secret", &[]);
        assert!(text.contains("daemon.toml, line 2:"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        let values = read("listen = \"secret\"", &[]).unwrap();
        assert!(!format!("{values:?}").contains("secret"));
    }
}

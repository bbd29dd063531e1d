//! The key `secrets`: which of those that the coordinator keeps a job gets.

use std::collections::BTreeSet;

use super::table::Table;
use crate::secret::{OF_JOB_MAX, SecretName};
use crate::spec::{JobKind, Source, Work};

/// Reads it. `work` is None where that could not be read.
pub(super) fn secrets(
    table: &mut Table<'_>,
    kind: JobKind,
    work: Option<&Work>,
) -> BTreeSet<SecretName> {
    let mut names = BTreeSet::new();
    for text in table.texts("secrets").unwrap_or_default() {
        match text.parse::<SecretName>() {
            Ok(name) => {
                names.insert(name);
            }
            Err(why) => {
                let start = &text[..text.floor_char_boundary(100)];
                table.add_error(
                    "secrets",
                    format!("{start:?} is no name of a secret: it {why}"),
                );
            }
        }
    }
    // Without repeats: one that is named twice is handed out once.
    if names.len() > OF_JOB_MAX {
        let count = names.len();
        table.add_error(
            "secrets",
            format!("are {count}, at most {OF_JOB_MAX}; put several values into one, as JSON"),
        );
    }
    // A job of any kind may name none, and a spec without the key stays as it was before there were
    // secrets.
    if names.is_empty() {
        return names;
    }
    match (kind, work) {
        (JobKind::Preprocess | JobKind::Train | JobKind::Eval, _) => table.add_error(
            "secrets",
            format!(
                "are for command and fetch jobs; a {kind} job has nothing that would read them"
            ),
        ),
        (_, Some(Work::Command(command))) => {
            // Refused and not settled by an order: nobody who reads the document could tell which
            // of the two values the program finds.
            let is_other = |name: &&SecretName| {
                let name = name.as_str();
                command.env.contains_key(name)
                    || command.env_from_worker.iter().any(|other| other == name)
            };
            if let Some(name) = names.iter().find(is_other) {
                table.add_error(
                    "secrets",
                    format!("names \"{name}\", which env or env_from_worker names, too; leave one of the two out"),
                );
            }
        }
        (_, Some(Work::Fetch(fetch))) => {
            let read = match &fetch.source {
                Source::Tmdb { credential_env, .. } => credential_env.as_deref(),
                Source::List { .. } | Source::Folder { .. } => None,
            };
            // It would be handed to a child that has no use for it, and lie there in its
            // environment.
            if let Some(name) = names.iter().find(|name| Some(name.as_str()) != read) {
                table.add_error(
                    "secrets",
                    format!("names \"{name}\", which this job does not read: a fetch job reads what its source names as credential_env"),
                );
            }
        }
        // What could not be read has its own error; one about secrets would rest on a guess.
        (_, Some(Work::Preprocess(_) | Work::Train(_) | Work::Eval(_)) | None) => {}
    }
    names
}

#[cfg(test)]
mod tests {
    use crate::pipeline::{DocumentText, parse_pipeline};
    use crate::spec::JobSpec;

    fn job(rest: &str) -> Result<JobSpec, String> {
        let text = format!("name = \"s\"\n[jobs.one]\n{rest}");
        let parsed = parse_pipeline(DocumentText::Toml(&text), &[], None);
        match parsed {
            Ok(mut spec) => Ok(spec.jobs.remove(0)),
            Err(errors) => Err(errors
                .iter()
                .map(|error| format!("{}: {}\n", error.field, error.message))
                .collect()),
        }
    }

    const COMMAND: &str = "kind = \"command\"\nargv = [\"true\"]\n";

    #[test]
    fn a_job_names_secrets_and_a_spec_without_is_as_it_was() {
        let named = job(&format!("{COMMAND}secrets = [\"B\", \"A\", \"B\"]")).unwrap();
        let names: Vec<&str> = named
            .sharing
            .secrets
            .iter()
            .map(|name| name.as_str())
            .collect();
        assert_eq!(names, ["A", "B"]);
        let text = serde_json::to_string(&named).unwrap();
        assert_eq!(serde_json::from_str::<JobSpec>(&text).unwrap(), named);
        let without = serde_json::to_string(&job(COMMAND).unwrap()).unwrap();
        assert!(!without.contains("secrets"), "{without}");
        let source =
            "source = { type = \"tmdb\", api_url = \"http://h/3\", credential_env = \"KEY\" }";
        let fetch = job(&format!("kind = \"fetch\"\n{source}\nsecrets = [\"KEY\"]")).unwrap();
        assert_eq!(fetch.sharing.secrets.len(), 1);
    }

    #[test]
    fn what_no_job_could_use_is_refused_with_the_reason() {
        let many: Vec<String> = (0..33).map(|n| format!("\"A{n}\"")).collect();
        let many = format!("{COMMAND}secrets = [{}]", many.join(", "));
        let fetch = "kind = \"fetch\"\nsource = { type = \"folder\", path = \"/p\" }\n";
        for (rest, why) in [
            (
                format!("{COMMAND}secrets = [\"A=b\"]"),
                "no name of a secret",
            ),
            (
                format!("{COMMAND}secrets = [\"MARQUEE_JOB\"]"),
                "Marquee sets",
            ),
            (format!("{COMMAND}secrets = \"A\""), "a list of texts"),
            (many, "at most 32"),
            (
                format!("{COMMAND}env = {{ A = \"1\" }}\nsecrets = [\"A\"]"),
                "env or env_from_worker names, too",
            ),
            (
                format!("{COMMAND}env_from_worker = [\"A\"]\nsecrets = [\"A\"]"),
                "env or env_from_worker names, too",
            ),
            (format!("{fetch}secrets = [\"A\"]"), "does not read"),
        ] {
            let refused = job(&rest).unwrap_err();
            assert!(
                refused.contains("jobs.one.secrets: ") && refused.contains(why),
                "{rest}: {refused}"
            );
        }
        let eval = job("kind = \"preprocess\"\nsecrets = [\"A\"]").unwrap_err();
        assert!(eval.contains("for command and fetch jobs"), "{eval}");
    }
}

//! `needs = ["train", { job = "train", on = "finished" }]`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::table::Table;
use crate::ids::JobName;
use crate::limits;
use crate::spec::NeedOn;

/// The jobs that a job waits for, each once, and how those must end of which it is not their success.
pub(super) fn needs(table: &mut Table<'_>) -> (Vec<JobName>, BTreeMap<JobName, NeedOn>) {
    let mut needs: Vec<JobName> = Vec::new();
    let mut seen: BTreeMap<JobName, NeedOn> = BTreeMap::new();
    for (index, item) in table.list("needs").unwrap_or_default().iter().enumerate() {
        if table.errors().is_full() {
            break;
        }
        let field = format!("needs[{index}]");
        let Some((name, on)) = need(table, &field, item) else {
            continue;
        };
        match seen.insert(name.clone(), on) {
            // Once: the store has one row for each need, and counts those rows.
            None => needs.push(name),
            Some(before) if before == on => {}
            Some(before) => {
                let (on, before) = (on.as_str(), before.as_str());
                let why = format!(
                    "wants {:?} to have {on}, and another one wants it to have {before}; give one of both",
                    name.as_str()
                );
                table.add_error(&field, why);
            }
        }
        if needs.len() > limits::PIPELINE_MAX_JOBS {
            let max = limits::PIPELINE_MAX_JOBS;
            table.add_error(
                "needs",
                format!("names more than {max} jobs, and no pipeline has more"),
            );
            return (Vec::new(), BTreeMap::new());
        }
    }
    // The usual need is stored as nothing, so that specs look as they did before there were others.
    seen.retain(|_, on| *on != NeedOn::Succeeded);
    (needs, seen)
}

fn need(table: &Table<'_>, field: &str, item: &Value) -> Option<(JobName, NeedOn)> {
    match item {
        Value::String(text) => match text.parse() {
            Ok(name) => Some((name, NeedOn::Succeeded)),
            Err(why) => {
                table.add_error(field, format!("{text:?} {why}"));
                None
            }
        },
        Value::Object(map) => {
            let mut need = Table::new(table.field(field), map, table.errors());
            let name = need.parsed("job", "the name of a job, such as \"train\"");
            let words = NeedOn::ALL.map(|on| (on.as_str(), on));
            let on = need.choice("on", &words, Some(NeedOn::Succeeded));
            need.finish();
            name.zip(on)
        }
        other => {
            let expected =
                "a job's name, or a table such as { job = \"train\", on = \"finished\" }";
            table.wrong_type(field, expected, other);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::pipeline::{DocumentText, FieldError, parse_pipeline};
    use crate::spec::{JobSpec, NeedOn};

    fn read(needs: &str) -> Result<JobSpec, Vec<FieldError>> {
        let text = format!(
            "name = \"p\"\n[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\n\
             [jobs.b]\nkind = \"command\"\nargv = [\"true\"]\n\
             [jobs.last]\nkind = \"command\"\nargv = [\"true\"]\n{needs}\n"
        );
        let spec = parse_pipeline(DocumentText::Toml(&text), &[], None)?;
        let last = spec
            .jobs
            .into_iter()
            .find(|job| job.name.as_str() == "last");
        Ok(last.unwrap())
    }

    fn refused(needs: &str) -> String {
        let errors = read(needs).unwrap_err();
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    #[test]
    fn both_forms_stand_beside_each_other() {
        let last = read("needs = [\"a\", { job = \"b\", on = \"finished\" }]").unwrap();
        let names: Vec<&str> = last.needs.iter().map(|name| name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let on = |name: &str| last.needs_of(&name.parse().unwrap());
        assert_eq!((on("a"), on("b")), (NeedOn::Succeeded, NeedOn::Finished));
        // What says nothing new is stored as before: older versions read it.
        let plain = read("needs = [{ job = \"a\", on = \"succeeded\" }, { job = \"b\" }]").unwrap();
        assert!(plain.needs_on.is_empty());
        let stored = serde_json::to_value(&plain).unwrap();
        assert!(stored.get("needs_on").is_none(), "{stored}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (needs, said) in [
            (
                "needs = [7]",
                "jobs.last.needs[0]: must be a job's name, or a table such as",
            ),
            ("needs = \"a\"", "jobs.last.needs: must be a list"),
            (
                "needs = [{ on = \"failed\" }]",
                "jobs.last.needs[0].job: is missing",
            ),
            (
                "needs = [{ job = \"a\", on = \"fails\" }]",
                "did you mean \"failed\"?",
            ),
            (
                "needs = [{ job = \"a\", when = \"failed\" }]",
                "jobs.last.needs[0].when: unknown key",
            ),
            (
                "needs = [{ job = \"aa\", on = \"failed\" }]",
                "jobs.last.needs[0]: no job of this pipeline",
            ),
            (
                "needs = [{ job = \"last\", on = \"failed\" }]",
                "is the job itself",
            ),
            (
                "needs = [\"a\", { job = \"a\", on = \"failed\" }]",
                "jobs.last.needs[1]: wants \"a\" to have failed, and another one wants it to have succeeded",
            ),
            (
                "needs = [{ job = \"a\", on = \"finished\" }]\ninputs = { data = \"a.output\" }",
                "jobs.last.inputs.data: \"a\" makes it only where it succeeds, and needs waits for it to end",
            ),
        ] {
            let told = refused(needs);
            assert!(told.contains(said), "{needs}: {told}");
        }
    }

    #[test]
    fn a_cycle_is_one_however_it_waits() {
        let text = "name = \"p\"\n[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\nneeds = [\"b\"]\n\
                    [jobs.b]\nkind = \"command\"\nargv = [\"true\"]\nneeds = [{ job = \"a\", on = \"failed\" }]\n";
        let errors = parse_pipeline(DocumentText::Toml(text), &[], None).unwrap_err();
        assert!(errors[0].message.contains("forms a cycle"), "{errors:?}");
    }
}

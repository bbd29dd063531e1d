//! The keys that say how a job shares the cluster.

use std::collections::BTreeSet;

use super::table::Table;
use crate::limits;
use crate::project::ProjectName;
use crate::resources::check_label;
use crate::spec::{HostRules, Sharing};

/// `project`, of a pipeline or of one of its jobs.
pub(super) fn project(table: &mut Table<'_>) -> Option<ProjectName> {
    if !table.has("project") {
        // So that it is known, and a slip in it gets the right word.
        return table.text("project").and(None);
    }
    table.parsed("project", "text such as \"vision\"")
}

/// Reads the keys of a job's table that are about sharing; `of_pipeline` is the project where the job names none.
pub(super) fn sharing(
    table: &mut Table<'_>,
    array: Option<u32>,
    of_pipeline: &ProjectName,
) -> Sharing {
    let project = project(table).unwrap_or_else(|| of_pipeline.clone());
    let preemptible = table.flag("preemptible", false);
    let idle_ok = table.flag("idle_ok", false);
    let start_after = table.instant("start_after");
    let deadline = table.instant("deadline");
    if let (Some(start), Some(end)) = (start_after, deadline)
        // Held against each other here and not against the clock: a document says the same whenever
        // it is read.
        && end <= start
    {
        table.add_error(
            "deadline",
            "is not after start_after: the job would fail before it may start",
        );
    }
    let concurrency_key = concurrency_key(table);
    let at_once = at_once(table, array);
    if at_once.is_some() && concurrency_key.is_some() {
        table.add_error(
            "at_once",
            "elements of one concurrency_key run one at a time; leave one of both out",
        );
    }
    Sharing {
        project,
        preemptible,
        idle_ok,
        start_after,
        deadline,
        concurrency_key,
        at_once,
        gpu_memory_mib: gpu_memory(table),
        hosts: hosts(table),
        secrets: BTreeSet::new(),
    }
}

fn concurrency_key(table: &mut Table<'_>) -> Option<String> {
    let key = table.text("concurrency_key")?;
    let max = limits::CONCURRENCY_KEY_MAX_BYTES;
    if key.is_empty() || key.len() > max || key.chars().any(char::is_control) {
        table.add_error(
            "concurrency_key",
            format!("must be 1 to {max} bytes without control characters"),
        );
        return None;
    }
    Some(key)
}

/// How many elements of an array run at a time.
fn at_once(table: &mut Table<'_>, array: Option<u32>) -> Option<u32> {
    if !table.has("at_once") {
        return None;
    }
    let at_once = table.int("at_once", 1..=limits::ARRAY_MAX_ELEMENTS, None);
    if array.is_none() {
        table.add_error(
            "at_once",
            "says how many elements of an array run at a time, and this job is no array; leave it out, or give \
             array",
        );
    }
    Some(at_once)
}

/// `gpu_memory = "10GiB"`, of which a MiB is the least.
fn gpu_memory(table: &mut Table<'_>) -> Option<u32> {
    let text = table.text("gpu_memory")?;
    let max = limits::GPU_MEMORY_MAX_MIB;
    let mebibytes = [("GiB", 1024), ("MiB", 1)]
        .into_iter()
        .find_map(|(unit, of)| {
            let count: u32 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            count.checked_mul(of)
        });
    let found = mebibytes.filter(|mebibytes| (1..=max).contains(mebibytes));
    if found.is_none() {
        table.add_error(
            "gpu_memory",
            format!(
                "{text:?} is no amount of memory; write \"10GiB\" or \"500MiB\", at most {}GiB",
                max / 1024
            ),
        );
    }
    found
}

/// `hosts = { labels = ["switch=a"], avoid = ["gpu-3"] }`.
fn hosts(table: &mut Table<'_>) -> HostRules {
    let Some(mut hosts) = table.table("hosts") else {
        return HostRules::default();
    };
    let rules = HostRules {
        labels: words(&mut hosts, "labels"),
        avoid: words(&mut hosts, "avoid"),
        gpu: None,
    };
    if let Some(both) = rules.labels.intersection(&rules.avoid).next() {
        hosts.add_error(
            "avoid",
            format!("{both:?} stands in labels too: no host would do"),
        );
    }
    hosts.finish();
    rules
}

fn words(table: &mut Table<'_>, key: &'static str) -> BTreeSet<String> {
    let texts = table.texts(key).unwrap_or_default();
    if texts.len() > limits::LABELS_MAX {
        let max = limits::LABELS_MAX;
        table.add_error(
            key,
            format!("{} are too many; at most {max} fit", texts.len()),
        );
        return BTreeSet::new();
    }
    for (index, text) in texts.iter().enumerate() {
        if let Err(why) = check_label(text) {
            table.add_error(&format!("{key}[{index}]"), why);
        }
    }
    texts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use crate::pipeline::{DocumentText, FieldError, parse_job, parse_pipeline};
    use crate::spec::Sharing;

    fn read(keys: &str) -> Result<Sharing, Vec<FieldError>> {
        let text = format!("kind = \"command\"\nargv = [\"true\"]\n{keys}");
        let spec = parse_job("job", DocumentText::Toml(&text), &[], None)?;
        Ok(spec.jobs.into_iter().next().unwrap().sharing)
    }

    fn refused(keys: &str) -> String {
        let errors = read(keys).unwrap_err();
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    #[test]
    fn memory_of_a_gpu_has_its_unit() {
        for (text, mebibytes) in [("10GiB", 10_240), ("500 MiB", 500), ("1MiB", 1)] {
            let keys = format!("device = \"gpu\"\ngpu_memory = \"{text}\"");
            assert_eq!(read(&keys).unwrap().gpu_memory_mib, Some(mebibytes));
        }
    }

    #[test]
    fn a_document_without_these_keys_is_as_before() {
        assert_eq!(read("").unwrap(), Sharing::default());
    }

    #[test]
    fn the_pipelines_project_is_its_jobs_unless_they_name_another() {
        let text = "name = \"p\"\nproject = \"vision\"\n[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\n\
                    [jobs.b]\nkind = \"command\"\nargv = [\"true\"]\nproject = \"text\"\n";
        let spec = parse_pipeline(DocumentText::Toml(text), &[], None).unwrap();
        let projects: Vec<&str> = spec
            .jobs
            .iter()
            .map(|job| job.sharing.project.as_str())
            .collect();
        assert_eq!(projects, ["vision", "text"]);
        for odd in ["", "Vision", "a b", "../x", "é", "x\\u001b[2J"] {
            assert!(
                refused(&format!("project = \"{odd}\"")).contains("project"),
                "{odd}"
            );
        }
        assert!(refused("projcet = \"a\"").contains("did you mean \"project\""));
    }

    #[test]
    fn instants_have_an_offset_and_are_the_same_however_they_are_written() {
        let quoted = read("start_after = \"2027-03-01T06:00:00+01:00\"").unwrap();
        let plain = read("start_after = 2027-03-01T05:00:00Z").unwrap();
        assert_eq!(quoted, plain);
        for bad in [
            "\"tomorrow\"",
            "2027-03-01",
            "2027-03-01T06:00:00",
            "7",
            "\"0001-01-01T00:00:00Z\"",
        ] {
            let told = refused(&format!("deadline = {bad}"));
            assert!(told.contains("jobs.job.deadline"), "{bad}: {told}");
        }
        assert!(
            refused("start_after = 2027-03-01T05:00:00Z\ndeadline = 2027-03-01T05:00:00Z")
                .contains("not after start_after")
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (keys, field) in [
            ("concurrency_key = \"\"", "concurrency_key"),
            ("concurrency_key = \"a\\nb\"", "concurrency_key"),
            ("at_once = 2", "at_once"),
            ("array = 3\nat_once = 0", "at_once"),
            ("array = 3\nat_once = 1\nconcurrency_key = \"a\"", "at_once"),
            ("hosts = { labels = [\"a b\"] }", "hosts.labels[0]"),
            (
                "hosts = { labels = [\"a\"], avoid = [\"a\"] }",
                "hosts.avoid",
            ),
            ("hosts = { label = [\"a\"] }", "hosts.label"),
            ("preemptible = \"yes\"", "preemptible"),
            ("idle_ok = 1", "idle_ok"),
            ("device = \"gpu\"\ngpu_memory = \"10\"", "gpu_memory"),
            ("device = \"gpu\"\ngpu_memory = \"0MiB\"", "gpu_memory"),
            (
                "device = \"gpu\"\ngpu_memory = \"9999999GiB\"",
                "gpu_memory",
            ),
            ("device = \"gpu\"\ngpu_memory = \"1.5GiB\"", "gpu_memory"),
            // It asks for no GPU.
            ("gpu_memory = \"10GiB\"", "gpu_memory"),
        ] {
            let told = refused(keys);
            assert!(
                told.contains(&format!("jobs.job.{field}")),
                "{keys}: {told}"
            );
        }
    }
}

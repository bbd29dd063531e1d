//! `array = 16`, or `array = { over = { lr = [0.1, 0.01], seed = [1, 2, 3] }, may_fail = "5 %" }`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::table::Table;
use crate::limits;
use crate::spec::{ArrayValues, JobKind};

/// A job array as a document asks for it.
#[derive(Debug, Default)]
pub(super) struct Array {
    pub(super) size: u32,
    /// How many of its elements may end without success.
    pub(super) may_fail: u32,
    pub(super) values: ArrayValues,
}

/// The elements of a job array, where the job's kind has a work that can be shared out.
pub(super) fn array(table: &mut Table<'_>, kind: JobKind) -> Option<Array> {
    if !table.has("array") {
        return None;
    }
    let array = if table.is_table("array") {
        in_full(table.table("array")?)
    } else {
        Array {
            size: table.int("array", 1..=limits::ARRAY_MAX_ELEMENTS, None),
            ..Array::default()
        }
    };
    match kind {
        JobKind::Command => Some(array),
        JobKind::Fetch if !array.values.is_empty() => {
            table.add_error(
                "array",
                "the elements of a fetch job share out its ids; give their number. Only command jobs go over values",
            );
            None
        }
        JobKind::Fetch if array.may_fail > 0 => {
            table.add_error(
                "array.may_fail",
                "the elements of a fetch job share out its ids: without one of them the data set is not whole. Only \
                 command jobs may miss elements",
            );
            None
        }
        JobKind::Fetch => Some(array),
        JobKind::Preprocess | JobKind::Train | JobKind::Eval => {
            table.add_error(
                "array",
                format!(
                    "a {kind} job is one piece of work; only fetch and command jobs can be arrays"
                ),
            );
            None
        }
    }
}

/// `{ count = 16, .. }` or `{ over = { .. }, .. }`.
fn in_full(mut array: Table<'_>) -> Array {
    let mut values = ArrayValues::default();
    let size = match (array.has("count"), array.has("over")) {
        (true, true) => {
            array.add_error(
                "count",
                "the lists of \"over\" say how many elements there are; leave it out",
            );
            // Read all the same, so that what is wrong within it is told in the same answer.
            drop(over(&mut array));
            array.int("count", 1..=limits::ARRAY_MAX_ELEMENTS, None)
        }
        (true, false) => array.int("count", 1..=limits::ARRAY_MAX_ELEMENTS, None),
        (false, _) => {
            values.over = over(&mut array);
            size(&array, &values)
        }
    };
    let may_fail = may_fail(&mut array, size);
    array.finish();
    Array {
        size,
        may_fail,
        values,
    }
}

/// `may_fail = 5` or `may_fail = "2 %"`, rounded down.
fn may_fail(array: &mut Table<'_>, size: u32) -> u32 {
    if !array.has("may_fail") {
        return 0;
    }
    if !array.is_text("may_fail") {
        let may_fail = array.int("may_fail", 0..=limits::ARRAY_MAX_ELEMENTS, None);
        if may_fail >= size {
            array.add_error(
                "may_fail",
                format!(
                    "{may_fail} is not less than the number of its elements, {size}: one at least has to succeed"
                ),
            );
        }
        return may_fail;
    }
    let text = array.text("may_fail").unwrap_or_default();
    // A bare "5" could mean five or five per cent: as a number it is elements, as text it needs its
    // sign.
    let percent = text.trim().strip_suffix('%').map(str::trim_end);
    let percent = percent.and_then(|number| number.parse::<f64>().ok());
    let Some(percent) = percent.filter(|percent| (0.0..100.0).contains(percent)) else {
        array.add_error(
            "may_fail",
            format!("{text:?} is no share below 100 %; write \"2 %\", or a number of elements"),
        );
        return 0;
    };
    // A share of a hundred thousand fits, and is below it: percent is below 100. The slack is for shares that are whole
    // numbers of elements and no binary fractions.
    let share = (f64::from(size) * percent / 100.0 + 1e-6).floor();
    (0..size)
        .rev()
        .find(|may_fail| f64::from(*may_fail) <= share)
        .unwrap_or(0)
}

fn size(array: &Table<'_>, values: &ArrayValues) -> u32 {
    let max = limits::ARRAY_MAX_ELEMENTS;
    match values.combinations().filter(|count| *count <= max) {
        // An error has been noted for an empty list. The stand-in keeps later checks from telling a
        // second one for the same.
        Some(count) => count.max(1),
        None => {
            let lists = values.over.values();
            let lists: Vec<String> = lists.map(|list| list.len().to_string()).collect();
            let lists = lists.join(" x ");
            array.add_error(
                "over",
                format!("{lists} combinations are too many; at most {max} elements fit"),
            );
            1
        }
    }
}

fn over(array: &mut Table<'_>) -> BTreeMap<String, Vec<Value>> {
    if !array.has("over") {
        array.add_error(
            "over",
            "is missing; give lists by name, such as { lr = [0.1, 0.01] }, or a number of elements as \"count\"",
        );
    }
    let Some(lists) = array.table("over") else {
        return BTreeMap::new();
    };
    let mut over = BTreeMap::new();
    for (name, value) in lists.entries() {
        if lists.errors().is_full() {
            break;
        }
        if !is_name(name) {
            let max = limits::NAME_MAX_BYTES;
            lists.add_error(
                name,
                format!("is no name of a value: use 1 to {max} of a-z, 0-9 and _, a letter first"),
            );
            continue;
        }
        if let Some(list) = list(&lists, name, value) {
            over.insert(name.clone(), list);
        }
    }
    let max = limits::ARRAY_VALUE_NAMES_MAX;
    if lists.entries().count() == 0 {
        array.add_error(
            "over",
            "is empty; give lists by name, such as { lr = [0.1, 0.01] }",
        );
    } else if over.len() > max {
        array.add_error(
            "over",
            format!("has {} lists; at most {max} fit", over.len()),
        );
        return BTreeMap::new();
    }
    // As it will be stored and sent: the document's own spacing counts for nothing.
    let bytes = serde_json::to_string(&over).map_or(usize::MAX, |text| text.len());
    let max = limits::ARRAY_VALUES_MAX_BYTES;
    if bytes > max {
        array.add_error(
            "over",
            format!(
                "takes {bytes} bytes as JSON; at most {max} fit. Give array = NUMBER, and look the values up by \
                 MARQUEE_ARRAY_INDEX"
            ),
        );
        return BTreeMap::new();
    }
    over
}

fn is_name(name: &str) -> bool {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.len() <= limits::NAME_MAX_BYTES
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(letters)
}

fn list(lists: &Table<'_>, name: &str, value: &Value) -> Option<Vec<Value>> {
    let Value::Array(items) = value else {
        lists.wrong_type(name, "a list of values", value);
        return None;
    };
    if items.is_empty() {
        lists.add_error(name, "is empty: there would be no element; leave it out");
    }
    for (index, item) in items.iter().enumerate() {
        if lists.errors().is_full() {
            return None;
        }
        let field = format!("{name}[{index}]");
        let max = limits::ARRAY_VALUE_MAX_BYTES;
        match item {
            Value::String(text) if text.len() > max => lists.add_error(
                &field,
                format!("{} bytes are too many; at most {max} fit", text.len()),
            ),
            Value::String(_) | Value::Number(_) | Value::Bool(_) => {}
            other => lists.wrong_type(&field, "text, a number, true or false", other),
        }
    }
    // By their text: what a program is given.
    let mut seen = std::collections::HashSet::new();
    let twice = items.iter().find(|item| !seen.insert(item.to_string()));
    if let Some(twice) = twice {
        lists.add_error(
            name,
            format!("has {twice} twice: two elements would do the same; leave one out"),
        );
    }
    Some(items.clone())
}

#[cfg(test)]
mod tests {
    use crate::pipeline::{DocumentText, FieldError, parse_job};
    use crate::spec::{ArrayElement, JobSpec, Work};

    fn read(keys: &str) -> Result<JobSpec, Vec<FieldError>> {
        let text = format!("kind = \"command\"\nargv = [\"run\", \"{{lr}}\"]\n{keys}");
        let spec = parse_job("sweep", DocumentText::Toml(&text), &[], None)?;
        Ok(spec.jobs.into_iter().next().unwrap())
    }

    fn refused(keys: &str) -> String {
        let errors = read(keys).unwrap_err();
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    #[test]
    fn an_array_over_values_has_an_element_for_each_combination() {
        let sweep =
            read("array = { over = { seed = [1, 2], lr = [0.1, 0.01, \"auto\"] } }").unwrap();
        assert_eq!(sweep.array, Some(6));
        let element = sweep.element_at(3);
        assert_eq!(element.element, Some(ArrayElement { index: 3, size: 6 }));
        let Work::Command(command) = &element.work else {
            panic!("{element:?}")
        };
        assert_eq!(command.argv, ["run", "0.01"]);
        assert_eq!(command.env["MARQUEE_VALUE_SEED"], "2");
        assert_eq!(element.values.here["lr"], 0.01);
        assert!(
            element.values.over.is_empty(),
            "an element carries its own values alone"
        );
        assert_eq!(element.display_name(), "sweep[3]");
        // As it was before there were values.
        let plain = read("array = 3").unwrap();
        assert!(
            serde_json::to_value(&plain)
                .unwrap()
                .get("values")
                .is_none()
        );
    }

    #[test]
    fn a_share_of_an_array_may_fail() {
        let may_fail = |keys: &str| {
            let spec = read(keys).unwrap();
            (spec.array, spec.may_fail)
        };
        assert_eq!(
            may_fail("array = { count = 16, may_fail = 5 }"),
            (Some(16), 5)
        );
        assert_eq!(may_fail("array = { count = 16 }"), (Some(16), 0));
        let over = "array = { over = { lr = [1, 2, 3] }, may_fail = \"34%\" }";
        assert_eq!(may_fail(over), (Some(3), 1));
        for (share, count, of) in [
            ("2 %", 100_000, 2_000),
            ("2 %", 49, 0),
            ("2 %", 50, 1),
            ("0.1 %", 3_000, 3),
            ("99.9999 %", 10, 9),
            ("0 %", 10, 0),
        ] {
            let keys = format!("array = {{ count = {count}, may_fail = \"{share}\" }}");
            assert_eq!(may_fail(&keys), (Some(count), of), "{keys}");
        }
        // An element by itself either succeeds or does not, and old documents say nothing of it.
        let array = read("array = { count = 4, may_fail = 1 }").unwrap();
        assert_eq!(array.element_at(1).may_fail, 0);
        let plain = serde_json::to_value(read("array = 4").unwrap()).unwrap();
        assert!(plain.get("may_fail").is_none());

        for (keys, said) in [
            (
                "array = { count = 3, may_fail = 3 }",
                "jobs.sweep.array.may_fail: 3 is not less than the number of its elements, 3",
            ),
            (
                "array = { count = 3, may_fail = \"100 %\" }",
                "\"100 %\" is no share below 100 %",
            ),
            ("array = { count = 3, may_fail = \"nan %\" }", "is no share"),
            ("array = { count = 3, may_fail = \"2\" }", "is no share"),
            (
                "array = { count = 3, may_fail = -1 }",
                "array.may_fail: -1 is out of range",
            ),
            (
                "array = { count = 3, over = { lr = [1] } }",
                "jobs.sweep.array.count: the lists of \"over\" say",
            ),
            (
                "array = { count = 0 }",
                "jobs.sweep.array.count: 0 is out of range",
            ),
        ] {
            let told = refused(keys);
            assert!(told.contains(said), "{keys}: {told}");
        }
        let fetch = "kind = \"fetch\"\nsource = { type = \"tmdb\", api_url = \"http://h/3\" }\n\
                     array = { count = 2, may_fail = 1 }";
        let told = parse_job("f", DocumentText::Toml(fetch), &[], None).unwrap_err();
        assert_eq!(told[0].field, "jobs.f.array.may_fail", "{told:?}");
    }

    #[test]
    fn lists_that_cannot_be_meant_are_refused_by_name() {
        let long = format!("array = {{ over = {{ a = [\"{}\"] }} }}", "x".repeat(1_025));
        let heavy: Vec<String> = (0..40)
            .map(|n| format!("\"{n}{}\"", "x".repeat(500)))
            .collect();
        let heavy = format!("array = {{ over = {{ a = [{}] }} }}", heavy.join(", "));
        let tens = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]";
        let product = ["a", "b", "c", "d", "e", "f"].map(|name| format!("{name} = {tens}"));
        let product = format!("array = {{ over = {{ {} }} }}", product.join(", "));
        let names: Vec<String> = (0..17).map(|n| format!("v{n} = [0]")).collect();
        let names = format!("array = {{ over = {{ {} }} }}", names.join(", "));
        for (keys, said) in [
            ("array = {}", "jobs.sweep.array.over: is missing"),
            ("array = { over = {} }", "jobs.sweep.array.over: is empty"),
            (
                "array = { over = { lr = [] } }",
                "jobs.sweep.array.over.lr: is empty",
            ),
            (
                "array = { over = { lr = 3 } }",
                "jobs.sweep.array.over.lr: must be a list of values",
            ),
            (
                "array = { over = { lr = [[1]] } }",
                "jobs.sweep.array.over.lr[0]: must be text, a number",
            ),
            (
                "array = { over = { lr = [nan] } }",
                "jobs.sweep.array.over.lr[0]",
            ),
            ("array = { over = { lr = [1, 1] } }", "has 1 twice"),
            (
                "array = { over = { LR = [1] } }",
                "jobs.sweep.array.over.LR: is no name of a value",
            ),
            ("array = { ovr = { lr = [1] } }", "did you mean \"over\"?"),
            (
                "array = { over = { lr = [1] }, size = 3 }",
                "jobs.sweep.array.size: unknown key",
            ),
            (long.as_str(), "1025 bytes are too many"),
            (heavy.as_str(), "bytes as JSON; at most 16384 fit"),
            (
                product.as_str(),
                "10 x 10 x 10 x 10 x 10 x 10 combinations are too many",
            ),
            (names.as_str(), "has 17 lists; at most 16 fit"),
        ] {
            let told = refused(keys);
            assert!(told.contains(said), "{keys}: {told}");
        }
        let fetch = "kind = \"fetch\"\nsource = { type = \"tmdb\", api_url = \"http://h/3\" }\n\
                     array = { over = { lr = [1] } }";
        let told = parse_job("f", DocumentText::Toml(fetch), &[], None).unwrap_err();
        assert!(
            told[0].message.contains("Only command jobs go over values"),
            "{told:?}"
        );
    }
}

//! The door, attacked: what is too large, too deep or not text is refused by name, in little time and stack.

use super::*;
use crate::limits::{
    DOCUMENT_MAX_BYTES, DOCUMENT_MAX_DEPTH, OVERRIDE_PATH_MAX_KEYS, OVERRIDES_MAX,
    OVERRIDES_MAX_BYTES,
};

const GOOD: &str = "name = \"p\"\n[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\n";

fn set(path: &str, value: &str) -> Override {
    Override {
        path: path.into(),
        value: value.into(),
    }
}

/// Reads on a stack that is small beside what a recursion over the attacks below would need: an overflow of
/// it ends the test program, as it ended the coordinator.
fn errors(text: String, overrides: Vec<Override>, is_json: bool) -> Vec<FieldError> {
    let read = move || {
        let document = if is_json {
            DocumentText::Json(&text)
        } else {
            DocumentText::Toml(&text)
        };
        parse_pipeline(document, &overrides, None)
    };
    let small = std::thread::Builder::new().stack_size(1024 * 1024);
    let result = small.spawn(read).unwrap().join().unwrap();
    result.expect_err("the document is hostile")
}

#[track_caller]
fn refused(text: String, overrides: Vec<Override>, wanted: &str) {
    assert_contains(&errors(text, overrides, false), wanted);
}

#[track_caller]
fn assert_contains(errors: &[FieldError], wanted: &str) {
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|error| error.contains(wanted)), "{told:?}");
    let longest = told.iter().map(String::len).max().unwrap_or(0);
    assert!(longest < 5_000, "an error of {longest} bytes");
}

#[test]
fn a_path_of_many_keys_is_refused() {
    for keys in [OVERRIDE_PATH_MAX_KEYS + 1, 10_000, 400_000] {
        let path = vec!["a"; keys].join(".");
        refused(
            GOOD.into(),
            vec![set(&path, "1")],
            "a path of more than 16 keys",
        );
    }
    let deepest = format!("jobs.{}", vec!["a"; OVERRIDE_PATH_MAX_KEYS - 1].join("."));
    refused(
        GOOD.into(),
        vec![set(&deepest, "1")],
        "jobs.a.a: unknown key",
    );
    for path in ["", ".", "a..b", "jobs."] {
        refused(GOOD.into(), vec![set(path, "1")], "is no path");
    }
    refused(GOOD.into(), vec![set("name.x.y", "1")], "name: is no table");
}

#[test]
fn a_value_that_is_nested_without_end_is_refused_or_taken_as_text() {
    for depth in [DOCUMENT_MAX_DEPTH, 79, 5_000, 400_000] {
        let lists = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let value = vec![set("jobs.a.argv", &lists)];
        assert!(!errors(GOOD.into(), value, false).is_empty(), "{depth}");
        assert!(!errors(format!("a = {lists}"), vec![], false).is_empty());
        let json = format!("{{\"a\":{lists}}}");
        assert!(!errors(json, vec![], true).is_empty(), "{depth}");
    }
    let deep = format!(
        "x = {}{}",
        "[".repeat(DOCUMENT_MAX_DEPTH),
        "]".repeat(DOCUMENT_MAX_DEPTH)
    );
    refused(deep, vec![], "tables and lists deep; at most 32");
    for keys in [200, 100_000] {
        let dotted = vec!["a"; keys].join(".");
        refused(format!("{dotted} = 1"), vec![], "document");
        refused(format!("[{dotted}]"), vec![], "document");
        refused(format!("[[{dotted}]]"), vec![], "document");
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    // Were it read, the error would be that it is no TOML.
    let large = "=".repeat(DOCUMENT_MAX_BYTES + 1);
    let errors = errors(large, vec![], false);
    assert_eq!(errors.len(), 1);
    assert_contains(&errors, "document: 1048577 bytes are too many");
    let many = vec![set("jobs.a.priority", "1"); OVERRIDES_MAX + 1];
    refused(
        GOOD.into(),
        many,
        "overrides: 1001 values to set are too many",
    );
    let long = vec![set("jobs.a.priority", &"1".repeat(OVERRIDES_MAX_BYTES))];
    refused(GOOD.into(), long, "bytes to set are too many");
}

#[test]
fn what_cannot_be_stored_is_refused_wherever_it_stands() {
    for (rest, wanted) in [
        (
            "argv = [\"true\", \"a\\u0000b\"]",
            "jobs.a.argv[1]: holds a NUL",
        ),
        (
            "argv = [\"true\"]\nenv = { A = \"\\u0000\" }",
            "jobs.a.env.A: holds a NUL",
        ),
        (
            "argv = [\"true\"]\nenv = { \"A\\u0000\" = \"\" }",
            "holds a NUL character, which no key can",
        ),
    ] {
        let text = format!("name = \"p\"\n[jobs.a]\nkind = \"command\"\n{rest}\n");
        refused(text, vec![], wanted);
    }
    refused("name = \"\\u0000\"".into(), vec![], "name: holds a NUL");
    refused(
        GOOD.into(),
        vec![set("jobs.a.argv", "a\0b")],
        "jobs.a.argv: holds a NUL",
    );
    refused(GOOD.into(), vec![set("jobs.a\0", "1")], "holds a NUL");
    let key = "k".repeat(300);
    refused(format!("{GOOD}{key} = 1"), vec![], "is a key of 300 bytes");
    let error = parse_job(&"x".repeat(1 << 20), DocumentText::Toml(""), &[], None).unwrap_err();
    assert_contains(&error, "name: ");
}

/// Each takes the time of a good document, or this test takes minutes and more.
#[test]
fn a_document_cannot_make_its_reader_work_without_end() {
    // Chains that are named in the wrong order, each job needing all before it.
    let mut chain = String::from("name = \"p\"\n");
    let name = |index: usize| format!("j{:03}", 999 - index);
    for job in 0..120 {
        let needs: Vec<String> = (0..job).map(|need| format!("{:?}", name(need))).collect();
        chain += &format!(
            "[jobs.{}]\nkind = \"command\"\nargv = [\"true\"]\nneeds = [{}]\n",
            name(job),
            needs.join(",")
        );
    }
    let spec = parse_pipeline(DocumentText::Toml(&chain), &[], None).unwrap();
    assert_eq!(spec.jobs[0].name.as_str(), "j999");

    let many = |count: usize| -> String {
        let names: Vec<String> = (0..count).map(|index| format!("\"x{index}\"")).collect();
        names.join(",")
    };
    // Names that nobody has, each of which is held against all that there are.
    let mut text = String::from("name = \"p\"\n");
    for job in 0..900 {
        text += &format!(
            "[jobs.j{job}]\nkind = \"command\"\nargv = [\"true\"]\nneeds = [{}]\n",
            many(100)
        );
    }
    refused(text, vec![], "no job of this pipeline has this name");
    refused(
        format!("{GOOD}needs = [{}]", many(90_000)),
        vec![],
        "names more than 1000 jobs",
    );
    let unknown: String = (0..50_000)
        .map(|index| format!("k{index} = []\n"))
        .collect();
    refused(format!("{unknown}{GOOD}"), vec![], "unknown key");
}

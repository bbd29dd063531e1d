//! Paths of sources that are relative to the pipeline file, or to where the command is typed.
//!
//! Only the client knows what they are relative to, and only where coordinator and workers are on its own machine
//! do they mean the same there. Everywhere else they travel as they are, and the coordinator refuses them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use marquee_proto::v1::{self, document::Format};
use serde_json::Value;

use crate::context::Place;
use crate::error::Result;
use crate::say::say;

/// The overrides with which the document's sources have absolute paths: those that were given, made absolute
/// against the current folder, and more of them for paths of the document.
pub(crate) fn absolute(
    document: &v1::Document,
    file: &Path,
    mut set: Vec<v1::Override>,
    place: &Place,
) -> Result<Vec<v1::Override>> {
    // All of them: whichever leads has to find the same files.
    let mut all = std::iter::once(&place.addr).chain(&place.others);
    if !all.all(|addr| is_this_machine(addr)) {
        return Ok(set);
    }
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    for given in set.iter_mut().filter(|given| is_source_path(&given.path)) {
        if let Some(path) = found(&here, &text_of(&given.value)) {
            given.value = quoted(&path);
        }
    }
    let beside = match file.parent() {
        Some(folder) if file != Path::new("-") => here.join(folder),
        Some(_) | None => here,
    };
    for (key, written) in written_paths(document) {
        // Also one that sets a table around it: what was typed goes before what stands in the document.
        let is_given = |given: &v1::Override| {
            key == given.path || key.starts_with(&format!("{}.", given.path))
        };
        if set.iter().any(is_given) {
            continue;
        }
        if let Some(path) = found(&beside, &written) {
            say!("{key}: {written:?} is {}", path.display());
            let value = quoted(&path);
            set.push(v1::Override { path: key, value });
        }
    }
    Ok(set)
}

/// Whether an address is one of this machine alone.
fn is_this_machine(addr: &str) -> bool {
    let host = addr.split_once("://").map_or(addr, |(_, rest)| rest);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn is_source_path(key: &str) -> bool {
    key.starts_with("jobs.") && key.ends_with(".source.path")
}

/// What a path that is not absolute means here, if there is such a thing. A tunnel may end at another machine:
/// what is not there is not guessed at.
fn found(base: &Path, written: &str) -> Option<PathBuf> {
    let path = match written.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = std::env::var_os("HOME").filter(|home| !home.is_empty())?;
            // Joined with its slash it would be absolute, and the home forgotten.
            Path::new(&home).join(rest.trim_start_matches('/'))
        }
        Some(_) => return None,
        None if written.is_empty() || written.starts_with('/') => return None,
        None => base.join(written),
    };
    std::fs::canonicalize(path).ok()
}

/// The value of an override as text: a TOML string, or words that are none.
fn text_of(value: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Line {
        value: String,
    }
    match toml::from_str(&format!("value = {value}")) {
        Ok(Line { value }) => value,
        Err(_) => value.to_owned(),
    }
}

/// As a TOML string: every JSON string is one.
fn quoted(path: &Path) -> String {
    Value::from(path.display().to_string()).to_string()
}

/// The sources' paths as they stand in a document, by their keys. Of one that cannot be read there are none: the
/// coordinator says what is wrong with it.
fn written_paths(document: &v1::Document) -> Vec<(String, String)> {
    let value: Option<Value> = match &document.format {
        Some(Format::Toml(text)) => toml::from_str(text).ok(),
        Some(Format::Json(text)) => serde_json::from_str(text).ok(),
        None => None,
    };
    let jobs = value
        .as_ref()
        .and_then(|value| value.get("jobs")?.as_object());
    let path = |(name, job): (&String, &Value)| {
        let path = job.get("source")?.get("path")?.as_str()?;
        Some((format!("jobs.{name}.source.path"), path.to_owned()))
    };
    jobs.into_iter().flatten().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> v1::Document {
        let text = r#"
            [jobs.mine]
            source = { type = "folder", path = "pictures" }
            [jobs.list]
            source = { type = "list", path = "/data/list.csv" }
            [jobs.other]
            source = { type = "folder", path = "not-there" }"#;
        v1::Document {
            format: Some(Format::Toml(text.into())),
        }
    }

    fn given(path: &str, value: &str) -> v1::Override {
        let (path, value) = (path.to_owned(), value.to_owned());
        v1::Override { path, value }
    }

    #[test]
    fn a_path_beside_the_file_is_absolute_where_the_coordinator_is_here() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap();
        std::fs::create_dir(folder.join("pictures")).unwrap();
        let file = folder.join("p.toml");
        let at = |addr: &str| Place::local(addr);
        let set = absolute(&document(), &file, Vec::new(), &at("127.0.0.1:7700")).unwrap();
        let expected = format!("\"{}\"", folder.join("pictures").display());
        assert_eq!(set, [given("jobs.mine.source.path", &expected)]);
        for elsewhere in ["gpu-head.lab:7700", "https://10.0.0.7:7700"] {
            let set = absolute(&document(), &file, Vec::new(), &at(elsewhere)).unwrap();
            assert_eq!(set, [], "{elsewhere}");
        }
        // What is given goes first, also as a whole.
        for own in ["jobs.mine.source.path", "jobs.mine.source", "jobs.mine"] {
            let set = vec![given(own, "/x")];
            let kept = absolute(&document(), &file, set.clone(), &at("[::1]:7700")).unwrap();
            assert_eq!(kept, set);
        }
    }

    #[test]
    fn a_given_path_is_relative_to_the_current_folder() {
        // The current folder of a test is its package's.
        for value in ["src", "\"src\"", "'src'"] {
            let set = vec![given("jobs.list.source.path", value)];
            let place = Place::local("localhost:1");
            let set = absolute(&v1::Document::default(), Path::new("-"), set, &place).unwrap();
            let here = std::env::current_dir().unwrap().canonicalize().unwrap();
            assert_eq!(set[0].value, quoted(&here.join("src")), "{value}");
        }
    }
}

//! `cargo xtask sample clipart`: a real data set of drawings with labels, from a Debian package.
//!
//! The package `openclipart-png` holds drawings that their authors gave into the public domain,
//! sorted into folders. Invariants: the same package gives the same sample, byte for byte; a
//! drawing that lies in two folders is one picture with two labels; drawings whose names differ in
//! numbers alone are one group, for they are one drawing in variants.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use marquee_xtask::setup::cache_folder;
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report};

const PACKAGE: &str = "openclipart-png";
/// Where the package installs its drawings.
const INSIDE: &str = "usr/share/openclipart/png";
/// Folders of the package that are a class each.
const CLASSES: [&str; 12] = [
    "animals",
    "buildings",
    "computer",
    "food",
    "geography",
    "office",
    "people",
    "plants",
    "recreation",
    "signs_and_symbols",
    "tools",
    "transportation",
];
/// Folders below them that hold hundreds of drawings alike.
const LEFT_OUT: [&str; 1] = ["recreation/games/cards"];
/// Drawings of one class: some have ten times as many as others.
const CLASS_MAX: usize = 400;

/// Writes the sample into `to`, or into the target folder.
pub(crate) fn clipart(workspace: &Workspace, to: Option<&Path>) -> Result<ExitCode> {
    let folder = to.map_or_else(|| default_folder(workspace), Path::to_path_buf);
    ensure_clipart(&folder)?;
    writeln!(std::io::stdout(), "{}", folder.display())?;
    Ok(ExitCode::SUCCESS)
}

/// Where the sample goes unless said otherwise.
pub(crate) fn default_folder(workspace: &Workspace) -> PathBuf {
    workspace.bin_dir.join("../samples/clipart")
}

/// Makes the sample in `folder` if it is not there.
pub(crate) fn ensure_clipart(folder: &Path) -> Result<()> {
    let labels = folder.join("labels.csv");
    if labels.is_file() {
        report::note(&format!("the sample is there: {}", folder.display()));
        return Ok(());
    }
    report::step("sample: drawings from Debian's openclipart", || {
        let source = source()?;
        let pictures = choose(&source)?;
        let images = folder.join("images");
        if images.exists() {
            fs::remove_dir_all(&images)?;
        }
        fs::create_dir_all(&images)
            .with_context(|| format!("cannot create {}", images.display()))?;
        let mut text = String::from("path,labels,group\n");
        for picture in &pictures {
            fs::copy(&picture.source, folder.join(&picture.path))
                .with_context(|| format!("cannot copy {}", picture.source.display()))?;
            let labels = picture.labels.join("|");
            text.push_str(&format!("{},{labels},{}\n", picture.path, picture.group));
        }
        // Last: without it the folder is no sample.
        fs::write(&labels, text)?;
        let groups: std::collections::BTreeSet<&str> = pictures
            .iter()
            .map(|picture| picture.group.as_str())
            .collect();
        report::note(&format!(
            "{} pictures in {} groups and {} classes: {}",
            pictures.len(),
            groups.len(),
            CLASSES.len(),
            folder.display()
        ));
        Ok(())
    })
}

/// The drawings as the package has them: those installed, else from the package itself.
fn source() -> Result<PathBuf> {
    let installed = Path::new("/").join(INSIDE);
    if installed.is_dir() {
        return Ok(installed);
    }
    let cache = cache_folder()?.join(PACKAGE);
    let unpacked = cache.join(INSIDE);
    // Written last: without it a package that was unpacked in part would be taken for all.
    let stamp = cache.join("complete");
    if stamp.is_file() {
        return Ok(unpacked);
    }
    for tool in ["apt-get", "dpkg-deb"] {
        if process::on_path(tool).is_none() {
            bail!(
                "{tool} is not on PATH, and /{INSIDE} is not there; the sample is made from Debian's \
                 package {PACKAGE}: install it, or run this on Debian or Ubuntu"
            );
        }
    }
    fs::create_dir_all(&cache)?;
    report::note("fetching the package (131 MB) with apt-get");
    process::read(
        Command::new("apt-get")
            .current_dir(&cache)
            .args(["download", "-q", PACKAGE]),
    )
    .context("apt-get could not fetch it; \"apt-get update\" may help")?;
    let archive = fs::read_dir(&cache)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("apt-get left no .deb file")?;
    process::read(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&cache))?;
    fs::remove_file(&archive)?;
    fs::write(&stamp, "")?;
    Ok(unpacked)
}

/// One picture of the sample.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    source: PathBuf,
    /// Within the sample.
    path: String,
    labels: Vec<&'static str>,
    group: String,
}

fn choose(source: &Path) -> Result<Vec<Picture>> {
    let mut pictures: Vec<Picture> = Vec::new();
    let mut by_content: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    for class in CLASSES {
        let mut files = Vec::new();
        let folder = source.join(class);
        walk(source, &folder, &mut files)
            .with_context(|| format!("cannot read {}", folder.display()))?;
        files.sort();
        // Spread over the sorted names, for neighbours are variants of one drawing.
        for file in evenly(&files, CLASS_MAX) {
            let bytes = fs::read(file)?;
            let alike = by_content.entry(key(&bytes)).or_default();
            // Of the same hash and then of the same bytes: a drawing in two folders is one picture
            // with two labels.
            let twin = alike
                .iter()
                .copied()
                .find(|&at| fs::read(&pictures[at].source).is_ok_and(|other| other == bytes));
            if let Some(at) = twin {
                if !pictures[at].labels.contains(&class) {
                    pictures[at].labels.push(class);
                }
                continue;
            }
            alike.push(pictures.len());
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            let name = plain(&stem);
            let count = used.entry(name.clone()).or_default();
            *count += 1;
            let path = match *count {
                1 => format!("images/{name}.png"),
                again => format!("images/{name}-{again}.png"),
            };
            pictures.push(Picture {
                source: file.clone(),
                path,
                labels: vec![class],
                group: group_of(&stem),
            });
        }
    }
    Ok(pictures)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_left_out = LEFT_OUT.iter().any(|out| path == root.join(out));
        if path.is_dir() && !is_left_out {
            walk(root, &path, files)?;
        } else if path.extension().is_some_and(|end| end == "png") {
            files.push(path);
        }
    }
    Ok(())
}

/// At most `most` of `files`, evenly spread.
fn evenly(files: &[PathBuf], most: usize) -> impl Iterator<Item = &PathBuf> {
    let count = files.len();
    let taken = count.min(most);
    (0..taken).map(move |index| &files[index * count / taken])
}

/// Letters, digits, `-` and `_` alone: names that need no quoting anywhere.
fn plain(stem: &str) -> String {
    let keep = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '_'
        }
    };
    stem.chars().map(keep).collect()
}

/// What variants of one drawing share: the name without its numbers.
fn group_of(stem: &str) -> String {
    let letters: String = plain(stem)
        .chars()
        .filter(|c| !c.is_ascii_digit())
        .collect::<String>()
        .to_lowercase();
    let group = letters.trim_matches(['_', '-']);
    if group.is_empty() {
        return plain(stem);
    }
    group.to_owned()
}

/// Finds candidates; contents are compared byte by byte.
fn key(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_of_a_drawing_are_one_group() {
        assert_eq!(
            group_of("tigre01_architetto_franc_01"),
            "tigre_architetto_franc"
        );
        assert_eq!(
            group_of("Tigre05_architetto_franc_02"),
            group_of("tigre01_architetto_franc_01")
        );
        assert_eq!(group_of("1,2"), "1_2");
        assert_ne!(group_of("bee1_mimooh_01"), group_of("bug_nicu_buculei_01"));
    }

    #[test]
    fn a_drawing_in_two_folders_has_two_labels_and_the_cap_is_even() {
        let root = std::env::temp_dir().join(format!("marquee-sample-{}", std::process::id()));
        for class in CLASSES {
            fs::create_dir_all(root.join(class).join("sub")).unwrap();
        }
        fs::write(root.join("animals/sub/a 1.png"), "same").unwrap();
        fs::write(root.join("food/a.png"), "same").unwrap();
        fs::write(root.join("food/a 1.png"), "other").unwrap();
        fs::write(root.join("food/a.txt"), "no picture").unwrap();
        fs::create_dir_all(root.join(LEFT_OUT[0])).unwrap();
        fs::write(root.join(LEFT_OUT[0]).join("ace.png"), "ace").unwrap();
        let pictures = choose(&root).unwrap();
        let seen: Vec<(&str, String, &str)> = pictures
            .iter()
            .map(|p| (p.path.as_str(), p.labels.join("|"), p.group.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                ("images/a_1.png", "animals|food".to_owned(), "a"),
                ("images/a_1-2.png", "food".to_owned(), "a"),
            ]
        );
        fs::remove_dir_all(&root).unwrap();
        let files: Vec<PathBuf> = (0..10).map(|n| n.to_string().into()).collect();
        let few: Vec<&PathBuf> = evenly(&files, 4).collect();
        assert_eq!(few, [&files[0], &files[2], &files[5], &files[7]]);
    }
}

//! Which file a table means. Names are compared under NFC, since macOS takes accents apart and others do
//! not; capitals count only where they decide. A name that fits two files is refused and never guessed at.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use marquee_domain::nearest::nearest;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::sniff::Format;

/// Files that are compared with a name that none has, at most.
const COMPARED_MAX: usize = 200_000;

/// What a name in a table came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// The path of one file.
    One(String),
    /// Paths that it fits alike.
    Several(Vec<String>),
    None,
}

/// Whether a file is a picture by its name.
pub(super) fn is_picture(name: &str) -> bool {
    stem_of(name).is_some()
}

/// A name without its ending, if that is a picture's.
fn stem_of(name: &str) -> Option<&str> {
    Format::of_name(name)?;
    name.rsplit_once('.').map(|(stem, _)| stem)
}

/// A text with its accents composed.
pub(super) fn nfc(text: &str) -> String {
    if is_nfc(text) {
        text.to_owned()
    } else {
        text.nfc().collect()
    }
}

/// A text in which only what decides is left: accents composed, no capitals, one ending for JPEG.
pub(super) fn folded(text: &str) -> String {
    let mut folded = nfc(&text.to_lowercase());
    if let Some(stem) = folded.strip_suffix(".jpeg") {
        let end = stem.len();
        folded.truncate(end);
        folded.push_str(".jpg");
    }
    folded
}

fn parted(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The files of a folder or archive, by what tables call them.
#[derive(Debug)]
pub(super) struct Index<'a> {
    names: &'a [String],
    exact: HashSet<&'a str>,
    /// Every file by its folded name without folders.
    by_name: Places,
    /// Pictures by folded name without folders and ending.
    by_stem: Places,
}

/// Files by a text, in order of its hash: the texts of millions of files would fill memory once more.
#[derive(Debug, Default)]
struct Places(Vec<(u64, usize)>);

impl Places {
    fn add(&mut self, text: &str, at: usize) {
        self.0.push((hash_of(text), at));
    }

    /// Those that were added under `text`, and by chance some others.
    fn of(&self, text: &str) -> impl Iterator<Item = usize> {
        let hash = hash_of(text);
        let first = self.0.partition_point(|(other, _)| *other < hash);
        let found = self.0[first..]
            .iter()
            .take_while(move |(other, _)| *other == hash);
        found.map(|(_, at)| *at)
    }
}

fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl<'a> Index<'a> {
    pub(super) fn of(names: &'a [String]) -> Self {
        let (mut by_name, mut by_stem) = (Places::default(), Places::default());
        for (at, path) in names.iter().enumerate() {
            let name = folded(parted(path).1);
            if let Some(stem) = stem_of(&name) {
                by_stem.add(stem, at);
            }
            by_name.add(&name, at);
        }
        by_name.0.sort_unstable();
        by_stem.0.sort_unstable();
        Self {
            names,
            exact: names.iter().map(String::as_str).collect(),
            by_name,
            by_stem,
        }
    }

    /// Files whose folded name without folders is `name`.
    fn named<'b>(&'b self, name: &'b str) -> impl Iterator<Item = usize> + 'b {
        let found = self.by_name.of(name);
        // The hash may be another name's: the names themselves decide.
        found.filter(move |at| folded(parted(&self.names[*at]).1) == name)
    }

    /// Pictures whose folded name without folders and ending is `stem`.
    fn stemmed<'b>(&'b self, stem: &'b str) -> impl Iterator<Item = usize> + 'b {
        let found = self.by_stem.of(stem);
        found.filter(move |at| stem_of(&folded(parted(&self.names[*at]).1)) == Some(stem))
    }

    /// The file at `path`, but for accents and capitals.
    pub(super) fn at_path(&self, path: &str) -> Found {
        let path = cleaned(path);
        if self.exact.contains(path.as_str()) {
            return Found::One(path);
        }
        let wanted = folded(&path);
        let alike = self.named(parted(&wanted).1);
        let same = |at: &usize| folded(&self.names[*at]) == wanted;
        self.decide(&path, alike.filter(same).collect())
    }

    /// The picture that `id` means: a path, its end or its beginning lost on the way from another
    /// machine, or a name without folder or ending.
    pub(super) fn of_id(&self, id: &str) -> Found {
        let path = cleaned(id);
        if self.exact.contains(path.as_str()) {
            return Found::One(path);
        }
        let wanted = folded(&path);
        let (folders, name) = parted(&wanted);
        let has_ending = is_picture(name);
        let alike: Vec<usize> = if has_ending {
            self.named(name).collect()
        } else {
            self.stemmed(name).collect()
        };
        let mut tiers: [Vec<usize>; 3] = Default::default();
        for at in alike {
            let own = folded(&self.names[at]);
            let own_folders = parted(&own).0;
            if ends_with(own_folders, folders) {
                // All of what the table says.
                tiers[0].push(at);
            } else if ends_with(folders, own_folders) {
                // The table says more, such as where the files lay on another machine.
                tiers[1].push(at);
            } else if has_ending {
                tiers[2].push(at);
            }
        }
        // Of files whose whole path stands at the table's end the one that says the most.
        let most = |at: &usize| self.names[*at].matches('/').count();
        let longest = tiers[1].iter().map(most).max().unwrap_or(0);
        tiers[1].retain(|at| most(at) == longest);
        // One tier alone: a file that fits the whole path is not made doubtful by one that fits its
        // name.
        let first = tiers.into_iter().find(|tier| !tier.is_empty());
        self.decide(&path, first.unwrap_or_default())
    }

    /// One of these files, all alike but for accents and capitals.
    fn decide(&self, path: &str, mut alike: Vec<usize>) -> Found {
        if alike.len() > 1 {
            // The one that is written as the table writes it, if there is one.
            let name = nfc(parted(path).1);
            let as_written = |at: &usize| {
                let own = nfc(parted(&self.names[*at]).1);
                own == name || stem_of(&own) == Some(name.as_str())
            };
            if alike.iter().any(as_written) {
                alike.retain(as_written);
            }
        }
        match alike.as_slice() {
            [] => Found::None,
            [only] => Found::One(self.names[*only].clone()),
            several => Found::Several(several.iter().map(|at| self.names[*at].clone()).collect()),
        }
    }

    /// The file that is called most like `id`.
    pub(super) fn nearest(&self, id: &str) -> Option<&str> {
        let path = folded(&cleaned(id));
        let name = parted(&path).1;
        // The same name in another folder or with another ending comes before a similar one.
        let stem = stem_of(name).unwrap_or(name);
        if let Some(same) = self.stemmed(stem).next() {
            return Some(&self.names[same]);
        }
        let names: Vec<String> = self
            .names
            .iter()
            // Each is compared letter by letter, for a hint in a message: beyond this it would take
            // longer than the fetch.
            .take(COMPARED_MAX)
            .map(|own| folded(parted(own).1))
            .collect();
        let close = names
            .iter()
            .map(String::as_str)
            .filter(|own| own.len().abs_diff(name.len()) <= 3);
        let found = nearest(name, close)?;
        let at = self.named(found).next()?;
        Some(&self.names[at])
    }
}

/// A path as tables of every system write it, in the form that files have here.
fn cleaned(path: &str) -> String {
    let path = path.trim().replace('\\', "/");
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    parts.join("/")
}

/// Whether the folders `end` are the last of `folders`.
fn ends_with(folders: &str, end: &str) -> bool {
    end.is_empty()
        || folders
            .strip_suffix(end)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn shown(found: Found) -> String {
        match found {
            Found::One(path) => path,
            Found::Several(paths) => format!("several: {}", paths.join(" ")),
            Found::None => "none".to_owned(),
        }
    }

    #[test]
    fn an_id_is_its_picture_by_path_name_or_stem_and_never_by_guess() {
        let files = names(&[
            "images/000.jpg",
            "masks/000.png",
            "images/001.JPG",
            "a/x/view1.jpg",
            "b/x/view1.jpg",
            "pics/Cafe\u{301}.jpeg",
            "pics/B.jpg",
            "pics/b.jpg",
            "pics/t.v1.png",
            "notes.txt",
        ]);
        let index = Index::of(&files);
        for (id, found) in [
            ("000", "several: images/000.jpg masks/000.png"),
            ("images/000", "images/000.jpg"),
            ("000.png", "masks/000.png"),
            ("images\\000.jpg", "images/000.jpg"),
            // A picture that is missing is no other folder's.
            ("pictures/000", "none"),
            ("pictures/001.jpg", "images/001.JPG"),
            ("001", "images/001.JPG"),
            ("/home/me/set/images/001.jpg", "images/001.JPG"),
            ("view1", "several: a/x/view1.jpg b/x/view1.jpg"),
            ("/data/b/x/view1.jpg", "b/x/view1.jpg"),
            ("x/view1.jpg", "several: a/x/view1.jpg b/x/view1.jpg"),
            ("caf\u{e9}", "pics/Cafe\u{301}.jpeg"),
            ("CAF\u{c9}.jpg", "pics/Cafe\u{301}.jpeg"),
            ("b", "pics/b.jpg"),
            ("B.jpg", "pics/B.jpg"),
            ("b.JPG", "several: pics/B.jpg pics/b.jpg"),
            ("t.v1", "pics/t.v1.png"),
            ("t", "none"),
            ("002", "none"),
            ("", "none"),
        ] {
            assert_eq!(shown(index.of_id(id)), found, "{id}");
        }
    }

    #[test]
    fn a_path_is_its_file_but_for_accents_and_capitals() {
        let files = names(&[
            "img/a.JPG",
            "img/e\u{301}.png",
            "other/b.jpg",
            "notes.txt",
            "x/A.png",
            "x/a.png",
        ]);
        let index = Index::of(&files);
        for (path, found) in [
            ("img/a.jpg", "img/a.JPG"),
            ("IMG/a.JPG", "img/a.JPG"),
            ("./img\\\u{e9}.png", "img/e\u{301}.png"),
            ("notes.txt", "notes.txt"),
            ("img/b.jpg", "none"),
            ("x/a.PNG", "several: x/A.png x/a.png"),
            ("x/a.png", "x/a.png"),
            ("a", "none"),
        ] {
            assert_eq!(shown(index.at_path(path)), found, "{path}");
        }
    }

    #[test]
    fn what_is_missing_is_told_with_the_nearest_file() {
        let files = names(&["img/a_001.png", "img/b_002.jpg"]);
        let index = Index::of(&files);
        assert_eq!(index.nearest("a_001.jpg"), Some("img/a_001.png"));
        assert_eq!(index.nearest("img/a-001.png"), Some("img/a_001.png"));
        assert_eq!(index.nearest("quite/other.gif"), None);
        assert_eq!(Index::of(&[]).nearest("a"), None);
    }
}

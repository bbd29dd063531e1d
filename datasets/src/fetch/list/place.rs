//! Where a list says that a picture is: at a URL, or at a path below the list's folder.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::fetch::PICTURE_MAX_BYTES;
use crate::fetch::files::{miss_of_io, open_plain, read_up_to};
use crate::fetch::find::{Index, folded, nfc};
use crate::fetch::miss::{Miss, MissClass};

/// Schemes that are written without `//`.
const BARE_SCHEMES: [&str; 8] = [
    "about",
    "blob",
    "cid",
    "data",
    "file",
    "javascript",
    "mailto",
    "urn",
];
/// Folders whose names are kept, for paths that are not there as they are written.
const LISTINGS_MAX: usize = 64;
/// Missing files for which the nearest is looked for.
const NEAREST_MAX: u32 = 10;

/// Whether a place is a URL that can be fetched; a miss where it is another one.
pub(super) fn is_url(location: &str) -> Result<bool, Miss> {
    let Some((scheme, rest)) = location.split_once(':') else {
        return Ok(false);
    };
    let scheme = scheme.trim().to_ascii_lowercase();
    // One letter is a drive of Windows.
    let is_scheme = scheme.len() > 1
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let is_web = matches!(scheme.as_str(), "http" | "https");
    if !is_scheme || !(rest.starts_with("//") || is_web || BARE_SCHEMES.contains(&scheme.as_str()))
    {
        return Ok(false);
    }
    if is_web && rest.starts_with("//") {
        return Ok(true);
    }
    let way_out = match scheme.as_str() {
        "http" | "https" => "write two slashes behind the colon",
        "file" => "write the path below the list's folder",
        "data" => "write it to a file, and that file's path here",
        _ => "get the file first, and write its path below the list's folder",
    };
    let detail =
        format!("it begins with {scheme}:, and only http:// and https:// are fetched; {way_out}");
    Err(Miss::rejected(MissClass::OddUrl, detail))
}

/// The folder of a list.
#[derive(Debug)]
pub(super) struct ListFolder {
    root: PathBuf,
    /// Folders that were looked into.
    listings: Mutex<HashMap<PathBuf, Arc<Listing>>>,
    nearest_told: AtomicU32,
}

impl ListFolder {
    pub(super) fn of(list: &Path) -> Self {
        Self {
            root: list.parent().unwrap_or(Path::new("")).to_owned(),
            listings: Mutex::default(),
            nearest_told: AtomicU32::new(0),
        }
    }

    /// The bytes of the file at `location`.
    pub(super) fn read(&self, location: &str) -> Result<Vec<u8>, Miss> {
        // As tables of Windows have it.
        let location = location.replace('\\', "/");
        let is_below = Path::new(&location)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !is_below {
            let detail = "it leads out of the list's folder";
            return Err(Miss::rejected(MissClass::OddPath, detail));
        }
        read_up_to(self.open(&location)?, PICTURE_MAX_BYTES)
    }

    fn open(&self, location: &str) -> Result<File, Miss> {
        match open_plain(&self.root.join(location)) {
            // Only where the path is not there as it is written: a look into folders costs far
            // more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = self.alike(location)?;
                open_plain(&path).map_err(|error| miss_of_io(&error))
            }
            other => other.map_err(|error| miss_of_io(&error)),
        }
    }

    /// The file that is called `location` but for accents and capitals.
    fn alike(&self, location: &str) -> Result<PathBuf, Miss> {
        let mut path = self.root.clone();
        let parts = location
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".");
        for part in parts {
            if path.join(part).exists() {
                path.push(part);
                continue;
            }
            let listing = self.listing_of(&path);
            match listing.alike(part).as_slice() {
                [name] => path.push(name),
                several @ [_, _, ..] => {
                    let (count, names) = (several.len(), several.join(" and "));
                    let detail = format!("it fits {count} files: {names}");
                    return Err(Miss::rejected(MissClass::OddPath, detail));
                }
                [] => {
                    let mut detail = "there is no such file".to_owned();
                    if self.nearest_told.fetch_add(1, Ordering::Relaxed) < NEAREST_MAX
                        && let Some(nearest) = Index::of(&listing.names).nearest(part)
                    {
                        let nearest = path.join(nearest);
                        let nearest = nearest.strip_prefix(&self.root).unwrap_or(&nearest);
                        detail += &format!("; the nearest is {:?}", nearest.display().to_string());
                    }
                    return Err(Miss::Gone { detail });
                }
            }
        }
        Ok(path)
    }

    fn listing_of(&self, folder: &Path) -> Arc<Listing> {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listing) = listings.get(folder) {
            return listing.clone();
        }
        let listing = Arc::new(Listing::of(folder));
        if listings.len() >= LISTINGS_MAX {
            // All of them: a list goes through its folders one after the other.
            listings.clear();
        }
        listings.insert(folder.to_owned(), listing.clone());
        listing
    }
}

/// What is in one folder.
#[derive(Debug)]
struct Listing {
    names: Vec<String>,
    /// By name without what does not decide.
    by_folded: HashMap<String, Vec<usize>>,
}

impl Listing {
    fn of(folder: &Path) -> Self {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort();
        let mut by_folded: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, name) in names.iter().enumerate() {
            by_folded.entry(folded(name)).or_default().push(at);
        }
        Self { names, by_folded }
    }

    /// The names that are `name` but for accents and capitals; the one with the same capitals alone.
    fn alike(&self, name: &str) -> Vec<&str> {
        let places = self.by_folded.get(&folded(name)).into_iter().flatten();
        let alike: Vec<&str> = places.map(|at| self.names[*at].as_str()).collect();
        let wanted = nfc(name);
        match alike.iter().find(|own| nfc(own) == wanted) {
            Some(same) => vec![*same],
            None => alike,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_and_https_are_fetched_and_other_schemes_are_named() {
        for (location, wanted) in [
            ("http://h/a.jpg", Some(true)),
            ("HTTPS://h/a.jpg", Some(true)),
            ("img/a.jpg", Some(false)),
            ("img/12:30.jpg", Some(false)),
            ("shot:1.jpg", Some(false)),
            ("C:\\img\\a.jpg", Some(false)),
            ("ftp://h/a.jpg", None),
            ("file:/img/a.jpg", None),
            ("FILE:///img/a.jpg", None),
            ("s3://bucket/a.jpg", None),
            ("data:image/png;base64,AAAA", None),
            ("http:/h/a.jpg", None),
        ] {
            match (is_url(location), wanted) {
                (Ok(found), Some(wanted)) => assert_eq!(found, wanted, "{location}"),
                (Err(miss), None) => {
                    assert_eq!(miss.class(), "odd_url", "{location}");
                    assert!(
                        miss.detail().contains("only http:// and https://"),
                        "{miss:?}"
                    );
                    assert!(!miss.detail().contains("AAAA"), "{miss:?}");
                }
                (found, _) => panic!("{location}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_path_is_its_file_but_for_accents_capitals_and_separators() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::create_dir_all(path("Img/e\u{301}")).unwrap();
        for name in ["Img/e\u{301}/1.JPG", "Img/b.png", "Img/B.png"] {
            fs::write(path(name), name).unwrap();
        }
        let folder = ListFolder::of(&path("list.csv"));
        let read = |location: &str| match folder.read(location) {
            Ok(bytes) => String::from_utf8(bytes).unwrap(),
            Err(miss) => format!("{}: {}", miss.class(), miss.detail()),
        };
        assert_eq!(read("img\\\u{e9}/1.jpg"), "Img/e\u{301}/1.JPG");
        assert_eq!(read("Img/b.png"), "Img/b.png");
        assert_eq!(
            read("Img/b.PNG"),
            "odd_path: it fits 2 files: B.png and b.png"
        );
        assert_eq!(
            read("Img/c.png"),
            "gone: there is no such file; the nearest is \"Img/B.png\""
        );
        assert_eq!(
            read("../x.png"),
            "odd_path: it leads out of the list's folder"
        );
        assert_eq!(
            read("..\\x.png"),
            "odd_path: it leads out of the list's folder"
        );
        assert_eq!(read("Img/b.png/x"), "gone: there is no such file");
    }
}

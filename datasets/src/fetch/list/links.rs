//! Links below a list's folder that lead out of it. They are followed, since sets of pictures are often kept apart
//! from their lists, and they are counted and said: what is fetched through them lies in nobody's folder of this job.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::place::is_url;
use crate::fetch::files::note_of_links;

/// What has been seen of the links below a folder.
#[derive(Debug)]
pub(super) struct LinksOut {
    root: PathBuf,
    /// The same without links; None where it cannot be looked at, and then no path below it can.
    real: Option<PathBuf>,
    /// Of folders below it, whether they lead out. Rows of a list share few of them.
    folders: HashMap<PathBuf, bool>,
    found: HashSet<PathBuf>,
    first: Option<(String, PathBuf)>,
}

impl LinksOut {
    pub(super) fn of(list: &Path) -> Self {
        let root = list.parent().unwrap_or(Path::new("")).to_owned();
        let real = match root.as_os_str().is_empty() {
            true => fs::canonicalize("."),
            false => fs::canonicalize(&root),
        };
        Self {
            root,
            real: real.ok(),
            folders: HashMap::new(),
            found: HashSet::new(),
            first: None,
        }
    }

    /// Looks at where a row says that its picture is.
    pub(super) fn see(&mut self, location: &str) {
        if is_url(location).is_ok_and(|is_url| is_url) {
            return;
        }
        let location = location.replace('\\', "/");
        let mut parts = Vec::new();
        for part in Path::new(&location).components() {
            match part {
                Component::Normal(name) => parts.push(name),
                Component::CurDir => {}
                // Such a path is refused when it is asked for.
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return,
            }
        }
        let mut path = PathBuf::new();
        for (depth, part) in parts.iter().enumerate() {
            path.push(part);
            let is_folder = depth + 1 < parts.len();
            let leads_out = match self.folders.get(&path) {
                Some(known) => *known,
                None => {
                    let leads_out = self.leads_out(&path);
                    // Only folders are remembered: each file stands in one row, each folder in
                    // many.
                    if is_folder {
                        self.folders.insert(path.clone(), leads_out);
                    }
                    leads_out
                }
            };
            // What lies behind it is out with it, and no further link.
            if leads_out {
                return;
            }
        }
    }

    fn leads_out(&mut self, path: &Path) -> bool {
        let Some(real) = &self.real else { return false };
        let place = self.root.join(path);
        if !fs::symlink_metadata(&place).is_ok_and(|found| found.is_symlink()) {
            return false;
        }
        let Ok(target) = fs::canonicalize(&place) else {
            return false;
        };
        if target.starts_with(real) {
            return false;
        }
        if self.found.insert(path.to_owned()) {
            let name = path.display().to_string();
            self.first.get_or_insert((name, target));
        }
        true
    }

    /// What to say of them, where there are any.
    pub(super) fn note(&self) -> Option<String> {
        let (link, target) = self.first.as_ref()?;
        let count = u64::try_from(self.found.len()).unwrap_or(u64::MAX);
        Some(note_of_links(count, link, target, "the list's folder"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn each_link_that_leads_out_is_counted_once_however_many_pictures_lie_behind_it() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        for folder in ["mine/own", "elsewhere/deep"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        for file in ["mine/own/1.jpg", "elsewhere/2.jpg", "elsewhere/deep/3.jpg"] {
            fs::write(path(file), "x").unwrap();
        }
        symlink(path("elsewhere"), path("mine/there")).unwrap();
        symlink(path("elsewhere/2.jpg"), path("mine/own/two.jpg")).unwrap();
        symlink("own", path("mine/within")).unwrap();
        symlink("nothing", path("mine/nowhere.jpg")).unwrap();
        let list = path("mine/list.csv");
        let mut links = LinksOut::of(&list);
        for location in [
            "own/1.jpg",
            "within/1.jpg",
            "nowhere.jpg",
            "not/there.jpg",
            "../elsewhere/2.jpg",
            "/etc/passwd",
            "http://h/there/2.jpg",
            "",
        ] {
            links.see(location);
        }
        assert_eq!(links.note(), None);
        for location in [
            "there/2.jpg",
            "there\\deep\\3.jpg",
            "./there/2.jpg",
            "own/two.jpg",
        ] {
            links.see(location);
        }
        let note = links.note().unwrap();
        assert!(
            note.starts_with(
                "2 links lead out of the list's folder and were followed, such as \"there\" to "
            ),
            "{note}"
        );
        assert_eq!(LinksOut::of(&path("nowhere/list.csv")).note(), None);
    }
}

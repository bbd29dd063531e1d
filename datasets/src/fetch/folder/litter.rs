//! What lies among pictures and is none of them: hidden files, what file managers, archivers and notebooks
//! leave, and what is no file at all. It is passed over, and counted.

use std::collections::BTreeMap;

/// Files and folders that programs leave beside what people put there, in lower case.
const LITTER: [&str; 12] = [
    "__macosx",
    "__pycache__",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
];

/// Why something is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Hidden,
    Litter,
    SpecialFile,
    DanglingLink,
    LinkCircle,
    TooDeep,
    /// A link within an archive.
    ArchiveLink,
    /// A name that leads out of an archive.
    OddName,
}

impl Kind {
    /// The word that counts of it stand under.
    fn word(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Litter => "litter",
            Self::SpecialFile => "special_file",
            Self::DanglingLink => "dangling_link",
            Self::LinkCircle => "link_circle",
            Self::TooDeep => "too_deep",
            Self::ArchiveLink => "archive_link",
            Self::OddName => "odd_name",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Litter => "left by a file manager or notebook",
            Self::SpecialFile => "no plain file",
            Self::DanglingLink => "a link to nothing",
            Self::LinkCircle => "a link in a circle",
            Self::TooDeep => "too deep",
            Self::ArchiveLink => "a link within the archive",
            Self::OddName => "a name that leads out of the archive",
        }
    }
}

/// Why what is called `name` (one part of a path) is passed over, if it is.
pub(super) fn kind_of_name(name: &str) -> Option<Kind> {
    if name.starts_with('.') {
        return Some(Kind::Hidden);
    }
    let lower = name.to_lowercase();
    (LITTER.contains(&lower.as_str()) || lower.starts_with("~$")).then_some(Kind::Litter)
}

/// What was passed over: how many of each kind, and the first of them.
#[derive(Debug, Default)]
pub(super) struct PassedOver(BTreeMap<Kind, (u64, String)>);

impl PassedOver {
    pub(super) fn add(&mut self, kind: Kind, path: &str) {
        // The first of each kind is shown as an example: enough to find the others.
        let (count, _) = self.0.entry(kind).or_insert_with(|| (0, path.to_owned()));
        *count += 1;
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        let counts = self.0.iter();
        counts
            .map(|(kind, (count, _))| (kind.word().to_owned(), *count))
            .collect()
    }

    /// One sentence of all of it, if there is any.
    pub(super) fn note(&self) -> Option<String> {
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|(kind, (count, first))| {
                let such_as = if *count == 1 { "" } else { "such as " };
                format!("{count} {} ({such_as}{first:?})", kind.sentence())
            })
            .collect();
        (!parts.is_empty()).then(|| format!("passed over: {}", parts.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn litter_is_known_by_name_and_pictures_are_none() {
        for name in [".ipynb_checkpoints", ".DS_Store", "._cat.jpg", ".git"] {
            assert_eq!(kind_of_name(name), Some(Kind::Hidden), "{name}");
        }
        for name in [
            "__MACOSX",
            "Thumbs.db",
            "@eaDir",
            "~$labels.xlsx",
            "lost+found",
        ] {
            assert_eq!(kind_of_name(name), Some(Kind::Litter), "{name}");
        }
        for name in ["cat", "cat.jpg", "_cat", "a.b", "recycle"] {
            assert_eq!(kind_of_name(name), None, "{name}");
        }
    }

    #[test]
    fn what_was_passed_over_is_told_in_one_sentence() {
        let mut passed = PassedOver::default();
        assert_eq!(passed.note(), None);
        passed.add(Kind::Litter, "Thumbs.db");
        passed.add(Kind::Hidden, "cat/.ipynb_checkpoints");
        passed.add(Kind::Hidden, "dog/.x");
        insta::assert_snapshot!(passed.note().unwrap(), @r#"passed over: 2 hidden (such as "cat/.ipynb_checkpoints"), 1 left by a file manager or notebook ("Thumbs.db")"#);
        assert_eq!(passed.counts()["hidden"], 2);
    }
}

//! The modules of a crate, the file of each, and what each names of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::lexer::{Kind, Token, tokens};

/// Where a module stands: the names that lead to it from the crate's root.
type Name = Vec<String>;

/// A file that names something that another file of its crate defines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) from: PathBuf,
    pub(super) line: usize,
    /// As it is written.
    pub(super) path: String,
    pub(super) to: PathBuf,
}

/// A path that a file names, before anybody knows where it leads.
#[derive(Debug, Clone)]
struct Named {
    /// The module in whose text it stands.
    module: Name,
    line: usize,
    path: Vec<String>,
}

#[derive(Debug, Default)]
struct Crate {
    /// Every module and the file that holds its text.
    files: BTreeMap<Name, PathBuf>,
    named: Vec<Named>,
    /// What a module calls by a name of its own: `use` gives it. By module and name.
    imports: BTreeMap<(Name, String), Vec<String>>,
    /// Those of them that are for others as well: `pub use`.
    passed_on: BTreeSet<(Name, String)>,
}

/// Reads the crate with this main file; what its files use of one another.
pub(super) fn read(main: &Path) -> Result<Vec<Use>> {
    let mut found = Crate::default();
    let folder = main.parent().context("a file without a folder")?;
    found.read_file(Vec::new(), main.to_owned(), folder)?;
    Ok(found.uses())
}

impl Crate {
    /// Reads the file of a module and those of the modules that it declares. `folder` holds these.
    fn read_file(&mut self, module: Name, file: PathBuf, folder: &Path) -> Result<()> {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        self.files.insert(module.clone(), file.clone());
        let mut reader = Reader {
            tokens: &tokens(&text),
            at: 0,
            file: &file,
            is_test: false,
            path_attribute: None,
            children: Vec::new(),
            found: self,
        };
        reader.module(&module, folder);
        let children = reader.children;
        for child in children {
            self.read_file(child.module, child.file, &child.folder)?;
        }
        Ok(())
    }

    /// What is named, with the files that define it. A module that stands above the one that names it is
    /// left out.
    fn uses(&self) -> Vec<Use> {
        let uses = self.named.iter().filter_map(|named| {
            if let [word] = named.path.as_slice() {
                // Any variable may be called as a module is; what a `use` gave was named there, but where
                // it was passed on.
                let key = (named.module.clone(), word.clone());
                self.passed_on.get(&key)?;
            }
            let target = self.resolve(&named.module, &named.path, &mut BTreeSet::new())?;
            let (from, to) = (&self.files[&named.module], &self.files[&target]);
            let is_above = (0..=named.module.len())
                .any(|length| self.files.get(&named.module[..length]) == Some(to));
            (!is_above).then(|| Use {
                from: from.clone(),
                line: named.line,
                path: named.path.join("::"),
                to: to.clone(),
            })
        });
        uses.collect()
    }

    /// The module that defines what `path` names in `module`. None: another crate, or nothing.
    fn resolve(
        &self,
        module: &Name,
        path: &[String],
        seen: &mut BTreeSet<(Name, String)>,
    ) -> Option<Name> {
        let mut here = module.clone();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => {
                here.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|word| word == "super") {
                    here.pop()?;
                    rest = &rest[1..];
                }
            }
            first => {
                // A module below, or a name that a `use` gave; all else is of other crates.
                let child = [here.as_slice(), &[first.to_owned()]].concat();
                let is_import = self.imports.contains_key(&(here.clone(), first.to_owned()));
                if !self.files.contains_key(&child) && !is_import {
                    return None;
                }
            }
        }
        for (at, word) in rest.iter().enumerate() {
            // A module before an import of the same name: the module's file is what is meant.
            let child = [here.as_slice(), std::slice::from_ref(word)].concat();
            if self.files.contains_key(&child) {
                here = child;
                continue;
            }
            let key = (here.clone(), word.clone());
            // Modules may pass on each other's names in a circle: what was followed once is not followed again.
            if let Some(import) = self.imports.get(&key)
                && seen.insert(key)
            {
                let whole = [import.as_slice(), &rest[at + 1..]].concat();
                return self.resolve(&here, &whole, seen);
            }
            // What is left of the path are items of this module, or parts of these.
            break;
        }
        Some(here)
    }
}

/// A module that stands in a file of its own.
#[derive(Debug)]
struct Child {
    module: Name,
    file: PathBuf,
    folder: PathBuf,
}

/// Reads the tokens of one file.
struct Reader<'r> {
    tokens: &'r [Token<'r>],
    at: usize,
    file: &'r Path,
    /// Whether the attribute that was just read keeps the next item out of the program.
    is_test: bool,
    /// The file that the attribute just read gives to the next module.
    path_attribute: Option<String>,
    children: Vec<Child>,
    found: &'r mut Crate,
}

impl<'r> Reader<'r> {
    fn kind(&self, ahead: usize) -> Option<Kind<'r>> {
        Some(self.tokens.get(self.at + ahead)?.kind)
    }

    fn is_sign(&self, sign: char) -> bool {
        self.kind(0) == Some(Kind::Sign(sign))
    }

    fn word(&self, ahead: usize) -> Option<&'r str> {
        match self.kind(ahead)? {
            Kind::Word(word) => Some(word),
            Kind::Colons | Kind::Text(_) | Kind::Sign(_) => None,
        }
    }

    /// Reads until the brace that ends the module, or the end of the file.
    fn module(&mut self, module: &Name, folder: &Path) {
        let mut depth = 0_usize;
        // Whether what is being read is a `pub use`.
        let mut is_public = false;
        while let Some(kind) = self.kind(0) {
            match kind {
                Kind::Sign('#') if matches!(self.kind(1), Some(Kind::Sign('[' | '!'))) => {
                    self.attribute();
                    if std::mem::take(&mut self.is_test) {
                        self.skip_item();
                    }
                    continue;
                }
                Kind::Sign('{') => depth += 1,
                Kind::Sign('}') if depth == 0 => return,
                Kind::Sign('}') => depth -= 1,
                Kind::Word("pub") => {
                    is_public = true;
                    self.at += 1;
                    if self.is_sign('(') {
                        self.skip_group('(', ')');
                    }
                    continue;
                }
                Kind::Word("mod") if self.word(1).is_some() => self.declaration(module, folder),
                // Not the `use<>` of a return type.
                Kind::Word("use") if self.kind(1) != Some(Kind::Sign('<')) => {
                    self.at += 1;
                    self.use_tree(module, &[], is_public);
                }
                // A method or field is of no module.
                Kind::Sign('.') if self.word(1).is_some() => self.at += 1,
                Kind::Word(_) => {
                    self.path(module);
                    is_public = false;
                    continue;
                }
                Kind::Colons | Kind::Text(_) | Kind::Sign(_) => {}
            }
            is_public = false;
            self.at += 1;
        }
    }

    /// Reads `#[...]` or `#![...]`.
    fn attribute(&mut self) {
        self.at += 1;
        if self.is_sign('!') {
            self.at += 1;
        }
        let start = self.at;
        self.skip_group('[', ']');
        let words: Vec<&str> = self.tokens[start..self.at]
            .iter()
            .filter_map(|token| match token.kind {
                Kind::Word(word) => Some(word),
                Kind::Text(text) => Some(text),
                Kind::Colons | Kind::Sign(_) => None,
            })
            .collect();
        match words.as_slice() {
            ["cfg", rest @ ..] if rest.contains(&"test") && !rest.contains(&"not") => {
                self.is_test = true;
            }
            ["path", file] => self.path_attribute = Some((*file).to_owned()),
            _ => {}
        }
    }

    /// Moves behind the group that opens here.
    fn skip_group(&mut self, open: char, close: char) {
        let mut depth = 0_usize;
        while let Some(kind) = self.kind(0) {
            self.at += 1;
            if kind == Kind::Sign(open) {
                depth += 1;
            } else if kind == Kind::Sign(close) {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return;
                }
            }
        }
    }

    /// Moves behind the item that begins here: its last brace, or the semicolon where it has none.
    fn skip_item(&mut self) {
        while self.is_sign('#') {
            self.attribute();
        }
        self.is_test = false;
        self.path_attribute = None;
        while let Some(kind) = self.kind(0) {
            match kind {
                Kind::Sign('{') => {
                    let is_use =
                        self.tokens[..self.at].last().map(|t| t.kind) == Some(Kind::Colons);
                    self.skip_group('{', '}');
                    if !is_use {
                        return;
                    }
                }
                Kind::Sign('(') => self.skip_group('(', ')'),
                Kind::Sign('[') => self.skip_group('[', ']'),
                Kind::Sign(';' | '}') => {
                    // A closing brace is of what the item stands in.
                    if kind == Kind::Sign(';') {
                        self.at += 1;
                    }
                    return;
                }
                Kind::Word(_) | Kind::Colons | Kind::Text(_) | Kind::Sign(_) => self.at += 1,
            }
        }
    }

    /// Reads `mod name;` or `mod name { ... }`; ends on its last token.
    fn declaration(&mut self, module: &Name, folder: &Path) {
        let name = self.word(1).unwrap_or_default();
        let child = [module.as_slice(), &[name.to_owned()]].concat();
        let own_folder = folder.join(name);
        self.at += 2;
        if self.is_sign('{') {
            self.at += 1;
            self.found.files.insert(child.clone(), self.file.to_owned());
            self.module(&child, &own_folder);
            return;
        }
        let beside = folder.join(format!("{name}.rs"));
        let file = match self.path_attribute.take() {
            // Such a path starts in the folder of the file that names it.
            Some(path) => self.file.with_file_name(path),
            None if beside.is_file() => beside,
            None => own_folder.join("mod.rs"),
        };
        self.children.push(Child {
            module: child,
            file,
            folder: own_folder,
        });
    }

    /// Reads one branch of a `use`; ends on the semicolon, comma or brace behind it.
    fn use_tree(&mut self, module: &Name, before: &[String], is_public: bool) {
        let mut path = before.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        let mut called = None;
        while let Some(kind) = self.kind(0) {
            match kind {
                Kind::Word("as") => {
                    called = self.word(1).map(str::to_owned);
                    self.at += 1;
                }
                // `a::{self}` is `a`.
                Kind::Word("self") if !path.is_empty() => {}
                Kind::Word(word) => path.push(word.to_owned()),
                Kind::Sign('{') => {
                    while !self.is_sign('}') && self.kind(0).is_some() {
                        self.at += 1;
                        if !self.is_sign('}') {
                            self.use_tree(module, &path, is_public);
                        }
                    }
                    self.at += 1;
                    return;
                }
                Kind::Sign('*') => called = Some("*".to_owned()),
                Kind::Sign(';' | ',' | '}') => break,
                Kind::Colons | Kind::Text(_) | Kind::Sign(_) => {}
            }
            self.at += 1;
        }
        if let Some(last) = path.last() {
            let key = (module.clone(), called.unwrap_or_else(|| last.clone()));
            if is_public {
                self.found.passed_on.insert(key.clone());
            }
            self.found.imports.insert(key, path.clone());
        }
        // Who only passes a thing on does not need it; where it does, its code names it as well.
        if !is_public {
            self.found.named.push(Named {
                module: module.clone(),
                line,
                path,
            });
        }
    }

    /// Reads `word` or `word::word::word`.
    fn path(&mut self, module: &Name) {
        let line = self.tokens[self.at].line;
        let mut path = Vec::new();
        while let Some(word) = self.word(0) {
            path.push(word.to_owned());
            self.at += 1;
            let goes_on = self.kind(0) == Some(Kind::Colons) && self.word(1).is_some();
            if !goes_on {
                break;
            }
            self.at += 1;
        }
        self.found.named.push(Named {
            module: module.clone(),
            line,
            path,
        });
    }
}

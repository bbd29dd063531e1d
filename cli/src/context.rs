//! Where the coordinator is, or the coordinators of which one leads: `--addr`, else `MARQUEE_ADDR`, else the context
//! file, else the default port of this machine.
//!
//! The context file (`~/.config/marquee/context.toml`, or what `MARQUEE_CONTEXT` names) is either
//! the user's own or was written by a running `marquee up`; the latter never touches the former. Who has none gets that of
//! the host (`/etc/marquee/context.toml`), which whoever runs it wrote for all, or `marquee-coordinator init`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::bearer::Bearer;
use crate::error::{CliError, Result};
use crate::say::say;

/// Where `marquee up` listens, and where the CLI looks when nothing says otherwise.
pub(crate) const DEFAULT_ADDR: &str = "127.0.0.1:7700";
/// The context of a host's users that have none of their own.
const OF_HOST: &str = "/etc/marquee/context.toml";
/// Coordinators that may be named.
const COORDINATORS_MAX: usize = 8;

/// The context file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContextFile {
    /// Such as `127.0.0.1:7700` or `https://gpu-head.lab:7700`, or a list of them.
    pub addr: Addresses,
    /// Process id of the `marquee up` that wrote the file; absent in a file of the user's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// One address, or a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Addresses {
    One(String),
    Several(Vec<String>),
}

impl Addresses {
    /// As `--addr` would say it.
    fn text(&self) -> String {
        match self {
            Self::One(addr) => addr.clone(),
            Self::Several(all) => all.join(","),
        }
    }
}

/// Certificates for a coordinator behind TLS. Paths, relative to the context file's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// The certificates that sign the coordinator's.
    pub ca: PathBuf,
    /// This user's certificate, where the coordinator asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The name in the coordinator's certificate, where it is not the one in `addr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

/// A coordinator to speak with, and who said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// With a scheme, `http://` or `https://`.
    pub addr: String,
    /// The other coordinators of the cluster, likewise.
    pub others: Vec<String>,
    /// In words, for errors.
    pub origin: String,
    pub tls: Option<Tls>,
    /// The context file was written by a `marquee up` that is gone.
    pub stale: bool,
    /// By which the user shows who he is.
    pub token: Option<Bearer>,
}

impl Place {
    /// A place that the program itself chose.
    pub(crate) fn local(addr: &str) -> Self {
        Self {
            addr: with_scheme(addr, false),
            others: Vec::new(),
            origin: "just started".into(),
            tls: None,
            stale: false,
            token: None,
        }
    }
}

/// Finds the coordinator's address. `flag` is `--addr`, `env` is `MARQUEE_ADDR`.
pub(crate) fn find(flag: Option<&str>, env: Option<&str>, path: Option<&Path>) -> Result<Place> {
    let file = path.map(load).transpose()?.flatten();
    let tls = file.as_ref().and_then(|file| file.tls.clone());
    let stated = match (flag, env.filter(|addr| !addr.is_empty())) {
        (Some(addr), _) => Some((addr, "from --addr".to_owned())),
        (None, Some(addr)) => Some((addr, "from MARQUEE_ADDR".to_owned())),
        (None, None) => None,
    };
    if let Some((addr, origin)) = stated {
        let (addr, others) = several(addr, false, &origin)?;
        // Who types an address without https means one without, whatever the file has for its own.
        let tls = tls.filter(|_| addr.starts_with("https://"));
        return Ok(Place {
            addr,
            others,
            origin,
            tls,
            stale: false,
            token: None,
        });
    }
    let Some((file, path)) = file.zip(path) else {
        return Ok(Place {
            origin: "the default".into(),
            ..Place::local(DEFAULT_ADDR)
        });
    };
    let origin = format!("from {}", path.display());
    let (addr, others) = several(&file.addr.text(), file.tls.is_some(), &origin)?;
    Ok(Place {
        addr,
        others,
        origin,
        tls: file.tls,
        // Not refused for it: the coordinator may have been started again by other means, and if it
        // was not, the error says this.
        stale: file.up_pid.is_some_and(|pid| !is_alive(pid)),
        token: None,
    })
}

/// The addresses in a text with commas between them, each with its scheme: the first, and the others.
fn several(text: &str, tls: bool, origin: &str) -> Result<(String, Vec<String>)> {
    let all = text
        .split(',')
        .map(str::trim)
        .filter(|addr| !addr.is_empty());
    let mut all = all.map(|addr| with_scheme(addr, tls));
    let wrong = |why: &str| CliError::Usage(format!("\"{text}\" ({origin}) {why}"));
    let first = all
        .next()
        .ok_or_else(|| wrong("names no address; write host:port, as in 127.0.0.1:7700"))?;
    let others: Vec<String> = all.collect();
    if others.len() >= COORDINATORS_MAX {
        return Err(wrong("names more coordinators than any cluster has"));
    }
    let is_secure = |addr: &str| addr.starts_with("https://");
    if others
        .iter()
        .any(|other| is_secure(other) != is_secure(&first))
    {
        return Err(wrong(
            "has addresses with TLS and without; write https:// before all of them, or before none",
        ));
    }
    Ok((first, others))
}

fn with_scheme(addr: &str, tls: bool) -> String {
    if let Some((scheme, rest)) = addr.split_once("://") {
        // Whether it is TLS is asked by its letters.
        format!("{}://{rest}", scheme.to_ascii_lowercase())
    } else if tls {
        format!("https://{addr}")
    } else {
        format!("http://{addr}")
    }
}

/// The context file to read: the user's, or the host's where he has none. A file that `MARQUEE_CONTEXT` names stands for
/// itself.
pub(crate) fn path_to_read() -> Option<PathBuf> {
    let own = default_path();
    let is_named = std::env::var_os("MARQUEE_CONTEXT").is_some_and(|name| !name.is_empty());
    own_or_hosts(own, is_named, Path::new(OF_HOST))
}

fn own_or_hosts(own: Option<PathBuf>, is_named: bool, of_host: &Path) -> Option<PathBuf> {
    let has_own = own.as_ref().is_some_and(|own| is_named || own.exists());
    if !has_own && of_host.exists() {
        return Some(of_host.to_owned());
    }
    own
}

/// The user's context file, where the environment allows one.
pub(crate) fn default_path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = set("MARQUEE_CONTEXT") {
        return Some(path.into());
    }
    let config = set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".config")))?;
    Some(config.join("marquee/context.toml"))
}

/// Reads a context file; None where there is none.
fn load(path: &Path) -> Result<Option<ContextFile>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let error = anyhow::Error::new(error);
            return Err(error
                .context(format!("cannot read {}", path.display()))
                .into());
        }
    };
    let mut file: ContextFile = toml::from_str(&text).map_err(|error| {
        let at = path.display();
        CliError::Usage(format!(
            "{at} is no context file: {error}  it holds `addr = \"host:port\"` (or a list of them) and, for TLS, a \
             table `[tls]` with `ca`, `cert` and `key`"
        ))
    })?;
    if let Some(tls) = &mut file.tls {
        resolve_paths(tls, path.parent().unwrap_or(Path::new(".")));
        warn_of_open_key(tls);
    }
    Ok(Some(file))
}

fn resolve_paths(tls: &mut Tls, folder: &Path) {
    for path in [Some(&mut tls.ca), tls.cert.as_mut(), tls.key.as_mut()]
        .into_iter()
        .flatten()
    {
        *path = folder.join(&*path);
    }
}

fn warn_of_open_key(tls: &Tls) {
    let Some(key) = &tls.key else { return };
    let mode = fs::metadata(key).map(|meta| meta.permissions().mode() & 0o077);
    if mode.is_ok_and(|open_to_others| open_to_others != 0) {
        let key = key.display();
        say!("warning: the key {key} can be read by others; run \"chmod 600 {key}\"");
    }
}

/// Whether a process lives. If its pid was given to another program meanwhile, the answer is wrong, and
/// an error has one hint less.
fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// The context that a running `marquee up` left for other terminals; removed when dropped.
#[derive(Debug)]
pub(crate) struct UpContext {
    path: PathBuf,
    text: String,
}

/// Whether the context was written.
#[derive(Debug)]
pub(crate) enum Written {
    Yes(#[allow(dead_code, reason = "held for what its drop does")] UpContext),
    /// There is a file that is not ours to replace.
    KeptOther {
        path: PathBuf,
        addr: String,
    },
}

impl UpContext {
    /// Writes the context of this process, unless a user's own file, or that of another running
    /// `up`, is there.
    pub(crate) fn write(path: &Path, addr: &str, pid: u32) -> Result<Written> {
        // A file that cannot be read is an error and not replaced: it may be the user's own with a
        // slip in it.
        if let Some(other) = load(path)? {
            let is_ours_to_replace = other.up_pid.is_some_and(|pid| !is_alive(pid));
            if !is_ours_to_replace {
                return Ok(Written::KeptOther {
                    path: path.to_owned(),
                    addr: other.addr.text(),
                });
            }
        }
        let file = ContextFile {
            addr: Addresses::One(addr.to_owned()),
            up_pid: Some(pid),
            tls: None,
        };
        let text = toml::to_string(&file).context("cannot write a context as TOML")?;
        write_private(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Written::Yes(Self {
            path: path.to_owned(),
            text,
        }))
    }
}

/// Writes a file whole and for this user alone.
pub(crate) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // Another command may read the file at any moment: it finds the old one or the new one whole.
    let aside = path.with_extension("toml.part");
    // A left-over of a run that was killed may have another mode.
    let _ = fs::remove_file(&aside);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        // With the open, not after it: in between others could open it.
        .mode(0o600)
        .open(&aside)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&aside, path)
}

impl Drop for UpContext {
    fn drop(&mut self) {
        // Somebody may have written their own file meanwhile: that one stays.
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("context.toml");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn the_flag_wins_over_the_variable_over_the_file_over_the_default() {
        let (_folder, path) = file("addr = \"10.0.0.1:1\"\n");
        let addr = |flag, env, path| find(flag, env, path).unwrap().addr;
        assert_eq!(
            addr(Some("a:1"), Some("b:2"), Some(path.as_path())),
            "http://a:1"
        );
        assert_eq!(addr(None, Some("b:2"), Some(path.as_path())), "http://b:2");
        assert_eq!(
            addr(None, Some(""), Some(path.as_path())),
            "http://10.0.0.1:1"
        );
        assert_eq!(
            addr(None, None, Some(Path::new("/nowhere/c.toml"))),
            "http://127.0.0.1:7700"
        );
    }

    #[test]
    fn several_coordinators_are_a_list_or_have_commas_between_them() {
        let (_folder, path) = file("addr = [\"a:1\", \"b:2\"]\n[tls]\nca = \"ca.pem\"\n");
        let place = find(None, None, Some(path.as_path())).unwrap();
        assert_eq!(place.addr, "https://a:1");
        assert_eq!(place.others, ["https://b:2"]);
        let place = find(Some("a:1,b:2, c:3"), None, None).unwrap();
        assert_eq!(place.addr, "http://a:1");
        assert_eq!(place.others, ["http://b:2", "http://c:3"]);
        for wrong in [",", "a:1,https://b:2", "a,b,c,d,e,f,g,h,i"] {
            let error = find(Some(wrong), None, None).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(error.to_string().contains("--addr"), "{error}");
        }
    }

    #[test]
    fn a_scheme_is_one_in_any_letters_and_never_less_safe_than_it_was_written() {
        let (_folder, path) = file("addr = \"head:7700\"\n[tls]\nca = \"ca.pem\"\n");
        for (addr, as_asked, has_tls) in [
            ("head:1", "http://head:1", false),
            ("https://head:1", "https://head:1", true),
            ("HTTPS://head:1", "https://head:1", true),
            ("Http://head:1", "http://head:1", false),
            ("[::1]:1", "http://[::1]:1", false),
        ] {
            let place = find(Some(addr), None, Some(path.as_path())).unwrap();
            assert_eq!(place.addr, as_asked, "{addr}");
            assert_eq!(place.tls.is_some(), has_tls, "{addr}");
        }
        assert!(find(Some("HTTPS://a:1,https://b:2"), None, None).is_ok());
        assert!(find(Some("HTTPS://a:1,b:2"), None, None).is_err());
    }

    #[test]
    fn a_folder_in_the_place_of_a_context_and_letters_that_are_none_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let error = find(None, None, Some(folder.path())).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&folder.path().display().to_string()),
            "{error}"
        );
        let path = folder.path().join("context.toml");
        fs::write(&path, b"addr = \"\xff\"\n").unwrap();
        let error = find(None, None, Some(path.as_path())).unwrap_err();
        assert!(error.to_string().contains("context.toml"), "{error}");
        for wrong in [
            "addr = 7700\n",
            "addr = []\n",
            "addr = \"\"\n",
            "addr = \"a:1\"\n[tls]\n",
            "addr = \"a:1\"\n[tls]\nca = 1\n",
            "addr = \"a:1\"\ntoken = \"x\"\n",
        ] {
            fs::write(&path, wrong).unwrap();
            let error = find(None, None, Some(path.as_path())).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong:?}: {error}");
        }
    }

    #[test]
    fn a_second_up_leaves_the_context_of_one_that_runs() {
        let (_folder, path) = file("");
        fs::remove_file(&path).unwrap();
        let mine = std::process::id();
        let first = UpContext::write(&path, "127.0.0.1:1", mine).unwrap();
        let second = UpContext::write(&path, "127.0.0.1:2", mine).unwrap();
        assert!(matches!(second, Written::KeptOther { ref addr, .. } if addr == "127.0.0.1:1"));
        drop(second);
        assert!(path.exists());
        // What somebody wrote over it meanwhile is theirs.
        fs::write(&path, "addr = \"head:7700\"\n").unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn what_a_killed_run_left_beside_the_context_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/context.toml");
        let aside = path.with_extension("toml.part");
        fs::create_dir_all(aside.parent().unwrap()).unwrap();
        fs::write(&aside, "half").unwrap();
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o444)).unwrap();
        write_private(&path, "whole").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        assert!(!aside.exists());
    }

    #[test]
    fn a_context_with_tls_means_https_and_paths_beside_it() {
        let (folder, path) = file("addr = \"head:7700\"\n[tls]\nca = \"ca.pem\"\n");
        let place = find(None, None, Some(&path)).unwrap();
        assert_eq!(place.addr, "https://head:7700");
        assert_eq!(place.tls.unwrap().ca, folder.path().join("ca.pem"));
    }

    #[test]
    fn who_has_no_context_gets_that_of_the_host() {
        let (folder, of_host) = file("addr = \"head:7700\"\n[tls]\nca = \"ca.pem\"\n");
        let own = folder.path().join("own.toml");
        let found = |is_named, of_host: &Path| own_or_hosts(Some(own.clone()), is_named, of_host);
        assert_eq!(found(false, &of_host), Some(of_host.clone()));
        assert_eq!(own_or_hosts(None, false, &of_host), Some(of_host.clone()));
        // Whoever names a file means that one, and is told when it is not there.
        assert_eq!(found(true, &of_host), Some(own.clone()));
        assert_eq!(
            found(false, Path::new("/nowhere/c.toml")),
            Some(own.clone())
        );
        fs::write(&own, "addr = \"a:1\"\n").unwrap();
        assert_eq!(found(false, &of_host), Some(own.clone()));
    }

    #[test]
    fn a_wrong_context_file_is_named_with_the_way_out() {
        let (_folder, path) = file("adr = \"x\"\n");
        let error = find(None, None, Some(&path)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(
            text.contains("context.toml") && text.contains("`addr ="),
            "{text}"
        );
    }

    #[test]
    fn up_leaves_the_users_own_context_alone() {
        let (_folder, path) = file("addr = \"head:7700\"\n");
        let written = UpContext::write(&path, "127.0.0.1:1", 1).unwrap();
        assert!(matches!(written, Written::KeptOther { ref addr, .. } if addr == "head:7700"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "addr = \"head:7700\"\n");
    }

    #[test]
    fn up_replaces_what_a_dead_up_left_and_takes_its_own_away() {
        // No process has the highest possible pid plus one.
        let (_folder, path) = file("addr = \"127.0.0.1:9\"\nup_pid = 4194305\n");
        assert!(find(None, None, Some(&path)).unwrap().stale);
        let written = UpContext::write(&path, "127.0.0.1:1", std::process::id()).unwrap();
        let place = find(None, None, Some(&path)).unwrap();
        assert_eq!(
            (place.addr.as_str(), place.stale),
            ("http://127.0.0.1:1", false)
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        drop(written);
        assert!(!path.exists());
    }
}

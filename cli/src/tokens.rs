//! The user's token: from `MARQUEE_TOKEN`, or the file that `MARQUEE_TOKEN_FILE` names, or what `marquee login` kept for
//! the coordinator's address.
//!
//! Invariant: a token is sent to the coordinator that it was kept for, over TLS or within this host; it is never an
//! argument, which every account of a host can read, and never printed but by who makes one.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::bearer::Bearer;
use crate::context::{Place, write_private};
use crate::error::{CliError, Result};
use crate::say::say;

/// The file beside the context file.
const FILE: &str = "tokens.toml";
/// Bytes of a file with a token that are read.
const TOKEN_FILE_MAX_BYTES: u64 = 4_096;

/// Whether a token may be sent to an address: nobody on the way can read it.
pub(crate) fn may_carry(addr: &str) -> bool {
    let Some(rest) = addr.strip_prefix("http://") else {
        return addr.starts_with("https://");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // What stands before it looks like a host and is none: "localhost:@elsewhere" is elsewhere.
    if authority.contains('@') {
        return false;
    }
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host),
    };
    // Also in its other spelling, as ::ffff:127.0.0.1.
    let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(is_loopback)
}

/// What a shell or a service gave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    pub token: Option<String>,
    pub file: Option<PathBuf>,
}

impl Given {
    pub(crate) fn from_environment() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            token: set("MARQUEE_TOKEN").map(|value| value.to_string_lossy().into_owned()),
            file: set("MARQUEE_TOKEN_FILE").map(PathBuf::from),
        }
    }
}

/// Finds the token for a place. None: there is none.
pub(crate) fn find(place: &Place, given: &Given, context: Option<&Path>) -> Result<Option<Bearer>> {
    let given = match (&given.token, &given.file) {
        (Some(text), _) => Some(Bearer::of(text, "of MARQUEE_TOKEN")?),
        (None, Some(file)) => Some(read_file(file)?),
        (None, None) => None,
    };
    if let Some(token) = given {
        // All of them: a turn to the next coordinator must not carry it in the clear.
        let all = std::iter::once(&place.addr).chain(&place.others);
        if let Some(open) = all.into_iter().find(|addr| !may_carry(addr)) {
            return Err(CliError::Usage(format!(
                "a token is sent over TLS or within this host alone, and {open} is neither; write https://, or unset \
                 MARQUEE_TOKEN and MARQUEE_TOKEN_FILE"
            )));
        }
        return Ok(Some(token));
    }
    let Some(context) = context else {
        return Ok(None);
    };
    let kept = Kept::load(context)?;
    // What was kept needs no such refusal: each request shows a token only where nobody on the way
    // can read it (`Badge`).
    kept.of(place)
        .map(|text| Bearer::of(text, &format!("in {}", kept.path.display())))
        .transpose()
}

/// A token that stands alone in a file; "-" is stdin.
pub(crate) fn read_file(path: &Path) -> Result<Bearer> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin()
            .take(TOKEN_FILE_MAX_BYTES)
            .read_to_string(&mut text)
            .context("cannot read a token from stdin")?;
        return Bearer::of(&text, "from stdin");
    }
    let name = path.display();
    let file = fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
    warn_if_open(path);
    file.take(TOKEN_FILE_MAX_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {name}"))?;
    Bearer::of(&text, &format!("in {name}"))
}

/// A new file for a token, for this user alone: there before the token is made, which is shown once. Dropped without
/// one, it goes.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    file: fs::File,
    is_written: bool,
}

impl NewFile {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = fs::OpenOptions::new();
        // With the open, not after it: in between others could open it.
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot make the file {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            is_written: false,
        })
    }

    /// Writes the token; gives the file's path.
    pub(crate) fn write(mut self, token: &Bearer) -> anyhow::Result<PathBuf> {
        use std::io::Write as _;
        writeln!(self.file, "{}", token.reveal())
            .with_context(|| format!("cannot write the file {}", self.path.display()))?;
        self.is_written = true;
        Ok(self.path.clone())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_written {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn warn_if_open(path: &Path) {
    let mode = fs::metadata(path).map(|meta| meta.permissions().mode() & 0o077);
    if mode.is_ok_and(|open_to_others| open_to_others != 0) {
        let path = path.display();
        say!("warning: {path} holds a token and can be read by others; run \"chmod 600 {path}\"");
    }
}

/// The tokens that `marquee login` kept, by the coordinator's address.
#[derive(Debug)]
pub(crate) struct Kept {
    pub path: PathBuf,
    // Its tokens are not shown by Debug either.
    all: BTreeMap<String, Hidden>,
}

#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(not shown)")
    }
}

impl Kept {
    /// Those beside a context file.
    pub(crate) fn load(context: &Path) -> Result<Self> {
        let path = context.with_file_name(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let error = anyhow::Error::new(error);
                return Err(error
                    .context(format!("cannot read {}", path.display()))
                    .into());
            }
        };
        if !text.is_empty() {
            warn_if_open(&path);
        }
        // What the reader says of an error shows the line, and a token stands in it.
        let all = toml::from_str(&text).map_err(|_| {
            CliError::Usage(format!(
                "{} cannot be read: it holds lines such as \"https://head:7700\" = \"mqu_..\"; delete it, and log in \
                 again",
                path.display()
            ))
        })?;
        Ok(Self { path, all })
    }

    /// The token for any of a place's addresses.
    fn of(&self, place: &Place) -> Option<&str> {
        let mut all = std::iter::once(&place.addr).chain(&place.others);
        all.find_map(|addr| self.all.get(addr))
            .map(|token| token.0.as_str())
    }

    /// Keeps a token for all addresses of a place.
    pub(crate) fn keep(&mut self, place: &Place, token: &Bearer) -> Result<()> {
        for addr in std::iter::once(&place.addr).chain(&place.others) {
            self.all.insert(addr.clone(), Hidden(token.reveal()));
        }
        self.write()
    }

    /// Forgets the token of a place; false: there was none.
    pub(crate) fn forget(&mut self, place: &Place) -> Result<bool> {
        let before = self.all.len();
        for addr in std::iter::once(&place.addr).chain(&place.others) {
            self.all.remove(addr);
        }
        if self.all.len() == before {
            return Ok(false);
        }
        self.write()?;
        Ok(true)
    }

    fn write(&self) -> Result<()> {
        let text = toml::to_string(&self.all).context("cannot write tokens as TOML")?;
        let path = &self.path;
        Ok(write_private(path, &text)
            .with_context(|| format!("cannot write {}", path.display()))?)
    }
}

#[cfg(test)]
mod tests {
    use marquee_domain::artifact::Digest;

    use marquee_domain::users::Token;

    use super::*;

    fn token(n: u8) -> Bearer {
        let token = Token::new(&Digest::of(&[n]), &Digest::of(&[n, n]));
        Bearer::of(&token.reveal(), "of a test").unwrap()
    }

    fn place(addr: &str) -> Place {
        Place {
            addr: addr.to_owned(),
            ..Place::local(addr)
        }
    }

    #[test]
    fn a_token_goes_over_tls_or_stays_within_this_host() {
        for fine in [
            "https://head:7700",
            "http://127.0.0.1:7700",
            "http://127.8.9.1:1",
            "http://[::1]:7700",
            "http://localhost:7700",
            "http://[::ffff:127.0.0.1]:1",
        ] {
            assert!(may_carry(fine), "{fine}");
        }
        for open in [
            "http://head:7700",
            "http://10.0.0.7:7700",
            "http://127.0.0.1.evil.example:7700",
            "http://localhost.evil.example:7700",
            "http://localhost:x@evil.example:7700",
            "http://localhost:@evil.example",
            "http://[::1]@evil.example:7700",
            "http://127.0.0.1:80@evil.example",
            "http://evil.example:1?127.0.0.1:1",
            "http://evil.example#@127.0.0.1:1",
            "http://",
            "http:///127.0.0.1",
            "ftp://127.0.0.1:1",
            "",
        ] {
            assert!(!may_carry(open), "{open}");
        }
    }

    #[test]
    fn a_token_is_kept_for_its_own_coordinator_and_for_this_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let context = folder.path().join("context.toml");
        let (head, other) = (place("https://head:7700"), place("https://other:7700"));
        let none = Given::default();
        assert_eq!(find(&head, &none, Some(&context)).unwrap(), None);
        Kept::load(&context)
            .unwrap()
            .keep(&head, &token(1))
            .unwrap();
        assert_eq!(find(&head, &none, Some(&context)).unwrap(), Some(token(1)));
        assert_eq!(find(&other, &none, Some(&context)).unwrap(), None);
        let mode = fs::metadata(folder.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Kept::load(&context).unwrap().forget(&head).unwrap());
        assert!(!Kept::load(&context).unwrap().forget(&head).unwrap());
        assert_eq!(find(&head, &none, Some(&context)).unwrap(), None);
    }

    #[test]
    fn what_the_environment_gives_goes_before_what_is_kept_and_never_in_the_clear() {
        let folder = tempfile::tempdir().unwrap();
        let context = folder.path().join("context.toml");
        let head = place("https://head:7700");
        Kept::load(&context)
            .unwrap()
            .keep(&head, &token(1))
            .unwrap();
        let file = folder.path().join("token");
        drop(NewFile::create(&file).unwrap());
        assert!(!file.exists(), "without a token it goes");
        NewFile::create(&file).unwrap().write(&token(2)).unwrap();
        assert!(NewFile::create(&file).is_err(), "it is there already");
        assert!(file.exists(), "and stays");
        let by_file = Given {
            file: Some(file),
            ..Given::default()
        };
        assert_eq!(
            find(&head, &by_file, Some(&context)).unwrap(),
            Some(token(2))
        );
        let by_text = Given {
            token: Some(token(3).reveal()),
            ..by_file
        };
        assert_eq!(find(&head, &by_text, None).unwrap(), Some(token(3)));
        let error = find(&place("http://head:7700"), &by_text, None).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("https://"), "{error}");
    }

    #[test]
    fn no_error_and_no_debug_shows_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let context = folder.path().join("context.toml");
        let secret = token(1).reveal();
        fs::write(
            folder.path().join(FILE),
            format!("\"https://head:7700\" = {secret}\n"),
        )
        .unwrap();
        let error = Kept::load(&context).unwrap_err();
        let cut = Bearer::of(&secret[..60], "of MARQUEE_TOKEN").unwrap_err();
        let shown = format!("{error} {error:?} {cut} {cut:?} {:?}", token(1));
        assert!(!shown.contains(&secret[20..40]), "{shown}");
    }
}

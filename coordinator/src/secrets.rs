//! The keys by which secrets for jobs are encrypted, and what they do.
//!
//! Keys stand in a file, or in a credential of systemd's, that the setting `secrets_key` names: one a line, the first
//! for new secrets, the others to read older ones. The file is read each time that a key is wanted, which is seldom, so
//! that a new key needs no restart and no key stays in memory.
//!
//! A secret is sealed with AES-256-GCM under a nonce drawn for it, together with its project, job and name: a row that
//! somebody moved is not opened.

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use marquee_domain::artifact::Digest;
use marquee_store::secrets::{Sealed, SecretPlace};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};

/// How a line with a key begins.
const KEY_PREFIX: &str = "marquee-key-1:";
/// Bytes of a key; written as hexadecimal digits.
const KEY_BYTES: usize = 32;
/// Bytes of a file of keys.
const FILE_MAX_BYTES: u64 = 64 * 1024;
/// Digits of what a key is known by.
const ID_DIGITS: usize = 16;
/// What a digest of a key begins with, so that it is one of nothing else.
const ID_CONTEXT: &[u8] = b"key for secrets of jobs 1 ";
/// The same of what is bound to a value.
const PLACE_CONTEXT: &str = "secret of jobs 1";

/// Where the keys are.
#[derive(Debug, Clone, Default)]
pub struct SecretKeys(Option<Arc<Path>>);

/// Why there is no key to work with. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "this coordinator has no key for secrets: make one (\"marquee-coordinator secrets-key\"), keep it in a file of the coordinator's account, mode 0600, or in a credential of its unit, and name that with secrets_key in coordinator.toml (docs/secrets.md)"
    )]
    None,
    #[error("the keys for secrets in {file} cannot be used: {why}; see docs/secrets.md")]
    Unusable { file: String, why: String },
}

/// Why a sealed value is not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(
        "it is encrypted by key {0}, which secrets_key does not hold; add that key's line to it again, or set the secret anew"
    )]
    OtherKey(String),
    #[error("what is stored of it is not what was encrypted; set the secret anew")]
    Damaged,
}

/// Keys, the current one first.
pub struct Keyring(Vec<Key>);

struct Key {
    id: String,
    key: LessSafeKey,
}

/// Their names alone.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|key| &key.id))
            .finish()
    }
}

impl SecretKeys {
    /// Those of a file. None: there are none.
    #[must_use]
    pub fn at(file: Option<PathBuf>) -> Self {
        Self(file.map(Into::into))
    }

    /// Reads them. Of a small file: fit to be called anywhere.
    pub fn read(&self) -> Result<Keyring, KeyError> {
        let file = self.0.as_deref().ok_or(KeyError::None)?;
        let keyring = text_of(file).and_then(|text| Keyring::parse(&text));
        keyring.map_err(|why| KeyError::Unusable {
            file: file.display().to_string(),
            why,
        })
    }

    /// Whether a file of keys is named at all.
    #[must_use]
    pub fn are_named(&self) -> bool {
        self.0.is_some()
    }
}

fn text_of(file: &Path) -> Result<String, String> {
    // Opened first, so that what is looked at is what is read: the path may lead to another file a
    // moment later.
    let opened = std::fs::File::open(file).map_err(|error| error.to_string())?;
    let found = opened.metadata().map_err(|error| error.to_string())?;
    if found.permissions().mode() & 0o007 != 0 {
        return Err("everybody on this host may read it; chmod 600".to_owned());
    }
    let mut text = String::new();
    let read = opened.take(FILE_MAX_BYTES + 1).read_to_string(&mut text);
    match read {
        Ok(bytes) if bytes as u64 > FILE_MAX_BYTES => Err("it is longer than 64 KiB".to_owned()),
        Ok(_) => Ok(text),
        Err(error) => Err(error.to_string()),
    }
}

/// A new key, as a line for the file.
pub fn new_key() -> anyhow::Result<String> {
    let mut bytes = [0; KEY_BYTES];
    let drawn = SystemRandom::new().fill(&mut bytes);
    drawn.map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{KEY_PREFIX}{digits}"))
}

impl Keyring {
    /// Reads the lines of a file. The error never repeats one.
    fn parse(text: &str) -> Result<Self, String> {
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let digits = line.strip_prefix(KEY_PREFIX).and_then(bytes_of);
            let bytes = digits.ok_or_else(|| {
                format!("line {number} is no key: {KEY_PREFIX:?} and 64 hexadecimal digits, as \"marquee-coordinator secrets-key\" prints it")
            })?;
            let key = Key::of(&bytes)?;
            // A slip of whoever meant to put a new key first: all would go on under the old one.
            if keys.iter().any(|known| known.id == key.id) {
                return Err(format!("line {number} is the same key once more"));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(
                "there is no key in it; \"marquee-coordinator secrets-key\" makes one".to_owned(),
            );
        }
        Ok(Self(keys))
    }

    fn current(&self) -> Option<&Key> {
        self.0.first()
    }

    /// What the key of new secrets is known by.
    #[must_use]
    pub fn current_id(&self) -> &str {
        self.current().map_or("", |key| &key.id)
    }

    /// Seals a value by the current key.
    pub fn seal(&self, place: &SecretPlace, value: &[u8]) -> Result<Sealed, String> {
        let failed = |_| "the system gives no random bytes".to_owned();
        let key = self.current().ok_or("there is no key")?;
        let mut nonce = [0; NONCE_LEN];
        // Drawn and not counted: several coordinators seal by the same key, and none knows what
        // another one has used.
        SystemRandom::new().fill(&mut nonce).map_err(failed)?;
        let mut sealed = value.to_vec();
        let bound = Aad::from(bound(place));
        let unique = Nonce::assume_unique_for_key(nonce);
        let tag = key
            .key
            .seal_in_place_separate_tag(unique, bound, &mut sealed);
        let tag = tag.map_err(|_| "the value cannot be encrypted".to_owned())?;
        let mut bytes = nonce.to_vec();
        bytes.extend(sealed);
        bytes.extend(tag.as_ref());
        Ok(Sealed {
            place: place.clone(),
            key_id: key.id.clone(),
            bytes,
        })
    }

    /// Opens a value.
    pub fn open(&self, sealed: &Sealed) -> Result<Vec<u8>, OpenError> {
        let key = self.0.iter().find(|key| key.id == sealed.key_id);
        let key = key.ok_or_else(|| OpenError::OtherKey(sealed.key_id.clone()))?;
        let (nonce, rest) = sealed
            .bytes
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(OpenError::Damaged)?;
        let mut value = rest.to_vec();
        let bound = Aad::from(bound(&sealed.place));
        let nonce = Nonce::assume_unique_for_key(*nonce);
        // Altered, cut, or moved to another place: which of these it was cannot be told.
        let opened = key.key.open_in_place(nonce, bound, &mut value);
        let length = opened.map_err(|_| OpenError::Damaged)?.len();
        value.truncate(length);
        Ok(value)
    }
}

impl Key {
    fn of(bytes: &[u8; KEY_BYTES]) -> Result<Self, String> {
        let unbound = UnboundKey::new(&AES_256_GCM, bytes);
        let unbound = unbound.map_err(|_| "the key cannot be used".to_owned())?;
        // The id stands in rows and lists, and must tell nothing of the key.
        let digest = Digest::of(&[ID_CONTEXT, bytes].concat()).to_string();
        Ok(Self {
            id: digest.chars().take(ID_DIGITS).collect(),
            key: LessSafeKey::new(unbound),
        })
    }
}

/// Whose value it is, in a form that no two places have in common: names hold no zero byte.
fn bound(place: &SecretPlace) -> Vec<u8> {
    let job = place.job.as_ref().map_or("", |job| job.as_str());
    let words = [
        PLACE_CONTEXT,
        place.project.as_str(),
        job,
        place.name.as_str(),
    ];
    words.join("\0").into_bytes()
}

fn bytes_of(digits: &str) -> Option<[u8; KEY_BYTES]> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    let mut bytes = [0; KEY_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        let pair: Vec<u32> = pair.iter().copied().map(value).collect::<Option<_>>()?;
        *byte = u8::try_from(pair.iter().fold(0, |sum, digit| sum * 16 + digit)).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(project: &str, job: Option<&str>, name: &str) -> SecretPlace {
        SecretPlace {
            project: project.parse().unwrap(),
            job: job.map(|job| job.parse().unwrap()),
            name: name.parse().unwrap(),
        }
    }

    fn keys(lines: &[&str]) -> Keyring {
        Keyring::parse(&lines.join("\n")).unwrap()
    }

    #[test]
    fn what_is_sealed_is_opened_in_its_place_by_its_key_and_nowhere_else() {
        let (old, new) = (new_key().unwrap(), new_key().unwrap());
        let before = keys(&["# of last year", &old]);
        let here = place("vision", None, "HF_TOKEN");
        let sealed = before.seal(&here, b"value").unwrap();
        assert_eq!(before.open(&sealed).unwrap(), b"value");
        assert_ne!(
            sealed,
            before.seal(&here, b"value").unwrap(),
            "a nonce each"
        );
        assert!(!sealed.bytes.windows(5).any(|some| some == b"value"));
        // With a new key before it, and without it.
        assert_eq!(keys(&[&new, "", &old]).open(&sealed).unwrap(), b"value");
        let without = keys(&[&new]).open(&sealed).unwrap_err();
        assert_eq!(without, OpenError::OtherKey(before.current_id().to_owned()));
        // Moved to another project, job or name; and altered.
        for other in [
            place("audio", None, "HF_TOKEN"),
            place("vision", Some("train"), "HF_TOKEN"),
            place("vision", None, "OTHER"),
        ] {
            let moved = Sealed {
                place: other,
                ..sealed.clone()
            };
            assert_eq!(before.open(&moved), Err(OpenError::Damaged));
        }
        for length in [0, 5, 12, sealed.bytes.len() - 1] {
            let bytes = sealed.bytes[..length].to_vec();
            let cut = Sealed {
                bytes,
                ..sealed.clone()
            };
            assert_eq!(before.open(&cut), Err(OpenError::Damaged), "{length}");
        }
    }

    #[test]
    fn a_file_of_keys_that_cannot_be_used_says_why_and_never_what_is_in_it() {
        let good = new_key().unwrap();
        let short = &good[..good.len() - 1];
        let twice = format!("{good}\n{good}");
        let odd = good.replace("marquee-key-1:", "marquee-key-9:");
        for (text, why) in [
            ("", "no key in it"),
            ("# nothing\n", "no key in it"),
            (short, "line 1 is no key"),
            (odd.as_str(), "line 1 is no key"),
            (twice.as_str(), "line 2 is the same key"),
        ] {
            let error = Keyring::parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains(&good[20..40]), "{error}");
        }
        let none = SecretKeys::default().read().unwrap_err().to_string();
        assert!(
            none.contains("secrets_key") && none.contains("secrets-key"),
            "{none}"
        );
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        let read = || SecretKeys::at(Some(file.clone())).read();
        assert!(read().unwrap_err().to_string().contains("No such file"));
        std::fs::write(&file, &good).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o604)).unwrap();
        assert!(read().unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let keyring = read().unwrap();
        assert!(!format!("{keyring:?}").contains(&good[20..40]));
    }

    #[test]
    fn of_what_is_sealed_no_byte_can_be_another_one() {
        let keys = keys(&[&new_key().unwrap()]);
        let here = place("vision", Some("train"), "HF_TOKEN");
        for size in [1, 15, 16, 17, 64 * 1024] {
            let value: Vec<u8> = (0..=255).cycle().take(size).collect();
            let sealed = keys.seal(&here, &value).unwrap();
            assert_eq!(sealed.bytes.len(), size + NONCE_LEN + AES_256_GCM.tag_len());
            assert!(keys.open(&sealed).unwrap() == value, "{size}");
            let places = [0, NONCE_LEN, NONCE_LEN + size / 2, sealed.bytes.len() - 1];
            for at in places {
                let mut altered = sealed.clone();
                altered.bytes[at] ^= 1;
                assert_eq!(keys.open(&altered), Err(OpenError::Damaged), "{size}: {at}");
            }
            let mut longer = sealed.clone();
            longer.bytes.push(0);
            assert_eq!(keys.open(&longer), Err(OpenError::Damaged), "{size}");
        }
        // A name that another key has for a row of ours opens nothing either.
        let mut other = keys.seal(&here, b"value").unwrap();
        other.key_id = String::new();
        assert_eq!(keys.open(&other), Err(OpenError::OtherKey(String::new())));
    }

    #[test]
    fn places_whose_words_run_together_are_told_apart() {
        let all = [
            place("ab", None, "C"),
            place("a", None, "BC"),
            place("a", Some("b"), "C"),
            place("a", Some("bc"), "C"),
            place("ab", Some("c"), "C"),
        ];
        for (number, one) in all.iter().enumerate() {
            for other in &all[number + 1..] {
                assert_ne!(bound(one), bound(other), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_file_of_keys_is_read_as_people_write_it_and_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        let read = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
            SecretKeys::at(Some(file.clone())).read()
        };
        let (first, second) = (new_key().unwrap(), new_key().unwrap());
        let id = keys(&[&first]).current_id().to_owned();
        // Lines of another system, blanks, comments, large digits: the same key.
        let (prefix, digits) = first.split_at(KEY_PREFIX.len());
        let large = format!("{prefix}{}", digits.to_uppercase());
        for text in [
            format!("{first}\r\n{second}\r\n"),
            format!("\n  {first}\t\n\n# the one before\n{second}"),
            format!("# {second}\n{large}\n"),
        ] {
            let keyring = read(text.as_bytes()).unwrap();
            assert_eq!(keyring.current_id(), id, "{text}");
        }
        // The same key in other letters is the same key.
        let twice = read(format!("{first}\n{large}").as_bytes()).unwrap_err();
        assert!(
            twice.to_string().contains("line 2 is the same key"),
            "{twice}"
        );
        let limit = usize::try_from(FILE_MAX_BYTES).unwrap();
        let filled = |bytes: usize| format!("{first}\n#{}", "x".repeat(bytes - first.len() - 2));
        assert_eq!(filled(limit).len(), limit);
        assert_eq!(read(filled(limit).as_bytes()).unwrap().current_id(), id);
        for (bytes, why) in [
            (filled(limit + 1).into_bytes(), "longer than 64 KiB"),
            (vec![0xff; 100], "UTF-8"),
            (format!("{first} {second}").into_bytes(), "line 1 is no key"),
            (
                format!("{first}\n{digits}").into_bytes(),
                "line 2 is no key",
            ),
        ] {
            let error = read(&bytes).unwrap_err().to_string();
            assert!(
                error.contains(why) && error.contains("docs/secrets.md"),
                "{error}"
            );
            assert!(!error.contains(&digits[..20]), "{error}");
        }
        // A folder in its place.
        let folder = SecretKeys::at(Some(dir.path().to_owned())).read();
        assert!(
            matches!(folder, Err(KeyError::Unusable { .. })),
            "{folder:?}"
        );
        assert!(SecretKeys::at(Some(file.clone())).are_named());
        assert!(!SecretKeys::at(None).are_named());
    }
}

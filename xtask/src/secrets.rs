//! Secrets in what a test run wrote: tokens, private keys, passwords in addresses. A run that wrote one fails, since what
//! a test's daemon logs, everybody's does.
//!
//! Invariant: what is found is told by its kind and its place, and never repeated.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Places that are told at once.
const TOLD_MAX: usize = 20;
/// Digits of a join token behind its prefix, and of a user's token: its name, and its secret.
const JOIN_DIGITS: usize = 128;
const TOKEN_NAME_DIGITS: usize = 12;
const TOKEN_SECRET_DIGITS: usize = 64;
/// What stands for a password that is not shown.
const MASKS: [&str; 6] = ["***", "...", "PASSWORD", "password", "SECRET", "secret"];

/// Looks through a file of a test run's output. The error says where something was found.
pub(crate) fn search(file: &Path) -> Result<()> {
    let read = fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut found = Vec::new();
    let (mut lines, mut count) = (0_usize, 0_usize);
    // By bytes: a program may print what is no text.
    for line in BufReader::new(read).split(b'\n') {
        lines += 1;
        let line = line.with_context(|| format!("cannot read {}", file.display()))?;
        for kind in kinds(&String::from_utf8_lossy(&line)) {
            count += 1;
            if found.len() < TOLD_MAX {
                found.push(format!("{}:{lines}: {kind}", file.display()));
            }
        }
    }
    if count > 0 {
        bail!(
            "{count} secret(s) in what the tests wrote, each of which a log of the same program would have:\n{}",
            found.join("\n")
        );
    }
    Ok(())
}

/// A kind of secret, and whether a line has one.
type Look = (&'static str, fn(&str) -> bool);

/// The kinds of secrets in a line.
fn kinds(line: &str) -> Vec<&'static str> {
    let looks: [Look; 6] = [
        ("a join token", has_join_token),
        ("a user's token", has_user_token),
        ("a private key", has_private_key),
        ("a browser's session", has_session),
        ("an address with a password", has_password_in_address),
        ("a signed address of an object store", has_signature),
    ];
    let looks = looks.into_iter().filter(|(_, has)| has(line));
    looks.map(|(kind, _)| kind).collect()
}

/// Whether something that begins with `prefix` goes on as `is_it` says.
fn any_after(line: &str, prefix: &str, is_it: impl Fn(&str) -> bool) -> bool {
    line.match_indices(prefix)
        .any(|(at, _)| is_it(&line[at + prefix.len()..]))
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_hexdigit).count()
}

/// Made up for a test, and known to be no secret: one digit again and again.
fn is_made_up(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_none_or(|first| bytes.all(|b| b == first))
}

fn has_join_token(line: &str) -> bool {
    any_after(line, "mqj_", |rest| {
        digits(rest) >= JOIN_DIGITS && !is_made_up(&rest[..JOIN_DIGITS])
    })
}

fn has_user_token(line: &str) -> bool {
    any_after(line, "mqu_", |rest| {
        let secret = rest.get(TOKEN_NAME_DIGITS..).unwrap_or_default();
        let secret = secret.strip_prefix('_').unwrap_or_default();
        digits(rest) == TOKEN_NAME_DIGITS
            && digits(secret) >= TOKEN_SECRET_DIGITS
            && !is_made_up(&secret[..TOKEN_SECRET_DIGITS])
    })
}

fn has_private_key(line: &str) -> bool {
    any_after(line, "-----BEGIN ", |rest| {
        let kind = rest.split("-----").next().unwrap_or_default();
        kind.ends_with("PRIVATE KEY") && rest.contains("-----")
    })
}

fn has_session(line: &str) -> bool {
    any_after(line, "marquee-session=", |rest| {
        digits(rest) >= TOKEN_SECRET_DIGITS && !is_made_up(&rest[..TOKEN_SECRET_DIGITS])
    })
}

/// `scheme://user:password@host`, where the password is none of those that stand for one.
fn has_password_in_address(line: &str) -> bool {
    any_after(line, "://", |rest| {
        let end = rest.find(|c: char| c.is_whitespace() || "/?#\"'<>`,;)]}\\|&".contains(c));
        let Some((user, _)) = rest[..end.unwrap_or(rest.len())].rsplit_once('@') else {
            return false;
        };
        let Some((_, password)) = user.split_once(':') else {
            return false;
        };
        !password.is_empty() && !MASKS.contains(&password)
    })
}

fn has_signature(line: &str) -> bool {
    any_after(line, "X-Amz-Signature=", |rest| {
        digits(rest) >= TOKEN_SECRET_DIGITS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of hexadecimal digits, unlike one again and again.
    fn hex(count: usize) -> String {
        "0123456789abcdef".chars().cycle().take(count).collect()
    }

    #[test]
    fn each_kind_of_secret_is_found_wherever_it_stands_in_a_line() {
        let planted = [
            ("a join token", format!("token=mqj_{}", hex(136))),
            (
                "a user's token",
                format!("bearer mqu_{}_{}\"", hex(12), hex(64)),
            ),
            (
                "a private key",
                ["-----BEGIN ", "PRIVATE KEY-----"].concat(),
            ),
            (
                "a private key",
                ["x -----BEGIN EC ", "PRIVATE KEY-----\\nMHc"].concat(),
            ),
            (
                "a browser's session",
                format!("__Host-marquee-session={}; Path", hex(64)),
            ),
            (
                "an address with a password",
                [
                    "error: postgres://marquee:",
                    "hunter2@db.example.org/x is away",
                ]
                .concat(),
            ),
            (
                "a signed address of an object store",
                format!("https://s3/x?X-Amz-Signature={}", hex(64)),
            ),
        ];
        for (kind, line) in planted {
            assert_eq!(kinds(&line), [kind], "{line}");
        }
    }

    #[test]
    fn names_of_tokens_masked_passwords_and_certificates_are_none() {
        for line in [
            "mqj_00ff",
            &format!("mqu_{}", hex(12)),
            &format!("mqu_{}_{}", hex(12), "0".repeat(64)),
            "-----BEGIN CERTIFICATE-----",
            "writes -----BEGIN PRIVATE KEY and more",
            "postgres://marquee:***@db.example.org/x",
            "postgres://marquee@db.example.org/x",
            "http://127.0.0.1:7700/a@b:c",
            "https://head:7700, ada@example.org",
            "see https://[::1]:7700",
            "",
        ] {
            assert!(kinds(line).is_empty(), "{line}");
        }
    }

    #[test]
    fn a_planted_secret_fails_the_run_with_its_place_and_is_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("junit.xml");
        fs::write(&file, b"<testsuites>\n\xff no text\nall is well\n").unwrap();
        search(&file).unwrap();
        let secret = hex(136);
        let text = format!("one\n<system-err>INFO joined token=mqj_{secret}</system-err>\n");
        fs::write(&file, text).unwrap();
        let told = format!("{:#}", search(&file).unwrap_err());
        assert!(told.contains("junit.xml:2: a join token"), "{told}");
        assert!(!told.contains(&secret[..32]), "{told}");
        search(&folder.path().join("none")).unwrap_err();
    }
}

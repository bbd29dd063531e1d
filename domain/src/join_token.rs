//! What a worker is given to join a cluster: a secret, and by what to know the cluster before it is told.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// The name of every coordinator in a certificate of its own authority: by it workers know one, under whatever address
/// they dial.
pub const COORDINATOR_NAME: &str = "coordinator.marquee.internal";

/// What every join token begins with.
const PREFIX: &str = "mqj_";
/// Bytes of the secret: nobody guesses 128 bits.
pub const SECRET_BYTES: usize = 16;
const PIN_BYTES: usize = 32;
const ID_BYTES: usize = 16;
/// Bytes that tell a token that was cut off or mistyped from a good one.
const CHECK_BYTES: usize = 4;
const BODY_BYTES: usize = PIN_BYTES + ID_BYTES + SECRET_BYTES;
/// Characters of a token.
pub const TEXT_CHARS: usize = PREFIX.len() + 2 * (BODY_BYTES + CHECK_BYTES);

/// A join token. Shown by [`JoinToken::reveal`] alone, so that none ends up in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the public key (SubjectPublicKeyInfo) of the cluster's authority.
    pub pin: [u8; PIN_BYTES],
    pub id: Uuid,
    pub secret: [u8; SECRET_BYTES],
}

/// Why a text is no join token. Nothing of the text is repeated: it may be a secret all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    #[error("there is nothing in it")]
    Empty,
    #[error("it is no join token: those begin with \"{PREFIX}\"")]
    Prefix,
    #[error(
        "it has {0} characters and a join token has {TEXT_CHARS}: it was cut off, or something was added"
    )]
    Length(usize),
    #[error("it was mistyped, or cut off and filled up: its last characters do not fit the others")]
    Check,
}

impl JoinToken {
    /// The token as its user gets it.
    #[must_use]
    pub fn reveal(&self) -> String {
        let body = self.body();
        format!("{PREFIX}{}{}", hex(&body), hex(&check(&body)))
    }

    /// What is stored of the secret.
    #[must_use]
    pub fn secret_sha256(secret: &[u8]) -> [u8; 32] {
        // Without salt or stretching: 128 random bits are guessed by nobody, and looked up in no
        // table.
        Sha256::digest(secret).into()
    }

    fn body(&self) -> [u8; BODY_BYTES] {
        let mut body = [0; BODY_BYTES];
        body[..PIN_BYTES].copy_from_slice(&self.pin);
        body[PIN_BYTES..PIN_BYTES + ID_BYTES].copy_from_slice(self.id.as_bytes());
        body[PIN_BYTES + ID_BYTES..].copy_from_slice(&self.secret);
        body
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The id alone: it names the token in logs, and opens nothing.
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = BadToken;

    /// Blanks and line ends around it are left out: it comes from a file or a terminal.
    fn from_str(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        if text.is_empty() {
            return Err(BadToken::Empty);
        }
        let digits = text.strip_prefix(PREFIX).ok_or(BadToken::Prefix)?;
        // Before anything is decoded: whatever was pasted here may be as long as it likes.
        if text.len() != TEXT_CHARS {
            return Err(BadToken::Length(text.chars().count()));
        }
        let bytes = unhex(digits).ok_or(BadToken::Check)?;
        let (body, checked) = bytes.split_at(BODY_BYTES);
        if check(body) != *checked {
            return Err(BadToken::Check);
        }
        let (pin, rest) = body.split_at(PIN_BYTES);
        let (id, secret) = rest.split_at(ID_BYTES);
        let read = || -> Option<Self> {
            Some(Self {
                pin: pin.try_into().ok()?,
                id: Uuid::from_slice(id).ok()?,
                secret: secret.try_into().ok()?,
            })
        };
        read().ok_or(BadToken::Check)
    }
}

/// Whether a text is meant to be a join token, so that it is not repeated anywhere.
#[must_use]
pub fn is_token(text: &str) -> bool {
    text.trim().starts_with(PREFIX)
}

/// Digits of a pin or fingerprint, as people compare them.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let pairs = digits.as_bytes().chunks(2);
    // A digit without its neighbour is no byte: the length was checked, but the function is safe
    // without that.
    let byte = |pair: &[u8]| Some(nibble(pair[0])? << 4 | nibble(*pair.get(1)?)?);
    pairs.map(byte).collect()
}

fn check(body: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = Sha256::digest(body);
    let mut check = [0; CHECK_BYTES];
    // Against slips alone. Whoever forges a token can compute this, and is stopped by the secret.
    check.copy_from_slice(&digest[..CHECK_BYTES]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            pin: [7; PIN_BYTES],
            id: Uuid::from_u128(8),
            secret: [9; SECRET_BYTES],
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_made_whatever_stands_around_it() {
        let text = token().reveal();
        assert_eq!(text.len(), TEXT_CHARS);
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!("  {text}\r\n").parse(), Ok(token()));
    }

    #[test]
    fn whatever_happened_to_a_token_is_said_and_nothing_of_it_repeated() {
        let text = token().reveal();
        let refused = |text: &str| text.parse::<JoinToken>().unwrap_err();
        assert_eq!(refused(" \n"), BadToken::Empty);
        assert_eq!(refused("mqu_0011"), BadToken::Prefix);
        assert_eq!(refused(&text[..100]), BadToken::Length(100));
        assert_eq!(
            refused(&format!("{text}0")),
            BadToken::Length(TEXT_CHARS + 1)
        );
        let huge = format!("{PREFIX}{}", "a".repeat(1_000_000));
        assert_eq!(refused(&huge), BadToken::Length(1_000_004));
        for at in PREFIX.len()..TEXT_CHARS {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(refused(&other), BadToken::Check, "{at}");
        }
        // As many bytes, of which two are one letter.
        let wide = format!("{}\u{e9}", &text[..TEXT_CHARS - 2]);
        assert_eq!(refused(&wide), BadToken::Check);
        assert_eq!(refused(&text.to_uppercase()), BadToken::Prefix);
    }

    #[test]
    fn no_log_gets_the_secret() {
        let shown = format!("{:?}", token());
        assert!(
            !shown.contains("9, 9") && !shown.contains("0909"),
            "{shown}"
        );
    }
}

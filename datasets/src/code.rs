//! What this code is called: equal names make equal output of equal input and settings.

/// Version of what a preprocess job makes: it grows whenever equal input and settings give other output,
/// so that digest(version, settings, input) names a result.
pub const CODE_VERSION: u32 = 4;

/// Version, and a digest of the sources that it was built from.
#[must_use]
pub fn code() -> String {
    concat!(env!("CARGO_PKG_VERSION"), "+", env!("MARQUEE_SOURCES")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_has_a_name_with_a_digest() {
        let code = code();
        let (version, digest) = code.split_once('+').unwrap();
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
        assert!(digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

//! What was probably meant by a word that nothing is called.

/// The known word that `word` is most like, unless none is like it: then a guess would mislead.
/// Capitals make no difference.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|name| {
            let edits = strsim::damerau_levenshtein(&word, &name.to_lowercase());
            (edits, name)
        })
        // Of several that are equally near the first, so that the same slip gets the same answer.
        .min_by_key(|(edits, _)| *edits)
        // One slip of the hand, and one more for each four letters.
        .filter(|(edits, name)| *edits <= 1 + name.len() / 4)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_is_recognised_and_another_word_is_not() {
        let known = ["listen", "data_dir", "tls.cert"];
        for (word, meant) in [
            ("listne", Some("listen")),
            ("Listen", Some("listen")),
            ("datadir", Some("data_dir")),
            ("tls.crt", Some("tls.cert")),
            ("quantum_flux", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
        assert_eq!(nearest("x", []), None);
    }
}

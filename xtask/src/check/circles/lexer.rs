//! Rust's text as tokens: just enough to follow paths. Comments are gone, a string is one token.

/// A token with the line that it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token<'t> {
    pub(super) line: usize,
    pub(super) kind: Kind<'t>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'t> {
    Word(&'t str),
    /// `::`
    Colons,
    /// What stands between the quotes, escapes and all.
    Text(&'t str),
    Sign(char),
}

pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = next(rest, first);
        if let Some(kind) = kind {
            found.push(Token { line, kind });
        }
        let (eaten, left) = rest.split_at(length);
        line += eaten.matches('\n').count();
        rest = left;
    }
    found
}

/// The token at the start of `rest`, if it is one, and how many bytes it has.
fn next(rest: &str, first: char) -> (Option<Kind<'_>>, usize) {
    if first.is_whitespace() {
        return (None, first.len_utf8());
    }
    if rest.starts_with("//") {
        return (None, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (None, comment(rest));
    }
    if rest.starts_with("::") {
        return (Some(Kind::Colons), 2);
    }
    if let Some((text, length)) = string(rest) {
        return (Some(Kind::Text(text)), length);
    }
    // Before words: a lifetime's name would be taken for a path.
    if first == '\'' {
        return (None, quoted_char(rest));
    }
    if is_word(first) {
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        // `r#type` is the word `type`.
        return (Some(Kind::Word(&rest[..length])), length);
    }
    (Some(Kind::Sign(first)), first.len_utf8())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Bytes of a block comment; they nest.
fn comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// A string of any kind: `"x"`, `b"x"`, `c"x"`, `r"x"`, `br##"x"##`. Its text, and its bytes with quotes.
fn string(rest: &str) -> Option<(&str, usize)> {
    let prefix = rest.find(|c: char| !matches!(c, 'b' | 'c' | 'r'))?;
    let is_raw = rest[..prefix].contains('r');
    let hashes = if is_raw {
        rest[prefix..].find(|c| c != '#')?
    } else {
        0
    };
    let open = prefix + hashes;
    if prefix > 2 || !rest[open..].starts_with('"') {
        return None;
    }
    let body = &rest[open + 1..];
    let (length, end) = if is_raw {
        let end = format!("\"{}", "#".repeat(hashes));
        (body.find(&end).unwrap_or(body.len()), end.len())
    } else {
        let mut is_escaped = false;
        let closing = body.find(|c| {
            let closes = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            closes
        });
        (closing.unwrap_or(body.len()), 1)
    };
    let whole = (open + 1 + length + end).min(rest.len());
    Some((&body[..length], whole))
}

/// Bytes of a character in quotes, or of the mark alone where it opens a lifetime.
fn quoted_char(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        for token in tokens(text) {
            if let Kind::Word(word) = token.kind {
                words.push(word);
            }
        }
        words
    }

    #[test]
    fn strings_characters_and_comments_hide_what_is_in_them() {
        for text in [
            r##"a "x \" y" b"##,
            "a // x\nb",
            "a /* x /* y */ z */ b",
            "a r#\"x \" y\"# b",
            "a br\"x\\\" b",
            "a '\"' b",
            "a '\\'' b",
            "a '\\u{41}' b",
            "a b\"x\" b",
        ] {
            assert_eq!(words(text), ["a", "b"], "{text}");
        }
    }

    #[test]
    fn lifetimes_are_no_characters_and_words_keep_their_letters() {
        assert_eq!(words("a<'x> b"), ["a", "x", "b"]);
        assert_eq!(words("broker_1 crab r"), ["broker_1", "crab", "r"]);
    }

    #[test]
    fn a_token_knows_its_line() {
        let lines: Vec<usize> = tokens("a\n\"x\ny\"\nb").iter().map(|t| t.line).collect();
        assert_eq!(lines, [1, 2, 4]);
    }

    #[test]
    fn whatever_is_not_finished_ends_with_the_text() {
        for text in [
            "a \"never closed",
            "a /* never /* closed */",
            "a r#\"never closed\"",
            "a '",
            "a '\\",
            "a '\\'",
            "a b\"",
            "a //",
            "a br###",
            "a r",
            "a \u{1f600} '\u{1f600}' \"\u{1f600}",
        ] {
            let found = tokens(text);
            assert_eq!(
                found.first().map(|token| token.kind),
                Some(Kind::Word("a")),
                "{text}"
            );
        }
        assert_eq!(tokens(""), []);
    }

    #[test]
    fn any_text_is_read_to_its_end_and_no_line_is_counted_twice() {
        // Pieces that open, close and hide one another, in every order that a simple sequence gives.
        let pieces = [
            "\"", "'", "r#\"", "\"#", "/*", "*/", "//", "\n", "\\", "a", "::", "{", "b'", "\u{e9}",
            "#",
        ];
        let mut state = 1_u32;
        for _ in 0..3_000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push_str(pieces[(state >> 16) as usize % pieces.len()]);
            }
            let lines = text.matches('\n').count() + 1;
            let found = tokens(&text);
            assert!(found.is_sorted_by_key(|token| token.line), "{text:?}");
            assert!(
                found.iter().all(|token| (1..=lines).contains(&token.line)),
                "{text:?}"
            );
        }
    }

    #[test]
    fn signs_paths_and_texts_are_kept_as_they_are() {
        let kinds: Vec<Kind<'_>> = tokens("use a::b; #[path = \"x.rs\"]")
            .iter()
            .map(|t| t.kind)
            .collect();
        assert_eq!(
            kinds,
            [
                Kind::Word("use"),
                Kind::Word("a"),
                Kind::Colons,
                Kind::Word("b"),
                Kind::Sign(';'),
                Kind::Sign('#'),
                Kind::Sign('['),
                Kind::Word("path"),
                Kind::Sign('='),
                Kind::Text("x.rs"),
                Kind::Sign(']'),
            ]
        );
    }
}

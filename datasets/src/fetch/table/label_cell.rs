//! The labels of one cell.

use std::collections::HashSet;

use super::Cell;

/// What the labels of a row came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fetch) enum RowLabels {
    /// These and no others; none, where the table says that there are none.
    Said(Vec<String>),
    /// The table says nothing about this picture.
    Unsaid,
    /// The table is not sure, and such pictures are to be left out.
    Uncertain { column: String },
}

/// What joins labels in a cell that is no list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fetch) enum Separator {
    /// As the settings say.
    Given(String),
    /// Any of these.
    Usual(&'static [char]),
}

/// The labels of a cell. None: it says nothing. An empty list (`[]`) says that there are none.
pub(in crate::fetch) fn labels_in(cell: &Cell, separator: &Separator) -> Option<Vec<String>> {
    let (mut labels, mut seen) = (Vec::new(), HashSet::new());
    let mut add = |label: &str| {
        let label = label.trim();
        if !label.is_empty() && seen.insert(label.to_owned()) {
            labels.push(label.to_owned());
        }
    };
    match cell {
        Cell::Empty | Cell::Odd(_) => return None,
        Cell::List(texts) => texts.iter().for_each(|text| add(text)),
        Cell::Text(text) => match (inside_of_list(text), separator) {
            (Some(inside), _) => items_of(inside).iter().for_each(|item| add(item)),
            // Blanks come in any number, as in a column that was lined up by hand.
            (None, Separator::Given(given)) if given.trim().is_empty() => {
                text.split_whitespace().for_each(&mut add);
            }
            (None, Separator::Given(given)) => text.split(given.as_str()).for_each(&mut add),
            (None, Separator::Usual(usual)) => text
                .split(*usual)
                .for_each(|part| add(part.trim().trim_matches(['\'', '"']))),
        },
    }
    if labels.is_empty() && !is_list(cell) {
        // Nothing but separators.
        return None;
    }
    Some(labels)
}

fn is_list(cell: &Cell) -> bool {
    match cell {
        Cell::Empty | Cell::Odd(_) => false,
        Cell::Text(text) => inside_of_list(text).is_some(),
        Cell::List(_) => true,
    }
}

/// What stands between the brackets of a list as Python, JSON, DuckDB (`[a, b]`) and Postgres
/// (`{a,b}`) write it.
fn inside_of_list(text: &str) -> Option<&str> {
    let within = |open, close| text.strip_prefix(open)?.strip_suffix(close);
    within('[', ']').or_else(|| within('{', '}'))
}

/// The items of a list, which may stand in quotes; numpy writes no commas between them.
fn items_of(list: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut rest = list.trim_start_matches([' ', ',', '\n', '\r', '\t']);
    while let Some(first) = rest.chars().next() {
        if matches!(first, '\'' | '"') {
            let mut item = String::new();
            let mut chars = rest[1..].char_indices();
            let mut end = rest.len();
            while let Some((at, c)) = chars.next() {
                if c == '\\' {
                    item.extend(chars.next().map(|(_, c)| c));
                } else if c == first {
                    end = at + 2;
                    break;
                } else {
                    item.push(c);
                }
            }
            items.push(item);
            rest = &rest[end..];
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            items.push(rest[..end].trim().to_owned());
            rest = &rest[end..];
        }
        rest = rest.trim_start_matches([' ', ',', '\n', '\r', '\t']);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Separator = Separator::Usual(&['|', ',']);

    fn read(text: &str, separator: &Separator) -> Option<String> {
        let labels = labels_in(&Cell::of_text(text), separator)?;
        Some(labels.join("+"))
    }

    #[test]
    fn every_way_to_write_labels_is_read() {
        for (text, labels) in [
            ("Action|Drama", "Action+Drama"),
            ("Action, Drama", "Action+Drama"),
            ("'Action', \"Drama\"", "Action+Drama"),
            ("['Action', 'Drama']", "Action+Drama"),
            ("[\"Kid's\", 'Sci-Fi, Fantasy']", "Kid's+Sci-Fi, Fantasy"),
            ("['Action' 'Drama'\n 'War']", "Action+Drama+War"),
            ("['It\\'s']", "It's"),
            ("[Action, Drama]", "Action+Drama"),
            ("{Action,\"TV Movie\"}", "Action+TV Movie"),
            ("Action|Action|", "Action"),
            ("['torn", "['torn"),
        ] {
            assert_eq!(read(text, &USUAL).as_deref(), Some(labels), "{text}");
        }
    }

    #[test]
    fn an_empty_list_says_none_and_an_empty_cell_says_nothing() {
        assert_eq!(read("[]", &USUAL).as_deref(), Some(""));
        assert_eq!(read("{ }", &USUAL).as_deref(), Some(""));
        assert_eq!(labels_in(&Cell::List(Vec::new()), &USUAL), Some(Vec::new()));
        for text in ["", "  ", "|", ", |"] {
            assert_eq!(read(text, &USUAL), None, "{text:?}");
        }
    }

    #[test]
    fn a_separator_of_the_settings_is_the_only_one() {
        let given = |text: &str| Separator::Given(text.to_owned());
        assert_eq!(
            read("scab  rust", &given(" ")).as_deref(),
            Some("scab+rust")
        );
        assert_eq!(read("a|b,c", &given(",")).as_deref(), Some("a|b+c"));
        assert_eq!(read("a; b", &given("; ")).as_deref(), Some("a+b"));
        assert_eq!(read("['a b', 'c']", &given(" ")).as_deref(), Some("a b+c"));
    }
}

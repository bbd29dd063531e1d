//! The reality check: pictures with their true and predicted labels.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use maud::{Markup, html};

use super::format::{count, rule};
use crate::decisions::{Decision, Decisions, Outcome};
use crate::gallery::{Kind, choose};
use crate::input::EvalInput;

/// A thumbnail above this is left out: the page should open at once.
const THUMBNAIL_BYTES_AT_MOST: usize = 256 * 1024;

/// Chips shown on a picture; an untrained model may predict every class.
const CHIPS_AT_MOST: usize = 8;

pub(super) fn section(input: &EvalInput<'_>, chosen: &str, decisions: &Decisions) -> Markup {
    let each = usize::try_from(input.gallery).unwrap_or(usize::MAX);
    html! {
        @if each > 0 {
            section.examples aria-labelledby="gallery" style={ "--frame:" (input.picture_size.0.max(1)) "/" (input.picture_size.1.max(1)) } {
                h2 #gallery { "Reality check" }
                p.lede { "Test pictures with the labels that the rule " b { (rule(chosen)) } " gives, and the score of each." }
                ul.key {
                    li { (chip_of(Outcome::Right, "right", None)) "true and predicted" }
                    li { (chip_of(Outcome::Missed, "missed", None)) "true, not predicted" }
                    li { (chip_of(Outcome::Wrong, "wrong", None)) "predicted, not true" }
                }
                @for (kind, rows) in choose(&input.test, decisions, each, input.seed) {
                    @if !rows.is_empty() {
                        h3 { (title(kind)) }
                        p.note { (explanation(kind)) }
                        ul.gallery { @for row in rows { li { (card(input, decisions, row)) } } }
                    }
                }
            }
        }
    }
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Best => "Best",
        Kind::Worst => "Worst",
        Kind::OverConfident => "Most over-confident",
        Kind::Random => "Drawn at random",
    }
}

fn explanation(kind: Kind) -> &'static str {
    match kind {
        Kind::Best => "All labels right, and surest of them.",
        Kind::Worst => "Furthest from the truth.",
        Kind::OverConfident => "The highest scores for labels that are not true.",
        Kind::Random => "A fair sample: neither flattering nor unkind.",
    }
}

fn card(input: &EvalInput<'_>, decisions: &Decisions, row: usize) -> Markup {
    let id = &input.test.ids[row];
    let chips = by_importance(input, decisions, row);
    let hidden = chips.len().saturating_sub(CHIPS_AT_MOST);
    html! {
        figure.example {
            @match (input.thumbnail)("test", row).and_then(|bytes| data_uri(&bytes)) {
                Some(uri) => { img src=(uri) alt=(in_words(id, &chips)); }
                None => { div.no-picture role="img" aria-label=(in_words(id, &chips)) { "no picture" } }
            }
            figcaption {
                p.example-id { (id) }
                ul.chips {
                    @for chip in chips.iter().take(CHIPS_AT_MOST) {
                        li { (chip_of(chip.outcome, chip.label, Some(chip.score))) }
                    }
                    @if hidden > 0 { li.more { "and " (count(hidden as u64)) " more" } }
                    @if chips.is_empty() { li.more { "no label, and none predicted" } }
                }
            }
        }
    }
}

struct Chip<'a> {
    outcome: Outcome,
    label: &'a str,
    score: f32,
}

/// True labels first, then mistakes, each with the highest score first.
fn by_importance<'a>(input: &'a EvalInput<'_>, decisions: &Decisions, row: usize) -> Vec<Chip<'a>> {
    let scores = &input.test.scores[row * decisions.classes()..];
    let chip = |decision: &Decision| Chip {
        outcome: decision.outcome,
        label: &input.classes[decision.class],
        score: scores[decision.class],
    };
    let mut chips: Vec<Chip<'_>> = decisions.of_picture(row).iter().map(chip).collect();
    let rank = |outcome| match outcome {
        Outcome::Right => 0,
        Outcome::Missed => 1,
        Outcome::Wrong => 2,
    };
    chips.sort_by(|a, b| {
        rank(a.outcome)
            .cmp(&rank(b.outcome))
            .then(b.score.total_cmp(&a.score))
    });
    chips
}

/// A label with its mark: the sign and the border say what the colour says.
fn chip_of(outcome: Outcome, label: &str, score: Option<f32>) -> Markup {
    let (style, sign, word) = match outcome {
        Outcome::Right => ("right", "✓", "right: "),
        Outcome::Wrong => ("wrong", "✗", "wrong: "),
        Outcome::Missed => ("missed", "○", "missed: "),
    };
    html! {
        span.chip.(style) {
            span.sign-mark aria-hidden="true" { (sign) }
            // On a picture only the sign and the colour say it, which nobody hears; in the key the
            // word stands beside the chip.
            @if score.is_some() { span.visually-hidden { (word) } }
            span.label { (label) }
            @if let Some(score) = score { span.score { (format!("{score:.2}")) } }
        }
    }
}

fn in_words(id: &str, chips: &[Chip<'_>]) -> String {
    let list = |wanted: fn(Outcome) -> bool| {
        let labels: Vec<&str> = chips
            .iter()
            .filter(|chip| wanted(chip.outcome))
            .map(|chip| chip.label)
            .collect();
        if labels.is_empty() {
            "nothing".to_owned()
        } else {
            labels.join(", ")
        }
    };
    format!(
        "Picture {id}: true {}; predicted {}",
        list(|outcome| outcome != Outcome::Wrong),
        list(|outcome| outcome != Outcome::Missed)
    )
}

/// The picture inside the page. `None` for what no browser shows, or is too large.
fn data_uri(bytes: &[u8]) -> Option<String> {
    // By its first bytes: the caller hands over no type, and a wrong one would show as a broken
    // picture.
    let kind = match bytes {
        [0xFF, 0xD8, 0xFF, ..] => "jpeg",
        [0x89, b'P', b'N', b'G', ..] => "png",
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => "webp",
        _ => return None,
    };
    (bytes.len() <= THUMBNAIL_BYTES_AT_MOST)
        .then(|| format!("data:image/{kind};base64,{}", BASE64.encode(bytes)))
}

//! How training went: loss and F1 by epoch, with the same figures as a table.

use maud::{Markup, html};

use super::format::{count, duration, figure, maybe_figure, rate};
use super::plot::{Line, chart, legend};
use crate::history::EpochRow;

pub(super) fn section(history: &[EpochRow]) -> Markup {
    html! {
        section aria-labelledby="training" {
            h2 #training { "How training went" }
            @if history.is_empty() {
                p.lede { "The model came without a history." }
            } @else {
                div.charts {
                    (figure_of("Loss", &loss(history)))
                    (figure_of("F1 micro at 0.5", &[by_epoch("validation", "second", history, |row| row.validation_f1_micro)]))
                }
                (table(history))
                @if history.iter().any(|row| row.of_features) {
                    p.note { "Steps read features of frozen networks, which were computed once before the first epoch: time and rate of an epoch leave those passes out." }
                }
            }
        }
    }
}

fn loss(history: &[EpochRow]) -> [Line; 2] {
    [
        by_epoch("training", "first", history, |row| Some(row.train_loss)),
        by_epoch("validation", "second", history, |row| row.validation_loss),
    ]
}

fn by_epoch(
    name: &'static str,
    style: &'static str,
    history: &[EpochRow],
    value: impl Fn(&EpochRow) -> Option<f64>,
) -> Line {
    let point = |row: &EpochRow| {
        Some((
            f64::from(row.epoch),
            value(row).filter(|value| value.is_finite())?,
        ))
    };
    Line {
        name,
        style,
        points: history.iter().filter_map(point).collect(),
    }
}

fn figure_of(what: &str, lines: &[Line]) -> Markup {
    html! {
        figure.panel {
            figcaption { h3 { (what) } (legend(lines)) }
            @if lines.iter().all(|line| line.points.is_empty()) {
                p.note { "There was no validation split." }
            } @else {
                (chart(&in_words(what, lines), "epoch", lines))
            }
        }
    }
}

/// What the chart shows, for whoever cannot see it.
fn in_words(what: &str, lines: &[Line]) -> String {
    // Only the ends are said: the figures of each epoch stand in the table below, which is read out
    // as well.
    let ends = lines.iter().filter_map(|line| {
        let (first, last) = (line.points.first()?, line.points.last()?);
        Some(format!(
            "{} from {:.3} to {:.3}",
            line.name, first.1, last.1
        ))
    });
    format!("{what} by epoch: {}", ends.collect::<Vec<_>>().join(", "))
}

fn table(history: &[EpochRow]) -> Markup {
    html! {
        details {
            summary { "Every epoch as a table" }
            div.scroll tabindex="0" role="region" aria-label="Every epoch" {
                table.figures {
                    thead { tr {
                        th scope="col" { "Epoch" }
                        th scope="col" { "Steps" }
                        th scope="col" { "Training loss" }
                        th scope="col" { "Validation loss" }
                        th scope="col" { "F1 micro at 0.5" }
                        th scope="col" { "Time" }
                        th scope="col" { @if history.iter().any(|row| row.of_features) { "Features/s" } @else { "Pictures/s" } }
                    } }
                    tbody {
                        @for row in history {
                            tr {
                                th scope="row" { (row.epoch) }
                                td { (count(row.step)) }
                                td { (figure(row.train_loss)) }
                                td { (maybe_figure(row.validation_loss)) }
                                td { (maybe_figure(row.validation_f1_micro)) }
                                td { (duration(row.seconds)) }
                                td { (rate(row.images_per_second)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

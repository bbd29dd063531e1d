//! ROC curves, one small picture a class.

use std::collections::HashMap;

use marquee_domain::report::EvalReport;
use maud::{Markup, html};

use super::classes::by_frequency;
use super::format::figure;
use super::plot::polyline;
use crate::ranking::Ranking;

/// Curves drawn; the table has the area of every class.
const PLOTS_AT_MOST: usize = 40;

/// Side of a plot in the SVG's own units.
const SIDE: f64 = 100.0;

/// Points nearer than this to the last one kept cannot be told from it.
const FINEST_MOVE: f64 = 0.01;

pub(super) fn section(report: &EvalReport, rankings: &[Ranking]) -> Markup {
    // By name: the page goes by frequency, the rankings by the order of the classes.
    let curves: HashMap<&str, &Ranking> = report
        .classes
        .iter()
        .map(String::as_str)
        .zip(rankings)
        .collect();
    let with_curve: Vec<(&str, f64)> = by_frequency(&report.per_class)
        .into_iter()
        .filter_map(|class| Some((class.class.as_str(), class.roc_auc?)))
        .collect();
    let left_out = with_curve.len().saturating_sub(PLOTS_AT_MOST);
    html! {
        @if !with_curve.is_empty() {
            section aria-labelledby="roc" {
                h2 #roc { "How well each class is told apart" }
                p.lede { "ROC curves: share of the true pictures found (upwards) against share of the others taken in (rightwards), over all thresholds. The diagonal is chance." }
                ul.roc-grid {
                    @for (class, auc) in with_curve.iter().take(PLOTS_AT_MOST) {
                        li { (plot(class, *auc, curves.get(class).copied())) }
                    }
                }
                @if left_out > 0 { p.note { "And " (left_out) " rarer classes, in the table above." } }
            }
        }
    }
}

fn plot(class: &str, auc: f64, ranking: Option<&Ranking>) -> Markup {
    let points = thinned(&ranking.map(Ranking::roc_points).unwrap_or_default());
    let curve = polyline(&points, |x| x * SIDE, |y| (1.0 - y) * SIDE);
    html! {
        figure {
            svg.roc viewBox="-2 -2 104 104" role="img" aria-label={ "ROC curve of " (class) ", area " (figure(auc)) } {
                rect.frame x="0" y="0" width=(SIDE) height=(SIDE) {}
                polygon.under points={ "0," (SIDE) " " (curve) " " (SIDE) "," (SIDE) } {}
                line.chance x1="0" y1=(SIDE) x2=(SIDE) y2="0" {}
                polyline.first points=(curve) {}
            }
            figcaption { span { (class) } b { (figure(auc)) } }
        }
    }
}

/// The points that can be seen. The figures never use these.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    for (index, &point) in points.iter().enumerate() {
        let moved = kept
            .last()
            .is_none_or(|last| point.0 - last.0 + point.1 - last.1 >= FINEST_MOVE);
        // The last point is (1, 1), where each curve has to end.
        if moved || index + 1 == points.len() {
            kept.push(point);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_both_ends_and_few_points() {
        let fine: Vec<(f64, f64)> = (0..=10_000)
            .map(|i| f64::from(i) / 10_000.0)
            .map(|x| (x, x))
            .collect();
        let kept = thinned(&fine);
        assert_eq!((kept[0], kept[kept.len() - 1]), ((0.0, 0.0), (1.0, 1.0)));
        assert!(kept.len() <= 202, "{}", kept.len());
        assert_eq!(thinned(&[(0.0, 0.0), (0.5, 1.0), (1.0, 1.0)]).len(), 3);
    }
}

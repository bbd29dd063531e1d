//! What a job measured, summed up by metric and rank.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_proto::v1::MetricPoint;
use serde_json::Value;

use crate::page::{Page, View, left, right};
use crate::{json, units};

/// Points a person is shown of one metric: the newest. Its JSON has all.
const POINTS_SHOWN: usize = 10;

/// Six significant digits at most, without noise.
#[must_use]
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    // Outside of this range fixed digits would show noise, or nothing but zeros.
    if value == 0.0 || (1e-3..1e6).contains(&magnitude) {
        let text = format!("{value:.4}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    } else {
        format!("{value:.3e}")
    }
}

/// Stored points, in the order they came.
#[derive(Debug)]
pub struct Metrics<'a>(pub &'a [MetricPoint]);

impl Metrics<'_> {
    fn by_series(&self) -> BTreeMap<(&str, u32), Vec<&MetricPoint>> {
        let mut series: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for point in self.0 {
            series
                // Ranks apart: each has a loss and a rate of its own, and a slow one would vanish
                // in their mean.
                .entry((point.name.as_str(), point.rank))
                .or_default()
                .push(point);
        }
        series
    }
}

impl View for Metrics<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        if self.0.is_empty() {
            return;
        }
        let heads = [
            left("METRIC"),
            right("RANK"),
            right("POINTS"),
            right("STEP"),
            right("LAST"),
            right("MIN"),
            right("MAX"),
            left("NEWEST, OLDEST FIRST"),
        ];
        let rows = self
            .by_series()
            .into_iter()
            .filter_map(|((name, rank), points)| {
                let last = points.last()?;
                let values = || points.iter().map(|point| point.value);
                let newest = &points[points.len().saturating_sub(POINTS_SHOWN)..];
                let newest: Vec<String> = newest.iter().map(|point| number(point.value)).collect();
                Some(vec![
                    name.into(),
                    rank.to_string().into(),
                    units::count(points.len() as u64).into(),
                    units::count(last.step).into(),
                    number(last.value).into(),
                    number(values().fold(f64::INFINITY, f64::min)).into(),
                    number(values().fold(f64::NEG_INFINITY, f64::max)).into(),
                    newest.join(" ").into(),
                ])
            });
        page.table(heads, rows.collect());
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.0.iter().map(json::metric).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.by_series()
            .into_keys()
            .map(|(name, _)| name.to_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_true() {
        let all = [0.0, 0.5, 0.123_456, 1_234.5, 1e-5, -2.0, 100.0, 3e7].map(number);
        assert_eq!(
            all,
            [
                "0", "0.5", "0.1235", "1234.5", "1.000e-5", "-2", "100", "3.000e7"
            ]
        );
    }
}

//! A bench's results for people and for programs.

use chrono::{DateTime, Utc};
use marquee_view::{Cell, Page, Tone, View, left, right, toned};
use serde_json::{Value, json};

use super::case::Case;
use super::findings::{Finding, findings};
use super::results::{Results, Row};

impl View for Results {
    fn page(&self, page: &mut Page, _: DateTime<Utc>) {
        page.heading(format!(
            "{} at {}x{}, global batch {}, {} (pipeline p{})",
            self.model, self.size.0, self.size.1, self.batch_size, self.precision, self.pipeline_id
        ));
        if !self.rows.is_empty() {
            let heads = [
                left("DEVICES"),
                left("INPUT"),
                left("TENSORBOARD"),
                right("IMAGES/S"),
                right("SPEED-UP"),
                right("EFFICIENCY"),
                right("WAITS FOR INPUT"),
                right("EXPOSED ALL-REDUCE"),
                right("LOSS"),
            ];
            page.table(heads, self.rows.iter().map(|row| self.row(row)).collect());
        }
        let checkpoints = self.rows.iter().map(|row| row.checkpoints).max();
        // The most of any case and not their sum: the sentence is about what one measurement had to
        // bear.
        if let Some(count @ 1..) = checkpoints {
            let were = if count == 1 {
                "1 checkpoint was".to_owned()
            } else {
                format!("{count} checkpoints were")
            };
            page.line(format!(
                "{were} stored while a case was measured, which takes of its speed: to measure training alone, take \
                 so few steps, or so many pictures, that no epoch ends before the last step"
            ));
        }
        for (case, why) in &self.missing {
            page.line(format!("no figure for {}: {why}", title(case)));
        }
        let findings = findings(self);
        if !findings.is_empty() {
            page.heading("What it comes to");
            findings
                .iter()
                .for_each(|finding| page.line(sentence(finding)));
        }
        if let Some((least, most)) = self.losses() {
            page.line(format!(
                // The check of the whole table: cases that did the same work end at nearly the same
                // loss, and one that lies apart was not fast but did something else.
                "loss at the end: {least:.4} to {most:.4}, from equal weights over equal batches"
            ));
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.lines().into()
    }

    fn ids(&self) -> Vec<String> {
        vec![format!("p{}", self.pipeline_id)]
    }
}

impl Results {
    fn row(&self, row: &Row) -> Vec<Cell> {
        let percent = |share: f64| Cell::from(format!("{:.1} %", 100.0 * share));
        let is_base = self.base_of(&row.case).is_some_and(|base| base == row);
        // Of one round the median, the least and the most are one number: three of them would look
        // like a spread that was measured.
        let rate = if row.rounds > 1 {
            let rate = row.rate;
            format!("{:.1} ({:.1} to {:.1})", rate.median, rate.least, rate.most)
        } else {
            format!("{:.1}", row.rate.median)
        };
        let against = |value: Option<f64>, text: fn(f64) -> String| match value {
            // Against itself a row would say 1.00x and 100 %, which is no result.
            Some(value) if !is_base => text(value),
            Some(_) | None => String::new(),
        };
        vec![
            row.case.devices.to_string().into(),
            row.case.input.word().into(),
            if row.case.tensorboard { "on" } else { "off" }.into(),
            toned(rate, Tone::Strong),
            against(self.speed_up(row), |times| format!("{times:.2}x")).into(),
            against(self.efficiency(row), |share| {
                format!("{:.0} %", 100.0 * share)
            })
            .into(),
            percent(row.input_share),
            percent(row.exposed_share),
            format!("{:.4}", row.loss).into(),
        ]
    }

    /// One object a row and a comparison, for `--json`.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let ran = format!(
            "{} at {}x{}, global batch {}, {}",
            self.model, self.size.0, self.size.1, self.batch_size, self.precision
        );
        let rows = self.rows.iter().map(|row| {
            let base = self.base_of(&row.case);
            json!({
                "name": title(&row.case),
                "value": row.rate.median,
                "unit": "images/s",
                "reference": base.map(|base| base.rate.median),
                "ratio": self.speed_up(row),
                "what": ran,
                "device": row.case.devices.kind.word(),
                "ranks": row.case.devices.ranks,
                "input": row.case.input.word(),
                "tensorboard": row.case.tensorboard,
                "rounds": row.rounds,
                "least": row.rate.least,
                "most": row.rate.most,
                "efficiency": self.efficiency(row),
                "input_share": row.input_share,
                "exposed_all_reduce_share": row.exposed_share,
                "checkpoints": row.checkpoints,
                "loss": row.loss,
                "seconds": row.seconds,
            })
        });
        let missing = self.missing.iter().map(|(case, why)| {
            // With the keys that a case with a figure has: a program reads one form, and sees that
            // a case is missing.
            json!({ "name": title(case), "value": null, "unit": "images/s", "reference": null,
                "ratio": null, "what": ran, "missing": why })
        });
        let findings = findings(self).into_iter().map(|finding| {
            json!({ "name": finding.name, "value": finding.value, "unit": "images/s",
                "reference": finding.reference, "ratio": finding.ratio(), "what": finding.what })
        });
        rows.chain(missing)
            .chain(findings.collect::<Vec<_>>())
            .collect()
    }
}

/// `2 gpu ranks, raw, TensorBoard`.
pub(super) fn title(case: &Case) -> String {
    let board = if case.tensorboard {
        ", TensorBoard"
    } else {
        ""
    };
    format!("{}, {}{board}", case.devices, case.input.word())
}

fn sentence(finding: &Finding) -> String {
    if finding.name == "tensorboard" {
        return format!(
            "{}: {:+.1} % of the speed",
            finding.what,
            100.0 * (finding.ratio() - 1.0)
        );
    }
    format!("{}: {:.2}x", finding.what, finding.ratio())
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{results, run};
    use super::*;
    use crate::output::terminal::draw;

    fn found() -> Results {
        results(&[
            run("cpu-1-original", 10.0),
            run("cpu-1-raw", 15.0),
            run("cpu-1-raw-tb", 14.97),
            run("cpu-2-original", 16.0),
            run("cpu-2-raw", 27.0),
        ])
    }

    #[test]
    fn a_bench_is_a_table_and_what_it_comes_to() {
        let page = Page::of(&found(), DateTime::UNIX_EPOCH);
        insta::assert_snapshot!(draw(&page, false, None), @r"
        vgg16 at 224x224, global batch 16, fp32 (pipeline p7)
        DEVICES      INPUT     TENSORBOARD  IMAGES/S  SPEED-UP  EFFICIENCY  WAITS FOR INPUT  EXPOSED ALL-REDUCE    LOSS
        1 cpu rank   original  off              10.0                                  2.0 %               0.0 %  0.5000
        1 cpu rank   raw       off              15.0                                  2.0 %               0.0 %  0.5000
        1 cpu rank   raw       on               15.0                                  2.0 %               0.0 %  0.5000
        2 cpu ranks  original  off              16.0     1.60x        80 %            2.0 %               9.0 %  0.5000
        2 cpu ranks  raw       off              27.0     1.80x        90 %            2.0 %               9.0 %  0.5000

        What it comes to
        2 cpu ranks against 1, files decoded and resized each time: 1.60x
        2 cpu ranks against 1, raw shards: 1.80x
        raw shards against files decoded and resized each time, 1 cpu rank: 1.50x
        raw shards against files decoded and resized each time, 2 cpu ranks: 1.69x
        TensorBoard on against off, 1 cpu rank, raw shards: -0.2 % of the speed
        loss at the end: 0.5000 to 0.5000, from equal weights over equal batches
        ");
    }

    #[test]
    fn checkpoints_that_fell_into_the_measure_are_told() {
        let mut found = found();
        found.rows[2].checkpoints = 1;
        let text = draw(&Page::of(&found, DateTime::UNIX_EPOCH), false, None);
        assert!(text.contains("1 checkpoint was stored while"), "{text}");
    }

    #[test]
    fn each_line_for_programs_has_name_value_reference_ratio_and_what_ran() {
        for line in found().lines() {
            for key in ["name", "value", "reference", "ratio", "what"] {
                assert!(line.get(key).is_some(), "{key} in {line}");
            }
        }
        assert_eq!(found().lines()[4]["ratio"], 1.8);
    }
}

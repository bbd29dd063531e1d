//! What a bench found: a row for each case, over all rounds.

use super::case::Case;

/// One run of a case.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    pub case: Case,
    pub job_id: i64,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Measured(Measured),
    /// In words: how the job stands, or why it failed.
    Missing(String),
}

/// What one run measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    /// Once it has warmed up, over all ranks.
    pub images_per_second: f64,
    /// Means over ranks, of the whole run's steps.
    pub input_share: f64,
    /// All-reduce that backward did not hide; with several ranks it contains the wait for slower ones.
    pub exposed_share: f64,
    /// Stored while steps were measured: at the ends of epochs before the last.
    pub checkpoints: usize,
    pub loss: f64,
    /// Of the whole job.
    pub seconds: f64,
    pub backend: String,
    pub precision: String,
}

/// All rounds of a case.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub case: Case,
    /// Images a second: the median over rounds, and the smallest and largest.
    pub rate: Spread,
    pub input_share: f64,
    pub exposed_share: f64,
    /// Stored meanwhile, in the round that had the most.
    pub checkpoints: usize,
    pub loss: f64,
    pub seconds: f64,
    pub rounds: usize,
}

/// A median between its extremes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    /// Of at least one value.
    fn of(mut values: Vec<f64>) -> Self {
        // A median: one round that was disturbed by something else must not move the figure.
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Self {
            least: values[0],
            median,
            most: values[values.len() - 1],
        }
    }
}

/// Everything.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Results {
    pub pipeline_id: i64,
    pub model: String,
    pub batch_size: u32,
    /// Pixels, width and height.
    pub size: (u32, u32),
    /// What every run computed in; several words where they differ.
    pub precision: String,
    pub rows: Vec<Row>,
    /// Cases without a figure, and why.
    pub missing: Vec<(Case, String)>,
}

impl Results {
    /// Rows of the cases of `runs`, in the order in which they first ran.
    pub(super) fn rows_of(runs: &[Run]) -> (Vec<Row>, Vec<(Case, String)>) {
        let (mut rows, mut missing) = (Vec::new(), Vec::new());
        let mut seen: Vec<&Case> = Vec::new();
        for run in runs {
            if seen.contains(&&run.case) {
                continue;
            }
            seen.push(&run.case);
            let mut measured = Vec::new();
            let mut why = String::new();
            for other in runs.iter().filter(|other| other.case == run.case) {
                match &other.outcome {
                    Outcome::Measured(figures) => measured.push(figures),
                    Outcome::Missing(words) => why.clone_from(words),
                }
            }
            // A case that failed in one round alone has the figures of the others.
            if measured.is_empty() {
                missing.push((run.case.clone(), why));
                continue;
            }
            let median = |read: fn(&Measured) -> f64| {
                Spread::of(measured.iter().map(|run| read(run)).collect())
            };
            rows.push(Row {
                case: run.case.clone(),
                rate: median(|run| run.images_per_second),
                input_share: median(|run| run.input_share).median,
                exposed_share: median(|run| run.exposed_share).median,
                checkpoints: measured
                    .iter()
                    .map(|run| run.checkpoints)
                    .max()
                    .unwrap_or(0),
                loss: median(|run| run.loss).median,
                seconds: median(|run| run.seconds).median,
                rounds: measured.len(),
            });
        }
        (rows, missing)
    }

    /// Images a second of a case.
    pub(super) fn rate(&self, case: &Case) -> Option<f64> {
        self.rows
            .iter()
            .find(|row| row.case == *case)
            .map(|row| row.rate.median)
    }

    /// The case that a row's speed-up is against: the fewest ranks of its kind of device, all else
    /// equal.
    pub(crate) fn base_of(&self, case: &Case) -> Option<&Row> {
        self.rows
            .iter()
            .filter(|row| {
                row.case.devices.kind == case.devices.kind
                    && row.case.input == case.input
                    && row.case.tensorboard == case.tensorboard
            })
            .min_by_key(|row| row.case.devices.ranks)
    }

    /// Images a second over those of [`Results::base_of`].
    pub(crate) fn speed_up(&self, row: &Row) -> Option<f64> {
        let base = self.base_of(&row.case)?;
        Some(row.rate.median / base.rate.median)
    }

    /// The speed-up over that which as many times the ranks would give at best.
    pub(crate) fn efficiency(&self, row: &Row) -> Option<f64> {
        let base = self.base_of(&row.case)?;
        let times = f64::from(row.case.devices.ranks) / f64::from(base.case.devices.ranks);
        Some(self.speed_up(row)? / times)
    }

    /// The smallest and the largest loss at the end.
    pub(crate) fn losses(&self) -> Option<(f64, f64)> {
        let losses = || self.rows.iter().map(|row| row.loss);
        let least = losses().min_by(f64::total_cmp)?;
        Some((least, losses().max_by(f64::total_cmp)?))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn run(name: &str, images_per_second: f64) -> Run {
        Run {
            case: Case::of_job(name).unwrap(),
            job_id: 1,
            outcome: Outcome::Measured(Measured {
                images_per_second,
                input_share: 0.02,
                exposed_share: if name.contains("-1-") { 0.0 } else { 0.09 },
                checkpoints: 0,
                loss: 0.5,
                seconds: 12.0,
                backend: "gloo".into(),
                precision: "fp32".into(),
            }),
        }
    }

    pub(crate) fn results(runs: &[Run]) -> Results {
        let (rows, missing) = Results::rows_of(runs);
        Results {
            pipeline_id: 7,
            model: "vgg16".into(),
            batch_size: 16,
            size: (224, 224),
            precision: "fp32".into(),
            rows,
            missing,
        }
    }

    #[test]
    fn rounds_are_one_row_with_the_median_between_the_extremes() {
        let found = results(&[
            run("cpu-1-raw", 10.0),
            run("cpu-2-raw", 18.0),
            run("cpu-1-raw-r2", 14.0),
            run("cpu-1-raw-r3", 11.0),
        ]);
        assert_eq!(found.rows.len(), 2);
        let row = &found.rows[0];
        let spread = Spread {
            least: 10.0,
            median: 11.0,
            most: 14.0,
        };
        assert_eq!((row.rate, row.rounds), (spread, 3));
        assert_eq!(Spread::of(vec![3.0, 1.0]).median, 2.0);
    }

    #[test]
    fn speed_up_is_against_the_fewest_ranks_with_all_else_equal() {
        let found = results(&[
            run("gpu-2-raw", 20.0),
            run("gpu-8-raw", 60.0),
            run("gpu-1-jpeg", 1.0),
            run("cpu-1-raw", 2.0),
        ]);
        assert_eq!(found.speed_up(&found.rows[1]), Some(3.0));
        assert_eq!(found.efficiency(&found.rows[1]), Some(0.75));
        assert_eq!(found.speed_up(&found.rows[2]), Some(1.0));
    }

    #[test]
    fn a_case_without_a_figure_is_missing_with_its_reason_and_not_a_zero() {
        let failed = Run {
            outcome: Outcome::Missing("failed: out of memory".into()),
            ..run("gpu-1-raw", 0.0)
        };
        let found = results(&[failed, run("cpu-1-raw", 2.0)]);
        assert_eq!(found.rows.len(), 1);
        assert_eq!(found.missing[0].1, "failed: out of memory");
    }
}

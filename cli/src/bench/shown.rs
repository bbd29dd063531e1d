//! Where the results of a bench go: stdout, and a chart beside it.

use std::path::PathBuf;

use super::chart::svg;
use super::results::Results;
use crate::clock;
use crate::error::Result;
use crate::output::Output;
use crate::say::say;

/// How results are shown.
#[derive(Debug)]
pub(crate) struct Shown {
    pub chart: Option<PathBuf>,
    /// One object a line, whatever the output's format.
    pub json: bool,
    pub output: Output,
}

impl Shown {
    pub(crate) fn show(&self, results: &Results) -> Result<()> {
        if self.json {
            for line in results.lines() {
                self.output.text(&format!("{line}\n"))?;
            }
        } else {
            self.output.show(results, clock::now())?;
        }
        let Some(path) = &self.chart else {
            return Ok(());
        };
        match svg(results) {
            Some(svg) => {
                std::fs::write(path, svg).map_err(|error| {
                    anyhow::anyhow!("cannot write the chart {}: {error}", path.display())
                })?;
                say!("the chart: {}", path.display());
            }
            None => say!("no case has a figure, so there is no chart"),
        }
        Ok(())
    }
}

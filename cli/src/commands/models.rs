//! `marquee models`: the zoo, from the table that this program has built in; no coordinator is asked.

use chrono::{DateTime, Utc};
use marquee_domain::zoo::{self, MODELS, ModelInfo, ZOO};
use serde_json::{Value, json};

use super::Session;
use crate::clock;
use crate::error::{CliError, Result};
use crate::output::table::{Entry, left, right, toned};
use crate::output::{Page, Show, Tone};

/// List the networks that a train job can name
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Parameters and FLOPs are for 1000 classes and one picture of the default size; a multiplication with
an addition is two FLOPs. SIDE is that size, in pixels.

Examples:
  marquee models
  marquee models xception
  marquee models --output json | jq '.[] | {name, flops, weights}'")]
pub(super) struct Args {
    /// Only these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    session
        .output
        .show(&Models(chosen(&args.names)?), clock::now())?;
    Ok(())
}

/// The models named, or all.
fn chosen(names: &[String]) -> Result<Vec<&'static ModelInfo>> {
    if names.is_empty() {
        return Ok(ZOO.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            zoo::find(name).ok_or_else(|| {
                CliError::Usage(format!(
                    "there is no model {name:?}; the models are {}",
                    MODELS.join(", ")
                ))
            })
        })
        .collect()
}

struct Models(Vec<&'static ModelInfo>);

impl Show for Models {
    fn page(&self, page: &mut Page, _: DateTime<Utc>) {
        let heads = [
            left("NAME"),
            right("PARAMETERS"),
            right("FLOPS"),
            right("SIDE"),
            left("LICENCE"),
            left("WEIGHTS"),
        ];
        page.table(&heads, self.0.iter().map(|model| row(model)).collect());
    }

    fn json(&self) -> Value {
        self.0.iter().map(|model| object(model)).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|model| model.name.to_owned()).collect()
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "shown with three digits at most"
)]
fn row(model: &ModelInfo) -> Vec<Entry> {
    let weights = if model.weights.is_empty() {
        "none".to_owned()
    } else {
        model.weights.join(", ")
    };
    vec![
        toned(model.name, Tone::Strong),
        format!("{:.1} M", model.parameters as f64 / 1e6).into(),
        format!("{:.2} G", model.flops() as f64 / 1e9).into(),
        model.side.to_string().into(),
        model.licence.into(),
        weights.into(),
    ]
}

fn object(model: &ModelInfo) -> Value {
    json!({
        "name": model.name,
        "also": model.also,
        "title": model.title,
        "paper": model.paper,
        "classes": zoo::CLASSES,
        "parameters": model.parameters,
        "flops": model.flops(),
        "multiply_adds": model.multiply_adds,
        "width": model.side,
        "height": model.side,
        "smallest_side": model.smallest_side,
        "side_step": model.side_step,
        "mean": model.mean,
        "std": model.std,
        "licence": model.licence,
        "weights": model.weights,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_show_what_they_cost_and_where_their_weights_are() {
        let names = ["simple-cnn", "Xception", "resnet50"].map(str::to_owned);
        let models = Models(chosen(&names).unwrap());
        let mut page = Page::new(false, None);
        models.page(&mut page, DateTime::UNIX_EPOCH);
        insta::assert_snapshot!(page.finish());
        assert_eq!(models.ids(), ["simple-cnn", "legacy_xception", "resnet50"]);
        let json = models.json();
        assert_eq!(json[2]["flops"], 8_178_368_512_u64);
        assert_eq!(json[1]["mean"], json!([0.5, 0.5, 0.5]));
    }

    #[test]
    fn an_unknown_model_is_named_with_the_known_ones() {
        let message = chosen(&["resnet9000".to_owned()]).unwrap_err().to_string();
        assert!(
            message.contains("\"resnet9000\"") && message.contains("resnet50"),
            "{message}"
        );
        assert_eq!(chosen(&[]).unwrap().len(), ZOO.len());
    }
}

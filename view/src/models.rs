//! The networks that a train job can name, one row each.

use chrono::{DateTime, Utc};
use marquee_domain::zoo::{self, ModelInfo};
use serde_json::{Value, json};

use crate::page::{Cell, Page, Tone, View, left, right, toned};

/// A listing of networks.
#[derive(Debug)]
pub struct Models(pub Vec<&'static ModelInfo>);

impl View for Models {
    fn page(&self, page: &mut Page, _: DateTime<Utc>) {
        let heads = [
            left("NAME"),
            right("PARAMETERS"),
            right("FLOPS"),
            right("SIDE"),
            left("LICENCE"),
            left("WEIGHTS"),
        ];
        page.table(heads, self.0.iter().map(|model| row(model)).collect());
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
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
fn row(model: &ModelInfo) -> Vec<Cell> {
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
        // Both figures, since papers call either of them "FLOPs": with their names nobody has to
        // guess which.
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

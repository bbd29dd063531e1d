//! `marquee models`: the zoo, from the table that this program has built in; no coordinator is asked.

use marquee_domain::nearest::nearest;
use marquee_domain::zoo::{self, MODELS, ModelInfo, ZOO};
use marquee_view::models::Models;

use crate::clock;
use crate::error::{CliError, Result};
use crate::session::Session;

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
                let meant = match nearest(name, MODELS.iter().copied()) {
                    Some(meant) => format!("did you mean {meant:?}? "),
                    None => String::new(),
                };
                CliError::Usage(format!(
                    "there is no model {name:?}; {meant}the models are {}",
                    MODELS.join(", ")
                ))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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

//! `marquee weights`: weights that others published, brought into a form that training takes.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use marquee_view::{Page, View, units};
use marquee_weights::{Import, Source, import};
use serde_json::{Value, json};

use crate::clock;
use crate::error::Result;
use crate::session::Session;

/// Import published weights, to start training from
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee weights import resnet18.pth --to /data/weights --licence BSD-3-Clause
  marquee submit p.toml --set 'jobs.train.weights=\"/data/weights/resnet18.safetensors\"'")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn a PyTorch checkpoint into safetensors under timm's names, with a note beside it
    ///
    /// The checkpoint (of torch.save, in its ZIP or its older form) is read as data: nothing in it
    /// is run, and a file that asks for anything but tensors is refused. The note holds digests,
    /// source and licence. No coordinator is needed.
    #[command(after_help = "\
Examples:
  marquee weights import resnet18.pth
  marquee weights import model.pth --to weights --from 'torchvision 0.26' --licence BSD-3-Clause")]
    Import {
        /// A .pth, .pt, .bin or .safetensors file
        file: PathBuf,
        /// Folder for the safetensors file and its note
        #[arg(long, value_name = "DIR", default_value = ".")]
        to: PathBuf,
        /// Where the file is from, for the note: a URL, a package and its version
        #[arg(long, value_name = "TEXT")]
        from: Option<String>,
        /// The licence of the weights, for the note
        #[arg(long, value_name = "TEXT")]
        licence: Option<String>,
    },
}

pub(super) fn run(args: Args, session: &Session) -> Result<()> {
    let Command::Import {
        file,
        to,
        from,
        licence,
    } = args.command;
    let imported = import(&file, &to, Source { from, licence })
        .map_err(|error| anyhow::anyhow!("cannot import {}: {error}", file.display()))?;
    session.output.show(&Imported(imported), clock::now())?;
    Ok(())
}

struct Imported(Import);

impl View for Imported {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let Import {
            weights,
            note_file,
            note,
        } = &self.0;
        page.line(format!(
            "{}: {}, {} numbers, sha256 {}",
            weights.display(),
            units::plural(note.tensors, "tensor"),
            units::count(note.numbers as u64),
            note.sha256.short()
        ));
        if !note.unwrapped.is_empty() {
            page.line(format!(
                "taken off names: {}, which wrappers put before them",
                note.unwrapped.join(", ")
            ));
        }
        if let Some(from) = note.renamed_from {
            page.line(format!(
                "{} names changed from {from}'s to timm's",
                note.renamed
            ));
        }
        match note.model {
            Some(model) => page.line(format!("its names are those of the model {model}")),
            None => page.line("its names tell of no one model; the train job will compare them"),
        }
        for (what, names) in [("left out", &note.dropped), ("no tensors", &note.ignored)] {
            if let Some(first) = names.first() {
                page.line(format!("{what}: {}, such as {first}", names.len()));
            }
        }
        if note.licence.is_none() {
            page.line("no licence is noted; --licence says what you may do with them");
        }
        page.line(format!("note: {}", note_file.display()));
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        json!({
            "weights": self.0.weights,
            "note_file": self.0.note_file,
            "note": self.0.note,
        })
    }

    fn ids(&self) -> Vec<String> {
        vec![self.0.weights.display().to_string()]
    }
}

//! What `cargo xtask bench data` measures of the data path: each task does the work of the product with
//! the product's own code (`marquee-datasets`), round by round, and says what the round cost.
//!
//! A round is asked for by a line with a number of pictures, and answered by one JSON object a line.
//! So that whoever asks can let several programs take turns: what else the machine does then befalls
//! all of them alike.
//!
//! Not here: what it is compared with, and the goals; those are xtask's.

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;

mod client;
mod pictures;
mod shards;
mod similar;
mod tables;

pub use client::load;
pub use pictures::{PICTURES_FOLDER, make_pictures};
pub use shards::make_shards;
pub use similar::similar;
pub use tables::make_table;

/// Pixels of a side that pictures are brought to.
const SIDE: u32 = 299;
/// The mean and the spread of ImageNet's colours, as the trainer takes them.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];
/// Pictures of a batch of the loader.
const BATCH: usize = 64;
/// Threads of the loader.
const LOADER_THREADS: usize = 2;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Files decoded, resized, normalised, by one thread.
    Decode,
    /// The same by two threads, into batches.
    Loader,
    /// Pictures of raw shards, at random, normalised.
    Raw,
    /// The same pictures from one plain mapped file.
    Mapped,
    /// A table of examples into Arrow columns.
    Table,
    /// A table of examples into the rows that jobs work with.
    Rows,
}

impl Task {
    /// Every task by its name.
    pub const ALL: [(&'static str, Self); 6] = [
        ("decode", Self::Decode),
        ("loader", Self::Loader),
        ("raw", Self::Raw),
        ("mapped", Self::Mapped),
        ("table", Self::Table),
        ("rows", Self::Rows),
    ];

    fn start(self, folder: &Path) -> anyhow::Result<Box<Round>> {
        Ok(match self {
            Self::Decode => pictures::decode(folder)?,
            Self::Loader => pictures::loader(folder)?,
            Self::Raw => shards::raw(folder)?,
            Self::Mapped => shards::mapped(folder)?,
            Self::Table => tables::arrow(folder),
            Self::Rows => tables::rows(folder),
        })
    }
}

/// Works on so many items and returns how many it were, and something that depends on all results, so
/// that no work can be left out.
type Round = dyn FnMut(usize) -> anyhow::Result<(usize, f64)>;

/// What a round cost.
#[derive(Debug, Serialize)]
struct Cost {
    items: usize,
    /// Of all threads, user and system.
    cpu_s: f64,
    wall_s: f64,
    check: f64,
}

/// Does rounds of `task` on what is in `folder` until no more are asked for.
pub fn serve(
    task: Task,
    folder: &Path,
    asked: impl BufRead,
    mut out: impl Write,
) -> anyhow::Result<()> {
    let mut round = task.start(folder)?;
    for line in asked.lines() {
        let items = line?.trim().parse()?;
        // CPU time of all threads as well as the wall's: on a busy machine the wall's alone says
        // little.
        let (cpu_before, began) = (cpu_s()?, Instant::now());
        let (items, check) = round(items)?;
        let cost = Cost {
            items,
            cpu_s: cpu_s()? - cpu_before,
            wall_s: began.elapsed().as_secs_f64(),
            check,
        };
        serde_json::to_writer(&mut out, &cost)?;
        out.write_all(b"\n")?;
        // Whoever asks waits for this line before it lets the next program work.
        out.flush()?;
    }
    Ok(())
}

/// CPU time of this process so far, in seconds.
fn cpu_s() -> io::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let spent = usage.user_time() + usage.system_time();
    Ok(spent.num_microseconds() as f64 / 1e6)
}

//! `cargo xtask bench data`: the data path beside the libraries that teams use today.
//!
//! Ours is `marquee-prep` in the release profile, as it is deployed; parts of it alone are measured by
//! `marquee-catalogue`, which is built from the same library. Times are CPU time of all
//! threads and worker processes an item, which other work on the machine changes little, unless a row says
//! otherwise; those that are compared take turns.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Options;
use super::agent::{Agent, Cost, Turn, take_turns};
use super::figure::{Figure, Goal, Sheet};
use marquee_xtask::setup::python;
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report};

mod fetch;
mod job;
mod preprocess;
mod similar;

/// What can be asked for alone.
pub(super) const PARTS: &[&str] = &[
    "decode",
    "loader",
    "shards",
    "tables",
    "preprocess",
    "similar",
    "fetch",
];

const TORCH: &str = include_str!("../../../python/zoo.txt");
const PILLOW: &str = include_str!("../../../python/bench-data.txt");
const TENSORFLOW: &str = include_str!("../../../python/bench-tf.txt");

/// Posters of 500x750, and rows of the table of examples: as many as the study's catalogue has.
const PICTURES: usize = 1_000;
const TABLE_ROWS: usize = 270_000;

/// What all parts share.
struct Bench<'a> {
    workspace: &'a Workspace,
    prep: PathBuf,
    /// What is worked on; kept for the next time.
    folder: PathBuf,
    /// The core that ours runs on, if it is to have one alone.
    core: Option<usize>,
}

type Part = fn(&Bench<'_>, &mut Sheet) -> Result<()>;

pub(super) fn run(workspace: &Workspace, options: &Options, sheet: &mut Sheet) -> Result<()> {
    let target = workspace.bin_dir.parent().context("a target folder")?;
    let bench = Bench {
        workspace,
        prep: match &options.prep {
            Some(prep) => prep.clone(),
            // The release profile, unlike training's benchmark: here it is our own code that is
            // measured.
            None => build(workspace, &target.join("release/marquee-prep"))?,
        },
        folder: target.join("bench-data"),
        core: None,
    };
    report::step("make: posters, shards, a table", || {
        let mut make = bench.catalogue();
        make.args(["bench", "make"]).arg(&bench.folder);
        make.args(["--pictures", &PICTURES.to_string()]);
        process::run(make.args(["--rows", &TABLE_ROWS.to_string()]))
    })?;
    let parts: [(&str, Part); 7] = [
        ("decode", decode),
        ("loader", loader),
        ("shards", shards),
        ("tables", tables),
        ("preprocess", preprocess::run),
        ("similar", similar::run),
        ("fetch", fetch::run),
    ];
    for (name, part) in parts {
        if options.wants(name) {
            report::step(&format!("measure: {name}"), || part(&bench, sheet))?;
        }
    }
    Ok(())
}

fn build(workspace: &Workspace, prep: &Path) -> Result<PathBuf> {
    report::step(
        "build: marquee-prep and marquee-catalogue, release profile",
        || {
            let mut command = workspace.cargo("build");
            command.args(["--release", "--bins", "--package", "marquee-datasets"]);
            process::run(command.args(["--package", "marquee-catalogue"]))
        },
    )?;
    Ok(prep.to_owned())
}

/// One that is compared with ours.
struct Peer {
    name: &'static str,
    /// Task of `bench_data.py`, and the environment that it needs.
    task: &'static str,
    environment: (&'static str, &'static str),
    goal: Option<Goal>,
}

const TORCH_ENVIRONMENT: (&str, &str) = ("zoo", TORCH);
const PILLOW_ENVIRONMENT: (&str, &str) = ("bench-data", PILLOW);
const TENSORFLOW_ENVIRONMENT: (&str, &str) = ("bench-tf", TENSORFLOW);

impl Bench<'_> {
    /// The same, with ours on `core` alone.
    fn on(&self, core: Option<usize>) -> Self {
        Self {
            prep: self.prep.clone(),
            folder: self.folder.clone(),
            core,
            ..*self
        }
    }

    /// The program whose jobs are measured.
    fn prep(&self) -> Command {
        self.program(&self.prep)
    }

    /// The server to fetch from, which also measures parts of the data path alone.
    fn catalogue(&self) -> Command {
        self.program(&self.prep.with_file_name("marquee-catalogue"))
    }

    fn program(&self, program: &Path) -> Command {
        match self.core {
            Some(core) => {
                // By taskset, so that helpers which the program starts stay on the core, too.
                let mut command = Command::new("taskset");
                command.args(["-c", &core.to_string()]).arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    fn ours(&self, task: &str) -> Result<Agent> {
        let mut command = self.catalogue();
        Agent::start(command.args(["bench", "rounds", task]).arg(&self.folder))
    }

    /// The peer, ready, and its versions.
    fn peer(&self, peer: &Peer) -> Result<(Agent, String)> {
        let (name, requirements) = peer.environment;
        let interpreter = python::ensure(name, requirements)?;
        let mut command = Command::new(interpreter);
        command.arg(self.workspace.root.join("xtask/python/bench_data.py"));
        let mut agent = Agent::start(command.arg(peer.task).arg(&self.folder))?;
        let versions = agent.answer()?["what"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Ok((agent, versions))
    }

    /// Those of `peers` that can be had here; the others are named as skipped.
    fn peers<'p>(
        &self,
        peers: &'p [Peer],
        what: &str,
        sheet: &mut Sheet,
    ) -> Vec<(&'p Peer, Agent, String)> {
        let mut ready = Vec::new();
        for peer in peers {
            match self.peer(peer) {
                Ok((agent, versions)) => ready.push((peer, agent, versions)),
                Err(error) => {
                    let why = format!("{error:#}");
                    // One line of it: where a package cannot be had, pip's whole output follows.
                    let first = why.lines().next().unwrap_or_default();
                    sheet.skip(&format!("{what} beside {}", peer.name), first);
                }
            }
        }
        ready
    }
}

fn cpu_figure(what: &str, ours: Cost, peer: &Peer, theirs: Cost, ran: String) -> Figure {
    Figure {
        name: what.to_owned(),
        value: ours.cpu_ms,
        unit: "CPU ms/picture".into(),
        is_less_better: true,
        reference: Some((peer.name.to_owned(), theirs.cpu_ms)),
        goal: peer.goal,
        ran,
    }
}

fn decode(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    const WHAT: &str = "decode + resize + normalise";
    const ROUNDS: usize = 11;
    const ITEMS: usize = 60;
    let peers = [
        Peer {
            name: "torchvision.io",
            task: "torchvision",
            environment: TORCH_ENVIRONMENT,
            goal: Some(Goal::Ratio(1.4)),
        },
        Peer {
            name: "PIL",
            task: "pil",
            environment: PILLOW_ENVIRONMENT,
            goal: Some(Goal::Ratio(2.3)),
        },
        Peer {
            name: "tf.data",
            task: "tf",
            environment: TENSORFLOW_ENVIRONMENT,
            goal: Some(Goal::Ratio(1.8)),
        },
    ];
    let mut peers = bench.peers(&peers, WHAT, sheet);
    let mut ours = bench.ours("decode")?;
    let agents = [&mut ours]
        .into_iter()
        .chain(peers.iter_mut().map(|peer| &mut peer.1));
    let mut turns: Vec<_> = agents
        .map(|agent| Turn {
            agent,
            items: ITEMS,
        })
        .collect();
    let costs = take_turns(&mut turns, ROUNDS)?;
    for ((peer, _, versions), theirs) in peers.iter().zip(&costs[1..]) {
        let ran = format!(
            "JPEG 500x750 to 3x299x299 f32, one thread, median of {ROUNDS} rounds of {ITEMS} in turn; {versions}"
        );
        sheet.add(cpu_figure(WHAT, costs[0], peer, *theirs, ran));
    }
    Ok(())
}

fn loader(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    const ROUNDS: usize = 5;
    const ITEMS: usize = 960;
    let peers = [
        Peer {
            name: "DataLoader (PIL)",
            task: "loader-pil",
            environment: TORCH_ENVIRONMENT,
            goal: Some(Goal::Ratio(2.5)),
        },
        Peer {
            name: "DataLoader (torchvision.io)",
            task: "loader-torchvision",
            environment: TORCH_ENVIRONMENT,
            goal: Some(Goal::Ratio(1.5)),
        },
    ];
    let mut peers = bench.peers(&peers, "whole loader", sheet);
    let mut ours = bench.ours("loader")?;
    let agents = [&mut ours]
        .into_iter()
        .chain(peers.iter_mut().map(|peer| &mut peer.1));
    let mut turns: Vec<_> = agents
        .map(|agent| Turn {
            agent,
            items: ITEMS,
        })
        .collect();
    let costs = take_turns(&mut turns, ROUNDS)?;
    for ((peer, _, versions), theirs) in peers.iter().zip(&costs[1..]) {
        let ran = format!(
            "batches of 64, two threads beside two worker processes, median of {ROUNDS} rounds of {ITEMS}; {versions}"
        );
        sheet.add(cpu_figure(
            "whole loader",
            costs[0],
            peer,
            *theirs,
            ran.clone(),
        ));
        sheet.add(Figure {
            name: "whole loader, as the clock says".to_owned(),
            value: 1_000.0 / costs[0].wall_ms,
            unit: "pictures/s wall".into(),
            is_less_better: false,
            reference: Some((peer.name.to_owned(), 1_000.0 / theirs.wall_ms)),
            goal: peer.goal,
            ran,
        });
    }
    Ok(())
}

fn shards(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    const ROUNDS: usize = 15;
    const READ: usize = 500;
    // Fewer, so that a round takes about as long as one of the others.
    const DECODED: usize = 40;
    let (mut raw, mut mapped, mut decode) = (
        bench.ours("raw")?,
        bench.ours("mapped")?,
        bench.ours("decode")?,
    );
    let turn = |agent, items| Turn { agent, items };
    let costs = take_turns(
        &mut [
            turn(&mut raw, READ),
            turn(&mut mapped, READ),
            turn(&mut decode, DECODED),
        ],
        ROUNDS,
    )?;
    let ran = format!(
        "pictures of 299x299 at random, read and normalised, one thread, median of {ROUNDS} rounds"
    );
    let against = |name: &str, cost: Cost, least: f64| Figure {
        name: "raw shards".to_owned(),
        value: costs[0].cpu_ms,
        unit: "CPU ms/picture".into(),
        is_less_better: true,
        reference: Some((name.to_owned(), cost.cpu_ms)),
        goal: Some(Goal::Ratio(least)),
        ran: ran.clone(),
    };
    // Within 1.15 times is a ratio of 1 / 1.15 or better.
    const WITHIN: f64 = 0.87;
    sheet.add(against("plain mapped file", costs[1], WITHIN));
    sheet.add(against("decoding again", costs[2], 15.0));
    Ok(())
}

fn tables(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    const ROUNDS: usize = 9;
    let pairs = [
        (
            "table of examples to Arrow",
            "table",
            Some(Goal::Ratio(1.0)),
        ),
        ("table of examples to rows", "rows", None),
    ];
    for (what, task, goal) in pairs {
        let peer = [Peer {
            name: "pyarrow",
            task,
            environment: PILLOW_ENVIRONMENT,
            goal,
        }];
        let mut ours = bench.ours(task)?;
        for (peer, mut agent, versions) in bench.peers(&peer, what, sheet) {
            let mut turns = [&mut ours, &mut agent].map(|agent| Turn { agent, items: 1 });
            let costs = take_turns(&mut turns, ROUNDS)?;
            sheet.add(Figure {
                unit: "CPU ms".into(),
                ..cpu_figure(
                    what,
                    costs[0],
                    peer,
                    costs[1],
                    format!("{TABLE_ROWS} rows, 15 columns, Snappy, one thread, median of {ROUNDS} rounds; {versions}"),
                )
            });
        }
    }
    Ok(())
}

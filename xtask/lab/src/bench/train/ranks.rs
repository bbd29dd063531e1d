//! Two ranks with one thread each beside one rank with one thread, and beside PyTorch's own
//! DistributedDataParallel, at the same global batch. What two such processes reach that exchange
//! nothing says how much of what is missing is the exchange's, and how much the machine's.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Bench;
use super::peers::{Trainee, Turns, require_same_losses, take_turns};
use super::steps::{bench_step, ensure_batch};
use crate::bench::figure::{Figure, Goal, Sheet};

const MODEL: &str = "resnet18";
const BATCH: u32 = 64;
const SIDE: u32 = 160;
const TURNS: Turns = Turns {
    warmup: 3,
    rounds: 7,
    steps: 2,
};
/// Of one rank, in as many steps.
const SPEEDUP: f64 = 1.9;
const BESIDE_DDP: f64 = 1.05;
/// Ranks sum in another order, and batch-norm sees half the batch.
const TOLERANCE: f64 = 2e-2;

pub(super) fn run(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    let folder = ensure_batch(bench, MODEL, BATCH, SIDE)?;
    // For the two that exchange nothing: each has the share that a rank of two has.
    let half = ensure_batch(bench, MODEL, BATCH / 2, SIDE)?;
    let store = StoreProcess::start(&bench.trainer)?;
    let by_itself = |folder: &Path| {
        let mut command = bench_step(bench, folder, MODEL);
        command.args(["--precision", "fp32", "--channels-last", "true"]);
        command
    };
    let ours = |place: Option<u16>| ranks(place, || by_itself(&folder));
    let theirs = |place: Option<u16>| {
        let folder = &folder;
        ranks(place, move || {
            let mut command = bench.peer("step");
            command.arg(folder).args(["--layout", "channels_last"]);
            command.env("OMP_NUM_THREADS", "1");
            command
        })
    };
    let mut trainees = [
        Trainee::start("one rank", ours(None))?,
        Trainee::start("two ranks", ours(Some(store.port)))?,
        Trainee::start(
            "two that exchange nothing",
            [(); 2].map(|()| by_itself(&half)),
        )?,
        Trainee::start("torch, one rank", theirs(None))?,
        Trainee::start("torch DDP, two ranks", theirs(Some(free_port()?)))?,
    ];
    let turns = Turns {
        rounds: bench.rounds(TURNS.rounds),
        ..TURNS
    };
    take_turns(&mut trainees, turns)?;
    let [one, two, apart, torch_one, torch_two] = &trainees;
    // One with one and two with two: between one rank and two, batch-norm alone makes losses
    // differ.
    require_same_losses(one, torch_one, TOLERANCE)?;
    require_same_losses(two, torch_two, TOLERANCE)?;
    let figure = |name: &str, ours: &Trainee, peer: &Trainee, goal: Option<f64>| Figure {
        name: name.to_owned(),
        value: ours.wall_ms(),
        unit: "wall ms/step".into(),
        is_less_better: true,
        reference: Some((peer.name.to_owned(), peer.wall_ms())),
        goal: goal.map(Goal::Ratio),
        ran: format!(
            "{MODEL} fp32, channels_last, {BATCH} x {SIDE}x{SIDE} px in all, 1 thread a rank, Gloo; median of \
             {} rounds of {} in turn; CPU of all ranks {:.0} and {:.0} ms",
            turns.rounds,
            turns.steps,
            ours.cpu_ms(),
            peer.cpu_ms()
        ),
    };
    sheet.add(figure("two ranks beside one", two, one, Some(SPEEDUP)));
    sheet.add(figure("what two cores allow here", apart, one, None));
    sheet.add(figure(
        "two ranks beside torchrun + DDP",
        two,
        torch_two,
        Some(BESIDE_DDP),
    ));
    sheet.add(figure(
        "torchrun + DDP's own gain",
        torch_two,
        torch_one,
        None,
    ));
    Ok(())
}

/// The command of one rank alone, or of two that meet at this port.
fn ranks(port: Option<u16>, command: impl Fn() -> Command) -> Vec<Command> {
    let Some(port) = port else {
        return vec![command()];
    };
    (0..2)
        .map(|rank| {
            let mut command = command();
            for (name, value) in [
                ("RANK", rank.to_string()),
                ("LOCAL_RANK", rank.to_string()),
                ("WORLD_SIZE", 2.to_string()),
                ("MASTER_ADDR", "127.0.0.1".to_owned()),
                ("MASTER_PORT", port.to_string()),
            ] {
                command.env(name, value);
            }
            command
        })
        .collect()
}

fn free_port() -> Result<u16> {
    // Free now, and most likely still when torchrun's store takes it: it cannot be handed a socket.
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}

/// Where our ranks meet. Ends with it.
struct StoreProcess {
    child: Child,
    port: u16,
}

impl StoreProcess {
    fn start(trainer: &Path) -> Result<Self> {
        let mut child = Command::new(trainer)
            .args(["store", "--host", "127.0.0.1", "--until-eof"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the ranks' store")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its stdout is ours")?).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).context("the ranks' store did not start")?;
        let port = said["port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok());
        Ok(Self {
            child,
            port: port.context("no port")?,
        })
    }
}

impl Drop for StoreProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

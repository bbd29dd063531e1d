//! Scripts that were written for torchrun, on two workers: PyTorch's DDP, accelerate, Lightning.
//!
//! They need a Python with these packages, which is named by `MARQUEE_TEST_PYTHON` (else `python3` is looked at). Where
//! one of them is not there, its test says so by name and looks no further.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use marquee_e2e::TestCluster;
use marquee_e2e::jobs::state;
use marquee_proto::v1::{FailureClass, JobDetail, JobState};

/// Importing torch takes long on a busy machine, in two processes at once.
const DEADLINE: Duration = Duration::from_secs(300);

/// A model that is trained for some steps: each rank sees other data, and in the end all have the same weights.
const DDP: &str = r#"
import os, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group("gloo")
rank = dist.get_rank()
assert (rank, dist.get_world_size()) == (int(os.environ["RANK"]), 2)
assert dist.is_torchelastic_launched()
assert int(os.environ["LOCAL_RANK"]) < int(os.environ["LOCAL_WORLD_SIZE"])
torch.manual_seed(rank)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).pow(2).mean().backward()
    optimizer.step()
weights = model.module.weight.detach()
sums = [torch.zeros_like(weights) for _ in range(2)]
dist.all_gather(sums, weights)
print("equal weights", torch.equal(*sums), flush=True)
if rank == 0:
    torch.save(model.module.state_dict(), os.path.join(os.environ["MARQUEE_OUTPUT"], "model.pt"))
dist.barrier()
dist.destroy_process_group()
"#;

const ACCELERATE: &str = r#"
import torch
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model, optimizer = accelerator.prepare(model, optimizer)
loss = model(torch.randn(8, 4)).pow(2).mean()
accelerator.backward(loss)
optimizer.step()
accelerator.wait_for_everyone()
total = accelerator.reduce(torch.ones(1), "sum")
print("processes", accelerator.num_processes, "sum", int(total), flush=True)
accelerator.end_training()
"#;

const LIGHTNING: &str = r#"
import torch, lightning
from torch.utils.data import DataLoader, TensorDataset
class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, _):
        return self.layer(batch[0]).pow(2).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
import os
devices, hosts = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
trainer = lightning.Trainer(accelerator="cpu", devices=devices, num_nodes=hosts, strategy="ddp", max_steps=2,
    logger=False, enable_checkpointing=False, enable_progress_bar=False)
trainer.fit(Net(), DataLoader(TensorDataset(torch.randn(32, 4)), batch_size=4))
print("rank", trainer.global_rank, "of", trainer.world_size, "steps", trainer.global_step, flush=True)
"#;

/// One rank fails, the other one waits for it in vain.
const RAISES: &str = r#"
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record
@record
def main():
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        raise ValueError("the loss is NaN")
    dist.barrier()
main()
"#;

/// What torchrun tells its own agent alone, which is not there.
const OF_THE_AGENT: [&str; 1] = ["TORCHELASTIC_SIGNALS_TO_HANDLE"];

/// The Python to use, where it has `package`; else it is said that it has not.
fn python_with(package: &str) -> Option<String> {
    let python = std::env::var("MARQUEE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python)
        .args(["-c", &format!("import {package}")])
        .output();
    if found.is_ok_and(|found| found.status.success()) {
        return Some(python);
    }
    eprintln!("skipped: {python} has no {package}; MARQUEE_TEST_PYTHON names one that has");
    None
}

fn document(name: &str, python: &str, script: &str) -> String {
    format!(
        "name = \"{name}\"\n[jobs.{name}]\nkind = \"command\"\nranks = 2\nargv = [\"{python}\", \"-c\", '''{script}''']\n"
    )
}

/// Runs a script as two ranks on two workers, one slot each, and gives its log.
async fn run_as_two(name: &str, python: &str, script: &str) -> Result<String> {
    let cluster = TestCluster::start(2).await?;
    let submitted = cluster
        .submit(name, &document(name, python, script), &[])
        .await?;
    let job = submitted.jobs[0].id;
    let done = cluster.wait_success(job, DEADLINE).await;
    let log = cluster.log_of(job).await?;
    match done {
        Ok(_) => Ok(log),
        Err(error) => Err(error.context(log)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pytorchs_ddp_trains_as_under_torchrun() -> Result<()> {
    let Some(python) = python_with("torch") else {
        return Ok(());
    };
    let log = run_as_two("ddp", &python, DDP).await?;
    assert_eq!(log.matches("equal weights True").count(), 2, "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accelerate_finds_its_peers() -> Result<()> {
    let Some(python) = python_with("accelerate") else {
        return Ok(());
    };
    let log = run_as_two("accelerate", &python, ACCELERATE).await?;
    assert_eq!(log.matches("processes 2 sum 2").count(), 2, "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lightning_script_knows_its_place() -> Result<()> {
    let Some(python) = python_with("lightning") else {
        return Ok(());
    };
    let log = run_as_two("lightning", &python, LIGHTNING).await?;
    for said in ["rank 0 of 2 steps 2", "rank 1 of 2 steps 2"] {
        assert!(log.contains(said), "{log}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_variable_that_torchrun_sets_is_missing() -> Result<()> {
    let Some(python) = python_with("torch") else {
        return Ok(());
    };
    let names = |text: &str| -> BTreeSet<String> {
        let names = text.lines().filter_map(|line| line.split_once('='));
        names.map(|(name, _)| name.to_owned()).collect()
    };
    let mut torchrun = Command::new(&python);
    torchrun
        .args(["-m", "torch.distributed.run", "--standalone"])
        .args(["--nproc-per-node", "1", "--no-python", "env"])
        .env_clear()
        .env("PATH", std::env::var("PATH")?)
        // Else Python says by itself which characters it writes.
        .env("LC_ALL", "C.UTF-8");
    let ran = torchrun.output().context("running torchrun")?;
    let mut set = names(&String::from_utf8(ran.stdout)?);
    assert!(set.contains("TORCHELASTIC_RUN_ID"), "{set:?}");
    for other in ["PATH", "LC_ALL"].iter().chain(&OF_THE_AGENT) {
        set.remove(*other);
    }
    let list = "import os; print(*[f'{name}=' for name in os.environ], sep=chr(10))";
    let log = run_as_two("environment", &python, list).await?;
    let given = names(&log);
    let missing: Vec<_> = set.difference(&given).collect();
    assert!(missing.is_empty(), "{missing:?} of {set:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rank_that_raised_is_named_and_not_the_one_that_waited_for_it() -> Result<()> {
    let Some(python) = python_with("torch") else {
        return Ok(());
    };
    let cluster = TestCluster::start(2).await?;
    let submitted = cluster
        .submit("raises", &document("raises", &python, RAISES), &[])
        .await?;
    let failed = |detail: &JobDetail| state(detail) == JobState::Failed;
    let detail = cluster
        .wait_job(submitted.jobs[0].id, "failed", DEADLINE, failed)
        .await?;
    let failure = detail.job.and_then(|job| job.failure).context("why")?;
    assert_eq!(failure.class(), FailureClass::UserError, "{failure:?}");
    for said in ["rank 1 ", "ValueError: the loss is NaN"] {
        assert!(failure.message.contains(said), "{failure:?}");
    }
    Ok(())
}

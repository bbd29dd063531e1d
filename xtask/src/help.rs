//! What `cargo xtask help` and `cargo xtask <task> --help` print. The lab's tasks stand in the one list, and
//! explain themselves.

pub(crate) const HELP: &str = "\
Development tasks of Marquee

Usage: cargo xtask <task> [options]

Tasks:
  demo          build everything and train a model on generated posters, on this machine
  test          build everything and run all tests of the workspace
  check         formatting, lints, docs, SQL metadata, architecture rules, systemd units
  sim           play the control plane in a simulation: faults drawn from a seed, the real Postgres
  chaos         kill, pause and cut off the parts of a real cluster, and prove that nothing is lost
  trainer       build the trainer for old GPUs, test it, compare it with the current one
  web           build the web page, which the next build of the coordinator takes in
  setup         only fetch what the other tasks need; prints the variables a shell can use
  sample        make a data set of real pictures to try Marquee on
  weights-check compare imported and trained weights with PyTorch
  study         run the pipelines of examples/study, made small, from the API to the report
  transfer      show on real pictures that a pretrained network beats one from scratch
  notice        write NOTICE: the crates that are linked, with their licences
  sqlx-prepare  compute .sqlx (the checked queries) again from the migrations
  zoo-check     compare every model of the zoo with timm, in a virtual environment that it makes
  gpu-check     make an archive that measures the trainer on a machine with a GPU and PyTorch
  dist          make Debian packages, and an archive with an install script
  cluster-test  install the packages on hosts booted with systemd-nspawn, train, and take hosts and links away
  nccl-shim     build libmarquee_nccl.so, which carries NCCL on GPU hosts, from pinned headers
  data-check    rehearse the data path at full size: 20,000 films through every fault, planted oddities
  fuzz          try a reader of strangers' bytes on inputs that are made to break it
  bench         figures beside a reference that runs in the same run
  help          this text; \"cargo xtask <task> --help\" says more about one task

libtorch 2.11.0 goes to the user's cache folder, once for all checkouts.
";

pub(crate) const DEMO: &str = "\
Build Marquee and run its demo: films and posters from a local API, prepared, a network trained
by two ranks on two workers, evaluated

Usage: cargo xtask demo [options] [-- <more options of \"marquee demo\">]

Options:
  --keep          leave everything running at the end and say how to look around and stop it
  --json          print the summary as one JSON object on the last line of stdout
  --films N       how many films to generate
  --data-dir DIR  where the demo keeps its data
";

pub(crate) const NOTICE: &str = "\
Write NOTICE: every crate that is linked into our programs, with its version and licence. The check \"licences\"
fails where it is out of date, where a licence does not let us pass a crate on, and where one is not from crates.io

Usage: cargo xtask notice
";

pub(crate) const WEB: &str = "\
Build the web page from web/ into web/dist/page, from where the next build of marquee-coordinator takes it in

Usage: cargo xtask web

Takes the Node.js on PATH if it is 22.12 or newer, else fetches one (61 MB, hash-checked, through pip) into the user's
cache folder. demo and test do this by themselves when a source of the page has changed.
";

pub(crate) const SIM: &str = "\
Play the control plane in a simulation: the real coordinator, real workers and a real Postgres in one thread, with
faults drawn from a seed, and hold each history against what must be true

Usage: cargo xtask sim [options]

Options:
  --seeds N       so many worlds, each in a process of its own [200]; from 1,000 on they are played by a build that is
                  optimised, which takes minutes to make once
  --first SEED    the first seed [1]
  --minutes M     begin no world after so many minutes
  --replay SEED   one world again, with a time line of what each part said and did
  --planted NAME  plant a bug and look for it; \"all\": one after the other, and say after how many worlds each
                  was found (a build of its own)

Exit code 1 if a world is wrong, or a planted bug is not found.
";

pub(crate) const TEST: &str = "\
Build the web page and the workspace's binaries, play 200 simulated worlds (\"cargo xtask sim\" plays more), and run all
tests, with cargo-nextest where it is installed; the page is tried in Chromium where that is installed

Usage: cargo xtask test [-- <arguments for the test runner>]

Example: cargo xtask test -- lost_worker
";

pub(crate) const CHAOS: &str = "\
Start a real cluster (Postgres, coordinators, workers, each link through a relay), keep it busy, and kill, pause and
cut off its parts at random. Then wait until all is quiet and hold the history, the results and what the jobs wrote
down of themselves against the rules of docs/reliability.md

Usage: cargo xtask chaos [options]

Options:
  --minutes M       how long faults are done [10]; they end 20 s before that
  --seed S          which faults and jobs come in which order [1]
  --workers N       2 to 9 [3]
  --coordinators N  1 to 9, of which one leads [1]
  --training        also fetch, prepare, train on two ranks with the real trainer, and evaluate
  --keep            leave the folder with every log and say where it is
  --json            print the result as one JSON object

The exit code is 0 if nothing was lost, doubled or left in disorder.
";

pub(crate) const CHECK: &str = "\
Run every static check: fmt, architecture rules, circles of files, licences and sources of what is linked,
cargo-deny and cargo-audit on all that builds and tests it, clippy, the trainer for old GPUs (types and lockfile alone), doc, .sqlx, linkage, systemd units, the web page's types, lints and format

Usage: cargo xtask check [NAME..]

Options:
  NAME  only these, as the list at the end names them

A check whose tool is not installed is listed as skipped, by name. So is cargo-audit's where its database of advisories
cannot be fetched; MARQUEE_ADVISORY_DB names a folder with a copy of it.
";

pub(crate) const SETUP: &str = "\
Fetch libtorch and find Postgres, as demo and test do, and print the variables they use

Usage: cargo xtask setup

Example: eval \"$(cargo xtask setup)\" && cargo build --workspace

Variables that override it:
  LIBTORCH              a libtorch 2.11 of your own: a folder with include/ and lib/
  MARQUEE_POSTGRES_BIN  the folder with Postgres' initdb and postgres, version 14 or newer
  XDG_CACHE_HOME        where to keep marquee/libtorch-2.11.0 instead of ~/.cache
";

pub(crate) const NCCL_SHIM: &str = "\
Build libmarquee_nccl.so, the shared object by which ranks on GPUs exchange gradients through NCCL

Usage: cargo xtask nccl-shim [--to DIR]

Needs a C++ compiler, no GPU and no CUDA: headers come from pinned wheels (202 MB to download once, 6 MB
kept in the user's cache folder, where the result is kept too). Prints the path of the file.

Options:
  --to DIR  also copy it there; the trainer looks for it beside itself [beside the debug binaries]
";

pub(crate) const SQLX_PREPARE: &str = "\
Start a private Postgres, apply migrations/ and compute .sqlx again for the store's queries

Usage: cargo xtask sqlx-prepare [--check]

Options:
  --check  change nothing; fail if .sqlx is not what the migrations and queries give
";

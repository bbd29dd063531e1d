//! Environment variables that a worker sets for every child.

pub const RANK: &str = "RANK";
pub const WORLD_SIZE: &str = "WORLD_SIZE";
/// Index of the rank among those of its attempt on the same host.
pub const LOCAL_RANK: &str = "LOCAL_RANK";
pub const MASTER_ADDR: &str = "MASTER_ADDR";
pub const MASTER_PORT: &str = "MASTER_PORT";
/// Ranks that may go on when others are lost. Not set: a lost rank ends the attempt.
pub const MIN_RANKS: &str = "MARQUEE_MIN_RANKS";
/// `host:port` of a second store, for ranks that go on after the first was lost.
pub const STANDBY_STORE: &str = "MARQUEE_STANDBY_STORE";
/// File that names ranks which the coordinator has given up, as a JSON list of numbers. It may
/// come to be while the child runs; those that are left must go on without them.
pub const LOST_RANKS_FILE: &str = "MARQUEE_LOST_RANKS_FILE";
pub const JOB: &str = "MARQUEE_JOB";
pub const ATTEMPT: &str = "MARQUEE_ATTEMPT";
/// Folder whose files become the job's artifact; that of the first rank alone is kept.
pub const OUTPUT: &str = "MARQUEE_OUTPUT";
/// Prefix of one variable for each input, `MARQUEE_INPUT_<NAME>`: the artifact's folder.
pub const INPUT_PREFIX: &str = "MARQUEE_INPUT_";
pub const CUDA_VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";
/// The rank's own GPUs among those that it sees, by their places there, joined by commas. A command sees those
/// of all its gang's ranks on the host, in the order of local ranks; other kinds of job see their own.
pub const GPUS: &str = "MARQUEE_GPUS";
/// How much memory of its GPU the rank promised to use, in MiB. Set where it has a share of one.
pub const GPU_MEMORY_MIB: &str = "MARQUEE_GPU_MEMORY_MIB";
/// Index of this element of a job array, from 0. Set for elements alone.
pub const ARRAY_INDEX: &str = "MARQUEE_ARRAY_INDEX";
/// Elements of the array. Set for elements alone.
pub const ARRAY_SIZE: &str = "MARQUEE_ARRAY_SIZE";
pub const OMP_NUM_THREADS: &str = "OMP_NUM_THREADS";
/// File in which `marquee-trainer` says where it stands, as [`crate::pulse`] describes.
pub const PULSE: &str = "MARQUEE_PULSE_FILE";
/// Number of the open descriptor that takes [`super::ChildEvent`]s. Set for `marquee-prep` and
/// `marquee-trainer` alone.
pub const EVENTS_FD: &str = "MARQUEE_EVENTS_FD";

/// The variable of an input, with "_" for what no variable's name may hold. Two inputs of a job may not have the same one
/// (`crate::pipeline` refuses them).
#[must_use]
pub fn input_variable(input: &str) -> String {
    let clean = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    INPUT_PREFIX
        .chars()
        .chain(input.chars().map(clean))
        .collect()
}

//! Every limit that more than one part has to agree on, with its unit and its reason. Limits of
//! one part alone stand beside the code they bound. `docs/limits.md` lists them for users.

use std::time::Duration;

/// Bytes of a name of a job or pipeline: it becomes a file name and a column in every table.
pub const NAME_MAX_BYTES: usize = 63;
/// Bytes of a pipeline document. A pipeline is a page of text; more is a mistake.
pub const DOCUMENT_MAX_BYTES: usize = 1024 * 1024;
/// Values that are put into a document before it is read (`--set`): a document with more is better written down.
pub const OVERRIDES_MAX: usize = 1_000;
/// Bytes of all overrides of one submission together, paths and values.
pub const OVERRIDES_MAX_BYTES: usize = DOCUMENT_MAX_BYTES;
/// Keys of an override's path. The deepest key that the format has is the sixth.
pub const OVERRIDE_PATH_MAX_KEYS: usize = 16;
/// Tables and lists within each other in a document. What reads, copies and drops it calls itself once a level.
pub const DOCUMENT_MAX_DEPTH: usize = 32;
/// Jobs of one pipeline. Larger submissions are job arrays.
pub const PIPELINE_MAX_JOBS: usize = 1_000;
/// Elements of a job array. Each becomes a row before its turn, and more would be a document that nobody meant.
pub const ARRAY_MAX_ELEMENTS: u32 = 100_000;
/// Elements of an array that stand in line as jobs of their own; the others follow as these start.
pub const ELEMENTS_AHEAD: u32 = 1_000;
/// The same of all arrays together, as long as each has [`ELEMENTS_AHEAD_MIN`]: so a thousand arrays in line cost little
/// more than twenty.
pub const ELEMENTS_IN_LINE: u32 = 20_000;
/// Elements of an array that stand in line however many arrays there are.
pub const ELEMENTS_AHEAD_MIN: u32 = 32;
/// Lists of values that an array goes over.
pub const ARRAY_VALUE_NAMES_MAX: usize = 16;
/// Bytes of a text among the values of an array: a path, or a line of settings.
pub const ARRAY_VALUE_MAX_BYTES: usize = 1_024;
/// Bytes of all lists of an array as JSON: a listing of its elements reads them once for each.
pub const ARRAY_VALUES_MAX_BYTES: usize = 16 * 1024;
/// CPU slots of one host: the largest hosts have some hundred threads.
pub const HOST_DEVICES_MAX: u32 = 4_096;
/// Hardware threads of one host.
pub const HOST_THREADS_MAX: u32 = 65_536;
/// Bytes of memory of one host, and of one GPU: 1 PiB.
pub const HOST_MEMORY_MAX_BYTES: u64 = 1 << 50;
/// GPUs of one host: the largest boxes have 16, and each may be divided into seven.
pub const HOST_GPUS_MAX: usize = 128;
/// Bytes of a text by which a host or one of its devices describes itself.
pub const HOST_TEXT_MAX_BYTES: usize = 256;
/// Bytes of a `request_id`: room for a UUID with a prefix.
pub const REQUEST_ID_MAX_BYTES: usize = 128;
/// Ranks of one job: 100 hosts of 16 GPUs with room to spare.
pub const RANKS_MAX: u32 = 4_096;
/// Bytes of a concurrency key: room for a repository, a branch and an environment.
pub const CONCURRENCY_KEY_MAX_BYTES: usize = 200;
/// Memory that a job may ask of a GPU, in MiB: a TiB.
pub const GPU_MEMORY_MAX_MIB: u32 = 1024 * 1024;
/// Labels of a host, and labels or hosts that a job wants or avoids.
pub const LABELS_MAX: usize = 32;
/// Bytes of a label.
pub const LABEL_MAX_BYTES: usize = 63;
/// Bytes of a reason that a person gives for a change.
pub const REASON_MAX_BYTES: usize = 500;
/// Attempts of one job, the first included.
pub const ATTEMPTS_MAX: u32 = 100;

/// A worker is lost when nothing was heard from it for this long. Architecture promise 6 asks for
/// a new placement within 15 s of a host's loss, so the lease may take 10 of them.
pub const LEASE: Duration = Duration::from_secs(10);
/// How far a worker's clock and the coordinator's may be apart before somebody is told. Nothing breaks by it before 10
/// minutes, when certificates do; times in logs and metrics of several hosts cannot be compared well before that.
pub const CLOCKS_APART: Duration = Duration::from_secs(5);
/// A worker's heartbeat: five may be lost before the lease ends.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
/// Bytes of one gRPC message. Artifacts travel in chunks far below it; only listings come near.
pub const MESSAGE_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of one chunk of an artifact's file: large enough that a message's cost vanishes, small
/// enough that a stream keeps little in memory.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// Bytes of one HTTP/2 frame: a chunk with what stands around it fits into one. In the usual frames of
/// 16 KiB it would take seventeen, each with a read and a write of its own.
pub const FRAME_BYTES: u32 = 260 * 1024;
/// How long a stopped child may take to write a checkpoint and leave before it is killed.
pub const STOP_GRACE: Duration = Duration::from_secs(15);
/// Bytes of one line of a child's event channel. A longer one is a fault of the child.
pub const CHILD_LINE_MAX_BYTES: usize = 1024 * 1024;
/// Bytes of a metric's name. It is part of a key in the database, which holds some 2,700 bytes.
pub const METRIC_NAME_MAX_BYTES: usize = 256;
/// Values of one report of metrics: each is a row, and a curve that nobody could tell from the others.
pub const METRICS_PER_REPORT_MAX: usize = 4_096;
/// A step, and whatever else a child counts: the database's integers are signed.
pub const COUNT_MAX: u64 = i64::MAX as u64;
/// Bytes of the words in a child's progress (its phase, its unit, a class of problems).
pub const PROGRESS_WORD_MAX_BYTES: usize = 256;
/// Classes of problems in a child's progress: ours are some thirty.
pub const PROBLEM_CLASSES_MAX: usize = 100;
/// Bytes of a failure's message as a child gives it; the rest is cut.
pub const FAILURE_MESSAGE_MAX_BYTES: usize = 16 * 1024;
/// Bytes of one stored log line; the rest of a longer line is cut and marked.
pub const LOG_LINE_MAX_BYTES: usize = 16 * 1024;
/// Bytes of log (stdout or stderr) stored of one rank; what follows is dropped, and a line says so.
pub const LOG_RANK_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Lines of log stored of one rank: each is a row, however short, and a million fill a disk as 64 MiB of text do.
pub const LOG_RANK_MAX_LINES: u64 = 1_000_000;
/// Most of anything that a rank's progress counts, bytes included: those of a thousand elements are added up.
pub const PROGRESS_MAX: u64 = 1_000_000_000_000_000;
/// Bytes of the summary that a child hands back, which is one line of its own.
pub const SUMMARY_MAX_BYTES: usize = CHILD_LINE_MAX_BYTES;
/// Reports in one message of a worker: four times as many as a worker has under way.
pub const REPORTS_IN_MESSAGE_MAX: usize = 4 * REPORTS_IN_FLIGHT_MAX;
/// Reports in flight between a worker and the coordinator: above it the worker waits for
/// acknowledgements, and its spool on disk holds the rest.
pub const REPORTS_IN_FLIGHT_MAX: usize = 1_024;
/// How often what a job made is made again by itself when it is found damaged. A bad disk damages it once more; one that
/// damages all of it is for people to look at.
pub const MADE_AGAIN_MAX: u32 = 3;
/// Files of one artifact. With the paths below their own limit a manifest of so many stays at half
/// of [`MESSAGE_MAX_BYTES`]: it travels as one message.
pub const ARTIFACT_MAX_FILES: usize = 20_000;
/// Bytes of all files of one artifact together: 1 PiB, far above any disk, and sums of it fit their column.
pub const ARTIFACT_MAX_BYTES: u64 = 1 << 50;
/// Bytes of one file's path within its artifact, and of each name in it: what Linux can create below a folder.
pub const ARTIFACT_PATH_MAX_BYTES: usize = 3_072;
pub const ARTIFACT_NAME_MAX_BYTES: usize = 255;
/// Bytes of all paths of one artifact together.
pub const ARTIFACT_MAX_PATH_BYTES: usize = 2 * 1024 * 1024;

//! The settings of each kind of job. `docs/pipeline.md` describes every field for users.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::learning::{Learning, Transfer};
use super::recipe::{Backend, Colour, Crop, GradientCompression, LrSchedule, Precision, Span};

/// Settings of a fetch job: bring films and posters, or a user's own pictures, into a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FetchSettings {
    pub source: Source,
    /// Licence of the pictures, as the user states it; it goes into every table.
    #[serde(default)]
    pub licence: Option<String>,
    /// Days after which the data must not be used any more. None: the source sets no limit, or 180
    /// where `rights` are stated.
    #[serde(default)]
    pub retention_days: Option<u32>,
}

/// Which films of a TMDb-compatible API a fetch job asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilmList {
    /// Those of the newest daily export.
    #[default]
    Export,
    /// Those that `/movie/changes` names; with an input `previous`, on top of that dataset.
    Changes,
    /// Those that `/discover/movie` finds, slice by slice of release dates.
    Discover,
}

/// Seconds a host may be down before a fetch job gives up, where the settings do not say.
pub const OUTAGE_S_DEFAULT: u32 = 120;

// Also what specs mean that were stored before the setting existed.
fn outage_s_default() -> u32 {
    OUTAGE_S_DEFAULT
}

/// Where a fetch job takes its pictures from.
#[allow(
    clippy::large_enum_variant,
    reason = "a job has one source: a box would save nothing"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Source {
    /// A TMDb-compatible API.
    Tmdb {
        /// Base of the API, such as `http://127.0.0.1:8080/3`.
        api_url: String,
        /// Base of the daily export files. None: `<origin of api_url>/p/exports`.
        export_url: Option<String>,
        /// Base of the images. None: what `<api_url>/configuration` says.
        image_url: Option<String>,
        /// Poster size as the API names it, such as `w500`.
        poster_size: String,
        /// Environment variable of the worker that holds the API key or bearer token. The value
        /// itself never enters a spec.
        credential_env: Option<String>,
        /// File on the worker that holds the API key or bearer token.
        credential_file: Option<String>,
        /// At most this many films, in the order of the export. None: all.
        limit: Option<u64>,
        /// Requests a second, at most.
        requests_per_second: u32,
        /// Requests in flight, at most.
        concurrency: u32,
        /// Seconds for one request, connect to last byte.
        request_timeout_s: u32,
        /// Tries for one request when its failure may pass, the first included.
        request_attempts: u32,
        /// Seconds that a host may answer nothing before the job fails.
        #[serde(default = "outage_s_default")]
        outage_s: u32,
        /// Which films are asked for.
        #[serde(default)]
        films: FilmList,
        /// ISO date. First day of changes, or of release dates for discover.
        #[serde(default)]
        from: Option<String>,
        /// ISO date. Last day, included. None: today.
        #[serde(default)]
        to: Option<String>,
        /// Who granted the use of the data; TMDb's own hosts are refused without it.
        rights: Option<Rights>,
    },
    /// A CSV or Parquet list with the columns `id`, `url`, `labels` and optionally `group`.
    List {
        /// Path of the list on the worker that runs the job. Relative places in its column `url`
        /// are files below its folder.
        path: String,
        /// Requests a second, at most, over all hosts.
        requests_per_second: u32,
        /// Requests in flight, at most.
        concurrency: u32,
        /// Seconds for one request, connect to last byte.
        request_timeout_s: u32,
        /// Tries for one request when its failure may pass, the first included.
        request_attempts: u32,
        /// Seconds that a host may answer nothing before its pictures count as failed.
        outage_s: u32,
        #[serde(flatten)]
        rules: LabelRules,
    },
    /// A folder, or a `.zip` archive of one: with `labels.csv` (header `path,labels`, optional
    /// column `group`), in the layout of Kaggle's data sets, or with one folder a label.
    Folder {
        /// Path on the worker that runs the job.
        path: String,
        #[serde(flatten)]
        rules: LabelRules,
    },
}

/// How the labels of a user's own table are read, where the table alone does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LabelRules {
    /// What joins the labels of one cell. None: what the layout has, such as `|`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub unlabelled: Unlabelled,
    #[serde(default, skip_serializing_if = "is_default")]
    pub uncertain: Uncertain,
}

/// What becomes of a picture that has none of the labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unlabelled {
    /// It stays where its table says so (columns of 0 and 1, an empty list), and is left out where its cell
    /// is empty.
    #[default]
    Auto,
    Keep,
    LeaveOut,
}

/// What -1 says in a column that has 0 or blanks too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uncertain {
    /// The picture does not have the label.
    #[default]
    Absent,
    /// The picture has it.
    Present,
    /// The picture is left out.
    LeaveOut,
}

/// Specs that were stored before a rule existed, and those that do not use it, are the same text.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A user's statement that they hold the rights to use a source for training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    pub holder: String,
    /// ISO date of the agreement.
    pub date: String,
    pub note: String,
}

/// Shares of the data in each split; they add up to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Splits {
    pub train: f64,
    pub validation: f64,
    pub test: f64,
}

/// How a shard holds its pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageEncoding {
    /// uint8, height x width x 3, RGB.
    Raw,
    /// JPEG of the resized picture, quality 90.
    Jpeg,
    /// The file as it was fetched, at its own size: training decodes and resizes it each time.
    Original,
}

impl ImageEncoding {
    /// The word for it in documents, metadata and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Jpeg => "jpeg",
            Self::Original => "original",
        }
    }
}

/// The quality flags that a picture may have, in the order of reports.
pub const QUALITY_FLAGS: [&str; 13] = [
    "tiny",
    "odd_aspect",
    "odd_size",
    "dark",
    "light",
    "blank",
    "low_information",
    "blurry",
    "greyscale",
    "format_mismatch",
    "exact_duplicate",
    "near_duplicate",
    "placeholder",
];

/// Pictures with these flags are in no split unless a job says otherwise: they show nothing of what
/// their labels say.
pub const LEAVE_OUT_DEFAULT: [&str; 3] = ["tiny", "blank", "placeholder"];

/// Settings of a preprocess job: filter, encode labels, split, resize and pack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreprocessSettings {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    pub encoding: ImageEncoding,
    pub splits: Splits,
    pub seed: u64,
    /// The classes, in order. None: every label of the dataset, in the source's own order.
    pub labels: Option<Vec<String>>,
    /// Classes with fewer pictures than this are dropped, and reported.
    pub min_label_count: u32,
    /// Bytes of one shard, about.
    pub shard_bytes: u64,
    /// ISO date. Pictures released before it are left out. None: no limit.
    #[serde(default)]
    pub released_from: Option<String>,
    /// ISO date. Pictures released after it are left out. None: no limit.
    #[serde(default)]
    pub released_to: Option<String>,
    /// Whether a picture without a release date stays when a limit is set.
    #[serde(default = "flag_true")]
    pub undated: bool,
    /// Whether pictures that look the same are kept in one split.
    #[serde(default = "flag_true")]
    pub group_near_duplicates: bool,
    /// The balanced set: at most this many training pictures of each class. None: all.
    #[serde(default)]
    pub max_per_class: Option<u32>,
    /// Exactly this many rows in the test split, none of which has a quality flag. None: the share
    /// of `splits`.
    #[serde(default)]
    pub test_rows: Option<u32>,
    /// Pictures with one of these quality flags are in no split. Specs of earlier versions have none.
    #[serde(default)]
    pub leave_out: Vec<String>,
}

fn flag_true() -> bool {
    true
}

/// An optimizer with its hyper-parameters, as PyTorch defines them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Optimizer {
    Sgd {
        lr: f64,
        momentum: f64,
        nesterov: bool,
        weight_decay: f64,
    },
    AdamW {
        lr: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
        weight_decay: f64,
    },
}

/// Settings of a train job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSettings {
    /// A model of the zoo, such as `simple-cnn`.
    pub model: String,
    pub epochs: u32,
    /// Pictures in one step over all ranks together (the global batch).
    pub batch_size: u32,
    pub optimizer: Optimizer,
    pub lr_schedule: LrSchedule,
    /// The rate rises in a line over the first steps; the schedule covers the rest.
    #[serde(default)]
    pub warmup: Option<Span>,
    /// Gradients are scaled down to this global norm where theirs is above it.
    #[serde(default)]
    pub clip_norm: Option<f64>,
    /// Parts that each rank computes its share of a step in, one after the other.
    #[serde(default = "one")]
    pub accumulate: u32,
    /// Share of the running mean of weights that each step keeps. The mean is then the model.
    #[serde(default)]
    pub ema_decay: Option<f64>,
    pub precision: Precision,
    /// Whether pictures and convolutions lie in memory pixel by pixel rather than channel by channel.
    #[serde(default = "yes")]
    pub channels_last: bool,
    /// Whether GPUs use kernels that give the same bits each time, where there are some. CPUs do.
    #[serde(default = "yes")]
    pub deterministic: bool,
    #[serde(default)]
    pub backend: Backend,
    #[serde(default)]
    pub gradient_compression: GradientCompression,
    /// Seed of weights, data order and augmentation.
    pub seed: u64,
    /// Whether training pictures are mirrored at random.
    pub flip: bool,
    /// Share of the features that is dropped before the classifier while training.
    #[serde(default)]
    pub dropout: f64,
    /// Share of the pictures that skip a network's last block while training (stochastic depth);
    /// earlier blocks have less, down to none.
    #[serde(default)]
    pub drop_path: f64,
    #[serde(default)]
    pub crop: Option<Crop>,
    #[serde(default)]
    pub colour: Option<Colour>,
    /// Threads of each rank that read pictures ahead. 0: as many as the encoding calls for.
    #[serde(default)]
    pub input_threads: u32,
    /// Steps between checkpoints. 0: at the end of each epoch only.
    pub checkpoint_every_steps: u32,
    /// Stop after this many steps. None: all epochs.
    pub max_steps: Option<u64>,
    #[serde(default)]
    pub learning: Learning,
    #[serde(default)]
    pub transfer: Transfer,
    /// Whether TensorBoard event files are written into the model's folder.
    pub tensorboard: bool,
    /// Seconds after which a collective that waits for a peer fails.
    pub collective_timeout_s: u32,
}

// What a stored spec meant from before there was the setting; so with `yes`.
fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// Settings of an eval job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalSettings {
    /// Pictures scored at once.
    pub batch_size: u32,
    /// Extra fixed thresholds by label. Labels not named keep their tuned threshold.
    pub thresholds: BTreeMap<String, f64>,
    /// Resamples of the bootstrap intervals. 0: none.
    pub bootstrap_resamples: u32,
    /// Pictures of each kind in the report's gallery.
    pub gallery: u32,
    pub seed: u64,
    /// Whether pictures that the model has learned from may be scored. The report then says so, and has no
    /// headline.
    #[serde(default)]
    pub allow_overlap: bool,
}

/// Settings of a command job: any program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSettings {
    /// The program and its arguments; no shell is involved.
    pub argv: Vec<String>,
    /// Variables added to the environment.
    pub env: BTreeMap<String, String>,
    /// Variables of the worker's own environment, such as a token, that its operator gives to jobs which name
    /// them. Their values are in no spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from_worker: Vec<String>,
}

//! Keys of a train job that say what it learns from and towards. The defaults stand here, in
//! [`crate::spec::Learning`] and in `docs/pipeline.md`, nowhere else.

use std::collections::BTreeMap;

use super::table::{Table, unknown};
use crate::spec::{
    Activation, Backbone, HeadSettings, Learning, Loss, Mix, PartialWeights, Sampling,
    ScriptSettings, Shuffle, Transfer,
};
use crate::zoo::{self, MODELS};

/// The model whose networks `backbones` names.
pub(super) const ENSEMBLE: &str = "ensemble";
/// The model that `module` names.
pub(super) const TORCHSCRIPT: &str = "torchscript";
/// Keys that shape a network of the zoo, and say nothing to one that is made elsewhere.
const OF_THE_ZOO: &[&str] = &[
    "weights",
    "head",
    "freeze_norms",
    "dropout",
    "drop_path",
    "feature_cache",
];
/// Networks of one ensemble: each is a whole forward pass.
const BACKBONES_MAX: usize = 8;
/// Hidden classifier layers, and the size of one: beyond it the classifier is the network.
const HIDDEN_MAX: usize = 8;
const HIDDEN_SIZE_MAX: u32 = 16_384;
/// Pictures of a shuffle's buffer. The least is what a disk reads in one go; the default is 2.2 GB of raw
/// pictures of 299x299, of which two must fit into memory.
const BUFFER_MIN: u32 = 256;
const BUFFER_DEFAULT: u32 = 8_192;
const BUFFER_MAX: u32 = 100_000_000;
/// Pixels of a side that an ensemble's network sees.
const SIDE_MIN_PX: u32 = 16;
const SIDE_MAX_PX: u32 = 2_048;
/// What Zhang et al. 2018 take for photographs, and what Yun et al. 2019 take everywhere.
const MIXUP_ALPHA: f64 = 0.2;
const CUTMIX_ALPHA: f64 = 1.0;

pub(super) fn learning(table: &mut Table<'_>) -> Learning {
    let samplings = [
        ("shuffle", Sampling::Shuffle),
        ("balanced", Sampling::Balanced),
        ("weighted", Sampling::Weighted),
    ];
    // A picture is mixed in one way at most. With both asked for and neither share given, each gets half of the
    // pictures.
    let share = if table.has("mixup") && table.has("cutmix") {
        0.5
    } else {
        1.0
    };
    let (mixup, cutmix) = (
        mix(table, "mixup", MIXUP_ALPHA, share),
        mix(table, "cutmix", CUTMIX_ALPHA, share),
    );
    if let (Some(mixup), Some(cutmix)) = (mixup, cutmix)
        && mixup.share + cutmix.share > 1.0
    {
        let sum = mixup.share + cutmix.share;
        table.add_error(
            "cutmix.share",
            format!(
                "and mixup.share add up to {sum}, but a picture is mixed in one way at most; make it 1 or less"
            ),
        );
    }
    let sampling = table
        .choice("sampling", &samplings, Some(Sampling::Shuffle))
        .unwrap_or_default();
    Learning {
        loss: loss(table),
        label_smoothing: table.float("label_smoothing", 0.0..=0.9, Some(0.0)),
        sampling,
        shuffle: shuffle(table, sampling),
        mixup,
        cutmix,
    }
}

/// `mixup` or `cutmix`, a table whose keys may all be left out.
fn mix(table: &mut Table<'_>, key: &'static str, alpha: f64, share: f64) -> Option<Mix> {
    let mut mix = table.table(key)?;
    let read = Mix {
        alpha: mix.float("alpha", 0.01..=4.0, Some(alpha)),
        share: mix.float("share", 0.001..=1.0, Some(share)),
    };
    mix.finish();
    Some(read)
}

fn shuffle(table: &mut Table<'_>, sampling: Sampling) -> Shuffle {
    let kinds = [("global", false), ("shards", true)];
    let by_shards = table.choice("shuffle", &kinds, Some(false)) == Some(true);
    let has_buffer = table.has("shuffle_buffer");
    let buffer = table.int(
        "shuffle_buffer",
        BUFFER_MIN..=BUFFER_MAX,
        Some(BUFFER_DEFAULT),
    );
    if !by_shards {
        if has_buffer {
            let message = "is the buffer of shuffle = \"shards\"; a global shuffle has none";
            table.add_error("shuffle_buffer", message);
        }
        return Shuffle::Global;
    }
    // Balanced and weighted draws pick single pictures from the whole set, which is what reading shard by shard
    // avoids.
    if sampling != Sampling::Shuffle {
        let message =
            "\"shards\" visits each picture once; set sampling = \"shuffle\", or leave shuffle out";
        table.add_error("shuffle", message);
    }
    Shuffle::Shards { buffer }
}

fn loss(table: &mut Table<'_>) -> Loss {
    let Some(mut loss) = table.table("loss") else {
        return Loss::default();
    };
    let names = ["bce", "weighted-bce", "focal", "asl"].map(|name| (name, name));
    let read = match loss.choice("name", &names, None) {
        Some("weighted-bce") => Loss::WeightedBce {
            cap: loss.float("cap", 1.0..=1e6, Some(10.0)),
        },
        Some("focal") => Loss::Focal {
            gamma: gamma(&mut loss, "gamma", 2.0),
            alpha: loss
                .has("alpha")
                .then(|| loss.float("alpha", 0.0..=1.0, None)),
        },
        Some("asl") => Loss::Asl {
            gamma_pos: gamma(&mut loss, "gamma_pos", 1.0),
            // As is usual for this loss: easy negatives, of which sets with many labels are full,
            // count little.
            gamma_neg: gamma(&mut loss, "gamma_neg", 4.0),
            clip: loss.float("clip", 0.0..=0.5, Some(0.05)),
        },
        Some(_) | None => Loss::Bce,
    };
    loss.finish();
    read
}

/// An exponent. Between 0 and 1 its slope at a perfect prediction is infinite.
fn gamma(loss: &mut Table<'_>, key: &'static str, default: f64) -> f64 {
    let gamma = loss.float(key, 0.0..=10.0, Some(default));
    if gamma > 0.0 && gamma < 1.0 {
        loss.add_error(
            key,
            format!("{gamma} has no finite gradient at a perfect prediction; give 0, or 1 to 10"),
        );
    }
    gamma
}

pub(super) fn transfer(table: &mut Table<'_>, model: &str) -> Transfer {
    let partial = [
        ("refuse", PartialWeights::Refuse),
        ("allow", PartialWeights::Allow),
    ];
    Transfer {
        weights: path(table, "weights"),
        weights_partial: table
            .choice("weights_partial", &partial, Some(PartialWeights::Refuse))
            .unwrap_or_default(),
        head: head(table),
        freeze: patterns(table, "freeze"),
        unfreeze: table.int_map("unfreeze", 1..=100_000),
        freeze_norms: table.flag("freeze_norms", false),
        lr_scale: table.float_map("lr_scale", 0.0..=1e3),
        backbones: backbones(table, model),
        feature_cache: path(table, "feature_cache"),
        module: module(table, model),
    }
}

fn module(table: &mut Table<'_>, model: &str) -> Option<ScriptSettings> {
    if model != TORCHSCRIPT {
        if table.table("module").is_some() {
            table.add_error("module", "belongs to model = \"torchscript\" alone");
        }
        return None;
    }
    // Refused and not passed over: a key without effect would let somebody believe that his network was
    // regularised.
    for key in OF_THE_ZOO.iter().filter(|key| table.has(key)) {
        table.add_error(
            key,
            "says nothing to a TorchScript module, which is as it was made; leave it out",
        );
    }
    if !table.has("module") {
        table.add_error(
            "module",
            "is missing; give a table such as { file = \"net.pt\", width = 224, height = 224 }",
        );
    }
    let has_input = table
        .table("inputs")
        .is_some_and(|inputs| inputs.has("module"));
    let mut module = table.table("module")?;
    let file = module.required_text("file", "a file, such as \"net.pt\"");
    // An artifact comes from anybody's job: its file must not name something else of the worker's disk.
    let is_within = !file.starts_with('/') && file.split('/').all(|part| part != "..");
    if has_input && !is_within {
        module.add_error(
            "file",
            format!("{file:?} lies outside of the input \"module\"; give a path within it"),
        );
    }
    if !has_input && !file.is_empty() && !file.starts_with('/') {
        module.add_error(
            "file",
            format!(
                "{file:?} is no absolute path; give one on the worker, or name the job that makes it: \
                 inputs = {{ module = \"<job>.output\" }}"
            ),
        );
    }
    let mut side = |key| {
        module
            .has(key)
            .then(|| module.int(key, 1..=SIDE_MAX_PX, None))
    };
    let (width, height) = (side("width"), side("height"));
    if width.is_some() != height.is_some() {
        module.add_error("width", "width and height go together; give both or none");
    }
    let read = ScriptSettings {
        file,
        width,
        height,
        mean: module.channels("mean", -1e3..=1e3, [0.0; 3]),
        std: module.channels("std", 1e-6..=1e3, [1.0; 3]),
    };
    module.finish();
    Some(read)
}

/// A path on the worker: absolute, for a worker's current folder is nobody's business.
fn path(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let path = table.text(key)?;
    if !path.starts_with('/') {
        table.add_error(
            key,
            format!(
                "{path:?} is no absolute path; give one on the worker, such as \"/data/{key}\""
            ),
        );
    }
    Some(path)
}

fn patterns(table: &mut Table<'_>, key: &'static str) -> Vec<String> {
    let patterns = table.texts(key).unwrap_or_default();
    for (index, pattern) in patterns.iter().enumerate() {
        if pattern.is_empty() {
            table.add_error(
                &format!("{key}[{index}]"),
                "is empty; give a name of weights, with * for any text",
            );
        }
    }
    patterns
}

fn head(table: &mut Table<'_>) -> HeadSettings {
    let Some(mut head) = table.table("head") else {
        return HeadSettings::default();
    };
    let activations = [
        ("relu", Activation::Relu),
        ("gelu", Activation::Gelu),
        ("silu", Activation::Silu),
    ];
    let hidden = head.ints("hidden", 1..=HIDDEN_SIZE_MAX);
    if hidden.len() > HIDDEN_MAX {
        head.add_error(
            "hidden",
            format!(
                "{} layers are too many; give {HIDDEN_MAX} or fewer",
                hidden.len()
            ),
        );
    }
    let read = HeadSettings {
        hidden,
        dropout: head.float("dropout", 0.0..=0.95, Some(0.0)),
        activation: head
            .choice("activation", &activations, Some(Activation::Relu))
            .unwrap_or_default(),
    };
    head.finish();
    read
}

fn backbones(table: &mut Table<'_>, model: &str) -> BTreeMap<String, Backbone> {
    let mut backbones = BTreeMap::new();
    let given = table.table("backbones");
    for (name, mut entry) in given.into_iter().flat_map(Table::tables) {
        if !is_a_name(&name) {
            entry.add_error(
                "",
                format!("{name:?} is no name of a network: use a-z, 0-9 and \"_\""),
            );
        }
        let mut model = entry.required_text("model", "a model, such as \"legacy_xception\"");
        match zoo::find(&model) {
            // By the zoo's own name: two spellings are one model to whoever compares runs.
            Some(known) => known.name.clone_into(&mut model),
            // That it is missing was told by `required_text`.
            None if model.is_empty() => {}
            None => entry.add_error("model", unknown(&model, MODELS)),
        }
        let mut side = |key| {
            entry
                .has(key)
                .then(|| entry.int(key, SIDE_MIN_PX..=SIDE_MAX_PX, None))
        };
        let (width, height) = (side("width"), side("height"));
        let weights = path(&mut entry, "weights");
        if width.is_some() != height.is_some() {
            entry.add_error("width", "width and height go together; give both or none");
        }
        entry.finish();
        let read = Backbone {
            model,
            weights,
            width,
            height,
        };
        backbones.insert(name, read);
    }
    let count = backbones.len();
    if model == ENSEMBLE && !(2..=BACKBONES_MAX).contains(&count) {
        table.add_error(
            "backbones",
            format!(
                "has {count} networks; an ensemble takes 2 to {BACKBONES_MAX}, such as \
                 {{ xception = {{ model = \"legacy_xception\" }}, resnet = {{ model = \"resnet50\" }} }}"
            ),
        );
    }
    if model != ENSEMBLE && count > 0 {
        table.add_error("backbones", "belongs to model = \"ensemble\" alone");
    }
    if model == ENSEMBLE && table.has("weights") {
        table.add_error("weights", "stands in each of backbones for an ensemble");
    }
    backbones
}

fn is_a_name(name: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !name.is_empty() && name.chars().all(is_fine)
}

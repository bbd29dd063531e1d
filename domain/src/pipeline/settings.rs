//! The settings of each kind of job: keys, ranges and defaults. The defaults stand here and in
//! `docs/pipeline.md`, nowhere else.

use super::table::{Table, unknown};
use crate::spec::{
    CommandSettings, EvalSettings, FetchSettings, ImageEncoding, LrSchedule, Optimizer, Precision,
    PreprocessSettings, Rights, Source, Splits, TrainSettings,
};
use crate::zoo::{self, MODELS};

/// Pixels of a side of a training picture: the smallest and largest that any model of use takes.
const SIDE_MIN_PX: u32 = 16;
const SIDE_MAX_PX: u32 = 2_048;
/// Global batch: beyond it no published recipe goes.
const BATCH_MAX: u32 = 1_000_000;
/// Largest seed that every reader of JSON keeps exactly (2^53 - 1).
const SEED_MAX: u64 = (1 << 53) - 1;
const MIB: u64 = 1024 * 1024;
/// How far the splits' sum may be from 1.
const SPLIT_SUM_TOLERANCE: f64 = 1e-9;

pub(super) fn fetch(table: &mut Table<'_>) -> Option<FetchSettings> {
    let Some(mut source) = table.table("source") else {
        if !table.has("source") {
            table.add_error(
                "source",
                "is missing; give a table such as { type = \"folder\", path = \"...\" }",
            );
        }
        return None;
    };
    let types = [("tmdb", "tmdb"), ("folder", "folder")];
    let read = match source.choice("type", &types, None)? {
        "tmdb" => tmdb(&mut source),
        _ => Source::Folder {
            path: source.required_text("path", "the path of a folder or .zip on the worker"),
        },
    };
    source.finish();
    Some(FetchSettings { source: read })
}

fn tmdb(source: &mut Table<'_>) -> Source {
    let api_url = source.required_text(
        "api_url",
        "the base of the API, such as \"http://127.0.0.1:8080/3\"",
    );
    let export_url = source.text("export_url");
    let image_url = source.text("image_url");
    for (key, url) in [
        ("api_url", Some(&api_url)),
        ("export_url", export_url.as_ref()),
        ("image_url", image_url.as_ref()),
    ] {
        if let Some(url) = url.filter(|url| !url.is_empty()) {
            check_url(source, key, url);
        }
    }
    let rights = source.table("rights").map(|mut rights| {
        let read = Rights {
            holder: rights.required_text("holder", "who granted the use"),
            date: rights.required_text("date", "the day of the agreement, such as \"2026-01-31\""),
            note: rights.text("note").unwrap_or_default(),
        };
        rights.finish();
        read
    });
    if rights.is_none() && is_tmdb_itself(&api_url) && !source.has("rights") {
        source.add_error(
            "rights",
            "is missing: TMDb's terms ask for a written agreement before its content trains a model; \
             give { holder = \"...\", date = \"...\", note = \"...\" } once you have one",
        );
    }
    Source::Tmdb {
        api_url,
        export_url,
        image_url,
        poster_size: source.text("poster_size").unwrap_or_else(|| "w500".into()),
        credential_env: source.text("credential_env"),
        credential_file: source.text("credential_file"),
        limit: source
            .has("limit")
            .then(|| source.int("limit", 1..=100_000_000, None)),
        requests_per_second: source.int("requests_per_second", 1..=100_000, Some(40)),
        concurrency: source.int("concurrency", 1..=1_024, Some(16)),
        request_timeout_s: source.int("request_timeout_s", 1..=3_600, Some(30)),
        request_attempts: source.int("request_attempts", 1..=20, Some(5)),
        rights,
    }
}

fn check_url(source: &Table<'_>, key: &str, url: &str) {
    let host = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    if host.is_none_or(str::is_empty) {
        source.add_error(
            key,
            format!("{url:?} is no URL; it starts with \"http://\" or \"https://\""),
        );
    } else if host.is_some_and(|rest| {
        rest.split('/')
            .next()
            .is_some_and(|authority| authority.contains('@'))
    }) {
        source.add_error(
            key,
            "holds a credential, which specs never do; use credential_env or credential_file",
        );
    } else if url.contains(['?', '#']) {
        source.add_error(
            key,
            "has a query; give the base alone, and keys by credential_env or credential_file",
        );
    }
}

fn is_tmdb_itself(url: &str) -> bool {
    let host = url
        .split("://")
        .nth(1)
        .and_then(|rest| rest.split(['/', ':']).next())
        .unwrap_or_default();
    let host = host.to_ascii_lowercase();
    ["themoviedb.org", "tmdb.org"]
        .iter()
        .any(|own| host == *own || host.ends_with(&format!(".{own}")))
}

pub(super) fn preprocess(table: &mut Table<'_>) -> PreprocessSettings {
    let encodings = [("raw", ImageEncoding::Raw), ("jpeg", ImageEncoding::Jpeg)];
    let labels = table.texts("labels");
    if let Some(labels) = &labels {
        check_labels(table, labels);
    }
    PreprocessSettings {
        width: table.int("width", SIDE_MIN_PX..=SIDE_MAX_PX, None),
        height: table.int("height", SIDE_MIN_PX..=SIDE_MAX_PX, None),
        encoding: table
            .choice("encoding", &encodings, Some(ImageEncoding::Raw))
            .unwrap_or(ImageEncoding::Raw),
        splits: splits(table),
        seed: table.int("seed", 0..=SEED_MAX, Some(0)),
        labels,
        min_label_count: table.int("min_label_count", 1..=1_000_000, Some(10)),
        shard_bytes: table.int("shard_mib", 1..=4_096_u64, Some(512)) * MIB,
    }
}

fn check_labels(table: &Table<'_>, labels: &[String]) {
    if labels.is_empty() {
        table.add_error(
            "labels",
            "is empty; name the classes, or leave the key out to take every label",
        );
    }
    for (index, label) in labels.iter().enumerate() {
        let field = format!("labels[{index}]");
        if label.trim().is_empty() || label.contains('|') {
            table.add_error(
                &field,
                format!("{label:?} is no label; give text without \"|\""),
            );
        } else if labels[..index].contains(label) {
            table.add_error(&field, format!("{label:?} stands in the list twice"));
        }
    }
}

fn splits(table: &mut Table<'_>) -> Splits {
    let default = Splits {
        train: 0.8,
        validation: 0.1,
        test: 0.1,
    };
    let Some(mut splits) = table.table("splits") else {
        return default;
    };
    let read = Splits {
        train: splits.float("train", 0.01..=0.98, None),
        validation: splits.float("validation", 0.01..=0.98, None),
        test: splits.float("test", 0.01..=0.98, None),
    };
    let sum = read.train + read.validation + read.test;
    let all_there = ["train", "validation", "test"]
        .iter()
        .all(|key| splits.has(key));
    if all_there && (sum - 1.0).abs() > SPLIT_SUM_TOLERANCE {
        table.add_error("splits", format!("the shares add up to {sum}; make it 1"));
    }
    splits.finish();
    read
}

pub(super) fn train(table: &mut Table<'_>) -> Option<TrainSettings> {
    let mut model = table.required_text("model", &format!("a model, such as {:?}", MODELS[0]));
    match zoo::find(&model) {
        Some(known) => known.name.clone_into(&mut model),
        None if model.is_empty() => {}
        None => table.add_error("model", unknown(&model, MODELS)),
    }
    let schedules = [
        ("constant", LrSchedule::Constant),
        ("cosine", LrSchedule::Cosine),
    ];
    let precisions = [("fp32", Precision::Fp32), ("fp64", Precision::Fp64)];
    Some(TrainSettings {
        model,
        epochs: table.int("epochs", 1..=100_000, None),
        batch_size: table.int("batch_size", 1..=BATCH_MAX, None),
        lr_schedule: table.choice("lr_schedule", &schedules, Some(LrSchedule::Constant))?,
        precision: table.choice("precision", &precisions, Some(Precision::Fp32))?,
        seed: table.int("seed", 0..=SEED_MAX, Some(0)),
        flip: table.flag("flip", true),
        dropout: table.float("dropout", 0.0..=0.95, Some(0.0)),
        drop_path: table.float("drop_path", 0.0..=0.95, Some(0.0)),
        checkpoint_every_steps: table.int("checkpoint_every_steps", 0..=1_000_000_000, Some(0)),
        max_steps: table
            .has("max_steps")
            .then(|| table.int("max_steps", 1..=1_000_000_000_000_u64, None)),
        tensorboard: table.flag("tensorboard", true),
        collective_timeout_s: table.int("collective_timeout_s", 1..=86_400, Some(60)),
        optimizer: optimizer(table)?,
    })
}

fn optimizer(table: &mut Table<'_>) -> Option<Optimizer> {
    if !table.has("optimizer") {
        table.add_error(
            "optimizer",
            "is missing; give a table such as { name = \"adamw\", lr = 1e-3 }",
        );
    }
    let mut optimizer = table.table("optimizer")?;
    let name = optimizer.choice("name", &[("sgd", "sgd"), ("adamw", "adamw")], None)?;
    let lr = optimizer.float("lr", 1e-12..=1e3, None);
    let read = if name == "sgd" {
        let momentum = optimizer.float("momentum", 0.0..=1.0, Some(0.9));
        let nesterov = optimizer.flag("nesterov", false);
        if nesterov && momentum == 0.0 {
            optimizer.add_error("nesterov", "needs a momentum above 0");
        }
        Optimizer::Sgd {
            lr,
            momentum,
            nesterov,
            weight_decay: optimizer.float("weight_decay", 0.0..=10.0, Some(0.0)),
        }
    } else {
        Optimizer::AdamW {
            lr,
            beta1: optimizer.float("beta1", 0.0..=0.999_999, Some(0.9)),
            beta2: optimizer.float("beta2", 0.0..=0.999_999_9, Some(0.999)),
            eps: optimizer.float("eps", 1e-16..=1.0, Some(1e-8)),
            weight_decay: optimizer.float("weight_decay", 0.0..=10.0, Some(0.01)),
        }
    };
    optimizer.finish();
    Some(read)
}

pub(super) fn eval(table: &mut Table<'_>) -> EvalSettings {
    EvalSettings {
        batch_size: table.int("batch_size", 1..=BATCH_MAX, Some(256)),
        thresholds: table.float_map("thresholds", 0.0..=1.0),
        bootstrap_resamples: table.int("bootstrap_resamples", 0..=100_000, Some(1_000)),
        gallery: table.int("gallery", 0..=200, Some(8)),
        seed: table.int("seed", 0..=SEED_MAX, Some(0)),
    }
}

pub(super) fn command(table: &mut Table<'_>) -> CommandSettings {
    let argv = match table.texts("argv") {
        Some(argv) => argv,
        None => {
            if !table.has("argv") {
                table.add_error("argv", "is missing; give the program and its arguments, such as [\"python3\", \"train.py\"]");
            }
            Vec::new()
        }
    };
    if table.has("argv") && argv.first().is_none_or(String::is_empty) {
        table.add_error("argv", "is empty; give the program and its arguments");
    }
    let env = table.text_map("env");
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            table.add_error(
                &format!("env.{name}"),
                "is no environment variable: \"=\" and NUL may not stand in it",
            );
        }
    }
    if argv.iter().any(|arg| arg.contains('\0')) {
        table.add_error("argv", "holds a NUL character, which no argument can");
    }
    CommandSettings { argv, env }
}

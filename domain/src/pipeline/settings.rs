//! The settings of each kind of job: keys, ranges and defaults. The defaults stand here and in
//! `docs/pipeline.md`, nowhere else.

use super::learning;
use super::recipe;
use super::table::{Table, unknown};
use crate::spec::{
    CommandSettings, EvalSettings, FetchSettings, FilmList, ImageEncoding, LEAVE_OUT_DEFAULT,
    LabelRules, OUTAGE_S_DEFAULT, Optimizer, PreprocessSettings, QUALITY_FLAGS, Rights, Source,
    Splits, TrainSettings, Uncertain, Unlabelled,
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
/// What joins labels in a cell is a character or two.
const SEPARATOR_MAX_BYTES: usize = 8;
/// How far the splits' sum may be from 1.
const SPLIT_SUM_TOLERANCE: f64 = 1e-9;

pub(super) fn fetch(table: &mut Table<'_>) -> Option<FetchSettings> {
    let Some(mut source) = table.table("source") else {
        // One that is there and is no table was told of when it was read.
        if !table.has("source") {
            table.add_error(
                "source",
                "is missing; give a table such as { type = \"folder\", path = \"...\" }",
            );
        }
        return None;
    };
    let types = [("tmdb", "tmdb"), ("list", "list"), ("folder", "folder")];
    let read = match source.choice("type", &types, None)? {
        "tmdb" => tmdb(&mut source),
        "list" => list(&mut source),
        _ => Source::Folder {
            path: host_path(&mut source, "the path of a folder or .zip on the worker"),
            rules: label_rules(&mut source),
        },
    };
    source.finish();
    Some(FetchSettings {
        source: read,
        licence: table.text("licence"),
        retention_days: table
            .has("retention_days")
            .then(|| table.int("retention_days", 1..=36_500, None)),
    })
}

fn list(source: &mut Table<'_>) -> Source {
    Source::List {
        path: host_path(source, "the path of a .csv or .parquet list on the worker"),
        requests_per_second: source.int("requests_per_second", 1..=100_000, Some(40)),
        concurrency: source.int("concurrency", 1..=1_024, Some(16)),
        request_timeout_s: source.int("request_timeout_s", 1..=3_600, Some(30)),
        request_attempts: source.int("request_attempts", 1..=20, Some(5)),
        outage_s: source.int("outage_s", 1..=86_400, Some(OUTAGE_S_DEFAULT)),
        rules: label_rules(source),
    }
}

/// How the labels of a user's own table are read.
fn label_rules(source: &mut Table<'_>) -> LabelRules {
    let separator = source.text("separator");
    if separator
        .as_ref()
        .is_some_and(|text| text.is_empty() || text.len() > SEPARATOR_MAX_BYTES)
    {
        source.add_error(
            "separator",
            format!(
                "must be 1 to {SEPARATOR_MAX_BYTES} bytes; give what joins labels in a cell, such as \" \" or \",\""
            ),
        );
    }
    let unlabelled = [
        ("auto", Unlabelled::Auto),
        ("keep", Unlabelled::Keep),
        ("leave_out", Unlabelled::LeaveOut),
    ];
    let uncertain = [
        ("absent", Uncertain::Absent),
        ("present", Uncertain::Present),
        ("leave_out", Uncertain::LeaveOut),
    ];
    LabelRules {
        separator,
        unlabelled: source
            .choice("unlabelled", &unlabelled, Some(Unlabelled::Auto))
            .unwrap_or_default(),
        uncertain: source
            .choice("uncertain", &uncertain, Some(Uncertain::Absent))
            .unwrap_or_default(),
    }
}

/// `path`, of something on the worker's host. Absolute: what a relative one is relative to, no worker knows.
fn host_path(source: &mut Table<'_>, example: &str) -> String {
    let path = source.required_text("path", example);
    if path.is_empty() || path.starts_with('/') {
        return path;
    }
    let problem = if path.starts_with('~') {
        "begins with \"~\", which only a shell knows"
    } else {
        "is no absolute path, and a worker does not know what it is relative to"
    };
    let name = path.trim_start_matches(['~', '.', '/']);
    source.add_error(
        "path",
        format!(
            "{path:?} {problem}; give {example}, from \"/\" on, such as \"/data/{name}\" (\"marquee submit\" makes paths beside the file absolute where the coordinator runs on the same machine)"
        ),
    );
    path
}

/// A day in the form 2026-01-31, or None where the key is absent or wrong.
fn day(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let text = table.text(key)?;
    if is_day(&text) {
        return Some(text);
    }
    table.add_error(
        key,
        format!("{text:?} is no day; write it as \"2026-01-31\""),
    );
    None
}

fn is_day(text: &str) -> bool {
    // By hand, since chrono takes "2026-1-5" too: a day in two spellings would make two steps of
    // one.
    let number = |part: &str, digits: usize| {
        (part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| part.parse::<u32>().ok())
            .flatten()
    };
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next(), parts.next(), parts.next());
    let (Some(year), Some(month), Some(day), None) = (
        year.and_then(|part| number(part, 4)),
        month.and_then(|part| number(part, 2)),
        day.and_then(|part| number(part, 2)),
        parts.next(),
    ) else {
        return false;
    };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => 0,
    };
    (1..=days).contains(&day)
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
    // A table of rights with errors in it has been told of already.
    if rights.is_none() && is_tmdb_itself(&api_url) && !source.has("rights") {
        source.add_error(
            "rights",
            "is missing: TMDb's terms ask for a written agreement before its content trains a model; \
             give { holder = \"...\", date = \"...\", note = \"...\" } once you have one",
        );
    }
    let lists = [
        ("export", FilmList::Export),
        ("changes", FilmList::Changes),
        ("discover", FilmList::Discover),
    ];
    let films = source
        .choice("films", &lists, Some(FilmList::Export))
        .unwrap_or_default();
    let from = day(source, "from");
    if films == FilmList::Discover && !source.has("from") {
        source.add_error(
            "from",
            "is missing: discover is asked slice by slice of release dates; give the first day, \
             such as \"1900-01-01\"",
        );
    }
    if films == FilmList::Export && (source.has("from") || source.has("to")) {
        source.add_error(
            "from",
            "and to say nothing to the export, which lists every film; set films = \"changes\" or \
             \"discover\", or leave them out",
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
        outage_s: source.int("outage_s", 1..=86_400, Some(OUTAGE_S_DEFAULT)),
        films,
        from,
        to: day(source, "to"),
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
    // Hosts below these too: API, images and exports are served by three of them, under the same
    // terms.
    ["themoviedb.org", "tmdb.org"]
        .iter()
        .any(|own| host == *own || host.ends_with(&format!(".{own}")))
}

pub(super) fn preprocess(table: &mut Table<'_>) -> PreprocessSettings {
    let encodings = [
        ImageEncoding::Raw,
        ImageEncoding::Jpeg,
        ImageEncoding::Original,
    ]
    .map(|encoding| (encoding.as_str(), encoding));
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
        released_from: day(table, "released_from"),
        released_to: day(table, "released_to"),
        undated: table.flag("undated", true),
        group_near_duplicates: table.flag("group_near_duplicates", true),
        max_per_class: table
            .has("max_per_class")
            .then(|| table.int("max_per_class", 1..=100_000_000, None)),
        test_rows: table
            .has("test_rows")
            .then(|| table.int("test_rows", 1..=10_000_000, None)),
        leave_out: leave_out(table),
    }
}

/// The flags in the order of reports, each once: jobs that leave out the same are the same.
fn leave_out(table: &mut Table<'_>) -> Vec<String> {
    let Some(named) = table.texts("leave_out") else {
        return LEAVE_OUT_DEFAULT.map(str::to_owned).to_vec();
    };
    for (index, flag) in named.iter().enumerate() {
        if !QUALITY_FLAGS.contains(&flag.as_str()) {
            let problem = unknown(flag, &QUALITY_FLAGS);
            table.add_error(&format!("leave_out[{index}]"), problem);
        }
    }
    let flags = QUALITY_FLAGS.iter().map(|flag| (*flag).to_owned());
    flags.filter(|flag| named.contains(flag)).collect()
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
    // One that is missing was told already: a sum without it would be a second error for the same.
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
        // Under its own name, whichever was written: jobs with the same network are the same job.
        Some(known) => known.name.clone_into(&mut model),
        None if model.is_empty()
            || model == learning::ENSEMBLE
            || model == learning::TORCHSCRIPT => {}
        None => table.add_error("model", unknown(&model, MODELS)),
    }
    Some(TrainSettings {
        learning: learning::learning(table),
        transfer: learning::transfer(table, &model),
        model,
        epochs: table.int("epochs", 1..=100_000, None),
        batch_size: table.int("batch_size", 1..=BATCH_MAX, None),
        warmup: recipe::warmup(table),
        lr_schedule: recipe::lr_schedule(table)?,
        clip_norm: table
            .has("clip_norm")
            .then(|| table.float("clip_norm", 1e-6..=1e6, None)),
        accumulate: table.int("accumulate", 1..=1_024, Some(1)),
        ema_decay: table
            .has("ema_decay")
            .then(|| table.float("ema_decay", 0.0..=0.999_999, None)),
        // A wrong word ends the reading of this job: what follows from it could only be guessed at.
        precision: recipe::precision(table)?,
        channels_last: table.flag("channels_last", true),
        deterministic: table.flag("deterministic", false),
        backend: recipe::backend(table)?,
        gradient_compression: recipe::gradient_compression(table)?,
        crop: recipe::crop(table),
        colour: recipe::colour(table),
        input_threads: table.int("input_threads", 0..=256, Some(0)),
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
        // PyTorch's own default is 0, with which hardly anybody trains networks for pictures.
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
        allow_overlap: table.flag("allow_overlap", false),
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
    let env_from_worker = table.texts("env_from_worker").unwrap_or_default();
    for name in &env_from_worker {
        if name.is_empty() || name.contains(['=', '\0']) {
            table.add_error(
                "env_from_worker",
                "names no environment variable: \"=\" and NUL may not stand in it",
            );
        } else if env.contains_key(name) {
            table.add_error(
                "env_from_worker",
                format!("names {name:?}, which env sets; leave one of the two out"),
            );
        }
    }
    if argv.iter().any(|arg| arg.contains('\0')) {
        table.add_error("argv", "holds a NUL character, which no argument can");
    }
    CommandSettings {
        argv,
        env,
        env_from_worker,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for right in ["2026-01-31", "2024-02-29", "2000-02-29", "1879-12-01"] {
            assert!(is_day(right), "{right}");
        }
        for wrong in [
            "2026-02-29",
            "1900-02-29",
            "2026-13-01",
            "2026-1-1",
            "2026-01-00",
            "26-01-01",
            "2026-01-01-",
            "",
        ] {
            assert!(!is_day(wrong), "{wrong}");
        }
    }
}

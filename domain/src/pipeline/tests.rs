//! The door, tried with good and bad documents. Messages are pinned: they are the product.

use super::*;
use crate::spec::{
    FetchSettings, InputRef, LabelRules, Learning, Mix, Optimizer, Shuffle, Source, Uncertain,
    Unlabelled, Work,
};

const POSTERS: &str = r#"
name = "posters"

[jobs.fetch]
kind = "fetch"
source = { type = "tmdb", api_url = "http://127.0.0.1:8080/3", limit = 3000 }

[jobs.preprocess]
kind = "preprocess"
inputs = { dataset = "fetch.dataset" }
width = 48
height = 72

[jobs.train]
kind = "train"
inputs = { shards = "preprocess.shards" }
ranks = 2
model = "simple-cnn"
epochs = 6
batch_size = 64
optimizer = { name = "adamw", lr = 1e-3 }

[jobs.eval]
kind = "eval"
inputs = { shards = "preprocess.shards", model = "train.model" }
"#;

fn parse(text: &str) -> Result<PipelineSpec, Vec<FieldError>> {
    parse_pipeline(DocumentText::Toml(text), &[], None)
}

fn refused(text: &str) -> String {
    lines(&parse(text).expect_err("the document is wrong"))
}

fn lines(errors: &[FieldError]) -> String {
    errors.iter().map(|e| format!("{e}\n")).collect()
}

fn set(path: &str, value: &str) -> Override {
    Override {
        path: path.into(),
        value: value.into(),
    }
}

#[test]
fn a_good_pipeline_is_read_with_its_defaults() {
    let spec = parse(POSTERS).unwrap();
    let names: Vec<&str> = spec.jobs.iter().map(|job| job.name.as_str()).collect();
    assert_eq!(names, ["fetch", "preprocess", "train", "eval"]);
    let train = &spec.jobs[2];
    assert_eq!(train.needs, ["preprocess".parse().unwrap()]);
    assert_eq!(train.max_attempts, 3);
    let Work::Train(settings) = &train.work else {
        panic!("train is a train job")
    };
    assert_eq!(
        settings.optimizer,
        Optimizer::AdamW {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01
        },
    );
}

#[test]
fn a_spec_survives_the_store() {
    let spec = parse(POSTERS).unwrap();
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<PipelineSpec>(&json).unwrap(), spec);
}

#[test]
fn json_is_read_like_toml() {
    let value: Value = toml::from_str(POSTERS).unwrap();
    let json = value.to_string();
    assert_eq!(
        parse_pipeline(DocumentText::Json(&json), &[], None),
        parse(POSTERS)
    );
}

#[test]
fn overrides_take_toml_values_and_plain_text() {
    let overrides = [
        set("jobs.train.epochs", "3"),
        set("jobs.fetch.source.api_url", "http://localhost:1/3"),
        set("jobs.train.optimizer.lr", "0.5"),
    ];
    let spec = parse_pipeline(DocumentText::Toml(POSTERS), &overrides, None).unwrap();
    let Work::Train(train) = &spec.jobs[2].work else {
        panic!("train is a train job")
    };
    assert_eq!(train.epochs, 3);
    let wrong = [
        set("name.x", "1"),
        set("jobs..x", "1"),
        set("jobs.train.epochz", "1"),
    ];
    let errors = parse_pipeline(DocumentText::Toml(POSTERS), &wrong, None).unwrap_err();
    insta::assert_snapshot!(lines(&errors), @r#"
    name: is no table, so "name.x" cannot be set in it
    jobs..x: is no path; write keys joined by dots, such as jobs.train.epochs=3
    jobs.train.epochz: unknown key; did you mean "epochs"?
    "#);
}

#[test]
fn every_error_is_told_at_once_with_value_and_way_out() {
    let text = r#"
name = "Posters"
colour = "red"

[jobs.fetch]
kind = "fetch"
source = { type = "ftp", path = "/x" }

[jobs.preprocess]
kind = "preproces"

[jobs.train]
kind = "train"
inputs = { shards = "fetch.shards" }
needs = ["fetsch", "train"]
ranks = 0
model = "simple-cn"
epochs = "six"
batch_size = 2.5
optimizer = { name = "adam", lr = 1e-3 }

[jobs.eval]
kind = "eval"
timeout = "soon"
inputs = { shards = "preprocess.shards" }
thresholds = { Horror = 1.5 }

[jobs.Run]
kind = "command"
argv = []
"#;
    insta::assert_snapshot!(refused(text));
}

#[test]
fn more_ranks_than_the_cluster_has_are_refused_beside_the_other_errors() {
    let cluster = Some(Capacity {
        cpu_slots: 2,
        gpus: 0,
    });
    let overrides = [set("jobs.train.ranks", "3"), set("jobs.train.epochs", "0")];
    let errors = parse_pipeline(DocumentText::Toml(POSTERS), &overrides, cluster).unwrap_err();
    insta::assert_snapshot!(lines(&errors), @"
    jobs.train.ranks: 3 ranks need 3 devices of one kind, but all workers together have 2; ask for fewer ranks, or start more workers first
    jobs.train.epochs: 0 is out of range; give 1 to 100000
    ");
    assert!(parse_pipeline(DocumentText::Toml(POSTERS), &[], cluster).is_ok());
}

#[test]
fn a_cycle_is_shown() {
    let job = |name: &str, need: &str| {
        format!("[jobs.{name}]\nkind = \"command\"\nargv = [\"true\"]\nneeds = [\"{need}\"]\n")
    };
    let text = format!(
        "name = \"p\"\n{}{}{}{}",
        job("a", "b"),
        job("b", "c"),
        job("c", "a"),
        job("d", "a")
    );
    insta::assert_snapshot!(refused(&text), @"jobs.a.needs: forms a cycle: a needs b needs c needs a");
}

#[test]
fn unknown_labels_are_refused_where_the_source_is_known() {
    let overrides = [
        set("jobs.preprocess.labels", "[\"Horror\", \"Commedy\"]"),
        set("jobs.eval.thresholds", "{ Western = 0.3 }"),
    ];
    let errors = parse_pipeline(DocumentText::Toml(POSTERS), &overrides, None).unwrap_err();
    insta::assert_snapshot!(lines(&errors), @r#"
    jobs.preprocess.labels[1]: no such label: "Commedy" is unknown; did you mean "Comedy"?
    jobs.eval.thresholds.Western: no such label: "Western" is unknown; use "Horror" or "Commedy"
    "#);
}

#[test]
fn mixing_is_off_until_asked_for_and_shares_must_leave_room_for_each_other() {
    let read = |overrides: &[Override]| {
        let spec = parse_pipeline(DocumentText::Toml(POSTERS), overrides, None)?;
        let Work::Train(train) = &spec.jobs[2].work else {
            panic!("train is a train job")
        };
        Ok::<_, Vec<FieldError>>((train.learning.mixup, train.learning.cutmix))
    };
    let mix = |alpha, share| Some(Mix { alpha, share });
    let (mixup, cutmix) = (
        set("jobs.train.mixup", "{}"),
        set("jobs.train.cutmix", "{ alpha = 0.5 }"),
    );
    assert_eq!(read(&[]).unwrap(), (None, None));
    assert_eq!(
        read(std::slice::from_ref(&mixup)).unwrap(),
        (mix(0.2, 1.0), None)
    );
    assert_eq!(
        read(&[mixup, cutmix]).unwrap(),
        (mix(0.2, 0.5), mix(0.5, 0.5))
    );
    let wrong = |mixup, cutmix| {
        let wrong = [
            set("jobs.train.mixup", mixup),
            set("jobs.train.cutmix", cutmix),
        ];
        lines(&read(&wrong).unwrap_err())
    };
    insta::assert_snapshot!(wrong("{ share = 0.75 }", "{ share = 0.5 }"), @"jobs.train.cutmix.share: and mixup.share add up to 1.25, but a picture is mixed in one way at most; make it 1 or less");
    insta::assert_snapshot!(wrong("{ alpha = 0 }", "{ aplha = 1 }"), @r#"
    jobs.train.mixup.alpha: 0 is out of range; give 0.01 to 4
    jobs.train.cutmix.aplha: unknown key; did you mean "alpha"?
    "#);
    insta::assert_snapshot!(wrong("0.2", "true"), @"
    jobs.train.mixup: must be a table, not the number 0.2
    jobs.train.cutmix: must be a table, not the flag true
    ");
}

#[test]
fn credentials_never_enter_a_spec_and_tmdb_itself_needs_rights() {
    let with_key = [set(
        "jobs.fetch.source.api_url",
        "https://me:secret@example.org/3",
    )];
    let errors = parse_pipeline(DocumentText::Toml(POSTERS), &with_key, None).unwrap_err();
    assert!(!lines(&errors).contains("secret"), "{}", lines(&errors));
    let tmdb = [set(
        "jobs.fetch.source.api_url",
        "https://api.themoviedb.org/3",
    )];
    let errors = parse_pipeline(DocumentText::Toml(POSTERS), &tmdb, None).unwrap_err();
    assert_eq!(errors[0].field, "jobs.fetch.source.rights");
}

#[test]
fn a_command_names_the_secrets_that_it_wants_and_not_what_they_are() {
    let command = |rest: &str| {
        format!("name = \"own\"\n[jobs.own]\nkind = \"command\"\nargv = [\"true\"]\n{rest}")
    };
    let spec = parse(&command("env_from_worker = [\"WANDB_API_KEY\"]")).unwrap();
    let Work::Command(settings) = &spec.jobs[0].work else {
        panic!("not a command")
    };
    assert_eq!(settings.env_from_worker, ["WANDB_API_KEY"]);
    // As it was stored before the key existed, and so that its digest stays.
    let without = serde_json::to_string(&parse(&command("")).unwrap().jobs[0]).unwrap();
    assert!(!without.contains("env_from_worker"), "{without}");
    let wrong = refused(&command("env_from_worker = [\"A=b\"]"));
    assert!(
        wrong.contains("env_from_worker: names no environment variable"),
        "{wrong}"
    );
    let both = refused(&command("env = { A = \"b\" }\nenv_from_worker = [\"A\"]"));
    assert!(both.contains("names \"A\", which env sets"), "{both}");
}

#[test]
fn two_inputs_that_a_rank_would_see_as_one_are_refused() {
    let digest = "0".repeat(64);
    let document = |names: &[&str]| {
        let inputs: Vec<String> = names
            .iter()
            .map(|name| format!("{name} = \"artifact:{digest}\""))
            .collect();
        let inputs = inputs.join(", ");
        format!(
            "name = \"data\"\n[jobs.run]\nkind = \"command\"\nargv = [\"true\"]\ninputs = {{ {inputs} }}\n"
        )
    };
    for right in [
        &["a-b"][..],
        &["a-b", "a-c"],
        &["ab", "a-b"],
        &["a1", "a-1"],
    ] {
        assert!(parse(&document(right)).is_ok(), "{right:?}");
    }
    let refused_of = |names: &[&str]| refused(&document(names));
    insta::assert_snapshot!(refused_of(&["a-b", "a_b"]), @r#"jobs.run.inputs.a_b: a rank would see it as MARQUEE_INPUT_A_B, and "a-b" too; call one of them otherwise"#);
    // In whatever order they stand, and each that is too many is told.
    assert_eq!(refused_of(&["a_b_c", "a-b-c", "a_b-c"]).lines().count(), 2);
}

#[test]
fn a_fetch_takes_an_earlier_dataset_a_list_or_a_span_of_days() {
    let document = |job: &str| format!("name = \"data\"\n[jobs.fetch]\nkind = \"fetch\"\n{job}\n");
    let previous = format!("inputs = {{ previous = \"artifact:{}\" }}", "0".repeat(64));
    let api = "type = \"tmdb\", api_url = \"http://h/3\"";
    for right in [
        format!("{previous}\nsource = {{ {api}, films = \"changes\" }}"),
        format!("source = {{ {api}, films = \"discover\", from = \"1900-01-01\" }}"),
        "licence = \"CC0\"\nretention_days = 30\nsource = { type = \"list\", path = \"/l.csv\" }"
            .to_owned(),
    ] {
        if let Err(errors) = parse(&document(&right)) {
            panic!("{right}: {}", lines(&errors));
        }
    }
    let wrong = |source: &str| refused(&document(&format!("source = {{ {source} }}")));
    insta::assert_snapshot!(wrong(&format!("{api}, films = \"discover\"")), @r#"jobs.fetch.source.from: is missing: discover is asked slice by slice of release dates; give the first day, such as "1900-01-01""#);
    insta::assert_snapshot!(wrong(&format!("{api}, films = \"changes\", from = \"2026-02-30\"")), @r#"jobs.fetch.source.from: "2026-02-30" is no day; write it as "2026-01-31""#);
    insta::assert_snapshot!(wrong(&format!("{api}, to = \"2026-01-31\"")), @r#"jobs.fetch.source.from: and to say nothing to the export, which lists every film; set films = "changes" or "discover", or leave them out"#);
}

#[test]
fn a_table_of_labels_is_read_by_rules_that_a_source_may_set() {
    let document = |source: &str| {
        format!("name = \"data\"\n[jobs.fetch]\nkind = \"fetch\"\nsource = {{ {source} }}\n")
    };
    let rules_of = |source: &str| {
        let spec = parse(&document(source)).unwrap();
        match &spec.jobs[0].work {
            Work::Fetch(FetchSettings {
                source: Source::Folder { rules, .. } | Source::List { rules, .. },
                ..
            }) => rules.clone(),
            Work::Fetch(_)
            | Work::Preprocess(_)
            | Work::Train(_)
            | Work::Eval(_)
            | Work::Command(_) => panic!("it is no fetch from a table"),
        }
    };
    let folder = "type = \"folder\", path = \"/x\"";
    assert_eq!(rules_of(folder), LabelRules::default());
    for place in [folder, "type = \"list\", path = \"/l.csv\""] {
        let keys = "separator = \" \", unlabelled = \"keep\", uncertain = \"leave_out\"";
        let rules = rules_of(&format!("{place}, {keys}"));
        assert_eq!(rules.separator.as_deref(), Some(" "));
        assert_eq!(rules.unlabelled, Unlabelled::Keep);
        assert_eq!(rules.uncertain, Uncertain::LeaveOut);
    }
    let keys = "separator = \"\", unlabelled = \"kept\", uncertain = \"maybe\"";
    insta::assert_snapshot!(refused(&document(&format!("{folder}, {keys}"))), @r#"
    jobs.fetch.source.separator: must be 1 to 8 bytes; give what joins labels in a cell, such as " " or ","
    jobs.fetch.source.unlabelled: "kept" is unknown; did you mean "keep"?
    jobs.fetch.source.uncertain: "maybe" is unknown; use "absent", "present" or "leave_out"
    "#);

    // What nobody set is in no stored spec, so that older workers and coordinators read it too.
    let stored = r#"{"type":"folder","path":"/x"}"#;
    let source: Source = serde_json::from_str(stored).unwrap();
    assert_eq!(serde_json::to_string(&source).unwrap(), stored);
}

#[test]
fn settings_that_were_stored_before_a_key_existed_still_read() {
    let old = r#"{"kind":"fetch","settings":{"source":{"type":"tmdb","api_url":"http://h/3","export_url":null,
        "image_url":null,"poster_size":"w500","credential_env":null,"credential_file":null,"limit":null,
        "requests_per_second":40,"concurrency":16,"request_timeout_s":30,"request_attempts":5,"rights":null}}}"#;
    assert!(serde_json::from_str::<Work>(old).is_ok());
    let old = r#"{"kind":"preprocess","settings":{"width":16,"height":24,"encoding":"raw","splits":{"train":0.8,
        "validation":0.1,"test":0.1},"seed":0,"labels":null,"min_label_count":10,"shard_bytes":1}}"#;
    let Ok(Work::Preprocess(read)) = serde_json::from_str(old) else {
        panic!("an old spec cannot be read");
    };
    assert!(read.undated && read.group_near_duplicates && read.test_rows.is_none());
    // What was accepted then left nothing out.
    assert!(read.leave_out.is_empty());
}

#[test]
fn what_shows_nothing_is_left_out_unless_the_document_says_otherwise() {
    let read = |keys: &[(&str, &str)]| {
        let keys = keys
            .iter()
            .map(|(key, value)| set(&format!("jobs.preprocess.{key}"), value));
        let overrides: Vec<Override> = keys.collect();
        parse_pipeline(DocumentText::Toml(POSTERS), &overrides, None)
    };
    let left_out = |keys: &[(&str, &str)]| {
        let spec = read(keys).unwrap();
        let mut jobs = spec.jobs.into_iter();
        match jobs.find_map(|job| match job.work {
            Work::Preprocess(settings) => Some(settings.leave_out),
            Work::Fetch(_) | Work::Train(_) | Work::Eval(_) | Work::Command(_) => None,
        }) {
            Some(flags) => flags.join(" "),
            None => panic!("there is no preprocess job"),
        }
    };
    assert_eq!(left_out(&[]), "tiny blank placeholder");
    assert_eq!(left_out(&[("leave_out", "[]")]), "");
    let twice = r#"["placeholder", "dark", "dark"]"#;
    assert_eq!(left_out(&[("leave_out", twice)]), "dark placeholder");
    let errors = read(&[("leave_out", r#"["dark", "placeholders"]"#)]).unwrap_err();
    insta::assert_snapshot!(errors[0].to_string(), @r#"jobs.preprocess.leave_out[1]: "placeholders" is unknown; did you mean "placeholder"?"#);
}

#[test]
fn a_shuffle_by_shards_has_a_buffer_and_visits_each_picture_once() {
    let read = |keys: &[(&str, &str)]| {
        let keys = keys
            .iter()
            .map(|(key, value)| set(&format!("jobs.train.{key}"), value));
        let overrides: Vec<Override> = keys.collect();
        parse_pipeline(DocumentText::Toml(POSTERS), &overrides, None)
    };
    let shuffle = |keys: &[(&str, &str)]| {
        let spec = read(keys).unwrap();
        let mut jobs = spec.jobs.into_iter();
        let job = jobs.find(|job| job.name.as_str() == "train").unwrap();
        let Work::Train(train) = job.work else {
            panic!("a train job trains");
        };
        train.learning.shuffle
    };
    assert_eq!(shuffle(&[]), Shuffle::Global);
    let shards = ("shuffle", "shards");
    assert_eq!(shuffle(&[shards]), Shuffle::Shards { buffer: 8_192 });
    let buffer = ("shuffle_buffer", "500");
    assert_eq!(shuffle(&[shards, buffer]), Shuffle::Shards { buffer: 500 });

    let wrong = |keys: &[(&str, &str)]| lines(&read(keys).unwrap_err());
    insta::assert_snapshot!(wrong(&[buffer]), @r#"jobs.train.shuffle_buffer: is the buffer of shuffle = "shards"; a global shuffle has none"#);
    insta::assert_snapshot!(wrong(&[shards, ("sampling", "balanced")]), @r#"jobs.train.shuffle: "shards" visits each picture once; set sampling = "shuffle", or leave shuffle out"#);
    // What was stored before the key existed.
    let old: Learning = serde_json::from_str(r#"{"sampling":"shuffle"}"#).unwrap();
    assert_eq!(old.shuffle, Shuffle::Global);
}

#[test]
fn a_train_job_may_go_on_with_fewer_ranks() {
    let ranks = |value: &str| {
        let overrides = [set("jobs.train.ranks", value)];
        parse_pipeline(DocumentText::Toml(POSTERS), &overrides, None).map(|spec| {
            let train = spec.jobs.iter().find(|job| job.name.as_str() == "train");
            let resources = &train.unwrap().resources;
            (resources.ranks, resources.min_ranks)
        })
    };
    assert_eq!(ranks("4"), Ok((4, None)));
    assert_eq!(ranks("{ count = 4, min = 2 }"), Ok((4, Some(2))));
    assert_eq!(ranks("{ count = 4 }"), Ok((4, None)));
    assert_eq!(
        ranks("{ count = 4, min = 4 }"),
        Ok((4, None)),
        "all are needed"
    );
    let wrong = |value: &str| lines(&ranks(value).unwrap_err());
    insta::assert_snapshot!(
        [wrong("{ min = 2 }"), wrong("{ count = 2, min = 3 }"), wrong("{ count = 2, mni = 1 }")].concat(),
        @r#"
    jobs.train.ranks.count: is missing; give a whole number from 1 to 4096
    jobs.train.ranks.min: 3 is more than count, 2
    jobs.train.ranks.mni: unknown key; use "count"
    "#
    );
    let document = DocumentText::Toml(
        "kind = \"command\"\nargv = [\"true\"]\nranks = { count = 2, min = 1 }\n",
    );
    let error = parse_job("hello", document, &[], None).unwrap_err();
    insta::assert_snapshot!(lines(&error), @"jobs.hello.ranks.min: a command job cannot go on without a rank; only train jobs can");
}

#[test]
fn resources_that_were_stored_before_a_least_existed_need_all_ranks() {
    let old = r#"{"ranks":3,"device":"any","devices_per_rank":1}"#;
    let read: crate::resources::Resources = serde_json::from_str(old).unwrap();
    assert_eq!((read.ranks, read.min_ranks), (3, None));
}

#[test]
fn a_torchscript_module_is_named_with_what_it_is_shown() {
    let document = |rest: &str| {
        format!(
            "name = \"own\"\n[jobs.export]\nkind = \"command\"\nargv = [\"python3\", \"export.py\"]\n\
             [jobs.train]\nkind = \"train\"\nepochs = 1\nbatch_size = 8\n\
             optimizer = {{ name = \"sgd\", lr = 0.1 }}\n{rest}\n"
        )
    };
    let shards = "0".repeat(64);
    let inputs = format!("shards = \"artifact:{shards}\", module = \"export.output\"");
    let right = document(&format!(
        "model = \"torchscript\"\nmodule = {{ file = \"net.pt\", width = 48, height = 72, mean = [0.5, 0.5, 0.5] }}\n\
         inputs = {{ {inputs} }}"
    ));
    let spec = parse(&right).map_err(|errors| lines(&errors)).unwrap();
    let Work::Train(train) = &spec.jobs[1].work else {
        panic!("{spec:?}")
    };
    let module = train.transfer.module.as_ref().unwrap();
    assert_eq!((module.file.as_str(), module.width), ("net.pt", Some(48)));
    assert_eq!((module.mean, module.std), ([0.5; 3], [1.0; 3]));

    let shards = format!("inputs = {{ shards = \"artifact:{shards}\" }}");
    let wrong = |rest: &str| refused(&document(&format!("{rest}\n{shards}")));
    insta::assert_snapshot!(
        [
            wrong("model = \"torchscript\"\ndropout = 0.2"),
            wrong("model = \"torchscript\"\nmodule = { file = \"net.pt\", std = [0.0, 1.0], width = 3 }"),
            wrong("model = \"simple-cnn\"\nmodule = { file = \"/net.pt\" }"),
        ]
        .concat(),
        @r#"
    jobs.train.dropout: says nothing to a TorchScript module, which is as it was made; leave it out
    jobs.train.module: is missing; give a table such as { file = "net.pt", width = 224, height = 224 }
    jobs.train.module.file: "net.pt" is no absolute path; give one on the worker, or name the job that makes it: inputs = { module = "<job>.output" }
    jobs.train.module.width: width and height go together; give both or none
    jobs.train.module.std: must be a list of three numbers, not the list [0.0,1.0]
    jobs.train.module: belongs to model = "torchscript" alone
    "#
    );
    let outside = document(&format!(
        "model = \"torchscript\"\nmodule = {{ file = \"../net.pt\" }}\ninputs = {{ {inputs} }}"
    ));
    insta::assert_snapshot!(refused(&outside), @r#"jobs.train.module.file: "../net.pt" lies outside of the input "module"; give a path within it"#);
}

#[test]
fn one_job_is_a_pipeline_of_its_own() {
    let document = DocumentText::Toml("kind = \"command\"\nargv = [\"true\"]\n");
    let spec = parse_job("hello", document, &[], None).unwrap();
    assert_eq!((spec.name.as_str(), spec.jobs.len()), ("hello", 1));
}

#[test]
fn an_artifact_can_be_named_by_digest() {
    let digest = "0".repeat(64);
    for named in [
        format!("artifact:{digest}"),
        format!("artifact:sha256:{digest}"),
    ] {
        let overrides = [set("jobs.train.inputs.shards", &named)];
        let spec = parse_pipeline(DocumentText::Toml(POSTERS), &overrides, None).unwrap();
        let train = spec
            .jobs
            .iter()
            .find(|job| job.name.as_str() == "train")
            .unwrap();
        assert_eq!(
            train.inputs["shards"],
            InputRef::Artifact(digest.parse().unwrap())
        );
        assert!(train.needs.is_empty());
    }
    for wrong in [
        format!("artifact:sha512:{digest}"),
        format!("artifact:sha256:sha256:{digest}"),
        "artifact:sha256:".to_owned(),
    ] {
        let overrides = [set("jobs.train.inputs.shards", &wrong)];
        let errors = parse_pipeline(DocumentText::Toml(POSTERS), &overrides, None).unwrap_err();
        assert_eq!(errors[0].field, "jobs.train.inputs.shards", "{wrong}");
    }
}

#[test]
fn broken_toml_says_where() {
    insta::assert_snapshot!(
        refused("name = \"p\"\n[jobs.a\n"),
        @"document: line 2, column 8: unclosed table, expected `]`"
    );
}

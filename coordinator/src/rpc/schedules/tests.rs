use chrono::{DateTime, Utc};
use marquee_domain::ids::PipelineId;
use marquee_domain::schedule::{Outcome, Progress};

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn stored(paused: Option<(String, DateTime<Utc>)>) -> Schedule {
    Schedule {
        id: 1,
        name: "nightly".into(),
        cron: "0 2 * * *".into(),
        time_zone: "Europe/Berlin".into(),
        progress: Progress {
            overlap: Overlap::default(),
            missed: Missed::default(),
            next_due: Some(at(60)),
            waiting_due: None,
        },
        paused,
        set_by: "anna".into(),
        set_at: at(0),
    }
}

fn toml(text: &str) -> Option<v1::Document> {
    Some(v1::Document {
        format: Some(Format::Toml(text.into())),
    })
}

#[test]
fn a_name_that_is_none_is_refused_and_not_repeated_whole() {
    assert_eq!(name_of("nightly").unwrap().as_str(), "nightly");
    let long = "ü".repeat(5_000);
    for odd in [
        "",
        " ",
        "two words",
        "a\0b",
        "a\nb",
        "-",
        "../x",
        long.as_str(),
    ] {
        let error = name_of(odd).expect_err(odd).to_string();
        assert!(error.contains("name"), "{error}");
        assert!(error.len() < 600, "{} bytes", error.len());
    }
}

#[test]
fn what_is_not_said_is_as_usual_and_what_is_not_known_is_refused_with_what_is() {
    let overlap = |text: &str| word("overlap", text, Overlap::from_word, "skip or queue");
    assert_eq!(overlap("").unwrap(), Overlap::default());
    for (known, text) in [(Overlap::Skip, "skip"), (Overlap::Queue, "queue")] {
        assert_eq!(overlap(text).unwrap(), known);
    }
    for odd in ["Skip", "skip ", "both", "\0"] {
        let error = overlap(odd).expect_err(odd).to_string();
        assert!(error.contains("give skip or queue"), "{error}");
    }
    let missed = |text: &str| word("missed", text, Missed::from_word, "one or none");
    for (known, text) in [(Missed::One, "one"), (Missed::None, "none")] {
        assert_eq!(missed(text).unwrap(), known);
    }
    assert!(missed("all").is_err());
    let long = overlap(&"é".repeat(9_999)).expect_err("long").to_string();
    assert!(long.len() < 600, "{} bytes", long.len());
}

#[test]
fn a_document_is_kept_as_it_was_written_and_refused_where_postgres_cannot_hold_it() {
    let set = |path: &str, value: &str| v1::Override {
        path: path.into(),
        value: value.into(),
    };
    let kept = document_of(toml("name = \"x\"\n"), vec![set("jobs.a.priority", "3")]).unwrap();
    assert!(!kept.is_json);
    assert_eq!(kept.text, "name = \"x\"\n");
    assert_eq!(
        kept.overrides,
        [("jobs.a.priority".to_owned(), "3".to_owned())]
    );
    let json = v1::Document {
        format: Some(Format::Json("{}".into())),
    };
    assert!(document_of(Some(json), Vec::new()).unwrap().is_json);
    let refused = [
        (None, Vec::new()),
        (Some(v1::Document { format: None }), Vec::new()),
        (toml("name = \"a\0\""), Vec::new()),
        (toml(""), vec![set("a\0", "1")]),
        (toml(""), vec![set("a", "\0")]),
    ];
    for (document, overrides) in refused {
        let error = document_of(document, overrides).expect_err("refused");
        assert!(error.to_string().contains("document"), "{error}");
    }
}

#[test]
fn a_paused_schedule_is_due_at_no_time_and_says_who_paused_it() {
    let goes = encode(stored(None), Vec::new());
    assert_eq!(goes.next_due, Some(timestamp(at(60))));
    assert_eq!((goes.paused_by.as_str(), goes.paused_at), ("", None));
    let paused = encode(stored(Some(("bob".into(), at(9)))), Vec::new());
    assert_eq!(paused.next_due, None);
    assert_eq!(
        (paused.paused_by.as_str(), paused.paused_at),
        ("bob", Some(timestamp(at(9))))
    );
    assert_eq!(
        (paused.cron.as_str(), paused.time_zone.as_str()),
        ("0 2 * * *", "Europe/Berlin")
    );
}

#[test]
fn a_run_without_a_pipeline_says_why_there_is_none() {
    let run = |outcome, pipeline, text: &str| Run {
        due_at: at(0),
        outcome,
        pipeline,
        text: text.into(),
        at: at(1),
    };
    let runs = vec![
        run(Outcome::Submitted, Some(PipelineId(4)), ""),
        run(Outcome::Refused, None, "the document has 1 wrong fields"),
    ];
    let shown = encode(stored(None), runs).runs;
    assert_eq!((shown[0].pipeline_id, shown[0].text.as_str()), (4, ""));
    assert_eq!(shown[1].pipeline_id, 0);
    assert_eq!(shown[1].outcome, Outcome::Refused.as_str());
    assert!(!shown[1].text.is_empty());
    assert_ne!(shown[0].outcome, shown[1].outcome);
}

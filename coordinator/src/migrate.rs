//! `marquee-coordinator migrate --dry-run`: what an upgrade will do to the tables, tried and taken back. The coordinator
//! that leads does it itself when it starts.

use std::fmt::Write as _;

use marquee_store::rehearse::{Rehearsal, Step, rehearse};

use crate::backup::Source;
use crate::config::Config;

/// Tries what is to come. What to tell whoever asked, and whether an upgrade will go well.
pub async fn dry_run(config: &Config) -> anyhow::Result<(String, bool)> {
    let source = Source::open(config).await?;
    let tried = rehearse(source.url()).await;
    // Also where the try failed: a Postgres that was started for it would go on.
    source.close().await;
    let tried = tried?;
    let is_well = tried.failed.is_none() && tried.altered.is_empty();
    Ok((text(&tried), is_well))
}

fn text(tried: &Rehearsal) -> String {
    let Rehearsal {
        newest,
        unknown,
        altered,
        steps,
        failed,
    } = tried;
    let mut text = match newest {
        Some(newest) => format!("the tables have the migrations up to {newest:04}\n"),
        None => "there are no tables yet\n".to_owned(),
    };
    let list = |numbers: &[i64]| -> String {
        let all: Vec<String> = numbers.iter().map(|one| format!("{one:04}")).collect();
        all.join(", ")
    };
    if !unknown.is_empty() {
        let _ = writeln!(
            text,
            "of a later version than this program: {}",
            list(unknown)
        );
    }
    if !altered.is_empty() {
        let _ = writeln!(
            text,
            "not as this program has them, so that it will refuse to start: {}; was another build at work here?",
            list(altered)
        );
    }
    for Step { number, what, took } in steps {
        let _ = writeln!(
            text,
            "{number:04} applies, in {:.1} s: {what}",
            took.as_secs_f64()
        );
    }
    match failed {
        Some((number, why)) => {
            let _ = writeln!(text, "{number:04} does not apply: {why}");
        }
        None if steps.is_empty() => text.push_str("nothing is to come\n"),
        None => {}
    }
    text.push_str("nothing was changed\n");
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_migration_to_come_is_told_with_its_time_and_what_is_wrong() {
        let step = Step {
            number: 36,
            what: "authority rotation".into(),
            took: Duration::from_millis(340),
        };
        let told = text(&Rehearsal {
            newest: Some(32),
            unknown: vec![],
            altered: vec![7],
            steps: vec![step],
            failed: Some((37, "there is no table x".into())),
        });
        for line in [
            "up to 0032",
            "refuse to start: 0007",
            "0036 applies, in 0.3 s: authority rotation",
            "0037 does not apply: there is no table x",
            "nothing was changed",
        ] {
            assert!(told.contains(line), "{line}: {told}");
        }
    }

    #[test]
    fn each_kind_of_database_has_its_words_and_no_others() {
        let none = || Rehearsal {
            newest: Some(36),
            unknown: vec![],
            altered: vec![],
            steps: vec![],
            failed: None,
        };
        let up_to_date = "the tables have the migrations up to 0036\n";
        assert_eq!(
            text(&none()),
            format!("{up_to_date}nothing is to come\nnothing was changed\n")
        );
        let empty = text(&Rehearsal {
            newest: None,
            ..none()
        });
        assert!(empty.starts_with("there are no tables yet\n"), "{empty}");
        let newer = text(&Rehearsal {
            unknown: vec![37, 138],
            ..none()
        });
        assert!(newer.contains("of a later version than this program: 0037, 0138\n"));
        assert!(!newer.contains("refuse to start"), "{newer}");
        // The first one fails: nothing applies, and it is not said that nothing is to come.
        let failed = text(&Rehearsal {
            failed: Some((37, "canceling statement due to lock timeout".into())),
            ..none()
        });
        assert!(failed.contains("0037 does not apply: canceling statement"));
        assert!(!failed.contains("nothing is to come"), "{failed}");
        assert!(failed.ends_with("nothing was changed\n"));
    }
}

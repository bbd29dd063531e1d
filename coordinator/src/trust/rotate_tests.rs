use marquee_domain::ids::WorkerId;
use uuid::Uuid;

use super::*;
use crate::trust::beside::Found;

fn rotation(phase: Phase) -> Rotation {
    Rotation {
        before: "old".into(),
        next: "new".into(),
        certificate: String::new(),
        phase,
        begun_at: DateTime::UNIX_EPOCH,
        begun_by: "ada".into(),
        switched_at: None,
        ended_at: None,
    }
}

fn worker(name: &str, believes: &[&str], certified_by: &str, is_online: bool) -> Standing {
    Standing {
        worker: WorkerId(Uuid::from_u128(1)),
        name: name.into(),
        believes: believes.iter().map(|pin| (*pin).to_owned()).collect(),
        certified_by: certified_by.into(),
        is_online,
    }
}

fn texts(all: &[Hindrance]) -> Vec<&str> {
    all.iter().map(|one| one.text.as_str()).collect()
}

#[test]
fn who_would_be_shut_out_is_named_with_what_helps() {
    let workers = [
        worker("along", &["old", "new"], "new", true),
        worker("late", &["old"], "old", true),
        worker("older", &[], "", true),
        worker("away", &["old", "new"], "old", false),
    ];
    let begun = hindrances(&rotation(Phase::Begun), &workers, &[], true);
    let [late, older] = texts(&begun)[..] else {
        panic!("{begun:?}");
    };
    assert!(
        late.contains("worker late") && late.contains("within seconds"),
        "{late}"
    );
    assert!(
        older.contains("worker older") && older.contains("Upgrade"),
        "{older}"
    );
    assert!(begun.iter().all(|one| one.can_be_forced));
    let switched = hindrances(&rotation(Phase::Switched), &workers, &[], true);
    let texts = texts(&switched);
    assert_eq!(texts.len(), 3);
    assert!(
        texts[2].contains("worker away") && texts[2].contains("join again"),
        "{texts:?}"
    );
    // Without its key nothing can be signed, and no word makes it so.
    let keyless = hindrances(&rotation(Phase::Begun), &[], &[], false);
    assert!(keyless.len() == 1 && !keyless[0].can_be_forced);
}

#[test]
fn coordinators_beside_have_to_come_along_too() {
    let seen = |believes_next, shows_next| Seen {
        address: "https://head-2:7700".into(),
        found: Ok(Found {
            believes_next,
            shows_next,
        }),
    };
    let count = |phase, seen: Seen| hindrances(&rotation(phase), &[], &[seen], true).len();
    assert_eq!(count(Phase::Begun, seen(false, false)), 1);
    assert_eq!(count(Phase::Begun, seen(true, false)), 0);
    assert_eq!(count(Phase::Switched, seen(true, false)), 1);
    assert_eq!(count(Phase::Switched, seen(true, true)), 0);
    let unseen = Seen {
        address: "https://head-2:7700".into(),
        found: Err("no answer".into()),
    };
    assert_eq!(count(Phase::Begun, unseen), 1);
}

#[test]
fn each_step_has_its_place() {
    use Step::{Abandon, Begin, Finish, Switch};
    let phases = [
        None,
        Some(Phase::Begun),
        Some(Phase::Switched),
        Some(Phase::Finished),
        Some(Phase::Abandoned),
    ];
    for (phase, may) in phases.into_iter().zip([
        &[Begin][..],
        &[Switch, Abandon],
        &[Finish],
        &[Begin],
        &[Begin],
    ]) {
        let rotation = phase.map(rotation);
        for step in [Begin, Switch, Finish, Abandon] {
            let is_let = may_follow(rotation.as_ref(), step);
            assert_eq!(is_let.is_ok(), may.contains(&step), "{phase:?}: {step:?}");
        }
    }
}

#[test]
fn a_step_out_of_turn_is_told_the_one_to_take() {
    use Step::{Abandon, Begin, Finish, Switch};
    for (phase, step, words) in [
        (None, Switch, "\"begin\" starts one"),
        (None, Finish, "\"begin\" starts one"),
        (None, Abandon, "\"begin\" starts one"),
        (
            Some(Phase::Begun),
            Begin,
            "the next step is \"switch\", or \"abandon\"",
        ),
        (Some(Phase::Begun), Finish, "the step to take is \"switch\""),
        (
            Some(Phase::Switched),
            Begin,
            "the step to take is \"finish\"",
        ),
        (
            Some(Phase::Switched),
            Switch,
            "the step to take is \"finish\"",
        ),
        (
            Some(Phase::Switched),
            Abandon,
            "finish this rotation, and begin another one",
        ),
        (Some(Phase::Finished), Switch, "\"begin\" starts one"),
        (Some(Phase::Finished), Abandon, "\"begin\" starts one"),
        (Some(Phase::Abandoned), Finish, "\"begin\" starts one"),
    ] {
        let rotation = phase.map(rotation);
        let status = may_follow(rotation.as_ref(), step).unwrap_err();
        assert!(
            status.message().contains(words),
            "{phase:?} {step:?}: {status}"
        );
    }
}

#[test]
fn all_that_stands_in_the_way_is_listed_and_the_key_goes_first() {
    let workers = [
        worker("b", &["old"], "old", false),
        worker("a", &["old", "new"], "new", true),
        // It believes the next one alone: it has gone further than it had to.
        worker("c", &["new"], "new", false),
    ];
    let seen = [Seen {
        address: "https://head-2:7700".into(),
        found: Err("no answer in 3 s".into()),
    }];
    let all = hindrances(&rotation(Phase::Begun), &workers, &seen, false);
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all[0].text.contains("tls/next.key") && !all[0].can_be_forced);
    assert!(all[1].text.contains("worker b") && all[1].text.contains("token for its name"));
    assert!(all[2].text.contains("head-2") && all[2].text.contains("no answer in 3 s"));
    assert!(all[1..].iter().all(|one| one.can_be_forced));
    // Nobody there: nothing in the way.
    assert!(hindrances(&rotation(Phase::Switched), &[], &[], true).is_empty());
}

//! How far one authority is followed by another, and who has still to come along.

use chrono::{DateTime, Utc};
use marquee_proto::v1::{Rotation, RotationCoordinator, RotationWorker};
use serde_json::{Value, json};

use crate::page::{Cell, Page, Tone, View, left, toned};
use crate::units;

/// A rotation.
#[derive(Debug)]
pub struct RotationOf<'a>(pub &'a Rotation);

impl View for RotationOf<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let Rotation {
            phase,
            before,
            next,
            begun_by,
            workers,
            coordinators,
            usable_tokens,
            hindrances,
            ..
        } = self.0;
        // So says a coordinator whose authority was never followed by another one.
        if phase.is_empty() {
            page.line("the cluster's authority is its first one; \"marquee admin ca rotate begin\" makes the next");
            return;
        }
        let at = |time: Option<&prost_types::Timestamp>| {
            let at = units::time(time);
            at.map(|at| at.format("%Y-%m-%d %H:%M UTC").to_string())
                .unwrap_or_default()
        };
        let signs = match phase.as_str() {
            "begun" => "both authorities are believed, the one before signs",
            "switched" => "both authorities are believed, the next one signs",
            "finished" => "the next authority took the place of the one before",
            _ => "the next authority was given up",
        };
        page.fields(vec![
            ("phase", format!("{phase}: {signs}").into()),
            ("before", before.as_str().into()),
            ("next", next.as_str().into()),
            (
                "begun",
                format!("{} by {begun_by}", at(self.0.begun_at.as_ref())).into(),
            ),
        ]);
        // Once it is over nobody is looked at any more, and a table of nobody would look like a
        // cluster without workers.
        if !is_open(phase) {
            return;
        }
        page.gap();
        let heads = [
            left("WHO"),
            left("HERE"),
            left("BELIEVES THE NEXT"),
            left("SHOWS THE NEXT"),
        ];
        let rows = workers
            .iter()
            .map(worker)
            .chain(coordinators.iter().map(coordinator));
        page.table(heads, rows.collect());
        page.gap();
        // No hindrance: others can be made after the switch. It is said for whoever has handed one
        // out.
        if phase == "begun" && *usable_tokens > 0 {
            page.line(format!(
                "{usable_tokens} join token(s) can be used still, and end with the switch"
            ));
        }
        for hindrance in hindrances {
            page.line(format!("in the way: {}", hindrance.text));
        }
        if hindrances.is_empty() {
            let step = if phase == "begun" { "switch" } else { "finish" };
            page.line(format!(
                "nothing is in the way of \"marquee admin ca rotate {step}\""
            ));
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let at = |time: Option<&prost_types::Timestamp>| units::time(time).map(units::rfc3339);
        let rotation = self.0;
        let worker = |worker: &RotationWorker| {
            json!({
                "name": worker.name,
                "online": worker.online,
                "believes_next": worker.believes_next,
                "shows_next": worker.shows_next,
            })
        };
        let coordinator = |one: &RotationCoordinator| {
            json!({
                "address": one.address,
                "believes_next": one.believes_next,
                "shows_next": one.shows_next,
                "error": one.error,
            })
        };
        json!({
            // A word also for none: a program that compares words needs no rule for an empty one.
            "phase": if rotation.phase.is_empty() { "none" } else { rotation.phase.as_str() },
            "before": rotation.before,
            "next": rotation.next,
            "begun_at": at(rotation.begun_at.as_ref()),
            "begun_by": rotation.begun_by,
            "switched_at": at(rotation.switched_at.as_ref()),
            "ended_at": at(rotation.ended_at.as_ref()),
            "workers": rotation.workers.iter().map(worker).collect::<Vec<_>>(),
            "coordinators": rotation.coordinators.iter().map(coordinator).collect::<Vec<_>>(),
            "usable_tokens": rotation.usable_tokens,
            "hindrances": rotation.hindrances.iter().map(|one| json!({
                "text": one.text,
                "can_be_forced": one.can_be_forced,
            })).collect::<Vec<_>>(),
        })
    }

    fn ids(&self) -> Vec<String> {
        let next = &self.0.next;
        if next.is_empty() {
            Vec::new()
        } else {
            vec![next.clone()]
        }
    }
}

fn is_open(phase: &str) -> bool {
    matches!(phase, "begun" | "switched")
}

fn yes(is_so: bool) -> Cell {
    if is_so {
        toned("yes", Tone::Good)
    } else {
        toned("no", Tone::Warn)
    }
}

fn worker(worker: &RotationWorker) -> Vec<Cell> {
    vec![
        toned(format!("worker {}", worker.name), Tone::Strong),
        if worker.online { "yes" } else { "no" }.into(),
        yes(worker.believes_next),
        yes(worker.shows_next),
    ]
}

fn coordinator(one: &RotationCoordinator) -> Vec<Cell> {
    let name = toned(format!("coordinator {}", one.address), Tone::Strong);
    // One that could not be looked at may be well: what is not known is not a no.
    if one.error.is_empty() {
        vec![
            name,
            "yes".into(),
            yes(one.believes_next),
            yes(one.shows_next),
        ]
    } else {
        let unknown = || toned("not known", Tone::Warn);
        vec![name, "not known".into(), unknown(), unknown()]
    }
}

#[cfg(test)]
mod tests {
    use marquee_proto::v1::Hindrance;

    use super::*;

    fn drawn(rotation: &Rotation) -> String {
        let page = Page::of(&RotationOf(rotation), DateTime::UNIX_EPOCH);
        format!("{:?}", page.blocks())
    }

    #[test]
    fn what_is_in_the_way_is_said_and_else_the_next_step() {
        assert!(drawn(&Rotation::default()).contains("rotate begin"));
        let begun = Rotation {
            phase: "begun".into(),
            workers: vec![RotationWorker {
                name: "gpu-01".into(),
                ..RotationWorker::default()
            }],
            usable_tokens: 2,
            ..Rotation::default()
        };
        let page = drawn(&begun);
        assert!(
            page.contains("worker gpu-01") && page.contains("rotate switch"),
            "{page}"
        );
        assert!(page.contains("2 join token(s)"), "{page}");
        let held_up = Rotation {
            phase: "switched".into(),
            hindrances: vec![Hindrance {
                text: "worker gpu-01 still shows".into(),
                can_be_forced: true,
            }],
            ..begun
        };
        let page = drawn(&held_up);
        assert!(page.contains("in the way: worker gpu-01"), "{page}");
        assert!(!page.contains("nothing is in the way"), "{page}");
        let json = RotationOf(&held_up).json(DateTime::UNIX_EPOCH);
        assert_eq!(json["hindrances"][0]["can_be_forced"], true);
        assert_eq!(json["workers"][0]["believes_next"], false);
    }
}

//! The coordinators of a cluster, and which of them leads.

use chrono::{DateTime, Utc};
use marquee_proto::v1;
use serde_json::{Value, json};

use crate::page::{Cell, Page, Tone, View, left, right, toned};
use crate::units;

/// A listing of coordinators.
#[derive(Debug)]
pub struct Coordinators<'a>(pub &'a v1::ListCoordinatorsResponse);

impl View for Coordinators<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let heads = [
            left("ADDRESS"),
            left("ROLE"),
            right("EPOCH"),
            right("UP"),
            left("VERSION"),
        ];
        let rows = self.0.coordinators.iter();
        page.table(heads, rows.map(|one| self.row(one, now)).collect());
        if self.0.leaderless {
            let who = if self.0.leader.is_empty() {
                String::new()
            } else {
                format!("; the last one was {}", self.0.leader)
            };
            page.line(format!(
                "nobody leads just now{who}. One that stands by takes over within seconds"
            ));
        }
        for one in self.0.coordinators.iter().filter(|one| one.other_storage) {
            page.line(format!(
                "{}: it has another folder of artifacts (artifacts_dir) than the one that leads: it serves none of them, \
                 and does not take over",
                one.address
            ));
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let one = |one: &v1::Coordinator| {
            json!({
                "address": one.address,
                "leads": one.leads,
                "answers": one.answers,
                "other_storage": one.other_storage,
                "version": one.version,
                "since": units::time(one.since.as_ref()).map(|at| at.to_rfc3339()),
            })
        };
        json!({
            "epoch": self.0.epoch,
            // Null while nobody leads: the address of the last one would send a script to a
            // coordinator that refuses it.
            "leader": (!self.0.leaderless).then_some(&self.0.leader),
            "coordinators": self.0.coordinators.iter().map(one).collect::<Vec<_>>(),
        })
    }

    fn ids(&self) -> Vec<String> {
        let all = self.0.coordinators.iter();
        all.map(|one| one.address.clone()).collect()
    }
}

impl Coordinators<'_> {
    fn row(&self, one: &v1::Coordinator, now: DateTime<Utc>) -> Vec<Cell> {
        let (role, tone) = match (one.leads, one.other_storage) {
            (true, _) => ("leads", Tone::Good),
            // Worse than it looks from outside: it answers like any other, and will not be there
            // when it is needed.
            (false, true) => ("only answers", Tone::Bad),
            (false, false) => ("stands by", Tone::Faint),
        };
        let epoch = if one.leads {
            self.0.epoch.to_string()
        } else {
            String::new()
        };
        let up = units::time(one.since.as_ref())
            .map(|since| units::about(units::between(since, now)).to_string())
            .unwrap_or_default();
        vec![
            toned(one.address.as_str(), Tone::Strong),
            toned(role, tone),
            epoch.into(),
            up.into(),
            one.version.as_str().into(),
        ]
    }
}

//! Secrets that the coordinator keeps: whose they are and who set them. What they hold nobody is shown.

use chrono::{DateTime, Utc};
use marquee_proto::v1::{RekeySecretsResponse, Secret};
use serde_json::{Value, json};

use crate::page::{Cell, Page, Tone, View, left, toned};
use crate::units;

/// A list of secrets, one row each.
#[derive(Debug)]
pub struct Secrets<'a>(pub &'a [Secret]);

impl View for Secrets<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let heads = ["NAME", "PROJECT", "JOBS", "SET", "BY", "KEY"].map(left);
        let row = |secret: &Secret| -> Vec<Cell> {
            let set = units::time(secret.set_at.as_ref());
            let ago = |at| format!("{} ago", units::about(units::between(at, now)));
            vec![
                toned(secret.name.as_str(), Tone::Strong),
                secret.project.as_str().into(),
                match secret.job.as_str() {
                    "" => "all".into(),
                    job => job.into(),
                },
                set.map(ago).unwrap_or_default().into(),
                secret.set_by.as_str().into(),
                // An older key still opens it while its line is in the file. It is marked, since
                // that line must not go before a rekey.
                if secret.has_current_key {
                    secret.key_id.as_str().into()
                } else {
                    toned(
                        format!("{} (not the current one)", secret.key_id),
                        Tone::Warn,
                    )
                },
            ]
        };
        page.table(heads, self.0.iter().map(row).collect());
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let one = |secret: &Secret| {
            json!({
                "name": secret.name,
                "project": secret.project,
                // Null and no empty name: it is for every job of the project.
                "job": Some(&secret.job).filter(|job| !job.is_empty()),
                "set_at": units::time(secret.set_at.as_ref()).map(units::rfc3339),
                "set_by": secret.set_by,
                "key_id": secret.key_id,
                "has_current_key": secret.has_current_key,
            })
        };
        self.0.iter().map(one).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|secret| secret.name.clone()).collect()
    }
}

/// What became of secrets when the key changed.
#[derive(Debug)]
pub struct Rekeyed<'a>(pub &'a RekeySecretsResponse);

impl View for Rekeyed<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let done = self.0;
        page.line(format!(
            "all {} secrets are encrypted by key {}; {} were by another one until now",
            done.secrets, done.key_id, done.changed
        ));
        page.line("lines of older keys may go from the coordinator's secrets_key, and stay with its older backups");
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let done = self.0;
        json!({ "key_id": done.key_id, "changed": done.changed, "secrets": done.secrets })
    }

    fn ids(&self) -> Vec<String> {
        vec![self.0.key_id.clone()]
    }
}

//! Which reports go out next, in one session with the coordinator.
//!
//! Invariants: at most [`REPORTS_IN_FLIGHT_MAX`] reports are sent and not acknowledged; a rank's
//! reports go out in order. Nothing here outlives the session: the next one begins with what the
//! coordinator says it has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use marquee_domain::RankKey;
use marquee_domain::env::Clock;
use marquee_domain::limits::REPORTS_IN_FLIGHT_MAX;
use marquee_proto::v1;
use prost::Message as _;
use tokio::time::Instant;

use crate::rank::held::HeldRank;

/// Reports and bytes of one message, about: far below the message limit, far above its cost.
const MESSAGE_REPORTS: usize = 256;
const MESSAGE_BYTES: usize = 1024 * 1024;
/// How long a new session waits to hear what the coordinator has of a rank from earlier ones.
const FIRST_ACK_MAX: Duration = Duration::from_secs(1);
/// Reports that are not acknowledged for this long are sent again.
const RESEND_AFTER: Duration = Duration::from_secs(5);

/// What was sent of one rank in this session.
#[derive(Debug)]
struct Sent {
    up_to: u64,
    acked: u64,
    /// Nothing goes out before.
    not_before: Option<Instant>,
    /// When something was last sent first, or acknowledged.
    progress: Instant,
}

/// The reports of a session.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    sent: BTreeMap<RankKey, Sent>,
    /// Whose turn it was: ranks take turns, so that a chatty one silences no other.
    served: Option<RankKey>,
    /// There was more to send than the newest message could hold.
    has_more: bool,
}

impl Outbox {
    /// An outbox for a session whose Hello lists `held`.
    pub(super) fn new(held: &[Arc<HeldRank>], now: Instant) -> Self {
        let sent = held.iter().map(|rank| {
            let acked = rank.spool().acked();
            (
                rank.key,
                Sent {
                    up_to: acked,
                    acked,
                    not_before: Some(now + FIRST_ACK_MAX),
                    progress: now,
                },
            )
        });
        Self {
            sent: sent.collect(),
            served: None,
            has_more: false,
        }
    }

    /// Notes an acknowledgement: a number below what it was asks to go on from there.
    pub(super) fn acked(&mut self, key: RankKey, sequence: u64, now: Instant) {
        let Some(sent) = self.sent.get_mut(&key) else {
            return;
        };
        let is_first = sent.not_before.take().is_some();
        if is_first || sequence < sent.acked {
            sent.up_to = sequence;
        }
        if is_first || sequence != sent.acked {
            sent.progress = now;
        }
        sent.acked = sequence;
        sent.up_to = sent.up_to.max(sequence);
    }

    /// The next message, if there is anything to send: of as many ranks as fit, since what comes in one
    /// message the coordinator can store in one transaction.
    pub(super) fn next(
        &mut self,
        held: &[Arc<HeldRank>],
        now: Instant,
        clock: &dyn Clock,
    ) -> Option<v1::Reports> {
        // Held ranks come in the order of their keys.
        let is_held = |key: &RankKey| held.binary_search_by_key(key, |rank| rank.key).is_ok();
        self.sent.retain(|key, _| is_held(key));
        for rank in held {
            let acked = rank.spool().acked();
            let new = Sent {
                up_to: acked,
                acked,
                not_before: None,
                progress: now,
            };
            self.sent.entry(rank.key).or_insert(new).wake(now);
        }
        let in_flight: u64 = self.sent.values().map(|sent| sent.up_to - sent.acked).sum();
        let in_flight = usize::try_from(in_flight).unwrap_or(usize::MAX);
        // Where nothing may go out before something is acknowledged, that tells.
        self.has_more = false;
        let room = REPORTS_IN_FLIGHT_MAX
            .saturating_sub(in_flight)
            .min(MESSAGE_REPORTS);
        if room == 0 {
            return None;
        }
        let turn =
            held.partition_point(|rank| self.served.is_some_and(|served| rank.key <= served));
        let (mut reports, mut bytes) = (Vec::new(), 0);
        for rank in held[turn..].iter().chain(&held[..turn]) {
            if reports.len() >= room || bytes >= MESSAGE_BYTES {
                self.has_more = true;
                break;
            }
            let Some(sent) = self
                .sent
                .get_mut(&rank.key)
                .filter(|sent| sent.not_before.is_none())
            else {
                continue;
            };
            let mut spool = rank.spool();
            if sent.up_to >= spool.last_sequence() {
                continue;
            }
            let (from, count) = (sent.up_to + 1, room - reports.len());
            let more = spool.read(from, count, MESSAGE_BYTES - bytes, clock.now());
            let Some(last) = more.last() else { continue };
            let size: usize = more.iter().map(v1::Report::encoded_len).sum();
            // One report may be as large as a message: it goes alone.
            if !reports.is_empty() && bytes + size > MESSAGE_BYTES {
                self.has_more = true;
                break;
            }
            self.has_more |= last.sequence < spool.last_sequence();
            if sent.up_to == sent.acked {
                // Counted from the first that waits for an answer, or a steady flow would put off the resend
                // for ever.
                sent.progress = now;
            }
            sent.up_to = last.sequence;
            self.served = Some(rank.key);
            reports.extend(more);
            bytes += size;
        }
        (!reports.is_empty()).then_some(v1::Reports { reports })
    }

    /// Whether the newest message could not hold all that there was to send.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }
}

impl Sent {
    /// Ends a wait that is over, and goes back to what was never acknowledged.
    fn wake(&mut self, now: Instant) {
        if self.not_before.is_some_and(|time| now >= time) {
            self.not_before = None;
        }
        if self.up_to > self.acked && now.duration_since(self.progress) >= RESEND_AFTER {
            (self.up_to, self.progress) = (self.acked, now);
        }
    }
}

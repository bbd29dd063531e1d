//! What the worker says of its ranks, and what it is told of them.

use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_proto::v1::RankState;
use marquee_proto::v1::coordinator_message::Body as In;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::worker_message::Body as Out;
use tokio::time::timeout;
use tonic::Status;

use super::{FakeWorker, Key, SOON, heartbeats, now, state_after};

impl FakeWorker {
    pub async fn finish(&mut self, key: Key, output: Option<v1::Manifest>) {
        self.finish_with(key, "{}", output).await;
    }

    pub async fn finish_with(&mut self, key: Key, summary: &str, output: Option<v1::Manifest>) {
        let summary_json = summary.into();
        self.report(
            key,
            Body::Finished(v1::RankFinished {
                summary_json,
                output,
            }),
        )
        .await;
        self.acknowledged(key).await;
    }

    /// Says with the next heartbeats how a rank stands with its requests.
    pub fn asks(&self, key: Key, rate: Option<v1::RateUse>) {
        self.held.lock().unwrap().get_mut(&key).unwrap().rate = rate;
    }

    /// The next shares of rates that are given.
    pub async fn shares(&mut self) -> v1::RateShares {
        self.wait("shares", |body| match body {
            In::RateShares(shares) => Some(shares),
            _ => None,
        })
        .await
    }

    pub async fn fail(&mut self, key: Key, class: v1::FailureClass, message: &str) {
        let failure = v1::Failure {
            class: class.into(),
            message: message.into(),
        };
        self.report(
            key,
            Body::Failed(v1::RankFailed {
                failure: Some(failure),
            }),
        )
        .await;
        self.acknowledged(key).await;
    }

    /// Waits for a Stop and does as it says.
    pub async fn stop(&mut self, key: Key) -> v1::Stop {
        let stop = self
            .wait("stop", |body| match body {
                In::Stop(s) => ((s.job_id, s.attempt, s.rank) == key).then_some(s),
                _ => None,
            })
            .await;
        if stop.forget {
            self.held.lock().unwrap().remove(&key);
        } else {
            self.report(key, Body::Stopped(v1::RankStopped::default()))
                .await;
            self.acknowledged(key).await;
        }
        stop
    }

    /// Waits until the last report of a rank is acknowledged, and lets go of it.
    pub async fn acknowledged(&mut self, key: Key) {
        self.stored(key).await;
        self.held.lock().unwrap().remove(&key);
    }

    /// Waits until what the rank reported is in Postgres, which the acknowledgement says.
    pub async fn stored(&mut self, key: Key) {
        let last = self.held.lock().unwrap()[&key].last_sequence;
        while self.ack(key).await < last {}
    }

    /// The next acknowledgement of a rank.
    pub async fn ack(&mut self, key: Key) -> u64 {
        self.wait("acknowledgement", |body| match body {
            In::Ack(a) => ((a.job_id, a.attempt, a.rank) == key).then_some(a.sequence),
            _ => None,
        })
        .await
    }

    /// Makes and sends the rank's next report.
    pub async fn report(&mut self, key: Key, body: Body) {
        let sequence = {
            let mut held = self.held.lock().unwrap();
            let rank = held.get_mut(&key).unwrap();
            if let Some(state) = state_after(&body) {
                rank.state = state.into();
            }
            rank.last_sequence += 1;
            rank.last_sequence
        };
        self.send_report(key, sequence, body).await;
    }

    /// Sends a report with a number of the test's own.
    pub async fn send_report(&mut self, key: Key, sequence: u64, body: Body) {
        let (job_id, attempt, rank) = key;
        let at = Some(timestamp(now()));
        let report = v1::Report {
            job_id,
            attempt,
            rank,
            sequence,
            at,
            body: Some(body),
        };
        self.send(Out::Reports(v1::Reports {
            reports: vec![report],
        }))
        .await;
    }

    pub async fn log(&mut self, key: Key, lines: &[&str]) {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        let stream = v1::log_line::Stream::Stdout.into();
        self.report(key, Body::Log(v1::RankLog { stream, lines }))
            .await;
    }

    pub fn holds(&self, key: Key) -> bool {
        self.held.lock().unwrap().contains_key(&key)
    }

    /// Waits until the coordinator has ended the session, and gives its reason.
    pub async fn ended(&mut self) -> Status {
        let ended = async {
            loop {
                match self.inbox.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok("the stream ended"),
                    Err(status) => return status,
                }
            }
        };
        timeout(SOON, ended).await.expect("the session ends")
    }

    /// Lets go of a rank that the coordinator has ended for what it reported.
    pub fn forget(&self, key: Key) {
        self.held.lock().unwrap().remove(&key);
    }

    /// Holds a rank that nobody gave to it.
    pub fn hold(&self, key: Key) {
        let (job_id, attempt, rank) = key;
        let state = RankState::Running.into();
        let held = v1::HeldRank {
            job_id,
            attempt,
            rank,
            state,
            last_sequence: 9,
            ..v1::HeldRank::default()
        };
        self.held.lock().unwrap().insert(key, held);
    }

    /// Loses what it holds, as a restart without a memory would.
    pub fn forget_all(&self) {
        self.held.lock().unwrap().clear();
    }

    pub async fn goodbye(self) {
        self.goodbye_but_for(&[]).await;
    }

    /// Its daemon leaves though something of these ranks is left.
    pub async fn goodbye_but_for(mut self, left: &[Key]) {
        let left = left
            .iter()
            .map(|key| self.held.lock().unwrap()[key].clone());
        let held = left.collect();
        self.send(Out::Goodbye(v1::Goodbye { held })).await;
        // The coordinator closes the stream when it has stored it.
        let closed = async { while let Ok(Some(_)) = self.inbox.message().await {} };
        timeout(SOON, closed).await.unwrap();
    }

    /// From now on its heartbeats say that so many assignments were followed before their list was made.
    pub fn say_followed(&self, assignments: u64) {
        self.more.lock().unwrap().assignments = Some(assignments);
    }

    /// Its daemon is being stopped, as its heartbeats say from now on.
    pub fn leave(&self) {
        self.more.lock().unwrap().leaving = true;
    }

    /// Stops a rank of its own accord, as one that is being stopped does.
    pub async fn stop_unasked(&mut self, key: Key) {
        self.report(key, Body::Stopped(v1::RankStopped::default()))
            .await;
        self.acknowledged(key).await;
    }

    /// The same, with what a worker says of why.
    pub async fn stop_because(&mut self, key: Key, cause: &str, reason: &str) {
        let (cause, reason) = (cause.to_owned(), reason.to_owned());
        self.report(key, Body::Stopped(v1::RankStopped { cause, reason }))
            .await;
        self.acknowledged(key).await;
    }

    /// Waits for an order to stop, before which nothing was assigned.
    pub async fn stop_before_any_assignment(&mut self, key: Key) -> v1::Stop {
        let stop = self
            .wait("stop", |body| match body {
                In::Stop(stop) if (stop.job_id, stop.attempt, stop.rank) == key => Some(stop),
                _ => None,
            })
            .await;
        assert!(self.given.is_empty(), "{:?}", self.given);
        stop
    }

    /// Says with its heartbeats where a rank stands that does not get on.
    pub fn stands(&self, key: Key, stall: Option<v1::Stall>) {
        self.held.lock().unwrap().get_mut(&key).unwrap().stall = stall;
    }

    /// Its daemon goes to be replaced by another one, as its heartbeats say from now on.
    pub fn goes_away(&self, away_ms: u32) {
        self.more.lock().unwrap().away_ms = away_ms;
    }

    /// Says with its heartbeats that it keeps the output of a rank.
    pub fn keep_output(&self, key: Key, path: &str) {
        let (job_id, attempt, rank) = key;
        self.more.lock().unwrap().kept = vec![v1::KeptOutput {
            job_id,
            attempt,
            rank,
            path: path.into(),
            until: Some(timestamp(now())),
        }];
    }

    /// The next order about an output that it keeps.
    pub async fn asked_to_rescue(&mut self) -> v1::Rescue {
        self.wait("rescue", |body| match body {
            In::Rescue(rescue) => Some(rescue),
            _ => None,
        })
        .await
    }

    pub async fn rescued(
        &mut self,
        (job_id, attempt, rank): Key,
        output: Result<v1::Manifest, v1::Failure>,
    ) {
        let (output, failure) = match output {
            Ok(output) => (Some(output), None),
            Err(failure) => (None, Some(failure)),
        };
        self.send(Out::Rescued(v1::Rescued {
            job_id,
            attempt,
            rank,
            output,
            failure,
        }))
        .await;
    }

    /// Falls silent, with its stream open, as behind a partition.
    pub fn fall_silent(&self) {
        self.heartbeats.abort();
    }

    /// Speaks again on the same stream, as after a partition.
    pub fn speak_again(&mut self) {
        self.heartbeats.abort();
        // Above every number that it has used.
        let numbers = 1_000_000..;
        let (outbox, held) = (self.outbox.clone(), self.held.clone());
        let more = self.more.clone();
        self.heartbeats = tokio::spawn(heartbeats(outbox, held, more, numbers, 100));
    }
}

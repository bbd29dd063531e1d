//! What hosts lose, and what must come of it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::network::Fault;
use super::seen::Seen;
use super::site::{Site, until};

/// A host's loss until its work runs elsewhere, in seconds.
pub(super) const PLACED_AGAIN_S: u64 = 15;
/// The leader's loss until another one leads, in seconds.
const FAIL_OVER_S: u64 = 5;

/// One rank that counts, writes its last number into its output, and may be begun anew.
pub(super) fn counting(seconds: u32) -> String {
    format!(
        "name = \"counting\"\n[jobs.count]\nkind = \"command\"\nmax_attempts = 5\n\
         argv = [\"sh\", \"-c\", \"i=0; while [ $i -lt {seconds} ]; do i=$((i+1)); echo $i; sleep 1; done; \
         echo $i >$MARQUEE_OUTPUT/last\"]\n"
    )
}

/// The other one of two.
pub(super) fn other(worker: &str) -> &'static str {
    match worker {
        "worker-1" => "worker-2",
        _ => "worker-1",
    }
}

/// Daemons die at once and come back by themselves; the rank goes on, and no attempt is spent.
pub(super) fn services_are_killed(site: &mut Site, seen: &mut Seen) -> Result<()> {
    let job = site.submit(&counting(45))?;
    let place = site.until_running(job)?;
    let leader = site.leader().context("nobody leads")?;
    for (host, service) in [
        (place.as_str(), "marquee-worker"),
        (&leader, "marquee-coordinator"),
    ] {
        let process = |site: &Site| site.on(host, &format!("systemctl show -P MainPID {service}"));
        // By the number of the main process: "active" alone would be true of the old one, too.
        let before = process(site)?;
        let begun = Instant::now();
        site.on(
            host,
            &format!("systemctl kill --kill-whom=main -s KILL {service}"),
        )?;
        until(&format!("another {service} on {host}"), || {
            let active = site
                .host(host)?
                .tries(&format!("systemctl is-active {service}"))?;
            Ok(active.0 && process(site)? != before)
        })?;
        seen.took(format!("{service} killed to ready again"), begun, None);
    }
    // A server's process 1 of its own; Debian's unit leaves it to people to start it again.
    site.on(
        "head-1",
        "kill -KILL $(head -1 /var/lib/postgresql/15/main/postmaster.pid); sleep 1; \
         systemctl restart postgresql@15-main",
    )?;
    once(&site.until_succeeded(job)?, "kill -9 of each service")
}

/// A worker's host is gone at once; its job runs elsewhere; the host comes back by itself.
pub(super) fn a_host_loses_its_power(site: &mut Site, seen: &mut Seen) -> Result<()> {
    let job = site.submit(&counting(20))?;
    let place = site.until_running(job)?;
    let begun = Instant::now();
    site.host_mut(&place)?.cut_power()?;
    let to = other(&place);
    until(&format!("job {job} on {to}"), || {
        Ok(site.runs_on(job)?.as_deref() == Some(to))
    })?;
    seen.took(
        format!("{place} without power to its job running on {to}"),
        begun,
        Some(PLACED_AGAIN_S),
    );
    site.until_succeeded(job)?;
    let begun = Instant::now();
    site.host_mut(&place)?.boot()?;
    site.until_online(&place)?;
    seen.took(format!("{place} switched on to online"), begun, None);
    Ok(())
}

/// No packet either way: as a lost host, but for the rank that lives on there and must not count.
pub(super) fn a_link_is_cut(site: &mut Site, seen: &mut Seen) -> Result<()> {
    moves_away(site, seen, Fault::Cut, "cut off")
}

/// It hears, and is not heard.
pub(super) fn a_link_carries_one_way(site: &mut Site, seen: &mut Seen) -> Result<()> {
    moves_away(site, seen, Fault::Unheard, "not heard")
}

/// It is heard, and hears nothing: no order, and no answer.
pub(super) fn a_link_carries_the_other_way(site: &mut Site, seen: &mut Seen) -> Result<()> {
    moves_away(site, seen, Fault::Deaf, "deaf")
}

fn moves_away(site: &mut Site, seen: &mut Seen, fault: Fault, words: &str) -> Result<()> {
    let job = site.submit(&counting(25))?;
    let place = site.until_running(job)?;
    let begun = Instant::now();
    site.network.harm(&place, fault)?;
    let to = other(&place);
    until(&format!("job {job} on {to}"), || {
        Ok(site.runs_on(job)?.as_deref() == Some(to))
    })?;
    seen.took(
        format!("{place} {words} to its job running on {to}"),
        begun,
        Some(PLACED_AGAIN_S),
    );
    site.network.mend(&place)?;
    site.until_online(&place)?;
    site.until_succeeded(job)?;
    // What ran on behind the cut was ended once it was known to be of an old attempt.
    until(&format!("{place} to hold nothing"), || {
        let worker = site.worker(&place)?.context("no such worker")?;
        Ok(worker["ranks"].as_array().is_some_and(Vec::is_empty))
    })
}

/// A bad link slows a job down, and takes no attempt.
pub(super) fn a_link_loses_packets(site: &mut Site, seen: &mut Seen) -> Result<()> {
    let job = site.submit(&counting(30))?;
    let place = site.until_running(job)?;
    let begun = Instant::now();
    site.network.harm(&place, Fault::Loses(30))?;
    // The link is mended before the outcome is looked at, or one failure would spoil the scenes
    // that follow.
    let ended = site.until_succeeded(job);
    site.network.mend(&place)?;
    ended?;
    seen.took(
        format!("a job of 30 s on {place}, which loses 30 % of its packets"),
        begun,
        None,
    );
    site.until_online(&place)
}

/// What a link carries in a quarter of a minute, in bytes, at [`SLOW_KILOBITS`].
const SLOW_BYTES: u32 = 4_000_000;
const SLOW_KILOBITS: u32 = 2_000;

/// An output takes longer than a lease to get through, and heartbeats get through beside it.
pub(super) fn a_link_is_slow(site: &mut Site, seen: &mut Seen) -> Result<()> {
    let workers = ["worker-1", "worker-2"];
    for worker in workers {
        site.network.harm(worker, Fault::Slow(SLOW_KILOBITS))?;
    }
    let begun = Instant::now();
    let document = format!(
        "name = \"large\"\n[jobs.large]\nkind = \"command\"\nmax_attempts = 5\n\
         argv = [\"sh\", \"-c\", \"head -c {SLOW_BYTES} /dev/urandom >$MARQUEE_OUTPUT/large\"]\n"
    );
    let ended = site
        .submit(&document)
        .and_then(|job| site.until_succeeded(job));
    for worker in workers {
        site.network.mend(worker)?;
    }
    once(&ended?, "a slow link")?;
    seen.took(
        format!("an output of {SLOW_BYTES} bytes over {SLOW_KILOBITS} kbit/s"),
        begun,
        None,
    );
    Ok(())
}

/// What runs on a drained worker goes on, and nothing new begins there.
pub(super) fn a_worker_is_drained(site: &mut Site, _seen: &mut Seen) -> Result<()> {
    let running = site.submit(&counting(15))?;
    let place = site.until_running(running)?;
    site.at_desk(&format!("drain {place} --reason \"cluster test\""))?;
    // Two, for one alone might have gone to the other worker by chance.
    for _ in 0..2 {
        let job = site.submit(&counting(1))?;
        let detail = site.until_succeeded(job)?;
        ensure!(
            detail["attempts"][0]["ranks"][0]["worker_name"] == other(&place),
            "a drained worker was given job {job}: {detail:#}"
        );
    }
    once(&site.until_succeeded(running)?, "a drain")?;
    site.at_desk(&format!("resume {place}"))?;
    Ok(())
}

/// The job needed one attempt.
pub(super) fn once(detail: &Value, what: &str) -> Result<()> {
    ensure!(
        detail["attempts"]
            .as_array()
            .is_some_and(|all| all.len() == 1),
        "{what} cost an attempt: {detail:#}"
    );
    Ok(())
}

/// The coordinator that leads goes down with its host, and another one leads. It must not be on Postgres' host.
pub(super) fn the_leader_loses_its_power(site: &mut Site, seen: &mut Seen) -> Result<()> {
    // head-1 has Postgres as well, so its power would take more than the leader.
    if site.leader().as_deref() != Some("head-2") {
        let begun = Instant::now();
        site.on("head-1", "systemctl stop marquee-coordinator")?;
        until("head-2 to lead", || {
            Ok(site.leader().as_deref() == Some("head-2"))
        })?;
        seen.took(
            "orderly stop of the leader to another one leading",
            begun,
            Some(FAIL_OVER_S),
        );
        site.on("head-1", "systemctl start marquee-coordinator")?;
    }
    let job = site.submit(&counting(30))?;
    site.until_running(job)?;
    let (begun, cut_at) = (Instant::now(), SystemTime::now());
    site.host_mut("head-2")?.cut_power()?;
    until("head-1 to lead", || {
        Ok(site.leader().as_deref() == Some("head-1"))
    })?;
    seen.took(
        "the leader without power to another one leading, as the desk is told",
        begun,
        Some(FAIL_OVER_S),
    );
    // The product's own part, without the starts of a command line by which the desk asks: all hosts have one kernel's clock.
    let began = site.on(
        "head-1",
        "su postgres -c \"psql -tAqc 'SELECT extract(epoch FROM began_at) FROM leaderships ORDER BY epoch DESC LIMIT 1' marquee\"",
    )?;
    let began = Duration::try_from_secs_f64(began.trim().parse()?)?;
    let cut_at = cut_at.duration_since(UNIX_EPOCH)?;
    seen.lasted(
        "the same until the leader's row names it",
        began.saturating_sub(cut_at),
        Some(FAIL_OVER_S),
    );
    once(&site.until_succeeded(job)?, "a fail-over")?;
    site.host_mut("head-2")?.boot()
}

//! Certificates that end and are renewed, and workers that are let in, renamed, shut out and forgotten.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::faults::{PLACED_AGAIN_S, counting, once, other};
use super::grown::TLS;
use super::network::Fault;
use super::seen::Seen;
use super::site::{Site, until};

const HEADS: [&str; 2] = ["head-1", "head-2"];
const IDENTITY: &str = "/var/lib/marquee/worker/tls/identity.pem";
const SETTINGS: &str = "/etc/marquee/coordinator.toml";
/// How long certificates are good in the scene, in seconds: renewed when about half of it is over.
const LIFE_S: u32 = 45;
/// How many certificates of each are to be seen: the first, and two that followed by themselves.
const CERTIFICATES: usize = 3;

/// Both coordinators and a worker renew theirs again and again, under a running job. Then the worker is cut off until its
/// own has expired: it says so, and one command brings it back.
pub(super) fn certificates_end_and_are_renewed(site: &mut Site, seen: &mut Seen) -> Result<()> {
    let good = with_lives(
        site,
        &format!("[timing]\nworker_certificate_s = {LIFE_S}\nserver_certificate_s = {LIFE_S}\n"),
    )?;
    let job = site.submit(&counting(100))?;
    let place = site.until_running(job)?;
    join_again(site, &place)?;
    site.until_online(&place)?;
    let begun = Instant::now();
    let watched: Vec<(String, String)> = HEADS
        .iter()
        .map(|head| ((*head).to_owned(), format!("{TLS}/server.pem")))
        .chain([(place.clone(), IDENTITY.to_owned())])
        .collect();
    // By serial number: a renewed certificate has another one, whatever else is the same in it.
    let mut serials: Vec<BTreeSet<String>> = vec![BTreeSet::new(); watched.len()];
    until("all certificates to be renewed twice", || {
        for ((host, file), serials) in watched.iter().zip(&mut serials) {
            let serial = site.on(host, &format!("openssl x509 -noout -serial -in {file}"))?;
            serials.insert(serial);
        }
        let worker = site.worker(&place)?.context("no such worker")?;
        ensure!(
            worker["state"] == "online",
            "{place} is {}",
            worker["state"]
        );
        Ok(serials.iter().all(|serials| serials.len() >= CERTIFICATES))
    })?;
    seen.took(
        format!("three certificates of {LIFE_S} s renewed twice, by themselves"),
        begun,
        None,
    );
    once(&site.until_succeeded(job)?, "the renewal of certificates")?;
    expires(site, &place)?;

    for (head, settings) in HEADS.iter().zip(good) {
        site.host(head)?.write(SETTINGS, &settings)?;
        restart(site, head)?;
    }
    // The next one is good for as long as usual.
    until(
        &format!("{place} to have a certificate for a month"),
        || {
            let ask = format!("openssl x509 -noout -checkend 2000000 -in {IDENTITY}");
            Ok(site.host(&place)?.tries(&ask)?.0)
        },
    )?;
    site.until_online(&place)
}

fn expires(site: &mut Site, place: &str) -> Result<()> {
    site.network.harm(place, Fault::Cut)?;
    // The link is mended before the outcome is looked at: the scenes that follow need it.
    let ended = until(&format!("the certificate of {place} to expire"), || {
        let ask = format!("openssl x509 -noout -checkend 0 -in {IDENTITY}");
        Ok(!site.host(place)?.tries(&ask)?.0)
    });
    site.network.mend(place)?;
    ended?;
    until(
        &format!("{place} to say that its certificate expired"),
        || {
            let ask =
                "journalctl -u marquee-worker -o cat --no-pager | grep -F 'nothing was dialled'";
            Ok(site.host(place)?.tries(ask)?.0)
        },
    )?;
    let worker = site.worker(place)?.context("no such worker")?;
    ensure!(
        worker["state"] != "online",
        "{place} is online with a certificate that expired"
    );
    // Its daemon runs; the command makes room for itself.
    let token = site.at_desk(&format!("admin worker join-token --name {place}"))?;
    join(site, place, &token)?;
    site.until_online(place)
}

/// Whoever is shut out is out at once, whatever its certificate says, and comes back by a token for its name.
pub(super) fn workers_are_shut_out_and_let_in(site: &mut Site, seen: &mut Seen) -> Result<()> {
    let job = site.submit(&counting(25))?;
    let place = site.until_running(job)?;
    let begun = Instant::now();
    site.at_desk(&format!(
        "admin worker revoke {place} --reason \"cluster test\" --yes"
    ))?;
    let to = other(&place);
    until(&format!("job {job} on {to}"), || {
        Ok(site.runs_on(job)?.as_deref() == Some(to))
    })?;
    seen.took(
        format!("{place} revoked to its job running on {to}"),
        begun,
        Some(PLACED_AGAIN_S),
    );
    site.on(&place, "systemctl restart marquee-worker")?;
    until(&format!("{place} to hear that it is revoked"), || {
        let ask =
            "journalctl -u marquee-worker -o cat --no-pager | grep -F 'was revoked (cluster test)'";
        Ok(site.host(&place)?.tries(ask)?.0)
    })?;
    // Time to try again.
    sleep(Duration::from_secs(5));
    let worker = site.worker(&place)?;
    ensure!(
        worker.is_none_or(|worker| worker["state"] != "online"),
        "a revoked worker is online"
    );
    let members = site.marquee(&["admin", "worker", "list"])?;
    let member = |name: &str| {
        let mut all = members.as_array().into_iter().flatten();
        all.find(|member| member["name"] == name).cloned()
    };
    ensure!(
        member(&place).is_some_and(|member| member["revoked_reason"] == "cluster test"),
        "the list does not say that it is revoked: {members}"
    );
    site.until_succeeded(job)?;
    join_again(site, &place)?;
    site.until_online(&place)?;

    // Another name, and the old one again; its daemon goes on.
    site.at_desk(&format!("admin worker rename {place} gpu-01"))?;
    site.until_online("gpu-01")?;
    site.at_desk(&format!("admin worker rename gpu-01 {place}"))?;
    site.until_online(&place)?;

    // Gone for good, and then new.
    site.on(&place, "systemctl stop marquee-worker")?;
    site.at_desk(&format!("admin worker revoke {place} --yes"))?;
    site.at_desk(&format!("admin worker forget {place} --yes"))?;
    let token = site.at_desk("admin worker join-token")?;
    join(site, &place, &token)?;
    site.until_online(&place)?;
    // The one of `init`, and one for each time that a worker joined again.
    let tokens = site.marquee(&["admin", "worker", "join-tokens"])?;
    ensure!(
        tokens.as_array().is_some_and(|tokens| tokens.len() >= 3),
        "join tokens: {tokens}"
    );
    Ok(())
}

/// With its daemon stopped, as `join` wants it of a worker that is one.
fn join_again(site: &Site, worker: &str) -> Result<()> {
    let token = site.at_desk(&format!("admin worker join-token --name {worker}"))?;
    site.on(worker, "systemctl stop marquee-worker")?;
    join(site, worker, &token)
}

fn join(site: &Site, worker: &str, token: &str) -> Result<()> {
    site.host(worker)?.write("/root/join.token", token)?;
    let leader = site.leader().context("nobody leads")?;
    site.on(
        worker,
        &format!("marquee-worker join {leader}:7700 --token-file /root/join.token"),
    )?;
    Ok(())
}

/// Both coordinators with more settings, and a certificate made by them; the settings before.
fn with_lives(site: &Site, more: &str) -> Result<Vec<String>> {
    let mut before = Vec::new();
    for head in HEADS {
        let good = site.on(head, &format!("cat {SETTINGS}"))?;
        site.host(head)?.write(SETTINGS, &format!("{good}{more}"))?;
        before.push(good);
        // One that is good for three months would not be due.
        site.on(
            head,
            &format!("rm {TLS}/server.pem {TLS}/server.key; marquee-coordinator init --no-start"),
        )?;
        restart(site, head)?;
    }
    Ok(before)
}

fn restart(site: &Site, head: &str) -> Result<()> {
    site.on(head, "systemctl restart marquee-coordinator")?;
    until("somebody to lead", || Ok(site.leader().is_some()))
}

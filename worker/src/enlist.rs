//! `join` on a host whose unit is installed: the service makes room for it, and is started with what it brought. One
//! command makes the host a worker, whether the daemon ran before or not.

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, ensure};
use marquee_domain::env::Clock;
use marquee_domain::join_token::JoinToken;
use marquee_proto::certificate;
use marquee_settings::Service;

use crate::config::Place;
use crate::member::Folder;

/// The unit that the packages and the archive install.
pub const UNIT: &str = "marquee-worker.service";
/// The option by which the part that joins is told that it is one.
pub const PART: &str = "--part";

/// Joins as root: in a process of its own, which becomes the worker's account, since the key must not be root's.
pub fn join_and_start(
    service: Service,
    place: &Place,
    address: &str,
    token: &JoinToken,
    clock: &dyn Clock,
) -> anyhow::Result<ExitCode> {
    let was_active = service.is_active();
    if was_active {
        ensure!(
            !is_member(place, clock),
            "this host is a worker already, and its daemon runs; to join again stop it first (systemctl stop marquee-worker), which stops what it runs as on_stop says"
        );
        // It found no coordinator that let it in: nothing runs here.
        service.stop()?;
    }
    let joined = join_apart(place, address, token);
    if !matches!(joined, Ok(true)) {
        if was_active {
            service.start()?;
        }
        return joined.map(|_| ExitCode::FAILURE);
    }
    service
        .enable_and_restart()
        .context("it has joined, but the service does not start")?;
    writeln!(
        std::io::stdout(),
        "the worker runs; \"marquee workers\" lists it"
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Whether it has joined, with a certificate that is still good.
fn is_member(place: &Place, clock: &dyn Clock) -> bool {
    let Ok(Some((_, tls))) = Folder::of(&place.data_dir).read() else {
        return false;
    };
    let now = clock.now();
    tls.identity
        .is_some_and(|(own, _)| certificate::unusable(&own, now).is_none())
}

fn join_apart(place: &Place, address: &str, token: &JoinToken) -> anyhow::Result<bool> {
    let mut part = Command::new(std::env::current_exe()?);
    part.args(["join", address, "--token-file", "-", PART]);
    part.args(["--name", &place.name]).stdin(Stdio::piped());
    let mut part = part.spawn()?;
    if let Some(mut stdin) = part.stdin.take() {
        // One that ended before it read says itself why.
        let _read = writeln!(stdin, "{}", token.reveal());
    }
    Ok(part.wait()?.success())
}

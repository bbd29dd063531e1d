//! `marquee-worker join`: a token becomes a certificate.
//!
//! Nothing is sent before the coordinator has shown a certificate of the authority that the token pins. The key is made
//! here and stays here.

mod pinned;

use std::fs::File;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use marquee_domain::WorkerId;
use marquee_domain::join_token::JoinToken;
use marquee_proto::v1;
use marquee_proto::v1::trust_client::TrustClient;
use tonic::Code;
use tonic::transport::{ClientTlsConfig, Endpoint};

use crate::config::Place;
use crate::connect;
use crate::durable;
use crate::env::Env;
use crate::identity::{Identity, Membership};
use crate::member::{self, Folder, Joined};
use pinned::Pinned;

/// How long the coordinator may take, from dialling to its answer.
const WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a file that are read for a token; a token has some 140.
const TOKEN_FILE_MAX_BYTES: u64 = 4 * 1024;
/// Holds a token where no file does: of a shell, an installer or cloud-init.
pub const TOKEN_VARIABLE: &str = "MARQUEE_JOIN_TOKEN";
/// Stands for stdin.
const STDIN: &str = "-";

/// Where a token stands. Never on the command line, which everybody on the host can see.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// In a file, or for "-" on stdin.
    File(PathBuf),
    /// In the variable [`TOKEN_VARIABLE`].
    Variable(String),
    /// In the first line of stdin, which at a terminal is asked for.
    Typed,
}

impl TokenSource {
    /// The file that was named, else the variable, else whoever sits there.
    #[must_use]
    pub fn of(file: Option<PathBuf>) -> Self {
        match (file, std::env::var(TOKEN_VARIABLE)) {
            (Some(file), _) => Self::File(file),
            (None, Ok(text)) if !text.is_empty() => Self::Variable(text),
            (None, Ok(_) | Err(_)) => Self::Typed,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(file) => format!("{file:?}"),
            Self::Variable(_) => TOKEN_VARIABLE.to_owned(),
            Self::Typed => "what was typed".to_owned(),
        }
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self {
            Self::File(file) if file == Path::new(STDIN) => {
                let stdin = io::stdin();
                stdin.take(TOKEN_FILE_MAX_BYTES + 1).read_to_end(&mut bytes)
            }
            Self::File(file) => File::open(file)
                .and_then(|file| file.take(TOKEN_FILE_MAX_BYTES + 1).read_to_end(&mut bytes)),
            Self::Variable(text) => return Ok(text.clone().into_bytes()),
            Self::Typed => {
                if io::stdin().is_terminal() {
                    eprint!("token (\"marquee-coordinator token create\" makes one): ");
                }
                let mut stdin = io::stdin().lock().take(TOKEN_FILE_MAX_BYTES + 1);
                stdin.read_until(b'\n', &mut bytes)
            }
        }?;
        Ok(bytes)
    }

    /// Reads the token.
    pub fn read(&self) -> anyhow::Result<JoinToken> {
        let name = self.name();
        let bytes = self
            .bytes()
            .with_context(|| format!("the token in {name} cannot be read"))?;
        let is_long = u64::try_from(bytes.len()).unwrap_or(u64::MAX) > TOKEN_FILE_MAX_BYTES;
        ensure!(
            !is_long,
            "{name} holds no join token: it has more than {TOKEN_FILE_MAX_BYTES} bytes"
        );
        let text = String::from_utf8_lossy(&bytes);
        let token = text.parse::<JoinToken>();
        token.map_err(|bad| {
            anyhow::anyhow!(
                "{name} holds no join token that can be used: {bad}; make one on the coordinator's host (\"marquee-coordinator token create > token\") and copy it whole"
            )
        })
    }
}

/// What happens after a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The daemon is started by whoever joined.
    Started,
    /// It is for people to start it.
    ToStart,
}

/// Joins the cluster of the coordinator at `address`. Returns what to tell whoever asked.
pub async fn join(
    place: &Place,
    address: &str,
    token: JoinToken,
    next: Next,
    env: &Env,
) -> anyhow::Result<String> {
    let url = url_of(address)?;
    // Taken for the time of the joining: a daemon that runs would go on with the identity that this one
    // replaces.
    let identity = Identity::claim(&place.data_dir, env)
        .context("this worker cannot join just now; if its daemon runs, stop it first (systemctl stop marquee-worker)")?;
    let folder = Folder::of(&place.data_dir);
    // The key of an earlier try, if there was one: an answer that got lost has used up the token for that key
    // alone.
    let key = folder
        .key_to_join()
        .with_context(|| format!("a key could not be made in {:?}", place.data_dir))?;
    let request = v1::JoinRequest {
        token_id: token.id.to_string(),
        secret: token.secret.to_vec(),
        csr: member::request(&key)?,
        name: place.name.clone(),
        worker_id: identity.worker.to_string(),
    };
    let answer = tokio::time::timeout(WITHIN, ask(&url, &token, request)).await;
    let answer =
        answer.unwrap_or_else(|_| bail!("{url} did not answer within {} s", WITHIN.as_secs()))?;

    // Before anything is stored: a folder with the identity of one cluster and the ranks of another is of no
    // use to either.
    let mut membership = Membership::read(&place.data_dir)?;
    ensure!(
        membership.admits(&answer.cluster_id)?,
        "the data folder {:?} belongs to another cluster ({}); give this worker another one (--data-dir), or delete cluster-id there if that cluster is gone for good (docs/errors/MQ0305.md)",
        place.data_dir,
        membership.to_wire()
    );
    let worker: WorkerId = answer
        .worker_id
        .parse()
        .context("the coordinator gave this worker an id that is none")?;
    if worker != identity.worker {
        // It takes the place of one that was here before.
        durable::write(
            &place.data_dir.join("worker-id"),
            format!("{worker}\n").as_bytes(),
        )?;
    }
    let joined = Joined {
        coordinators: vec![url.clone()],
        name: answer.name.clone(),
    };
    folder
        .store(&joined, &answer.certificate, &key, &answer.authority)
        .with_context(|| format!("what the coordinator gave could not be stored in {:?}; ask again with the same token", place.data_dir))?;
    Ok(told(place, &url, &answer, next))
}

fn told(place: &Place, url: &str, answer: &v1::JoinResponse, next: Next) -> String {
    let ends = marquee_proto::certificate::read(&answer.certificate)
        .ok()
        .and_then(|all| {
            all.first()
                .map(|own| own.not_after.format("%Y-%m-%d").to_string())
        });
    let mut text = format!(
        "joined as worker {:?} ({}) at {url}\ncertificate: good until {}, renewed by the worker itself from a third of its time before that on\n",
        answer.name,
        answer.worker_id,
        ends.unwrap_or_else(|| "?".to_owned())
    );
    match &place.set_coordinator {
        Some(set) if set.trim_end_matches('/') != url => text.push_str(&format!(
            "\nbut the settings say coordinator = {set:?}, which goes before: take that line out of /etc/marquee/worker.toml, or write {url:?}\nthen: systemctl restart marquee-worker\n"
        )),
        Some(_) | None if next == Next::Started => {}
        Some(_) | None => text.push_str("next: systemctl enable --now marquee-worker   (or run marquee-worker)\n"),
    }
    text
}

/// `head:7700` or `https://head:7700`.
fn url_of(address: &str) -> anyhow::Result<String> {
    let address = address.trim_end_matches('/');
    ensure!(
        !address.starts_with("http://"),
        "{address:?} is an address without TLS, and a token is sent over TLS alone; write https:// or only HOST:PORT"
    );
    let bare = address.strip_prefix("https://").unwrap_or(address);
    let is_fine = bare.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    ensure!(
        is_fine && !bare.contains(['/', '@', ' ', ',']),
        "{address:?} is no address of a coordinator; write HOST:PORT, such as head-1:7700"
    );
    Ok(format!("https://{bare}"))
}

async fn ask(
    url: &str,
    token: &JoinToken,
    request: v1::JoinRequest,
) -> anyhow::Result<v1::JoinResponse> {
    let verifier = Arc::new(Pinned::new(token.pin));
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|error| {
            anyhow::anyhow!("{url} cannot be dialled: {}", connect::with_causes(&error))
        })?
        .connect_timeout(WITHIN)
        .tls_config_with_verifier(ClientTlsConfig::new(), verifier)?;
    let channel = endpoint.connect().await.map_err(|error| {
        anyhow::anyhow!(
            "{url} was not asked, and the token was not sent: {}",
            connect::with_causes(&error)
        )
    })?;
    let answer = TrustClient::new(channel).join(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| {
        if status.code() == Code::Unimplemented {
            return anyhow::anyhow!(
                "the coordinator at {url} is of a version before join tokens; upgrade it first"
            );
        }
        anyhow::anyhow!(
            "the coordinator at {url} refused: {}",
            connect::why(&status)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_with_tls() {
        for fine in ["head-1:7700", "https://head-1:7700", "https://head-1:7700/"] {
            assert_eq!(url_of(fine).unwrap(), "https://head-1:7700");
        }
        assert_eq!(url_of("[::1]:7700").unwrap(), "https://[::1]:7700");
        let plain = url_of("http://head-1:7700").unwrap_err().to_string();
        assert!(plain.contains("over TLS alone"), "{plain}");
        for wrong in [
            "head-1", "head-1:0", ":7700", "a:1,b:2", "u@h:1", "h:1/x", "",
        ] {
            let error = url_of(wrong).unwrap_err().to_string();
            assert!(error.contains("HOST:PORT"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_token_file_is_judged_before_anybody_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let refused = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let error = format!("{:#}", TokenSource::File(file.clone()).read().unwrap_err());
            assert!(
                !error.contains("mqj_0"),
                "a secret is not repeated: {error}"
            );
            error
        };
        assert!(refused("").contains("nothing in it"));
        assert!(refused("mqj_00ff").contains("cut off"));
        assert!(refused(&format!("mqj_{}", "0".repeat(1_000_000))).contains("more than 4096"));
        assert!(refused("-----BEGIN CERTIFICATE-----").contains("no join token"));
        let variable = TokenSource::Variable("mqj_00ff".into()).read().unwrap_err();
        let variable = format!("{variable:#}");
        assert!(
            variable.contains(TOKEN_VARIABLE) && variable.contains("cut off"),
            "{variable}"
        );
        let missing = TokenSource::File(folder.path().join("none"));
        let missing = missing.read().unwrap_err();
        assert!(
            format!("{missing:#}").contains("No such file"),
            "{missing:#}"
        );
    }
}

//! A worker joins by a token, as the documentation says, and is its certificate from then on: real daemons, real TLS.

mod rotation;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use marquee_domain::join_token::COORDINATOR_NAME;
use marquee_e2e::process::{Daemon, bin_dir_with};
use marquee_proto::v1;
use marquee_proto::v1::trust_client::TrustClient;
use marquee_proto::v1::workers_client::WorkersClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

/// How long anything that must happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(40);

/// A coordinator with an authority of its own, and the folder of its workers.
pub(crate) struct Head {
    bin: PathBuf,
    folder: tempfile::TempDir,
    pub(crate) address: String,
    _coordinator: Daemon,
}

impl Head {
    pub(crate) fn start() -> Self {
        let bin = bin_dir_with(&["marquee", "marquee-coordinator", "marquee-worker"]).unwrap();
        let folder = tempfile::Builder::new().prefix("mqt").tempdir().unwrap();
        let data = folder.path().join("head");
        let command = |words: &[&str]| {
            let mut command = Command::new(bin.join("marquee-coordinator"));
            command.arg("--data-dir").arg(&data);
            command.args(["--listen", "127.0.0.1:0"]).args(words);
            command
        };
        said(&mut command(&["init"]));
        let log = folder.path().join("coordinator.log");
        let mut coordinator = Daemon::start("coordinator", &mut command(&[]), &log).unwrap();
        let event = coordinator.listening().unwrap();
        Self {
            address: event["address"].as_str().unwrap().to_owned(),
            bin,
            folder,
            _coordinator: coordinator,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file with a new token.
    fn token(&self, words: &[&str]) -> PathBuf {
        let mut command = Command::new(self.bin.join("marquee-coordinator"));
        command.arg("--data-dir").arg(self.path("head"));
        command
            .args(["--listen", &self.address, "token", "create"])
            .args(words);
        let file = self.path("token");
        std::fs::write(&file, said(&mut command)).unwrap();
        file
    }

    /// The command line, as whoever runs the coordinator uses it on its host.
    pub(crate) fn cli(&self) -> Command {
        let context = self.path("context.toml");
        if !context.exists() {
            // A copy, as a person has one: `ca save` writes to it.
            std::fs::copy(self.path("head/tls/ca.pem"), self.path("believed.pem")).unwrap();
            let text = format!(
                "addr = \"https://{}\"\n[tls]\nca = \"believed.pem\"\ndomain = \"{COORDINATOR_NAME}\"\n",
                self.address
            );
            std::fs::write(&context, text).unwrap();
        }
        let mut command = Command::new(self.bin.join("marquee"));
        command
            .env("MARQUEE_CONTEXT", context)
            .env("NO_COLOR", "1")
            .env_remove("MARQUEE_ADDR")
            .env_remove("MARQUEE_TOKEN");
        command
    }

    fn worker(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join("marquee-worker"));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("MARQUEE_WORKER__") {
                command.env_remove(variable);
            }
        }
        command.env("MARQUEE_WORKER__DATA_DIR", self.path(name));
        command.env("MARQUEE_WORKER__THREADS_PER_SLOT", "1");
        command
    }

    pub(crate) fn join(&self, name: &str, address: &str, token: &Path) -> Output {
        let mut command = self.worker(name);
        command
            .args(["join", address, "--name", name, "--token-file"])
            .arg(token);
        command.output().unwrap()
    }

    pub(crate) fn start_worker(&self, name: &str) -> Daemon {
        let log = self.path(&format!("{name}.log"));
        Daemon::start(name, &mut self.worker(name), &log).unwrap()
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Gives a worker that joined a certificate like its own, made three weeks ago.
    fn age(&self, name: &str) {
        let authority =
            |file: &str| std::fs::read_to_string(self.path("head/tls").join(file)).unwrap();
        let key = rcgen::KeyPair::from_pem(&authority("ca.key")).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&authority("ca.pem"), key).unwrap();
        let id = std::fs::read_to_string(self.path(name).join("worker-id")).unwrap();
        let cluster = std::fs::read_to_string(self.path("head/cluster-id")).unwrap();
        let uri = format!("marquee://{}/worker/{}", cluster.trim(), id.trim());
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let day = Duration::from_secs(86_400);
        let now = std::time::SystemTime::now();
        params.not_before = (now - 21 * day).into();
        params.not_after = (now + 9 * day).into();
        let own = rcgen::KeyPair::generate().unwrap();
        let aged = params.signed_by(&own, &issuer).unwrap().pem();
        let identity = self.path(name).join("tls/identity.pem");
        // In its place, so that its mode stays.
        std::fs::write(identity, format!("{aged}{}", own.serialize_pem())).unwrap();
    }

    async fn channel(&self) -> Channel {
        let ca = std::fs::read(self.path("head/tls/ca.pem")).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .domain_name(COORDINATOR_NAME);
        let endpoint = Channel::from_shared(format!("https://{}", self.address)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    /// The names of the workers that are online.
    async fn online(&self) -> Vec<String> {
        let mut client = WorkersClient::new(self.channel().await);
        let all = client
            .list_workers(v1::ListWorkersRequest {})
            .await
            .unwrap();
        let all = all.into_inner().workers.into_iter();
        let online = all.filter(|worker| worker.state() == v1::WorkerState::Online);
        online.map(|worker| worker.name).collect()
    }

    pub(crate) async fn online_is(&self, names: &[&str]) {
        let deadline = Instant::now() + SOON;
        loop {
            let online = self.online().await;
            if online == names {
                return;
            }
            assert!(Instant::now() < deadline, "{online:?}, not {names:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn log_says(&self, name: &str, words: &str) {
        let deadline = Instant::now() + SOON;
        while !self.log(name).contains(words) {
            assert!(Instant::now() < deadline, "{words:?}: {}", self.log(name));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Days until the first certificate of a text ends.
fn days_left(pem: &str) -> u64 {
    let own = marquee_proto::certificate::read(pem).unwrap().remove(0);
    let ends = std::time::SystemTime::from(own.not_after);
    let left = ends.duration_since(std::time::SystemTime::now()).unwrap();
    left.as_secs() / 86_400
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(output: &Output, words: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it was not refused ({words})");
    assert!(stderr.contains(words), "{words:?}: {stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_joins_by_a_token_and_is_out_when_it_is_revoked() {
    let head = Head::start();

    // A token of another cluster: nothing is sent, so that its coordinator hears of nobody.
    let other = Head::start();
    let strange = other.token(&[]);
    let output = head.join("gpu-01", &head.address, &strange);
    refused(&output, "the token was not sent");
    refused(&output, "not of the cluster that made the token");
    assert!(!head.log("coordinator").contains("not let in"));
    refused(
        &head.join("gpu-01", &format!("http://{}", head.address), &strange),
        "TLS alone",
    );
    let cut = head.path("cut");
    let text = std::fs::read_to_string(&strange).unwrap();
    std::fs::write(&cut, &text[..90]).unwrap();
    refused(&head.join("gpu-01", &head.address, &cut), "cut off");
    drop(other);

    let token = head.token(&[]);
    let output = head.join("gpu-01", &head.address, &token);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("joined as worker \"gpu-01\""), "{output:?}");
    refused(
        &head.join("gpu-02", &head.address, &token),
        "was used once already",
    );
    for file in ["identity.pem", "ca.pem", "joined.json"] {
        let mode = std::fs::metadata(head.path("gpu-01/tls").join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
    assert!(!head.path("gpu-01/tls/joining.key").exists());

    // It needs no other setting to find its cluster, and a second daemon or join is kept out meanwhile. Its certificate,
    // of which two thirds are over, it has renewed at once, and is known by the new one.
    head.age("gpu-01");
    let aged = std::fs::read_to_string(head.path("gpu-01/tls/identity.pem")).unwrap();
    let worker = head.start_worker("gpu-01");
    head.online_is(&["gpu-01"]).await;
    head.log_says("gpu-01", "certificate was renewed").await;
    let renewed = std::fs::read_to_string(head.path("gpu-01/tls/identity.pem")).unwrap();
    assert!(days_left(&aged) < 10 && days_left(&renewed) >= 29);
    head.online_is(&["gpu-01"]).await;
    refused(
        &head.join("gpu-01", &head.address, &head.token(&[])),
        "stop it first",
    );

    let mut admin = TrustClient::new(head.channel().await);
    let reason = "sold".to_owned();
    let revoke = v1::RevokeMemberRequest {
        name: "gpu-01".into(),
        reason,
    };
    admin.revoke_member(revoke).await.unwrap();
    head.online_is(&[]).await;
    head.log_says("gpu-01", "was revoked (sold)").await;
    drop(worker);

    // Let in again, under its own name and id.
    refused(
        &head.join("gpu-01", &head.address, &head.token(&[])),
        "is known here",
    );
    let output = head.join("gpu-01", &head.address, &head.token(&["--name", "gpu-01"]));
    assert!(output.status.success(), "{output:?}");
    let worker = head.start_worker("gpu-01");
    head.online_is(&["gpu-01"]).await;
    drop(worker);

    // A key that others can read is none to start with.
    let identity = head.path("gpu-01/tls/identity.pem");
    std::fs::set_permissions(&identity, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(&head.worker("gpu-01").output().unwrap(), "mode 0644");

    // Whose certificate has expired hears it before anything is dialled, with the commands that mend it.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 31);
    let expired = params.self_signed(&key).unwrap().pem();
    std::fs::write(&identity, format!("{expired}{}", key.serialize_pem())).unwrap();
    std::fs::set_permissions(&identity, std::fs::Permissions::from_mode(0o600)).unwrap();
    let _worker = head.start_worker("gpu-01");
    head.log_says("gpu-01", "expired on 20").await;
    let log = head.log("gpu-01");
    assert!(
        log.contains("nothing was dialled") && log.contains("marquee-worker join 127.0.0.1:"),
        "{log}"
    );

    // No token is in any log of this run.
    for log in [head.log("coordinator"), head.log("gpu-01")] {
        assert!(!log.contains("mqj_"), "{log}");
    }
}

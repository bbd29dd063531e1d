//! Certificates, as the program and its clients use them.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

mod program;

use std::path::Path;

use marquee_proto::v1::ListArtifactsRequest;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use program::{Coordinator, command, refused};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

/// An authority with a certificate for the coordinator and one for a client, as PEM files.
struct Authority {
    ca: String,
    client: Identity,
}

impl Authority {
    fn make(folder: &Path) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            (
                params.signed_by(&key, &ca).unwrap().pem(),
                key.serialize_pem(),
            )
        };
        let (cert, key) = issue("localhost");
        std::fs::write(folder.join("cert.pem"), cert).unwrap();
        std::fs::write(folder.join("key.pem"), key).unwrap();
        std::fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(
            folder.join("other.key"),
            KeyPair::generate().unwrap().serialize_pem(),
        )
        .unwrap();
        let (cert, key) = issue("client");
        Self {
            ca: ca.pem(),
            client: Identity::from_pem(cert, key),
        }
    }

    /// What a client needs to trust the coordinator.
    fn trust(&self) -> ClientTlsConfig {
        let ca = Certificate::from_pem(&self.ca);
        ClientTlsConfig::new()
            .ca_certificate(ca)
            .domain_name("localhost")
    }
}

async fn ask(address: &str, tls: ClientTlsConfig) -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = Channel::from_shared(format!("https://{address}"))?.tls_config(tls)?;
    let mut client = ArtifactsClient::new(endpoint.connect().await?);
    client
        .list_artifacts(ListArtifactsRequest::default())
        .await?;
    Ok(())
}

fn settings(folder: &Path, text: &str) -> std::path::PathBuf {
    let file = folder.join("coordinator.toml");
    std::fs::write(&file, text.replace("FOLDER", &folder.display().to_string())).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_authority_only_its_clients_are_let_in() {
    let folder = tempfile::Builder::new().prefix("mqt").tempdir().unwrap();
    let authority = Authority::make(folder.path());
    let file = settings(
        folder.path(),
        "[tls]\ncert = \"FOLDER/cert.pem\"\nkey = \"FOLDER/key.pem\"\nclient_ca = \"FOLDER/ca.pem\"\n",
    );
    let mut command = command(&folder.path().join("data"), "127.0.0.1:0");
    command.arg("--config").arg(file);
    let coordinator = Coordinator::start_with(command);

    let with_certificate = authority.trust().identity(authority.client.clone());
    ask(&coordinator.address, with_certificate).await.unwrap();
    ask(&coordinator.address, authority.trust())
        .await
        .expect_err("a client without certificate");
    let plain = Channel::from_shared(format!("http://{}", coordinator.address)).unwrap();
    let mut plain = ArtifactsClient::new(plain.connect_lazy());
    plain
        .list_artifacts(ListArtifactsRequest::default())
        .await
        .expect_err("a client without TLS");
}

#[test]
fn a_key_of_another_certificate_is_refused_at_the_start() {
    let folder = tempfile::Builder::new().prefix("mqt").tempdir().unwrap();
    Authority::make(folder.path());
    let text = "[tls]\ncert = \"FOLDER/cert.pem\"\nkey = \"FOLDER/other.key\"\n";
    let mut command = command(&folder.path().join("data"), "127.0.0.1:0");
    command.arg("--config").arg(settings(folder.path(), text));
    let said = refused(command);
    assert!(
        said.contains("the certificate files of [tls] do not work together"),
        "{said}"
    );
}

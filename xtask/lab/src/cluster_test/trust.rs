//! The certificates of the cluster, made by an authority of the test's own, as docs/deploy.md shows it with OpenSSL.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use marquee_xtask::process;

use super::site::Site;

const TLS: &str = "/etc/marquee/tls";

/// One line for the shell in a folder: a key and a certificate of the authority that lies there.
fn certificate(name: &str, extensions: &str) -> String {
    format!(
        "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} \
         -keyout {name}.key -out {name}.csr 2>/dev/null\n\
         printf '%s\\n' '{extensions}' >{name}.ext\n\
         openssl x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile {name}.ext \
         -out {name}.pem 2>/dev/null\n"
    )
}

/// Makes authority and certificates in `folder`.
pub(super) fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut script =
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
                      -subj '/CN=Test CA' -keyout ca.key -out ca.pem 2>/dev/null\n"
            .to_owned();
    for head in ["head-1", "head-2"] {
        let names = format!("subjectAltName=DNS:{head}\nextendedKeyUsage=serverAuth");
        script.push_str(&certificate(head, &names));
    }
    for client in ["worker-1", "worker-2", "desk"] {
        script.push_str(&certificate(client, "extendedKeyUsage=clientAuth"));
    }
    process::read(
        Command::new("sh")
            .args(["-ec", &script])
            .current_dir(folder),
    )
    .map(drop)
}

/// Puts a host's certificate and key where its daemon reads them, for the account that it runs under.
pub(super) fn install(site: &Site, from: &Path, host: &str, account: &str) -> Result<()> {
    for (file, name) in [
        ("ca.pem".to_owned(), "ca.pem"),
        (format!("{host}.pem"), "cert.pem"),
        (format!("{host}.key"), "key.pem"),
    ] {
        let text = std::fs::read_to_string(from.join(file))?;
        site.host(host)?.write(&format!("{TLS}/{name}"), &text)?;
    }
    site.on(
        host,
        &format!("chown {account} {TLS}/key.pem; chmod 400 {TLS}/key.pem"),
    )?;
    Ok(())
}

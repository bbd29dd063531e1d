//! `init` on a host whose unit is installed: what is made is put to use at once. The service is started with it, the
//! command line of this host finds the coordinator, and workers can be let in.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use marquee_proto::v1;
use marquee_settings::Service;

use super::authority::{Bundle, Files};
use super::init::Place;
use super::{init, local};
use crate::config::Config;

/// The unit that the packages and the archive install.
pub const UNIT: &str = "marquee-coordinator.service";
/// Where the command line looks when a user has no context of his own.
const CONTEXT: &str = "/etc/marquee/context.toml";
const CONTEXT_CA: &str = "/etc/marquee/ca.pem";
/// The first line of a context that may be replaced.
const OURS: &str = "# Written by \"marquee-coordinator init\", which keeps it up to date; without this line it is yours.\n";
/// How long the token is good that `init` makes, in seconds: time to set up some hosts.
const TOKEN_S: u32 = 3_600;

/// The certificate that is shown, before something is done to it.
#[must_use]
pub fn certificate(place: &Place) -> Option<String> {
    fs::read_to_string(Files::of(&place.data_dir).server()).ok()
}

/// Puts to use what `init` made, as root. `before` is the certificate as it was; `config` are the settings with what was
/// made, by which `workers` are let in where that is asked for. Returns what to tell whoever asked; a token comes last.
pub async fn enable(
    service: Service,
    place: &Place,
    config: &Config,
    before: Option<String>,
    workers: u32,
) -> anyhow::Result<String> {
    let mut text = String::new();
    let bundle = Bundle::read(&Files::of(&place.data_dir))?;
    // Not for nothing: a restart ends every stream, and `init` may be run again and again.
    if !service.is_active() || certificate(place) != before {
        service.enable_and_restart()?;
    }
    let address = init::dialled(place);
    let _ = writeln!(
        text,
        "\nthe coordinator runs, and is reached at https://{address} (TCP port {} must be open)",
        config.listen.port()
    );
    match write_context(&context(config), &bundle.pem) {
        Ok(true) => {
            let _ = writeln!(text, "\"marquee\" finds it on this host by {CONTEXT}");
        }
        Ok(false) => {
            let _ = writeln!(text, "{CONTEXT} is somebody's own, and was left as it is");
        }
        Err(error) => {
            let _ = writeln!(text, "{CONTEXT} could not be written: {error}");
        }
    }
    if workers == 0 {
        let _ = writeln!(
            text,
            "\nnext, for each worker: marquee-coordinator token create > token   and, on its host: marquee-worker join {address} --token-file token"
        );
        return Ok(text);
    }
    let request = v1::CreateJoinTokenRequest {
        role: "worker".to_owned(),
        name: String::new(),
        ttl_s: TOKEN_S,
        uses: workers,
    };
    let (token, told) = local::create_token(config, request)
        .await
        .context("the coordinator runs, and no token could be made; try \"marquee-coordinator token create\"")?;
    let _ = write!(
        text,
        "\nnext, on each training host: marquee-worker join {address}   which asks for this token,\n{told}{token}\n"
    );
    Ok(text)
}

/// How the command line of this host finds the coordinator.
fn context(config: &Config) -> String {
    let ip = config.listen.ip();
    let port = config.listen.port();
    let at = if ip.is_unspecified() || ip.is_loopback() {
        format!("localhost:{port}")
    } else {
        config.listen.to_string()
    };
    format!("{OURS}addr = \"https://{at}\"\n\n[tls]\nca = \"ca.pem\"\n")
}

/// Whether they were written: a context that somebody made is his.
fn write_context(text: &str, authorities: &str) -> io::Result<bool> {
    match fs::read_to_string(CONTEXT) {
        Ok(there) if !there.starts_with(OURS) => return Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(_) | Err(_) => {}
    }
    // Before the context that names it: between the two a command line finds either both or none.
    write_for_all(Path::new(CONTEXT_CA), authorities)?;
    write_for_all(Path::new(CONTEXT), text)?;
    Ok(true)
}

/// Replaces a file that every account may read, whatever this process's mask is.
fn write_for_all(path: &Path, text: &str) -> io::Result<()> {
    let aside = path.with_extension("new");
    fs::write(&aside, text)?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o644))?;
    fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::Flags;

    #[test]
    fn this_host_dials_by_a_name_that_the_certificate_has() {
        for (listen, at) in [
            ("0.0.0.0:7700", "https://localhost:7700"),
            ("[::]:7700", "https://localhost:7700"),
            ("127.0.0.1:7", "https://localhost:7"),
            ("10.0.0.7:7700", "https://10.0.0.7:7700"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("coordinator.toml");
            let open = "[access]\ninsecure_network = true\n";
            fs::write(&file, format!("listen = \"{listen}\"\n{open}")).unwrap();
            let flags = Flags {
                config: Some(file),
                data_dir: Some(folder.path().to_owned()),
                ..Flags::default()
            };
            let config = Config::load(&flags, HashMap::new()).unwrap();
            let context = context(&config);
            assert!(context.contains(&format!("addr = \"{at}\"")), "{context}");
            assert!(context.starts_with(OURS));
        }
    }
}

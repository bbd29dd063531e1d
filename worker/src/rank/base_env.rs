//! The environment that children get of the worker's own: little, and no secret.
//!
//! A command job's program is anybody's. It gets what a program needs to run at all (`PASSED`), what its
//! document names, and the secrets that the document asks for by name and the worker's operator allows.
//! `marquee-prep` and `marquee-trainer` get their own settings beside it, and a fetch job the one
//! credential that it names.

use std::collections::BTreeMap;
use std::ffi::OsString;

use marquee_domain::FailureClass;
use marquee_domain::failure::Failure;
use marquee_domain::spec::{JobSpec, Source, Work};

use super::handed::Handed;
use crate::secrets::Grant;

/// What every child gets of the worker's environment: where programs and libraries are, whose they run as,
/// language and time. `docs/pipeline.md` lists them.
const PASSED: [&str; 17] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "XDG_RUNTIME_DIR",
];
/// The same by their first letters: language, GPUs, and the threads and networks of numeric libraries.
const PASSED_PREFIXES: [&str; 11] = [
    "LC_", "CUDA_", "NVIDIA_", "NCCL_", "UCX_", "GLOO_", "OMP_", "KMP_", "MKL_", "TORCH_",
    "PYTORCH_",
];
/// What our own programs get beside it, but for the worker's settings.
const OURS_PREFIXES: [&str; 3] = ["MARQUEE_", "RUST_", "MALLOC_"];
/// Prefix of the daemon's own settings.
const OWN_VARIABLES: &str = "MARQUEE_WORKER__";
/// How the network is reached. A proxy's address may hold a password: fetch jobs alone get it unasked.
const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// The worker's environment, and who may have what of it.
#[derive(Clone, Default)]
pub struct BaseEnv {
    all: BTreeMap<OsString, OsString>,
    /// Variables that command jobs may ask for.
    for_commands: Vec<Grant>,
    /// Variables that fetch jobs may name as their credential.
    for_fetches: Vec<Grant>,
}

/// Names alone: values are secrets.
impl std::fmt::Debug for BaseEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseEnv")
            .field("variables", &self.all.len())
            .field("for_commands", &self.for_commands)
            .field("for_fetches", &self.for_fetches)
            .finish()
    }
}

impl BaseEnv {
    #[must_use]
    pub fn new(
        all: BTreeMap<OsString, OsString>,
        for_commands: Vec<Grant>,
        for_fetches: Vec<Grant>,
    ) -> Self {
        Self {
            all,
            for_commands,
            for_fetches,
        }
    }

    /// What one of our own programs gets that works for no job.
    #[must_use]
    pub fn own(&self) -> BTreeMap<OsString, OsString> {
        self.chosen(|name| is_passed(name) || is_ours(name))
    }

    /// All that the child of `spec` gets, with the variables of the child contract.
    pub fn for_child(
        &self,
        spec: &JobSpec,
        handed: &Handed,
        contract: BTreeMap<String, String>,
    ) -> Result<BTreeMap<OsString, OsString>, Failure> {
        let mut env = match &spec.work {
            // The trainer's work, under the name of a command.
            Work::Command(_) if spec.is_burn_in() => self.own(),
            Work::Command(command) => {
                // Nothing of ours: a program that anybody wrote is not to follow the settings of the daemon's
                // log and memory.
                let mut env = self.chosen(is_passed);
                for name in &command.env_from_worker {
                    let value = self.secret(
                        spec,
                        name,
                        &self.for_commands,
                        "env_from_worker",
                        "command_secrets",
                    )?;
                    env.insert(name.into(), value);
                }
                env.extend(handed.variables());
                env
            }
            Work::Fetch(settings) => {
                let mut env =
                    self.chosen(|name| is_passed(name) || is_ours(name) || PROXIES.contains(&name));
                if let Source::Tmdb {
                    credential_env: Some(name),
                    ..
                } = &settings.source
                {
                    // What the coordinator keeps for the job goes before what the host has.
                    let value = match handed.get(name) {
                        Some(value) => value.clone(),
                        None => self.secret(
                            spec,
                            name,
                            &self.for_fetches,
                            "credential_env",
                            "fetch_secrets",
                        )?,
                    };
                    env.insert(name.into(), value);
                }
                env
            }
            Work::Preprocess(_) | Work::Train(_) | Work::Eval(_) => self.own(),
        };
        // Last, over what the daemon itself was given: its TMPDIR and GPUs are not the rank's.
        env.extend(
            contract
                .into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        Ok(env)
    }

    fn chosen(&self, is_chosen: impl Fn(&str) -> bool) -> BTreeMap<OsString, OsString> {
        let chosen = self
            .all
            .iter()
            .filter(|(name, _)| name.to_str().is_some_and(&is_chosen));
        chosen
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    fn secret(
        &self,
        spec: &JobSpec,
        name: &str,
        allowed: &[Grant],
        key: &str,
        setting: &str,
    ) -> Result<OsString, Failure> {
        let refuse = |message: String| Failure {
            class: FailureClass::UserError,
            message,
        };
        // Before the look whether it is set: a job that may not have a variable does not learn that it is
        // there.
        let of_name = |grant: &&Grant| grant.name() == name && grant.is_for(spec);
        let mut granted: Vec<&Grant> = allowed.iter().filter(of_name).collect();
        // A project's own goes first.
        granted.sort_by_key(|grant| grant.is_for_all());
        if granted.is_empty() {
            let project = spec.sharing.project.as_str();
            return Err(refuse(format!(
                "{key} names {name:?}, which this worker gives to no such job; its operator allows it with {setting} = {name:?} in the worker's settings, or {:?} for this project alone",
                format!("{name}@{project}")
            )));
        }
        for grant in granted {
            let value = grant.value(&self.all).map_err(|error| Failure {
                class: FailureClass::Crash,
                message: format!("{key} names {name:?}, which this worker cannot read: {error}"),
            })?;
            if let Some(value) = value {
                return Ok(value);
            }
        }
        Err(refuse(format!(
            "{key} names {name:?}, which is not set in this worker's environment, and is none of its credentials (LoadCredential=); set it there and restart the worker"
        )))
    }
}

fn is_passed(name: &str) -> bool {
    PASSED.contains(&name)
        || PASSED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

fn is_ours(name: &str) -> bool {
    OURS_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !name.starts_with(OWN_VARIABLES)
}

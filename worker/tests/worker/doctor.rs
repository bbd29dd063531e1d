//! `marquee-worker doctor` as a process, on hosts where something is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use marquee_domain::doctor::{Check, Report, Verdict};

use crate::nvml::{FakeNvml, K80};

/// What `marquee-trainer facts --json` of libtorch 2.11.0 says on a CPU host.
const FACTS: &str = r#"{"version":"0.1.0","flavour":"libtorch-2.11.0","kernels":[[7,5],[8,0]],"cuda":13000,"cuda_missing":"not there"}"#;

/// A host in a folder.
struct Host {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Host {
    /// With both programs, and nothing wrong.
    fn new() -> Self {
        let host = Self {
            dir: tempfile::tempdir().unwrap(),
            env: Vec::new(),
        };
        let version = env!("CARGO_PKG_VERSION");
        host.install("marquee-prep", &format!("echo marquee-prep {version}"));
        host.install_trainer(version, "exit 2");
        host
    }

    fn with_gpus(mut self, nvml: &FakeNvml) -> Self {
        self.env = nvml.env();
        self
    }

    fn install(&self, name: &str, script: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn install_trainer(&self, version: &str, nccl: &str) {
        let script = format!(
            "case \"$1\" in\n\
             --version) echo 'marquee-trainer {version} (libtorch-2.11.0)';;\n\
             facts) echo '{FACTS}';;\n\
             nccl-check) {nccl};;\n\
             esac"
        );
        self.install("marquee-trainer", &script);
    }

    fn command(&self, json: bool) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_marquee-worker"));
        self.arguments(&mut command, json);
        command
    }

    fn arguments(&self, command: &mut Command, json: bool) {
        let dir = self.dir.path().display();
        command
            .args(["doctor", "--coordinator=http://127.0.0.1:1"])
            .arg(format!("--bin-dir={dir}"))
            .arg(format!("--data-dir={dir}/data"))
            .args(json.then_some("--json"))
            .envs(self.env.clone());
    }

    fn look(&self) -> Report {
        report(&self.command(true).output().unwrap())
    }
}

fn report(output: &Output) -> Report {
    let report: Report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(output.status.success(), !report.has_failed());
    for check in &report.checks {
        let wants_cure = matches!(check.verdict, Verdict::Warning | Verdict::Failed);
        assert_eq!(check.cure.is_some(), wants_cure, "{check:?}");
    }
    report
}

fn check<'a>(report: &'a Report, name: &str) -> &'a Check {
    let found = report.checks.iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("no check {name:?} in {report:#?}"))
}

#[test]
fn a_cpu_host_is_well_but_for_the_coordinator_that_is_away() {
    let report = Host::new().look();
    for name in ["settings", "marquee-prep", "marquee-trainer", "data folder"] {
        assert_eq!(check(&report, name).verdict, Verdict::Ok, "{report:#?}");
    }
    for name in ["driver", "nccl", "certificates", "clock offset"] {
        assert_eq!(
            check(&report, name).verdict,
            Verdict::Skipped,
            "{report:#?}"
        );
    }
    let away = check(&report, "coordinator");
    assert_eq!(away.verdict, Verdict::Failed);
    assert!(away.found.contains("http://127.0.0.1:1"), "{away:?}");
    assert!(away.cure.as_ref().unwrap().contains("systemctl status"));
}

#[test]
fn people_read_each_check_with_its_cure_below() {
    let output = Host::new().command(false).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.starts_with("  failed   coordinator"));
    assert!(lines[at.unwrap() + 1].contains("-> on its host:"), "{text}");
    assert!(lines.last().unwrap().ends_with(" failed"), "{text}");
}

#[test]
fn programs_that_are_missing_broken_or_of_another_version_are_named() {
    let host = Host::new();
    fs::remove_file(host.dir.path().join("marquee-prep")).unwrap();
    host.install_trainer("9.9.9", "exit 2");
    let report = host.look();
    assert!(
        check(&report, "marquee-prep")
            .found
            .contains("there is none in")
    );
    let other = check(&report, "marquee-trainer");
    assert!(other.found.contains("9.9.9"), "{other:?}");
    host.install(
        "marquee-trainer",
        "echo 'libtorch_cpu.so: cannot open' >&2; exit 127",
    );
    let report = host.look();
    let broken = check(&report, "marquee-trainer");
    assert_eq!(broken.verdict, Verdict::Failed);
    assert!(
        broken.found.contains("libtorch_cpu.so: cannot open"),
        "{broken:?}"
    );
    assert!(broken.cure.as_ref().unwrap().contains("ldd "), "{broken:?}");
}

#[test]
fn a_k80_under_the_current_flavour_is_refused_with_its_cure() {
    let nvml = FakeNvml::new(K80);
    let report = Host::new().with_gpus(&nvml).look();
    let driver = check(&report, "driver");
    assert_eq!(driver.verdict, Verdict::Failed);
    assert!(driver.found.contains("470.256.02"), "{driver:?}");
    assert!(
        driver.cure.as_ref().unwrap().contains("580 or newer"),
        "{driver:?}"
    );
    let gpu = check(&report, "gpu 0");
    assert_eq!(gpu.verdict, Verdict::Failed);
    assert!(
        gpu.found.contains("Tesla K80") && gpu.found.contains("needs 7.5"),
        "{gpu:?}"
    );
    assert!(
        gpu.cure.as_ref().unwrap().contains("kepler flavour"),
        "{gpu:?}"
    );
    let libraries = check(&report, "cuda libraries");
    assert_eq!(libraries.verdict, Verdict::Failed, "{libraries:?}");
    let nodes = check(&report, "device nodes");
    assert!(nodes.found.contains("missing: /dev/nvidiactl"), "{nodes:?}");
    let nccl = check(&report, "nccl");
    assert!(nccl.found.contains("not built"), "{nccl:?}");
    assert_eq!(
        check(&report, "gpu 0 health").verdict,
        Verdict::Warning,
        "not persistent"
    );
    assert_eq!(check(&report, "peer access").verdict, Verdict::Ok);
}

#[test]
fn gpus_that_the_daemon_was_not_given_are_told() {
    let nvml = FakeNvml::new(K80);
    for (list, verdict, said) in [
        ("1", Verdict::Ok, "1 of 2: CUDA_VISIBLE_DEVICES is \"1\""),
        ("1,5", Verdict::Warning, "this host has no GPU \"5\""),
    ] {
        let mut host = Host::new().with_gpus(&nvml);
        host.env.push(("CUDA_VISIBLE_DEVICES".into(), list.into()));
        let report = host.look();
        let offered = check(&report, "gpus offered");
        assert_eq!(offered.verdict, verdict, "{offered:?}");
        assert!(offered.found.contains(said), "{offered:?}");
    }
}

#[test]
fn ill_gpus_peers_apart_and_the_verdict_of_nccl_are_told() {
    let nvml = FakeNvml::new(K80);
    nvml.say("1.return.memory 15\np2p.0.1 3\n0.temperature 95\n0.persistence 1");
    let host = Host::new().with_gpus(&nvml);
    let verdict = r#"{"usable":false,"reason":"no route between hosts","cure":"open the ports"}"#;
    host.install_trainer(
        env!("CARGO_PKG_VERSION"),
        &format!("echo '{verdict}'; exit 1"),
    );
    let report = host.look();
    let ill = check(&report, "gpu 1");
    assert_eq!(ill.verdict, Verdict::Failed);
    assert!(ill.found.contains("device fell off the bus"), "{ill:?}");
    let hot = check(&report, "gpu 0 health");
    assert!(hot.found.contains("95 C"), "{hot:?}");
    let nccl = check(&report, "nccl");
    assert_eq!(
        (nccl.found.as_str(), nccl.cure.as_deref()),
        ("no route between hosts", Some("open the ports"))
    );
    // Both dies answer again, but do not reach each other's memory.
    nvml.say("1.return.memory 0");
    let report = host.look();
    let peers = check(&report, "peer access");
    assert_eq!(peers.verdict, Verdict::Warning);
    assert!(
        peers.found.contains("0 and 1 (not across these sockets)"),
        "{peers:?}"
    );
}

#[test]
fn low_limits_and_a_small_shared_memory_are_found_where_they_are() {
    let host = Host::new();
    let worker = Path::new(env!("CARGO_BIN_EXE_marquee-worker"));
    let in_shell = |before: &str| {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("{before} && exec {} \"$@\"", worker.display()))
            .arg("sh");
        host.arguments(&mut command, true);
        command.output().unwrap()
    };
    let files = report(&in_shell("ulimit -n 256"));
    let files = check(&files, "open files");
    assert_eq!(files.verdict, Verdict::Warning);
    assert!(files.found.starts_with("256 "), "{files:?}");
    let can_mount = Command::new("unshare")
        .args([
            "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm",
        ])
        .output()
        .is_ok_and(|done| done.status.success());
    if !can_mount {
        eprintln!("skipped: this user may not mount a small /dev/shm");
        return;
    }
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c"])
        .arg(format!(
            "mount -t tmpfs -o size=16m tmpfs /dev/shm && mkdir -p {0}/data && mount -t tmpfs -o size=16m tmpfs {0}/data && exec {1} \"$@\"",
            host.dir.path().display(),
            worker.display()
        ))
        .arg("sh");
    host.arguments(&mut command, true);
    let report = report(&command.output().unwrap());
    let shm = check(&report, "shared memory");
    assert_eq!(shm.verdict, Verdict::Failed);
    assert!(shm.found.contains("16.0 MiB"), "{shm:?}");
    assert_eq!(check(&report, "data folder").verdict, Verdict::Failed);
    assert_eq!(check(&report, "artifact cache").verdict, Verdict::Warning);
}

#[test]
fn settings_that_cannot_be_used_are_one_check_among_the_others() {
    let host = Host::new();
    let file = host.dir.path().join("worker.toml");
    fs::write(&file, "adress = \"x\"\n").unwrap();
    let mut command = host.command(true);
    let report = report(&command.arg("--config").arg(&file).output().unwrap());
    let settings = check(&report, "settings");
    assert_eq!(settings.verdict, Verdict::Failed);
    assert!(
        settings.found.contains("did you mean \"address\"?"),
        "{settings:?}"
    );
    assert!(
        settings.cure.as_ref().unwrap().contains("worker.toml"),
        "{settings:?}"
    );
    assert!(report.checks.len() > 8, "the rest is looked at too");
}

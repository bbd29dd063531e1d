//! What files, variables and flags make of each other.

use std::fs;

use super::*;

fn load(file: &str, env: &[(&str, &str)], flags: Settings) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker.toml");
    fs::write(&path, file).unwrap();
    let env = env
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Config::load(
        Sources {
            file: Some(&path),
            env: Some(env),
        },
        flags,
    )
}

#[test]
fn flags_win_over_environment_over_file() {
    let file = "name = \"file\"\ncpu_slots = 2\ncoordinator = \"http://10.0.0.1:7700\"";
    let env = [
        ("MARQUEE_WORKER__NAME", "env"),
        ("MARQUEE_WORKER__CPU_SLOTS", "3"),
    ];
    let flags = Settings {
        name: Some("flag".into()),
        ..Settings::default()
    };
    let config = load(file, &env, flags).unwrap();
    assert_eq!(config.name, "flag");
    assert_eq!(config.cpu_slots, 3);
    assert_eq!(config.coordinator, "http://10.0.0.1:7700");
    assert_eq!(config.on_stop, OnStop::Checkpoint);
}

#[test]
fn more_slots_than_any_host_has_are_a_typing_error() {
    for (key, text) in [("cpu_slots", "4000000000"), ("threads_per_slot", "70000")] {
        let error = load(&format!("{key} = {text}"), &[], Settings::default()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(key) && error.contains(text), "{error}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_a_suggestion_wherever_it_stands() {
    let in_file = load("cpu_slot = 2", &[], Settings::default())
        .unwrap_err()
        .to_string();
    assert!(in_file.contains("did you mean \"cpu_slots\"?"), "{in_file}");
    let in_section = load("[tls]\nca_file = \"x\"", &[], Settings::default()).unwrap_err();
    assert!(
        in_section.to_string().contains("\"tls.ca\"?"),
        "{in_section}"
    );
    let env = [("MARQUEE_WORKER__ADRESS", "10.0.0.1")];
    let in_env = load("", &env, Settings::default()).unwrap_err().to_string();
    assert!(in_env.contains("did you mean \"address\"?"), "{in_env}");
}

#[test]
fn the_list_of_keys_is_the_list_of_fields() {
    let all = "coordinator = \"http://h:1\"\nname = \"n\"\ndata_dir = \"/d\"\nbin_dir = \"/b\"\n\
        cpu_slots = 2\nthreads_per_slot = 4\ncache_max_bytes = 5\naddress = \"a\"\n\
        on_stop = \"keep\"\nlog_format = \"json\"\n\
        command_secrets = \"WANDB_API_KEY, HF_TOKEN@vision/train\"\nfetch_secrets = \"\"\n\
        labels = \"switch=a fast-disk\"\n\
        metrics_listen = \"127.0.0.1:7702\"\n\
        sandbox = \"on\"\nsandbox_hide = \"/srv/secret:/srv/more\"";
    let config = load(all, &[], Settings::default()).unwrap();
    assert_eq!(config.threads_per_slot, Some(4));
    assert_eq!(config.cache_max_bytes, 5);
    assert_eq!(config.address.as_deref(), Some("a"));
    assert_eq!(config.on_stop, OnStop::Keep);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(
        written(&config.command_secrets),
        ["WANDB_API_KEY", "HF_TOKEN@vision/train"]
    );
    assert!(config.fetch_secrets.is_empty());
    assert_eq!(config.sandbox, Sandbox::On);
    assert_eq!(config.sandbox_hide.len(), 2);
    assert_eq!(config.metrics_listen, "127.0.0.1:7702".parse().ok());
    let port = load("metrics_listen = \":7702\"", &[], Settings::default());
    assert!(port.unwrap_err().to_string().contains("127.0.0.1:7702"));
    let relative = load("sandbox_hide = \"secret\"", &[], Settings::default());
    assert!(relative.unwrap_err().to_string().contains("absolute paths"));
    assert!(config.labels.contains("switch=a") && config.labels.contains("fast-disk"));
    let shared = load("gpu_shares = \"0:4 2:16\"", &[], Settings::default()).unwrap();
    assert_eq!(shared.gpu_shares, [(0, 4), (2, 16)].into());
    for bad in ["4", "0:1", "0:17", "0:4 0:2", "a:2", "-1:2", "0:"] {
        let text = format!("gpu_shares = \"{bad}\"");
        let error = load(&text, &[], Settings::default()).unwrap_err();
        assert!(error.to_string().contains("gpu_shares"), "{bad}: {error}");
    }
    let error = load("labels = \"a;b\"", &[], Settings::default()).unwrap_err();
    assert!(error.to_string().contains("labels"), "{error}");
    assert_eq!(
        (config.data_dir, config.bin_dir),
        ("/d".into(), "/b".into())
    );
}

#[test]
fn a_secret_is_named_and_never_written_into_the_settings() {
    for wrong in [
        "WANDB_API_KEY=abc",
        "MARQUEE_WORKER__TLS__KEY",
        "MARQUEE_WORKER__TLS__KEY@vision",
        "A;B",
        "A@",
    ] {
        let text = format!("command_secrets = {wrong:?}");
        let error = load(&text, &[], Settings::default()).unwrap_err();
        assert!(
            error.to_string().contains("names of environment"),
            "{error}"
        );
    }
    let usual = load("", &[], Settings::default()).unwrap();
    assert!(usual.command_secrets.is_empty());
    assert_eq!(written(&usual.fetch_secrets), DEFAULT_FETCH_SECRETS);
}

fn written(grants: &[Grant]) -> Vec<String> {
    grants.iter().map(Grant::to_string).collect()
}

#[test]
fn tls_must_fit_the_url() {
    let no_ca = load("coordinator = \"https://c:1\"", &[], Settings::default()).unwrap_err();
    assert!(
        no_ca.to_string().starts_with("tls.ca is missing"),
        "{no_ca}"
    );
    let plain = "coordinator = \"http://c:1\"\n[tls]\nca = \"/ca.pem\"";
    let error = load(plain, &[], Settings::default()).unwrap_err();
    assert!(error.to_string().contains("write https://"), "{error}");
    let no_url = load("coordinator = \"c:1\"", &[], Settings::default()).unwrap_err();
    assert!(no_url.to_string().contains("is no URL"), "{no_url}");
}

#[test]
fn several_coordinators_are_a_list_or_have_commas_between_them() {
    let both = ["http://a:1", "http://b:2"];
    for file in [
        "coordinator = [\"http://a:1\", \"http://b:2\"]",
        "coordinator = \"http://a:1,http://b:2\"",
    ] {
        let config = load(file, &[], Settings::default()).unwrap();
        assert_eq!(config.coordinators, both);
        assert_eq!(config.coordinator, both[0]);
    }
    let env = [("MARQUEE_WORKER__COORDINATOR", "http://a:1, http://b:2")];
    assert_eq!(
        load("", &env, Settings::default()).unwrap().coordinators,
        both
    );
    for wrong in [
        "coordinator = []",
        "coordinator = [\"http://a:1\", \"https://b:2\"]",
        "coordinator = [\"http://a:1\", \"b:2\"]",
        "coordinator = \", ,\"",
    ] {
        let error = load(wrong, &[], Settings::default()).unwrap_err();
        assert!(error.to_string().contains("coordinator"), "{error}");
    }
}

#[test]
fn a_name_that_the_coordinator_would_refuse_is_refused_here() {
    let error = load("name = \"GPU 1\"", &[], Settings::default()).unwrap_err();
    assert!(
        error.to_string().starts_with("name = \"GPU 1\" must be"),
        "{error}"
    );
}

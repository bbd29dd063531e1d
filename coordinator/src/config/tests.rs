//! What settings are taken, and what is said of the others.

use super::*;
use crate::env::{Clock as _, SystemClock};

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coordinator.toml");
    std::fs::write(&path, file).unwrap();
    let mut environment: HashMap<String, String> = environment
        .iter()
        .map(|(k, v)| ((*k).into(), (*v).into()))
        .collect();
    environment
        .entry("STATE_DIRECTORY".into())
        .or_insert("/state".into());
    Config::load(
        &Flags {
            config: Some(path),
            ..Flags::default()
        },
        environment,
    )
}

#[track_caller]
fn error_of(file: &str, environment: &[(&str, &str)]) -> String {
    load(file, environment).unwrap_err().to_string()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = load("", &[]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:7700");
    assert_eq!(config.data_dir, Path::new("/state"));
    assert_eq!(config.settings, Settings::default());
    assert!(config.database_url.is_none() && config.tls.is_none());
}

#[test]
fn the_environment_goes_before_the_file_and_flags_before_both() {
    let environment = [
        ("MARQUEE_COORDINATOR__LISTEN", "127.0.0.1:2"),
        ("MARQUEE_COORDINATOR__TIMING__LEASE_MS", "5000"),
        ("MARQUEE_POSTGRES_BIN", "/pg/bin"),
    ];
    let config = load("listen = \"127.0.0.1:1\"", &environment).unwrap();
    assert_eq!(config.listen.port(), 2);
    assert_eq!(config.settings.lease, Duration::from_secs(5));
    assert_eq!(config.postgres_bin.as_deref(), Some(Path::new("/pg/bin")));

    let flags = Flags {
        listen: Some("127.0.0.1:3".into()),
        ..Flags::default()
    };
    let environment = environment.map(|(k, v)| (k.into(), v.into())).into();
    let config = Config::load(&flags, environment).unwrap();
    assert_eq!(config.listen.port(), 3);
}

#[test]
fn an_unknown_key_is_named_with_what_was_meant() {
    let text = error_of("listne = \"127.0.0.1:1\"", &[]);
    assert!(
        text.contains("unknown key \"listne\"; did you mean \"listen\"?"),
        "{text}"
    );
    assert!(text.contains("coordinator.toml"), "{text}");
    let text = error_of("[tls]\ncert = \"a\"\nkey = \"b\"\nclient-ca = \"c\"", &[]);
    assert!(
        text.contains("\"tls.client-ca\"; did you mean \"tls.client_ca\"?"),
        "{text}"
    );
    let text = error_of("", &[("MARQUEE_COORDINATOR__QUANTUM_FLUX", "1")]);
    assert!(
        text.contains("the environment: unknown key \"quantum_flux\"; the keys are"),
        "{text}"
    );
}

#[test]
fn beyond_loopback_it_wants_tls_and_the_authority_of_its_clients() {
    let tls = "\n[tls]\ncert = \"/c\"\nkey = \"/k\"\n";
    for open in ["0.0.0.0", "[::]", "10.0.0.7", "[2001:db8::7]"] {
        let listen = format!("listen = \"{open}:7700\"");
        let text = error_of(&listen, &[]);
        assert!(text.contains("there is no [tls]"), "{text}");
        // Each message names all that is needed, so that nobody is led to an open door by the first.
        let half = error_of(&format!("{listen}{tls}"), &[]);
        assert!(half.contains("key \"tls.client_ca\" is missing"), "{half}");
        for text in [text, half] {
            let needed = ["key \"listen\"", "tls.cert", "tls.key", "tls.client_ca"];
            assert!(needed.iter().all(|key| text.contains(key)), "{text}");
        }
        let whole = format!("{listen}{tls}client_ca = \"/ca\"");
        assert!(load(&whole, &[]).is_ok());
    }
    for inside in ["127.0.0.1", "127.9.9.9", "[::1]"] {
        let listen = format!("listen = \"{inside}:7700\"");
        assert!(load(&listen, &[]).is_ok());
        assert!(load(&format!("{listen}{tls}"), &[]).is_ok());
    }
}

#[test]
fn an_authority_of_its_own_is_enough_and_so_is_to_say_that_it_is_insecure() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let open = "listen = \"0.0.0.0:7700\"\n";
    let state = [("STATE_DIRECTORY", data)];
    let text = load(open, &state).unwrap_err().to_string();
    assert!(text.contains("marquee-coordinator init"), "{text}");
    let insecure = format!("{open}[access]\ninsecure_network = true");
    let config = load(&insecure, &state).unwrap();
    assert_eq!(config.access, Rule::Everybody);
    assert!(config.is_insecure());
    let text = load(&insecure.replace("true", "\"maybe\""), &state)
        .unwrap_err()
        .to_string();
    assert!(text.contains("access.insecure_network"), "{text}");

    let place = Config::place(
        &Flags::default(),
        state.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    );
    crate::trust::init::init(&place.unwrap(), &[], SystemClock.now()).unwrap();
    let config = load(open, &state).unwrap();
    assert!(!config.is_insecure());
    let tls = config.tls.unwrap();
    assert!(tls.is_own() && tls.client_cas.len() == 1);
    assert!(
        matches!(config.access, Rule::Accounts { .. }),
        "of this host"
    );
    // Made for workers of other hosts: where nothing is said, they reach it.
    assert!(load("", &state).unwrap().listen.ip().is_unspecified());
    let here = load("listen = \"127.0.0.1:7700\"", &state).unwrap();
    assert!(here.listen.ip().is_loopback());
    // Beside it another authority, whose certificates are made elsewhere.
    let both = format!("{open}[tls]\nclient_ca = \"/old/ca.pem\"");
    assert_eq!(
        load(&both, &state).unwrap().tls.unwrap().client_cas.len(),
        2
    );
    // What the settings name goes before.
    let other = format!("{open}[tls]\ncert = \"/c\"\nkey = \"/k\"\nclient_ca = \"/ca\"");
    assert!(!load(&other, &state).unwrap().tls.unwrap().is_own());
}

#[test]
fn how_long_certificates_are_good_has_bounds() {
    let life = |text: &str| load(&format!("[timing]\n{text}"), &[]);
    let short = life("worker_certificate_s = 60\nserver_certificate_s = 90").unwrap();
    assert_eq!(short.settings.worker_certificate, TimeDelta::minutes(1));
    assert_eq!(short.settings.server_certificate, TimeDelta::seconds(90));
    for wrong in [
        "worker_certificate_s = 5",
        "server_certificate_s = 31536000",
    ] {
        let text = life(wrong).unwrap_err().to_string();
        assert!(text.contains("_certificate_s"), "{text}");
    }
}

#[test]
fn a_wrong_value_is_named_with_its_key() {
    let text = error_of("listen = \"localhost\"", &[]);
    assert!(text.contains("key \"listen\" is \"localhost\""), "{text}");
    let text = error_of("[timing]\nlease_ms = \"soon\"", &[]);
    assert!(text.contains("timing.lease_ms"), "{text}");
    let text = error_of("[timing]\nlease_ms = 100\nheartbeat_every_ms = 80", &[]);
    assert!(
        text.contains("key \"timing.lease_ms\" is \"100\""),
        "{text}"
    );
    let text = error_of("[tls]\ncert = \"/c\"", &[]);
    assert!(text.contains("key"), "{text}");
}

#[test]
fn over_loopback_accounts_are_told_apart_unless_certificates_are_or_the_settings_say_otherwise() {
    let accounts = |rule| match rule {
        Rule::Accounts { accounts, group } => (accounts, group.map(|group| group.id)),
        Rule::Everybody => panic!("everybody may ask"),
    };
    let usual = load("", &[]).unwrap().access;
    assert_eq!(accounts(usual), (vec!["marquee-worker".to_owned()], None));
    let named = "[access]\naccounts = \"alice, bob\"\ngroup = \"root\"";
    let named = load(named, &[]).unwrap().access;
    let both = vec!["alice".to_owned(), "bob".to_owned()];
    assert_eq!(accounts(named), (both, Some(0)));
    let tls = "[tls]\ncert = \"/c\"\nkey = \"/k\"\n";
    accounts(load(tls, &[]).unwrap().access);
    let certificates = load(&format!("{tls}client_ca = \"/ca\""), &[]).unwrap();
    assert_eq!(certificates.access, Rule::Everybody);
    let open = load("[access]\nloopback = \"open\"", &[]).unwrap();
    assert_eq!(open.access, Rule::Everybody);
    let text = error_of("[access]\nloopback = \"closed\"", &[]);
    assert!(text.contains("\"account\" or \"open\""), "{text}");
    let text = error_of("[access]\ngroup = \"no such group\"", &[]);
    assert!(
        text.contains("access.group") && text.contains("groupadd"),
        "{text}"
    );
}

#[test]
fn where_others_reach_it_is_a_host_and_a_port() {
    let address = |text: &str| load(&format!("address = {text:?}"), &[]);
    for fine in ["head-1:7700", "10.0.0.7:7700", "[2001:db8::7]:7700"] {
        assert_eq!(address(fine).unwrap().address.as_deref(), Some(fine));
    }
    for wrong in [
        "head-1",
        ":7700",
        "head:0",
        "https://head:7700",
        "a:1, b:2",
        "u@h:1",
    ] {
        let error = address(wrong).unwrap_err().to_string();
        assert!(
            error.contains("\"address\"") && error.contains("a port"),
            "{error}"
        );
    }
}

#[test]
fn the_lease_of_a_leader_has_bounds_and_artifacts_lie_with_the_data_or_elsewhere() {
    let config = load("", &[]).unwrap();
    assert_eq!(config.leader_lease, LEADER_LEASE);
    assert_eq!(config.artifacts_dir, Path::new("/state/blobs"));
    let config = load(
        "artifacts_dir = \"/shared/a\"\n[timing]\nleader_lease_ms = 900",
        &[],
    );
    let config = config.unwrap();
    assert_eq!(config.leader_lease, Duration::from_millis(900));
    assert_eq!(config.artifacts_dir, Path::new("/shared/a"));
    for wrong in [0, 100, 3_600_000] {
        let text = error_of(&format!("[timing]\nleader_lease_ms = {wrong}"), &[]);
        assert!(text.contains("timing.leader_lease_ms"), "{text}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let flags = Flags {
        config: Some("/nowhere/c.toml".into()),
        ..Flags::default()
    };
    let text = Config::load(&flags, HashMap::new())
        .unwrap_err()
        .to_string();
    assert!(text.contains("/nowhere/c.toml"), "{text}");
}

#[test]
fn the_database_url_may_stand_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    let settings = format!("database_url = {:?}", file.display().to_string());
    let text = error_of(&settings, &[]);
    assert!(text.contains("could not read it"), "{text}");
    std::fs::write(&file, "secret\n").unwrap();
    let text = error_of(&settings, &[]);
    assert!(
        text.contains("holds no") && !text.contains("secret"),
        "{text}"
    );
    std::fs::write(&file, "postgres://u:secret@h/d\n").unwrap();
    let url = load(&settings, &[]).unwrap().database_url;
    assert_eq!(url.unwrap().0, "postgres://u:secret@h/d");
}

#[test]
fn the_database_url_is_never_shown() {
    let config = load("database_url = \"postgres://u:pa55word@h/d\"", &[]).unwrap();
    assert!(!format!("{config:?}").contains("pa55word"));
}

#[test]
fn an_address_whose_port_nobody_can_tell_is_refused() {
    let address = |text: &str| load(&format!("address = {text:?}"), &[]);
    for fine in ["[::1]:1", "[fe80::1]:65535", "h:65535"] {
        assert_eq!(address(fine).unwrap().address.as_deref(), Some(fine));
    }
    let long = format!("{}:7700", "h".repeat(ADDRESS_MAX_BYTES));
    for wrong in [
        "2001:db8::7:7700",
        "::1:7700",
        "[::1:7700",
        "h:65536",
        "h:-1",
        "h:7700/",
        "a b:7700",
        "h:",
        "",
        long.as_str(),
    ] {
        let error = address(wrong).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("\"address\""), "{wrong:?}: {error}");
    }
}

#[test]
fn times_that_nobody_can_mean_are_refused_by_their_key() {
    let most = i64::MAX;
    for key in [
        "lease_ms",
        "heartbeat_every_ms",
        "poll_every_ms",
        "stop_grace_ms",
    ] {
        for wrong in [
            most.to_string(),
            "86400001".into(),
            "-1".into(),
            "1.5".into(),
            "\"\"".into(),
        ] {
            let text = error_of(&format!("[timing]\n{key} = {wrong}"), &[]);
            assert!(text.contains(key), "{key} = {wrong}: {text}");
        }
    }
    for zero in ["heartbeat_every_ms", "poll_every_ms"] {
        let text = error_of(&format!("[timing]\n{zero} = 0"), &[]);
        assert!(text.contains("it must be 1 or more"), "{text}");
    }
    let day = load("[timing]\nlease_ms = 86400000\nstop_grace_ms = 0", &[]).unwrap();
    assert_eq!(day.settings.lease, Duration::from_secs(86_400));
    assert_eq!(day.settings.stop_grace, Duration::ZERO);
    // Just twice is enough, one less is not.
    assert!(load("[timing]\nlease_ms = 160\nheartbeat_every_ms = 80", &[]).is_ok());
    assert!(load("[timing]\nlease_ms = 159\nheartbeat_every_ms = 80", &[]).is_err());
}

#[test]
fn the_listing_has_each_key_once_with_what_is_in_force_and_where_it_was_written() {
    let config = load(
        "listen = \"127.0.0.1:9\"",
        &[("MARQUEE_CO_OTHER", "no key of ours")],
    )
    .unwrap();
    let of = |key: &str| {
        let mut found = config.listing.iter().filter(|setting| setting.key == key);
        let setting = found.next().unwrap();
        assert!(found.next().is_none(), "{key} is there twice");
        (setting.value.as_deref(), setting.origin.as_str())
    };
    assert_eq!(config.listing.len(), KEYS.len());
    assert_eq!(of("listen").0, Some("127.0.0.1:9"));
    assert!(
        of("listen").1.contains("coordinator.toml"),
        "{}",
        of("listen").1
    );
    let in_force = [
        ("data_dir", "/state"),
        ("artifacts_dir", "/state/blobs"),
        ("access.accounts", "marquee-worker"),
        ("timing.leader_lease_ms", "3000"),
    ];
    for (key, value) in in_force {
        assert_eq!(of(key), (Some(value), "default"));
    }
    for key in [
        "timing.lease_ms",
        "timing.heartbeat_every_ms",
        "timing.poll_every_ms",
        "timing.stop_grace_ms",
    ] {
        assert!(of(key).0.is_some(), "{key}");
    }
    for unset in [
        "address",
        "database_url",
        "postgres_bin",
        "tls.cert",
        "access.group",
    ] {
        assert_eq!(of(unset).0, None, "{unset}");
    }
    // Where nobody is told apart, no account is in force.
    let open = load("[access]\nloopback = \"open\"", &[]).unwrap();
    let accounts = open
        .listing
        .iter()
        .find(|setting| setting.key == "access.accounts");
    assert_eq!(accounts.unwrap().value, None);
}

#[test]
fn a_password_is_in_no_listing_and_no_error() {
    let url = "database_url = \"postgres://u:hunter2@h/d\"";
    let config = load(url, &[]).unwrap();
    assert!(!format!("{:?}", config.listing).contains("hunter2"));
    let wrong = error_of(&format!("{url}\nlisten = \"nowhere\""), &[]);
    assert!(!wrong.contains("hunter2"), "{wrong}");
    let credential = DatabaseUrl("credential:database-url".into());
    let error = credential.get().unwrap_err().to_string();
    assert!(error.contains("database-url"), "{error}");
    let own = DatabaseUrl("postgres://u@h/d".into());
    assert_eq!(own.get().unwrap(), "postgres://u@h/d");
}

#[test]
fn tls_in_parts_names_the_part_that_is_missing() {
    let cases = [
        ("cert = \"/c\"", "tls.key"),
        ("key = \"/k\"", "tls.cert"),
        ("client_ca = \"/ca\"", "tls.cert"),
        ("cert = \"/c\"\nclient_ca = \"/ca\"", "tls.key"),
    ];
    for (tls, missing) in cases {
        let text = error_of(&format!("[tls]\n{tls}"), &[]);
        assert!(
            text.contains(&format!("key {missing:?} is missing")),
            "{text}"
        );
    }
}

#[test]
fn a_file_that_is_no_settings_is_named() {
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("c.toml");
    for odd in ["listen = [", "listen = 7", "= 1", "\u{0}"] {
        std::fs::write(&path, odd).unwrap();
        let flags = Flags {
            config: Some(path.clone()),
            ..Flags::default()
        };
        let environment = HashMap::from([("HOME".to_owned(), "/home/a".to_owned())]);
        let text = Config::load(&flags, environment)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(text.contains("c.toml"), "{odd:?}: {text}");
    }
}

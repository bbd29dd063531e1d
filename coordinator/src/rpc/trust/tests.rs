use chrono::{DateTime, Utc};
use marquee_store::trust::{Member, Revoked};
use uuid::Uuid;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn csr() -> Vec<u8> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let params = rcgen::CertificateParams::new([]).unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn ask() -> v1::JoinRequest {
    v1::JoinRequest {
        token_id: Uuid::from_u128(5).to_string(),
        secret: vec![1; SECRET_BYTES],
        csr: csr(),
        name: "gpu-03".into(),
        ..v1::JoinRequest::default()
    }
}

fn token(change: impl FnOnce(&mut v1::CreateJoinTokenRequest)) -> v1::CreateJoinTokenRequest {
    let mut request = v1::CreateJoinTokenRequest::default();
    change(&mut request);
    request
}

#[test]
fn a_join_is_read_whole_with_an_id_of_its_own_or_without() {
    let read = read_ask(ask(), "10.0.0.7".into()).unwrap();
    assert_eq!((read.token, read.worker), (Uuid::from_u128(5), None));
    assert_eq!(
        (read.name.as_str(), read.from.as_str()),
        ("gpu-03", "10.0.0.7")
    );
    let again = v1::JoinRequest {
        worker_id: Uuid::from_u128(9).to_string(),
        ..ask()
    };
    let read = read_ask(again, String::new()).unwrap();
    assert_eq!(read.worker, Some(WorkerId(Uuid::from_u128(9))));
}

#[test]
fn whatever_a_stranger_sends_is_refused_by_its_field_and_in_few_words() {
    type Change = fn(&mut v1::JoinRequest);
    let cases: [(Change, &str); 12] = [
        (|r| r.token_id = String::new(), "token_id"),
        (|r| r.token_id = "x".repeat(100_000), "token_id"),
        (|r| r.secret.clear(), "secret"),
        (|r| r.secret.push(0), "secret"),
        (|r| r.secret = vec![0; 1_000_000], "secret"),
        (|r| r.worker_id = "w1".into(), "worker_id"),
        (|r| r.name.clear(), "name"),
        (|r| r.name = "GPU-03".into(), "name"),
        (|r| r.name = "a b".into(), "name"),
        (|r| r.name = "ä".repeat(50_000), "name"),
        (|r| r.csr.clear(), "csr"),
        (|r| r.csr = vec![0x30; 1_000_000], "csr"),
    ];
    for (change, field) in cases {
        let mut request = ask();
        change(&mut request);
        let status = read_ask(request, String::new())
            .map(|_| ())
            .expect_err(field);
        assert!(status.message().contains(field), "{field}: {status}");
        // A stranger must not make logs and answers of what he sends.
        assert!(
            status.message().len() < 700,
            "{field}: {} bytes",
            status.message().len()
        );
    }
}

#[test]
fn a_secret_is_never_repeated() {
    let mut request = ask();
    request.secret = b"this-is-the-secret-itself".to_vec();
    let status = read_ask(request, String::new()).map(|_| ()).unwrap_err();
    assert!(!status.message().contains("this-is"), "{status}");
}

#[test]
fn a_token_that_says_nothing_lets_one_worker_in_for_an_hour() {
    let new = read_new_token(v1::CreateJoinTokenRequest::default()).unwrap();
    assert_eq!((new.name, new.uses), (None, 1));
    assert_eq!(new.ttl, Duration::from_secs(3_600));
}

#[test]
fn tokens_are_made_within_their_limits() {
    type Change = fn(&mut v1::CreateJoinTokenRequest);
    let taken: [(Change, u64, u32); 5] = [
        (|r| r.ttl_s = 60, 60, 1),
        (|r| r.ttl_s = 30 * 86_400, 30 * 86_400, 1),
        (|r| r.uses = USES_MAX, 3_600, USES_MAX),
        (|r| r.role = "worker".into(), 3_600, 1),
        (
            |r| {
                r.name = "gpu-03".into();
                r.uses = 1;
            },
            3_600,
            1,
        ),
    ];
    for (change, ttl_s, uses) in taken {
        let new = read_new_token(token(change)).unwrap();
        assert_eq!((new.ttl.as_secs(), new.uses), (ttl_s, uses));
    }
    let refused: [(Change, &str); 9] = [
        (|r| r.ttl_s = 59, "ttl_s"),
        (|r| r.ttl_s = 30 * 86_400 + 1, "ttl_s"),
        (|r| r.ttl_s = u32::MAX, "ttl_s"),
        (|r| r.uses = USES_MAX + 1, "uses"),
        (|r| r.uses = u32::MAX, "uses"),
        (
            |r| {
                r.name = "gpu-03".into();
                r.uses = 2;
            },
            "uses",
        ),
        (|r| r.role = "admin".into(), "role"),
        (|r| r.role = "x".repeat(90_000), "role"),
        (|r| r.name = "../etc".into(), "name"),
    ];
    for (change, field) in refused {
        let error = read_new_token(token(change)).map(|_| ()).expect_err(field);
        assert_eq!(error.field, field);
        assert!(
            error.problem.len() < 400,
            "{field}: {} bytes",
            error.problem.len()
        );
    }
}

#[test]
fn names_of_workers_are_plain_and_as_long_as_they_may_be() {
    let longest = "x".repeat(NAME_MAX_BYTES);
    for good in ["a", "gpu-03", "rack_1.host-2", "0", longest.as_str()] {
        assert_eq!(worker_name("name", good.to_owned()).unwrap(), good);
    }
    for odd in ["", "A", "a b", "a/b", "a\n", "ä", "a\0", "a:b"] {
        assert!(worker_name("name", odd.to_owned()).is_err(), "{odd:?}");
    }
    assert!(worker_name("name", format!("{longest}x")).is_err());
}

#[test]
fn a_member_shows_who_shut_it_out_and_why() {
    let member = |revoked| Member {
        worker: WorkerId(Uuid::from_u128(9)),
        name: "gpu-03".into(),
        joined_at: at(0),
        joined_by: "token 5 from 10.0.0.7".into(),
        certified_until: at(60),
        revoked,
    };
    let trusted = encode_member(member(None));
    assert_eq!(
        (trusted.revoked_at, trusted.revoked_by.as_str()),
        (None, "")
    );
    assert_eq!(trusted.certified_until, Some(timestamp(at(60))));
    let out = encode_member(member(Some(Revoked {
        at: at(5),
        by: "anna".into(),
        reason: String::new(),
    })));
    assert_eq!(out.revoked_at, Some(timestamp(at(5))));
    assert_eq!(
        (out.revoked_by.as_str(), out.revoked_reason.as_str()),
        ("anna", "")
    );
}

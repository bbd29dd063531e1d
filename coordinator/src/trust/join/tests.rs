use chrono::TimeDelta;
use marquee_domain::join_token::SECRET_BYTES;

use super::*;

const SECRET: [u8; SECRET_BYTES] = [7; SECRET_BYTES];

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn token() -> trust::JoinToken {
    trust::JoinToken {
        id: Uuid::from_u128(5),
        secret_sha256: JoinToken::secret_sha256(&SECRET).to_vec(),
        role: WORKER.to_owned(),
        name: None,
        uses: 1,
        used: 0,
        created_at: at(0),
        created_by: "anna".into(),
        expires_at: at(3_600),
        revoked_at: None,
    }
}

fn ask() -> Ask {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let params = rcgen::CertificateParams::new([]).unwrap();
    let csr = params.serialize_request(&key).unwrap();
    Ask {
        token: Uuid::from_u128(5),
        secret: SECRET.to_vec(),
        request: Request::read(csr.der()).unwrap(),
        name: "gpu-03".into(),
        worker: None,
        from: "10.0.0.7".into(),
    }
}

/// What the worker is told at this second; empty: the token is good.
fn told(token: Option<trust::JoinToken>, ask: &Ask, second: i64) -> String {
    match usable(token, ask, at(second)) {
        Ok(_) => String::new(),
        Err(Refusal::Told(why)) => why,
        Err(Refusal::Failed(error)) => panic!("{error}"),
        Err(Refusal::Status(status)) => panic!("{status}"),
    }
}

#[test]
fn a_token_is_good_until_the_very_second_of_its_end() {
    let ask = ask();
    for (second, good) in [
        (0, true),
        (3_599, true),
        (3_600, false),
        (i64::from(u32::MAX), false),
    ] {
        assert_eq!(
            told(Some(token()), &ask, second).is_empty(),
            good,
            "{second}"
        );
    }
    let why = told(Some(token()), &ask, 4_000);
    assert_eq!(
        why,
        "the token expired on 2027-01-15 09:00:00 UTC; make another one"
    );
}

#[test]
fn who_has_not_the_secret_learns_nothing_of_the_token() {
    let nothing = told(None, &ask(), 0);
    let wrong: [Vec<u8>; 4] = [
        Vec::new(),
        vec![8; SECRET_BYTES],
        vec![7; SECRET_BYTES - 1],
        vec![7; 100_000],
    ];
    for secret in wrong {
        let ask = Ask { secret, ..ask() };
        // Neither that it is there, nor that it was revoked, expired or is another's.
        for of in [
            token(),
            trust::JoinToken {
                revoked_at: Some(at(-1)),
                ..token()
            },
            trust::JoinToken {
                expires_at: at(-1),
                ..token()
            },
            trust::JoinToken {
                name: Some("head".into()),
                ..token()
            },
            // A row whose digest was lost lets nobody in.
            trust::JoinToken {
                secret_sha256: Vec::new(),
                ..token()
            },
        ] {
            assert_eq!(told(Some(of), &ask, 0), nothing);
        }
    }
}

#[test]
fn each_reason_is_said_with_the_way_out() {
    let ask = ask();
    let cases = [
        (
            trust::JoinToken {
                revoked_at: Some(at(5)),
                expires_at: at(-1),
                ..token()
            },
            "the token was revoked; make another one",
        ),
        (
            trust::JoinToken {
                role: "viewer".into(),
                ..token()
            },
            "the token is for the role \"viewer\", and a worker asks; make one for a worker",
        ),
        (
            trust::JoinToken {
                name: Some("gpu-04".into()),
                ..token()
            },
            "the token is for worker \"gpu-04\", and \"gpu-03\" asks; join with --name gpu-04, or make a token for it",
        ),
    ];
    for (token, why) in cases {
        assert_eq!(told(Some(token), &ask, 0), why);
    }
    // One that was used is looked at further: it may have been used by this very key.
    let used = trust::JoinToken { used: 1, ..token() };
    assert_eq!(told(Some(used), &ask, 0), "");
    let named = trust::JoinToken {
        name: Some("gpu-03".into()),
        ..token()
    };
    assert_eq!(told(Some(named), &ask, 0), "");
}

#[test]
fn the_state_of_a_token_is_the_first_that_ends_it() {
    let state = |change: fn(&mut trust::JoinToken), second: i64| {
        let mut token = token();
        change(&mut token);
        state_of(&token, at(second))
    };
    assert_eq!(state(|_| {}, 0), "usable");
    assert_eq!(state(|_| {}, 3_600), "expired");
    assert_eq!(state(|token| token.used = 1, 9_999), "used");
    assert_eq!(state(|token| token.used = 9, 0), "used");
    assert_eq!(
        state(
            |token| {
                token.used = 1;
                token.revoked_at = Some(DateTime::<Utc>::MIN_UTC);
            },
            9_999
        ),
        "revoked"
    );
}

#[test]
fn a_worker_that_is_trusted_no_more_hears_how_to_come_back() {
    let member = |revoked| Member {
        worker: WorkerId(Uuid::from_u128(9)),
        name: "gpu-03".into(),
        joined_at: at(0),
        joined_by: "token 5".into(),
        certified_until: at(60) + TimeDelta::days(30),
        revoked,
    };
    assert!(verdict(Some(&member(None))).is_ok());
    let revoked = |reason: &str| trust::Revoked {
        at: at(0),
        by: "anna".into(),
        reason: reason.into(),
    };
    let cases = [
        (None, "is not known here"),
        (
            Some(member(Some(revoked("")))),
            "worker \"gpu-03\" was revoked; to let it in",
        ),
        (
            Some(member(Some(revoked("stolen")))),
            "worker \"gpu-03\" was revoked (stolen); to let it in",
        ),
    ];
    for (member, words) in cases {
        let status = verdict(member.as_ref()).unwrap_err();
        assert!(status.message().contains(words), "{status}");
        assert!(
            status.message().contains("token create --name NAME"),
            "{status}"
        );
        let code = marquee_proto::error::PublicError::from(&status).code;
        assert_eq!(code.as_deref(), Some(ErrorCode::WorkerRevoked.as_str()));
    }
}

#[test]
fn a_name_that_somebody_else_took_meanwhile_is_told_and_no_fault() {
    let taken = Refusal::from(StoreError::WorkerNameTaken("gpu-03".into()));
    let Refusal::Told(why) = taken else {
        panic!("it is the worker's own affair");
    };
    assert!(why.contains("--name gpu-03"), "{why}");
    let broken = Refusal::from(StoreError::Vanished("token"));
    assert!(matches!(
        broken,
        Refusal::Failed(LifecycleError::Store(StoreError::Vanished(_)))
    ));
}

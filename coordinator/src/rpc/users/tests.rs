use marquee_domain::users::Token;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn grant(project: &str, role: &str) -> v1::Grant {
    v1::Grant {
        project: project.into(),
        role: role.into(),
    }
}

fn stored_user(name: &str, grants: Grants) -> User {
    User {
        name: name.parse().unwrap(),
        grants,
        created_at: at(0),
        created_by: "local".into(),
    }
}

fn stored_token(number: u8, user: &str, change: impl FnOnce(&mut StoredToken)) -> StoredToken {
    let drawn = marquee_domain::artifact::Digest::of(&[number]);
    let token = Token::new(&drawn, &drawn);
    let mut stored = StoredToken {
        id: token.id().to_owned(),
        user: user.parse().unwrap(),
        hash: token.hash(),
        note: String::new(),
        created_at: at(0),
        created_by: "local".into(),
        expires_at: at(100),
        revoked_at: None,
        used_at: None,
    };
    change(&mut stored);
    stored
}

#[test]
fn grants_are_read_with_what_is_wrong_and_what_would_do() {
    let read = |grants: Vec<v1::Grant>| read_grants(grants).map_err(|error| error.to_string());
    assert_eq!(read(Vec::new()), Ok(Vec::new()));
    let roles = read(vec![
        grant("", "admin"),
        grant("vision", "viewer"),
        grant("vision", ""),
    ])
    .unwrap();
    assert_eq!(roles[0], (None, Some(Role::Admin)));
    let vision: ProjectName = "vision".parse().unwrap();
    assert_eq!(roles[1], (Some(vision.clone()), Some(Role::Viewer)));
    assert_eq!(
        roles[2],
        (Some(vision), None),
        "without a role it is taken away"
    );
    let long = "ß".repeat(9_000);
    let refused = [
        (grant("", "root"), "grants.role"),
        (grant("", "Admin"), "grants.role"),
        (grant("", " admin"), "grants.role"),
        (grant("", &long), "grants.role"),
        (grant("no such name!", "admin"), "grants.project"),
        // Everywhere is said by leaving it out: a name that means it would be a second way.
        (grant(EVERYWHERE, "admin"), "grants.project"),
        (grant("a\0b", "admin"), "grants.project"),
        (grant(&long, "admin"), "grants.project"),
    ];
    for (odd, field) in refused {
        let error = read(vec![grant("", "viewer"), odd]).expect_err(field);
        assert!(error.contains(field), "{error}");
        assert!(error.len() < 600, "{} bytes of what was sent", error.len());
        if field == "grants.role" {
            assert!(error.contains("viewer, submitter or admin"), "{error}");
        }
    }
}

#[test]
fn grants_come_back_as_they_are_written() {
    let mut grants = Grants::default();
    grants.set(None, Some(Role::Viewer));
    grants.set(Some(&"vision".parse().unwrap()), Some(Role::Admin));
    let encoded = encode_grants(&grants);
    assert_eq!(encoded.len(), 2);
    assert!(encoded.contains(&grant("", "viewer")));
    assert!(encoded.contains(&grant("vision", "admin")));
    let mut again = Grants::default();
    for (project, role) in read_grants(encoded).unwrap() {
        again.set(project.as_ref(), role);
    }
    assert_eq!(again, grants);
}

#[test]
fn a_name_that_is_none_is_refused_and_not_repeated_whole() {
    assert_eq!(user_name("name", "anna").unwrap().as_str(), "anna");
    let long = "é".repeat(9_000);
    for odd in ["", " anna", "anna\n", "a\0", "an na", long.as_str()] {
        let error = user_name("user", odd).expect_err(odd).to_string();
        assert!(error.contains("user"), "{error}");
        assert!(error.len() < 600, "{} bytes", error.len());
    }
}

#[test]
fn a_users_tokens_are_counted_as_long_as_they_are_good_and_nobody_elses() {
    let tokens = [
        stored_token(1, "anna", |_| {}),
        stored_token(2, "anna", |token| token.used_at = Some(at(5))),
        stored_token(3, "anna", |token| {
            token.expires_at = at(10);
            token.used_at = Some(at(9));
        }),
        stored_token(4, "anna", |token| token.revoked_at = Some(at(1))),
        stored_token(5, "bob", |token| token.used_at = Some(at(50))),
    ];
    let anna = user(stored_user("anna", Grants::default()), &tokens, at(10));
    assert_eq!(anna.tokens, 2);
    // That he was here with a token that has ended since is still when he was here.
    assert_eq!(anna.used_at, Some(timestamp(at(9))));
    let carl = user(stored_user("carl", Grants::default()), &tokens, at(10));
    assert_eq!((carl.tokens, carl.used_at), (0, None));
    assert_eq!(
        (carl.name.as_str(), carl.created_by.as_str()),
        ("carl", "local")
    );
}

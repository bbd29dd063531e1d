//! Users, tokens and browsers: what is kept of them, what is refused, and what the audit says of each change.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use crate::support::at;
use marquee_domain::artifact::Digest;
use marquee_domain::users::{Grants, Role, UserName};
use marquee_store::testing::TestDatabase;
use marquee_store::users::{
    Session, StoredToken, User, delete_ended_tokens, delete_session, delete_user, insert_session,
    insert_token, insert_user, list_sessions, list_tokens, list_users, lock_users, mark_grants,
    mark_token_revoked, mark_token_used,
};
use marquee_store::{StoreError, Tx};

fn name(text: &str) -> UserName {
    text.parse().unwrap()
}

fn user(text: &str, grants: Grants) -> User {
    User {
        name: name(text),
        grants,
        created_at: at(0),
        created_by: "root".into(),
    }
}

fn viewer() -> Grants {
    Grants::of([(None, Role::Viewer)])
}

fn token(id: &str, of: &str, ends: i64) -> StoredToken {
    StoredToken {
        id: id.into(),
        user: name(of),
        hash: Digest::of(id.as_bytes()),
        note: "a laptop".into(),
        created_at: at(0),
        created_by: "root".into(),
        expires_at: at(ends),
        revoked_at: None,
        used_at: None,
    }
}

fn session(number: i64, token: &str, ends: i64) -> Session {
    Session {
        hash: Digest::of(format!("browser {number}").as_bytes()),
        token: token.into(),
        created_at: at(number),
        expires_at: at(ends),
    }
}

/// A user with one token.
async fn ada(tx: &mut Tx) {
    assert!(insert_user(tx, &user("ada", viewer())).await.unwrap());
    insert_token(tx, &token("t1", "ada", 1_000)).await.unwrap();
}

async fn token_ids(tx: &mut Tx) -> Vec<String> {
    let tokens = list_tokens(tx).await.unwrap();
    tokens.into_iter().map(|token| token.id).collect()
}

async fn browsers(tx: &mut Tx, now: i64) -> Vec<i64> {
    let sessions = list_sessions(tx, at(now)).await.unwrap();
    let made = sessions.into_iter().map(|session| session.created_at);
    made.map(|made| made.timestamp() - at(0).timestamp())
        .collect()
}

#[tokio::test]
async fn a_user_is_read_as_it_was_stored_whatever_its_roles_are() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let vision = "vision".parse().unwrap();
    let many = (0..100).map(|n| {
        let project = format!("project-{n}").parse().unwrap();
        (Some(project), Role::ALL[n % 3])
    });
    let cases = [
        ("a", Grants::default()),
        ("b.c-d_9", viewer()),
        (
            "mixed",
            Grants::of([(None, Role::Viewer), (Some(vision), Role::Admin)]),
        ),
        ("most", Grants::of(many)),
    ];
    let longest = "z".repeat(63);
    let stored: Vec<User> = cases
        .into_iter()
        .chain([(longest.as_str(), viewer())])
        .map(|(text, grants)| user(text, grants))
        .collect();
    // In another order than they are listed.
    for user in stored.iter().rev() {
        assert!(insert_user(&mut tx, user).await.unwrap());
    }
    assert_eq!(list_users(&mut tx).await.unwrap(), stored);
}

#[tokio::test]
async fn a_name_is_given_once_and_the_first_to_have_it_stays_as_it_is() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let first = user("ada", viewer());
    assert!(insert_user(&mut tx, &first).await.unwrap());
    let second = User {
        grants: Grants::of([(None, Role::Admin)]),
        created_by: "mallory".into(),
        ..first.clone()
    };
    assert!(!insert_user(&mut tx, &second).await.unwrap());
    assert_eq!(list_users(&mut tx).await.unwrap(), [first]);
    let added = "SELECT count(*) FROM audit WHERE kind = 'user_added'";
    assert_eq!(database.number(added).await, 1);
}

#[tokio::test]
async fn roles_are_replaced_as_a_whole_and_nobody_unknown_is_changed_or_deleted() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    ada(&mut tx).await;
    let vision = "vision".parse().unwrap();
    let other = Grants::of([(Some(vision), Role::Submitter)]);
    assert!(mark_grants(&mut tx, &name("ada"), &other).await.unwrap());
    assert_eq!(list_users(&mut tx).await.unwrap()[0].grants, other);
    // The same again: it is the state that was asked for, and no change for the audit.
    assert!(mark_grants(&mut tx, &name("ada"), &other).await.unwrap());
    let changed = "SELECT count(*) FROM audit WHERE kind = 'user_changed'";
    assert_eq!(database.number(changed).await, 1);

    assert!(!mark_grants(&mut tx, &name("bob"), &other).await.unwrap());
    assert!(!delete_user(&mut tx, &name("bob")).await.unwrap());
    assert_eq!(list_users(&mut tx).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_deleted_user_takes_tokens_and_browsers_along_and_may_come_back_without_them() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    ada(&mut tx).await;
    insert_user(&mut tx, &user("bob", viewer())).await.unwrap();
    insert_token(&mut tx, &token("t2", "bob", 1_000))
        .await
        .unwrap();
    insert_session(&mut tx, &session(1, "t1", 500), 10)
        .await
        .unwrap();
    insert_session(&mut tx, &session(2, "t2", 500), 10)
        .await
        .unwrap();

    assert!(delete_user(&mut tx, &name("ada")).await.unwrap());
    assert!(!delete_user(&mut tx, &name("ada")).await.unwrap());
    assert_eq!(token_ids(&mut tx).await, ["t2"]);
    assert_eq!(browsers(&mut tx, 3).await, [2]);
    assert!(insert_user(&mut tx, &user("ada", viewer())).await.unwrap());
    assert_eq!(token_ids(&mut tx).await, ["t2"]);
}

#[tokio::test]
async fn what_cannot_be_read_gives_nobody_a_role_and_keeps_nobody_else_out() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    ada(&mut tx).await;
    for text in ["bob", "cid"] {
        insert_user(&mut tx, &user(text, viewer())).await.unwrap();
    }
    insert_token(&mut tx, &token("t2", "bob", 1_000))
        .await
        .unwrap();
    insert_token(&mut tx, &token("t3", "cid", 1_000))
        .await
        .unwrap();
    insert_session(&mut tx, &session(1, "t1", 500), 10)
        .await
        .unwrap();
    insert_session(&mut tx, &session(2, "t3", 500), 10)
        .await
        .unwrap();
    database
        .execute(
            r#"UPDATE users SET grants = '{"*": "emperor"}' WHERE name = 'bob';
               INSERT INTO users VALUES ('Ärger', '{}', now(), 'by hand');
               INSERT INTO user_tokens VALUES ('t4', 'Ärger', repeat('0', 64), '', now(), '', now());
               UPDATE user_tokens SET secret_sha256 = 'no digest' WHERE id = 't2';
               UPDATE user_sessions SET secret_sha256 = 'no digest' WHERE token_id = 't1'"#,
        )
        .await;

    let users = list_users(&mut tx).await.unwrap();
    let roles: Vec<_> = users
        .iter()
        .map(|user| (user.name.as_str(), user.grants.len()))
        .collect();
    assert_eq!(roles, [("ada", 1), ("bob", 0), ("cid", 1)]);
    assert_eq!(token_ids(&mut tx).await, ["t1", "t3"]);
    assert_eq!(browsers(&mut tx, 3).await, [2]);
    // Set anew, it can be read again.
    assert!(mark_grants(&mut tx, &name("bob"), &viewer()).await.unwrap());
    assert_eq!(list_users(&mut tx).await.unwrap()[1].grants, viewer());
}

#[tokio::test]
async fn tokens_are_listed_by_age_with_all_that_is_known_of_them() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    insert_user(&mut tx, &user("ada", viewer())).await.unwrap();
    let odd = StoredToken {
        note: "Rechner im Büro 🖥️, O'Hara".into(),
        created_at: at(-5),
        ..token("t9", "ada", 1)
    };
    let (one, two) = (token("t1", "ada", 1_000), token("t2", "ada", 1_000));
    for token in [&two, &one, &odd] {
        insert_token(&mut tx, token).await.unwrap();
    }
    assert_eq!(
        list_tokens(&mut tx).await.unwrap(),
        [odd.clone(), one.clone(), two.clone()]
    );
    mark_token_used(&mut tx, "t1", at(60)).await.unwrap();
    mark_token_used(&mut tx, "t1", at(90)).await.unwrap();
    // One that is gone meanwhile: there is nothing to note.
    mark_token_used(&mut tx, "t0", at(90)).await.unwrap();
    let used = list_tokens(&mut tx).await.unwrap();
    let used: Vec<_> = used.iter().map(|token| token.used_at).collect();
    assert_eq!(used, [None, Some(at(90)), None]);
}

#[tokio::test]
async fn a_token_is_refused_twice_and_without_its_user() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    ada(&mut tx).await;
    for wrong in [token("t1", "ada", 5), token("t2", "nobody", 5)] {
        let refused = insert_token(&mut tx, &wrong).await.unwrap_err();
        assert!(matches!(refused, StoreError::Postgres(_)), "{refused}");
        assert!(!refused.may_pass() && !refused.is_conflict());
    }
    assert_eq!(token_ids(&mut tx).await, ["t1"]);
}

#[tokio::test]
async fn a_token_is_revoked_once_with_all_browsers_that_came_in_by_it() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    ada(&mut tx).await;
    insert_token(&mut tx, &token("t2", "ada", 1_000))
        .await
        .unwrap();
    for (number, of) in [(1, "t1"), (2, "t2"), (3, "t1")] {
        insert_session(&mut tx, &session(number, of, 500), 10)
            .await
            .unwrap();
    }
    assert!(mark_token_revoked(&mut tx, "t1", at(10)).await.unwrap());
    assert_eq!(browsers(&mut tx, 10).await, [2]);
    assert!(!mark_token_revoked(&mut tx, "t1", at(20)).await.unwrap());
    assert!(!mark_token_revoked(&mut tx, "t0", at(20)).await.unwrap());
    let tokens = list_tokens(&mut tx).await.unwrap();
    assert_eq!(tokens[0].revoked_at, Some(at(10)));
    assert_eq!(tokens[1].revoked_at, None);
    let revoked = "SELECT detail ->> 'token' FROM audit WHERE kind = 'token_revoked'";
    assert_eq!(database.words(revoked).await, ["t1"]);
}

#[tokio::test]
async fn tokens_go_when_they_have_ended_by_themselves_or_by_somebody() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    insert_user(&mut tx, &user("ada", viewer())).await.unwrap();
    for (id, ends) in [("past", 99), ("edge", 100), ("good", 1_000)] {
        insert_token(&mut tx, &token(id, "ada", ends))
            .await
            .unwrap();
    }
    for (id, revoked) in [("old", 50), ("new", 150)] {
        insert_token(&mut tx, &token(id, "ada", 1_000))
            .await
            .unwrap();
        mark_token_revoked(&mut tx, id, at(revoked)).await.unwrap();
    }
    for _ in 0..2 {
        delete_ended_tokens(&mut tx, at(100)).await.unwrap();
        assert_eq!(token_ids(&mut tx).await, ["edge", "good", "new"]);
    }
}

#[tokio::test]
async fn of_a_tokens_browsers_the_newest_stay_and_none_that_is_over() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    ada(&mut tx).await;
    insert_token(&mut tx, &token("t2", "ada", 1_000))
        .await
        .unwrap();
    insert_session(&mut tx, &session(1, "t2", 500), 3)
        .await
        .unwrap();
    for number in 2..=6 {
        insert_session(&mut tx, &session(number, "t1", 500), 3)
            .await
            .unwrap();
    }
    // Another token's are not counted with these.
    assert_eq!(browsers(&mut tx, 7).await, [1, 4, 5, 6]);
    // One at a time, and even where none may be there is the newest.
    for keep in [1, 0] {
        let number = 10 - i64::from(keep);
        insert_session(&mut tx, &session(number, "t1", 500), keep)
            .await
            .unwrap();
        assert_eq!(browsers(&mut tx, 20).await, [1, number]);
    }
    // What is over is not listed, and goes with the next that comes.
    assert_eq!(browsers(&mut tx, 500).await, [0; 0]);
    insert_session(&mut tx, &session(500, "t2", 900), 3)
        .await
        .unwrap();
    let stored = "SELECT count(*) FROM user_sessions";
    assert_eq!(database.number(stored).await, 1);
}

#[tokio::test]
async fn a_browser_logs_out_alone() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    ada(&mut tx).await;
    for number in [1, 2] {
        insert_session(&mut tx, &session(number, "t1", 500), 10)
            .await
            .unwrap();
    }
    let first = session(1, "t1", 500).hash;
    for _ in 0..2 {
        delete_session(&mut tx, &first).await.unwrap();
        assert_eq!(browsers(&mut tx, 5).await, [2]);
    }
    assert_eq!(token_ids(&mut tx).await, ["t1"]);
}

#[tokio::test]
async fn the_audit_names_who_changed_a_user_and_never_a_secret() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.write_as("users", "root").await.unwrap();
    ada(&mut tx).await;
    mark_grants(&mut tx, &name("ada"), &Grants::default())
        .await
        .unwrap();
    insert_session(&mut tx, &session(1, "t1", 500), 10)
        .await
        .unwrap();
    mark_token_revoked(&mut tx, "t1", at(10)).await.unwrap();
    delete_user(&mut tx, &name("ada")).await.unwrap();
    tx.commit().await.unwrap();

    let lines = "SELECT actor || ' ' || kind || ' ' || (detail ->> 'user') FROM audit
                 WHERE detail ? 'user' ORDER BY id";
    assert_eq!(
        database.words(lines).await,
        [
            "root user_added ada",
            "root token_created ada",
            "root user_changed ada",
            "root logged_in ada",
            "root token_revoked ada",
            "root user_removed ada",
        ]
    );
    let secret = Digest::of(b"t1");
    let told = format!("SELECT count(*) FROM audit WHERE detail::text LIKE '%{secret}%'");
    assert_eq!(database.number(&told).await, 0);
}

#[tokio::test]
async fn of_two_who_count_users_at_once_the_second_sees_what_the_first_did() {
    let database = TestDatabase::create().await;
    let mut first = database.db.write("count").await.unwrap();
    lock_users(&mut first).await.unwrap();
    insert_user(&mut first, &user("ada", viewer()))
        .await
        .unwrap();

    let db = database.db.clone();
    let second = tokio::spawn(async move {
        let mut tx = db.write("count").await.unwrap();
        lock_users(&mut tx).await.unwrap();
        let users = list_users(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        users.len()
    });
    // Whoever only reads is not held up.
    let mut reader = database.db.read().await.unwrap();
    assert_eq!(list_users(&mut reader).await.unwrap(), []);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!second.is_finished());
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), 1);
}

//! Join tokens and the workers that joined by them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::{at, hello, running_job};
use marquee_domain::ids::WorkerId;
use marquee_store::testing::TestDatabase;
use marquee_store::trust::{
    JoinToken, Known, Member, Revoked, delete_member, find_join_use, find_member,
    insert_join_token, list_join_tokens, list_known, list_members, lock_join_token, lock_member,
    mark_member_certified, mark_member_revoked, rename_member, revoke_join_token, upsert_member,
    use_join_token,
};
use marquee_store::workers::{WorkerState, mark_worker_gone, mark_worker_online};
use marquee_store::{StoreError, Tx};
use uuid::Uuid;

const MANY: u32 = 100;

fn token(number: u128, uses: u32) -> JoinToken {
    JoinToken {
        id: Uuid::from_u128(number),
        secret_sha256: vec![u8::try_from(number).unwrap(); 32],
        role: "worker".into(),
        name: None,
        uses,
        used: 0,
        created_at: at(i64::try_from(number).unwrap()),
        created_by: "root".into(),
        expires_at: at(1_000),
        revoked_at: None,
    }
}

fn member(number: u128, name: &str) -> Member {
    Member {
        worker: WorkerId(Uuid::from_u128(number)),
        name: name.into(),
        joined_at: at(0),
        joined_by: "token 1 from 10.0.0.1".into(),
        certified_until: at(500),
        revoked: None,
    }
}

fn revoked(seconds: i64, reason: &str) -> Revoked {
    Revoked {
        at: at(seconds),
        by: "root".into(),
        reason: reason.into(),
    }
}

async fn joined(tx: &mut Tx, number: u128, name: &str) -> Member {
    let member = member(number, name);
    upsert_member(tx, &member, name).await.unwrap();
    member
}

async fn known(tx: &mut Tx, worker: Option<u128>, name: &str) -> Vec<(u128, String, bool)> {
    let worker = worker.map(|number| WorkerId(Uuid::from_u128(number)));
    let known = list_known(tx, worker, name).await.unwrap();
    let each = known.into_iter();
    each.map(
        |Known {
             worker,
             name,
             is_owned,
         }| (worker.0.as_u128(), name, is_owned),
    )
    .collect()
}

#[tokio::test]
async fn join_tokens_are_read_as_they_were_stored_the_newest_first() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let named = JoinToken {
        name: Some("Rechner-Ä 7".into()),
        created_by: String::new(),
        ..token(2, 1)
    };
    let stored = [token(3, i32::MAX.unsigned_abs()), named, token(1, 5)];
    for token in stored.iter().rev() {
        assert!(
            insert_join_token(&mut tx, token, at(0), MANY)
                .await
                .unwrap()
        );
    }
    assert_eq!(list_join_tokens(&mut tx).await.unwrap(), stored);
    let found = lock_join_token(&mut tx, stored[1].id).await.unwrap();
    assert_eq!(found.as_ref(), Some(&stored[1]));
    let unknown = lock_join_token(&mut tx, Uuid::nil()).await.unwrap();
    assert_eq!(unknown, None);
}

#[tokio::test]
async fn what_no_column_holds_is_refused_before_or_by_the_database() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let too_many = insert_join_token(&mut tx, &token(1, u32::MAX), at(0), MANY).await;
    assert!(matches!(too_many, Err(StoreError::OutOfRange { .. })));
    let none = insert_join_token(&mut tx, &token(1, 0), at(0), MANY).await;
    assert!(matches!(none, Err(StoreError::Postgres(_))));
    let short = JoinToken {
        secret_sha256: vec![0; 31],
        ..token(1, 1)
    };
    let short = insert_join_token(&mut tx, &short, at(0), MANY).await;
    assert!(matches!(short, Err(StoreError::Postgres(_))));
    assert_eq!(list_join_tokens(&mut tx).await.unwrap(), []);
}

#[tokio::test]
async fn so_many_join_tokens_are_kept_and_those_that_ended_long_ago_make_room() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    for (number, ends) in [(1, 10), (2, 1_000)] {
        let token = JoinToken {
            expires_at: at(ends),
            ..token(number, 1)
        };
        assert!(insert_join_token(&mut tx, &token, at(0), 2).await.unwrap());
    }
    // The first has ended, but not before `old`.
    let third = token(3, 1);
    assert!(!insert_join_token(&mut tx, &third, at(10), 2).await.unwrap());
    assert!(insert_join_token(&mut tx, &third, at(11), 2).await.unwrap());
    let kept = list_join_tokens(&mut tx).await.unwrap();
    let kept: Vec<u128> = kept.iter().map(|token| token.id.as_u128()).collect();
    assert_eq!(kept, [3, 2]);
    assert!(
        !insert_join_token(&mut tx, &token(4, 1), at(11), 0)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_token_is_used_as_often_as_it_says_and_each_key_makes_one_worker_of_it() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let token = token(1, 2);
    insert_join_token(&mut tx, &token, at(0), MANY)
        .await
        .unwrap();
    let workers = [10, 11, 12].map(|number| WorkerId(Uuid::from_u128(number)));
    for (n, (key, worker)) in [b"key-a", b"key-b"].into_iter().zip(workers).enumerate() {
        let before = find_join_use(&mut tx, token.id, key).await.unwrap();
        assert_eq!(before, None);
        use_join_token(&mut tx, token.id, key, worker, at(5))
            .await
            .unwrap();
        let after = find_join_use(&mut tx, token.id, key).await.unwrap();
        assert_eq!(after, Some(worker));
        let locked = lock_join_token(&mut tx, token.id).await.unwrap().unwrap();
        assert_eq!(locked.used as usize, n + 1);
    }
    // A third use that nobody compared is refused by the table itself, and so is a key's second.
    let more = use_join_token(&mut tx, token.id, b"key-c", workers[2], at(6)).await;
    assert!(matches!(more, Err(StoreError::Postgres(_))));
    let other = find_join_use(&mut tx, Uuid::from_u128(2), b"key-a").await;
    assert_eq!(other.unwrap(), None);
}

#[tokio::test]
async fn of_two_that_use_the_last_of_a_token_the_second_waits_and_finds_it_used() {
    let database = TestDatabase::create().await;
    let id = Uuid::from_u128(1);
    let mut tx = database.db.autocommit().await.unwrap();
    insert_join_token(&mut tx, &token(1, 1), at(0), MANY)
        .await
        .unwrap();
    let mut first = database.db.write("join").await.unwrap();
    let locked = lock_join_token(&mut first, id).await.unwrap().unwrap();
    assert_eq!(locked.used, 0);
    let db = database.db.clone();
    let second = tokio::spawn(async move {
        let mut tx = db.write("join").await.unwrap();
        lock_join_token(&mut tx, id).await.unwrap().unwrap().used
    });
    let worker = WorkerId(Uuid::from_u128(10));
    use_join_token(&mut first, id, b"key", worker, at(5))
        .await
        .unwrap();
    assert!(!second.is_finished());
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), 1);
}

#[tokio::test]
async fn a_join_token_is_revoked_once() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    for number in [1, 2] {
        insert_join_token(&mut tx, &token(number, 1), at(0), MANY)
            .await
            .unwrap();
    }
    let id = Uuid::from_u128(1);
    for (by, seconds) in [("root", 10), ("somebody later", 20)] {
        revoke_join_token(&mut tx, id, by, at(seconds))
            .await
            .unwrap();
        let token = lock_join_token(&mut tx, id).await.unwrap().unwrap();
        assert_eq!(token.revoked_at, Some(at(10)));
    }
    revoke_join_token(&mut tx, Uuid::nil(), "root", at(30))
        .await
        .unwrap();
    let other = lock_join_token(&mut tx, Uuid::from_u128(2)).await.unwrap();
    assert_eq!(other.unwrap().revoked_at, None);
    let by = "SELECT revoked_by FROM join_tokens WHERE revoked_by IS NOT NULL";
    assert_eq!(database.words(by).await, ["root"]);
    let lines = "SELECT count(*) FROM audit WHERE kind = 'join_token_revoked'";
    assert_eq!(database.number(lines).await, 1);
}

#[tokio::test]
async fn members_are_found_by_id_and_by_name_and_listed_by_name() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let zoe = joined(&mut tx, 1, "zoe").await;
    let ada = joined(&mut tx, 2, "ada").await;
    assert_eq!(
        list_members(&mut tx).await.unwrap(),
        [ada.clone(), zoe.clone()]
    );
    let found = find_member(&mut tx, zoe.worker).await.unwrap();
    assert_eq!(found, Some(zoe));
    assert_eq!(lock_member(&mut tx, "ada").await.unwrap(), Some(ada));
    let nobody = WorkerId(Uuid::from_u128(3));
    assert_eq!(find_member(&mut tx, nobody).await.unwrap(), None);
    for name in ["", "Ada", "ada ", "zo"] {
        assert_eq!(lock_member(&mut tx, name).await.unwrap(), None, "{name:?}");
    }
}

#[tokio::test]
async fn a_worker_that_joins_anew_is_good_again_under_its_new_name() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let first = joined(&mut tx, 1, "w1").await;
    mark_member_revoked(&mut tx, first.worker, &revoked(10, "lost"))
        .await
        .unwrap();
    let again = Member {
        name: "w1-new".into(),
        joined_at: at(20),
        certified_until: at(900),
        ..first.clone()
    };
    upsert_member(&mut tx, &again, "w1-new").await.unwrap();
    let found = find_member(&mut tx, first.worker).await.unwrap();
    assert_eq!(found, Some(again));
    let lines = "SELECT kind FROM audit WHERE worker_id IS NOT NULL ORDER BY id";
    assert_eq!(
        database.words(lines).await,
        ["worker_joined", "worker_revoked", "worker_joined"]
    );
}

#[tokio::test]
async fn a_members_name_is_its_own() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let first = joined(&mut tx, 1, "w1").await;
    let second = joined(&mut tx, 2, "w2").await;
    let taken = |result: Result<(), StoreError>| match result {
        Err(StoreError::WorkerNameTaken(name)) => name,
        other => panic!("{other:?}"),
    };
    let joins = upsert_member(&mut tx, &member(3, "w1"), "w1").await;
    assert_eq!(taken(joins), "w1");
    let renamed = rename_member(&mut tx, second.worker, "w1").await;
    assert_eq!(taken(renamed), "w1");
    // A name that somebody has who is online without having joined.
    mark_worker_online(&mut tx, &hello(9, "guest"), at(0))
        .await
        .unwrap();
    mark_worker_online(&mut tx, &hello(2, "w2"), at(0))
        .await
        .unwrap();
    let mut both = database.db.write("rename").await.unwrap();
    let renamed = rename_member(&mut both, second.worker, "guest").await;
    assert_eq!(taken(renamed), "guest");
    drop(both);
    assert_eq!(list_members(&mut tx).await.unwrap(), [first, second]);
}

#[tokio::test]
async fn a_new_name_is_everywhere_and_its_old_one_is_free() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let first = joined(&mut tx, 1, "w1").await;
    mark_worker_online(&mut tx, &hello(1, "w1"), at(0))
        .await
        .unwrap();
    for _ in 0..2 {
        rename_member(&mut tx, first.worker, "Grün").await.unwrap();
        assert_eq!(database.words("SELECT name FROM workers").await, ["Grün"]);
        assert!(lock_member(&mut tx, "Grün").await.unwrap().is_some());
    }
    joined(&mut tx, 2, "w1").await;
    let lines = "SELECT count(*) FROM audit WHERE kind = 'worker_renamed'";
    assert_eq!(database.number(lines).await, 1);
    // Nobody joined as this one: there is nothing to rename.
    let nobody = WorkerId(Uuid::from_u128(7));
    rename_member(&mut tx, nobody, "w7").await.unwrap();
    assert!(lock_member(&mut tx, "w7").await.unwrap().is_none());
}

#[tokio::test]
async fn a_certificate_is_renewed_only_for_who_is_not_shut_out() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let first = joined(&mut tx, 1, "w1").await;
    assert!(
        mark_member_certified(&mut tx, first.worker, at(800))
            .await
            .unwrap()
    );
    let found = find_member(&mut tx, first.worker).await.unwrap().unwrap();
    assert_eq!(found.certified_until, at(800));
    let why = revoked(10, "gestohlen – \"weg\"");
    for later in [&why, &revoked(20, "again")] {
        mark_member_revoked(&mut tx, first.worker, later)
            .await
            .unwrap();
        let found = find_member(&mut tx, first.worker).await.unwrap().unwrap();
        assert_eq!(found.revoked.as_ref(), Some(&why));
    }
    let nobody = WorkerId(Uuid::from_u128(7));
    for worker in [first.worker, nobody] {
        let renewed = mark_member_certified(&mut tx, worker, at(900)).await;
        assert!(!renewed.unwrap());
    }
    let found = find_member(&mut tx, first.worker).await.unwrap().unwrap();
    assert_eq!(found.certified_until, at(800));
}

#[tokio::test]
async fn who_was_shut_out_without_a_word_of_why_is_shut_out() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let first = joined(&mut tx, 1, "w1").await;
    database
        .execute("UPDATE members SET revoked_at = joined_at, revoked_reason = NULL")
        .await;
    let found = find_member(&mut tx, first.worker).await.unwrap().unwrap();
    let nobody_says = Revoked {
        at: at(0),
        by: String::new(),
        reason: String::new(),
    };
    assert_eq!(found.revoked, Some(nobody_says));
}

#[tokio::test]
async fn known_are_those_that_joined_and_those_that_were_here() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    joined(&mut tx, 1, "w1").await;
    mark_worker_online(&mut tx, &hello(1, "w1"), at(0))
        .await
        .unwrap();
    let guest = hello(2, "guest");
    mark_worker_online(&mut tx, &guest, at(0)).await.unwrap();
    let mut shown = hello(3, "shown");
    shown.identity = Some("shown".into());
    mark_worker_online(&mut tx, &shown, at(0)).await.unwrap();
    mark_worker_gone(&mut tx, shown.id, WorkerState::Left)
        .await
        .unwrap();

    let w = |number: u128, name: &str, is_owned| (number, name.to_owned(), is_owned);
    assert_eq!(known(&mut tx, None, "w1").await, [w(1, "w1", true)]);
    assert_eq!(
        known(&mut tx, Some(1), "guest").await,
        [w(1, "w1", true), w(2, "guest", true)]
    );
    assert_eq!(known(&mut tx, None, "shown").await, [w(3, "shown", true)]);
    assert_eq!(known(&mut tx, None, "nobody").await, []);
    // Offline and without a certificate a name is nobody's.
    mark_worker_gone(&mut tx, guest.id, WorkerState::Left)
        .await
        .unwrap();
    assert_eq!(known(&mut tx, None, "guest").await, [w(2, "guest", false)]);
    assert_eq!(known(&mut tx, Some(2), "").await, [w(2, "guest", false)]);
}

#[tokio::test]
async fn joining_takes_a_name_from_who_is_away_and_from_nobody_who_is_here() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut old = hello(5, "w1");
    old.identity = Some("old".into());
    mark_worker_online(&mut tx, &old, at(0)).await.unwrap();
    let identity = "SELECT identity FROM workers";
    joined(&mut tx, 1, "w1").await;
    assert_eq!(database.words(identity).await, ["old"]);
    mark_worker_gone(&mut tx, old.id, WorkerState::Left)
        .await
        .unwrap();
    joined(&mut tx, 1, "w1").await;
    assert_eq!(database.words(identity).await, [""]);
    // One that joins under the id that it had.
    joined(&mut tx, 5, "w5").await;
    assert_eq!(database.words(identity).await, ["w5"]);
}

#[tokio::test]
async fn a_forgotten_worker_stays_where_jobs_name_it_and_is_gone_elsewhere() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (worker, _) = running_job(&mut tx).await;
    joined(&mut tx, 1, "w1").await;
    joined(&mut tx, 2, "w2").await;
    mark_worker_online(&mut tx, &hello(2, "w2"), at(0))
        .await
        .unwrap();
    for worker in [worker.id, WorkerId(Uuid::from_u128(2))] {
        for _ in 0..2 {
            delete_member(&mut tx, worker).await.unwrap();
            assert_eq!(find_member(&mut tx, worker).await.unwrap(), None);
        }
    }
    let left = "SELECT name || ' ' || state || ' [' || identity || ']' FROM workers";
    assert_eq!(database.words(left).await, ["w1 left []"]);
    let lines = "SELECT count(*) FROM audit WHERE kind = 'worker_forgotten'";
    assert_eq!(database.number(lines).await, 2);
    // And may come back as one that never was here.
    joined(&mut tx, 2, "w2").await;
}

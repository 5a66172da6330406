//! What PostgreSQL knows of operators: accounts, second factors, sign-ins, and the security log.

use std::collections::BTreeSet;

use chatpulse::domain::operator::{Operator, Role};
use chatpulse::domain::time::Millis;
use chatpulse::journal::operator_tokens::Rotation;
use chatpulse::journal::operators::{Changed, MfaSecret};
use chatpulse::journal::security_log::{SecurityEntry, SecurityFilter, SecurityRecord};
use chatpulse::journal::{Journal, JournalError};
use serde_json::json;
use uuid::Uuid;

use crate::support::database::{MigratedDatabase, journal_at, migrated};
use crate::support::servers::servers;

/// How often what two do at once is tried.
const ROUNDS: u8 = 20;
/// An access token's end that no test lives to see.
const LATER: Millis = Millis(4_000_000_000_000);
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Another instance on the same database.
fn another(database: &MigratedDatabase) -> Journal {
    journal_at(&database.database.app_url)
}

async fn create(journal: &Journal, name: &str, role: Role) -> Operator {
    let email = format!("{name}@example.org");
    journal.create_operator(&email, role, "hash", false).await.unwrap().expect("nobody has this address")
}

async fn now(journal: &Journal, operator: &Operator) -> Operator {
    journal.operator(operator.id).await.unwrap().expect("the operator is there")
}

/// A sign-in with the refresh token of this digest, and the access token that was given out with it.
async fn sign_in(journal: &Journal, operator: &Operator, digest: u8) -> (Uuid, Uuid) {
    let family = journal.begin_family(operator.id, &[digest; 32]).await.unwrap();
    let (jti, version) = (Uuid::new_v4(), now(journal, operator).await.version);
    assert!(journal.note_access(jti, family, version, LATER).await.unwrap());
    (family, jti)
}

async fn rotate(journal: &Journal, old: u8, new: u8) -> Rotation {
    journal.rotate_refresh(&[old; 32], &[new; 32]).await.unwrap()
}

async fn denied(journal: &Journal) -> BTreeSet<Uuid> {
    journal.revoked_access().await.unwrap().into_iter().map(|(jti, _)| jti).collect()
}

fn ids(access: &[(Uuid, Millis)]) -> BTreeSet<Uuid> {
    access.iter().map(|(jti, _)| *jti).collect()
}

/// As if all sign-ins so far had been longer ago.
async fn time_passes(database: &MigratedDatabase, interval: &str) {
    let sql = format!(
        "UPDATE chatpulse.refresh_tokens SET
             created_at = created_at - interval '{interval}', expires_at = expires_at - interval '{interval}',
             idle_until = idle_until - interval '{interval}', replaced_at = replaced_at - interval '{interval}'"
    );
    database.owner().await.batch_execute(&sql).await.unwrap();
}

/// Gives an operator a second factor; the code of step 1 is used up by it.
async fn enrol(journal: &Journal, operator: &Operator, backup_codes: &[[u8; 32]]) {
    assert!(journal.store_mfa_secret(operator.id, &[1, 2, 3], "k1").await.unwrap());
    assert!(journal.confirm_mfa(operator.id, 1, backup_codes, None).await.unwrap().is_some());
}

// Accounts --------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_address_has_one_account_however_it_is_written() {
    let database = migrated().await;
    let journal = database.journal();
    assert!(!journal.has_operators().await.unwrap());
    let made = journal.create_operator(" Ann@Example.ORG", Role::Owner, "hash", true).await.unwrap().unwrap();
    let expected = Operator {
        id: made.id,
        email: "ann@example.org".into(),
        role: Role::Owner,
        disabled: false,
        must_change_password: true,
        mfa_enrolled: false,
        version: 1,
    };
    assert_eq!(made, expected);
    assert_eq!(journal.create_operator("ANN@example.org", Role::Viewer, "other", false).await.unwrap(), None);
    let found = journal.operator_by_email("aNN@example.org ").await.unwrap();
    assert_eq!(found, Some((expected.clone(), "hash".into())));
    assert_eq!(journal.operator(made.id).await.unwrap(), Some(expected));
    assert!(journal.has_operators().await.unwrap());
    for unknown in ["", "bob@example.org", "ann@example.org\0", "' OR true --"] {
        assert_eq!(journal.operator_by_email(unknown).await.unwrap(), None, "{unknown:?}");
    }
    assert_eq!(journal.operator(Uuid::now_v7()).await.unwrap(), None);
}

#[tokio::test]
async fn of_two_who_make_the_same_account_at_once_one_does() {
    let database = migrated().await;
    let journals = [database.journal(), another(&database)];
    for round in 0..ROUNDS {
        let email = format!("ann{round}@example.org");
        let make =
            async |journal: &Journal| journal.create_operator(&email, Role::Admin, "h", false).await.unwrap();
        let (one, other) = tokio::join!(make(&journals[0]), make(&journals[1]));
        assert!(one.is_some() != other.is_some());
    }
}

#[tokio::test]
async fn operators_are_read_in_pages_by_the_order_in_which_they_were_made() {
    let database = migrated().await;
    let journal = database.journal();
    let mut made = Vec::new();
    for name in ["a", "b", "c"] {
        made.push(create(&journal, name, Role::Viewer).await);
    }
    assert_eq!(journal.operators(None, 2).await.unwrap(), made[..2]);
    assert_eq!(journal.operators(Some(made[1].id), 2).await.unwrap(), made[2..]);
    assert_eq!(journal.operators(Some(made[2].id), 2).await.unwrap(), []);
}

#[tokio::test]
async fn the_last_owner_who_is_not_disabled_stays() {
    let database = migrated().await;
    let journal = database.journal();
    let (ann, bob) = (create(&journal, "ann", Role::Owner).await, create(&journal, "bob", Role::Owner).await);
    create(&journal, "cyd", Role::Admin).await;
    let done = Changed::Done(vec![]);
    assert_eq!(journal.set_operator_disabled(bob.id, true).await.unwrap(), done);
    for _ in 0..2 {
        assert_eq!(journal.set_role(ann.id, Role::Admin).await.unwrap(), Changed::LastOwner);
        assert_eq!(journal.set_operator_disabled(ann.id, true).await.unwrap(), Changed::LastOwner);
    }
    let both = journal.change_operator(ann.id, Some(Role::Viewer), Some(true)).await.unwrap();
    assert_eq!(both, Changed::LastOwner);
    assert_eq!(now(&journal, &ann).await, ann, "what is refused changes nothing");
    // One who is disabled is no owner any more, so they may lose the role, but it does not help.
    assert_eq!(journal.set_role(bob.id, Role::Viewer).await.unwrap(), done);
    assert_eq!(journal.set_role(ann.id, Role::Admin).await.unwrap(), Changed::LastOwner);
    // Another one who is made an owner and enabled at once does.
    assert_eq!(journal.change_operator(bob.id, Some(Role::Owner), Some(false)).await.unwrap(), done);
    assert_eq!(journal.set_role(ann.id, Role::Admin).await.unwrap(), done);
    assert_eq!(journal.set_role(Uuid::now_v7(), Role::Owner).await.unwrap(), Changed::Unknown);
    assert_eq!(journal.set_operator_disabled(Uuid::now_v7(), true).await.unwrap(), Changed::Unknown);
}

#[tokio::test]
async fn of_two_owners_who_are_removed_at_once_one_stays() {
    let database = migrated().await;
    let journals = [database.journal(), another(&database)];
    let ann = create(&journals[0], "ann", Role::Owner).await;
    let bob = create(&journals[0], "bob", Role::Owner).await;
    for round in 0..ROUNDS {
        let (one, other) = match round % 3 {
            0 => tokio::join!(
                journals[0].set_role(ann.id, Role::Admin),
                journals[1].set_role(bob.id, Role::Viewer)
            ),
            1 => tokio::join!(
                journals[0].set_operator_disabled(ann.id, true),
                journals[1].set_operator_disabled(bob.id, true)
            ),
            _ => tokio::join!(
                journals[0].set_role(bob.id, Role::Admin),
                journals[1].set_operator_disabled(ann.id, true)
            ),
        };
        let mut outcomes = [one.unwrap(), other.unwrap()];
        outcomes.sort_by_key(|outcome| *outcome == Changed::LastOwner);
        assert_eq!(outcomes, [Changed::Done(vec![]), Changed::LastOwner], "round {round}");
        for operator in [&ann, &bob] {
            journals[0].change_operator(operator.id, Some(Role::Owner), Some(false)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_version_counts_what_changes_and_nothing_else() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Viewer).await;
    let version = async || now(&journal, &ann).await.version;
    journal.set_role(ann.id, Role::Viewer).await.unwrap();
    journal.set_operator_disabled(ann.id, false).await.unwrap();
    sign_in(&journal, &ann, 1).await;
    assert_eq!(version().await, 1);
    journal.change_operator(ann.id, Some(Role::Admin), Some(true)).await.unwrap();
    assert_eq!(version().await, 2);
    journal.set_operator_disabled(ann.id, true).await.unwrap();
    assert_eq!(version().await, 2);
    journal.set_password(ann.id, "other", true, None).await.unwrap();
    assert_eq!(version().await, 3);
    enrol(&journal, &ann, &[[1; 32]]).await;
    assert_eq!(version().await, 4);
    journal.accept_step(ann.id, 2).await.unwrap();
    journal.use_backup_code(ann.id, &[1; 32]).await.unwrap();
    assert_eq!(version().await, 4);
    journal.remove_mfa(ann.id, None).await.unwrap();
    let expected =
        Operator { role: Role::Admin, disabled: true, must_change_password: true, version: 5, ..ann.clone() };
    assert_eq!(now(&journal, &ann).await, expected);
}

#[tokio::test]
async fn who_is_disabled_is_signed_in_no_more_also_when_they_are_enabled_again() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Viewer).await;
    let bob = create(&journal, "bob", Role::Viewer).await;
    let (family, one) = sign_in(&journal, &ann, 1).await;
    let (_, other) = sign_in(&journal, &ann, 2).await;
    sign_in(&journal, &bob, 3).await;
    // Repeated, because the answer was lost: the same access tokens are to be denied.
    for _ in 0..2 {
        let Changed::Done(access) = journal.set_operator_disabled(ann.id, true).await.unwrap() else {
            panic!("not the last owner")
        };
        assert_eq!(ids(&access), BTreeSet::from([one, other]));
        assert!(access.iter().all(|(_, until)| *until == LATER));
    }
    assert_eq!(denied(&journal).await, BTreeSet::from([one, other]));
    // A sign-in that began before it was disabled and is over only now.
    let late = journal.begin_family(ann.id, &[4; 32]).await.unwrap();
    let version = now(&journal, &ann).await.version;
    for family in [family, late] {
        assert!(!journal.note_access(Uuid::new_v4(), family, version, LATER).await.unwrap());
    }
    assert_eq!(rotate(&journal, 4, 5).await, Rotation::Unknown);
    journal.set_operator_disabled(ann.id, false).await.unwrap();
    assert_eq!(
        [rotate(&journal, 1, 6).await, rotate(&journal, 2, 7).await],
        [Rotation::Unknown, Rotation::Unknown]
    );
    assert!(matches!(rotate(&journal, 3, 8).await, Rotation::Rotated { .. }), "others stay signed in");
}

#[tokio::test]
async fn another_role_denies_what_says_the_old_one_but_ends_no_sign_in() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Admin).await;
    let (family, jti) = sign_in(&journal, &ann, 1).await;
    let changed = journal.set_role(ann.id, Role::Viewer).await.unwrap();
    assert_eq!(changed, Changed::Done(vec![(jti, LATER)]));
    assert_eq!(denied(&journal).await, BTreeSet::from([jti]));
    assert!(
        !journal.note_access(Uuid::new_v4(), family, ann.version, LATER).await.unwrap(),
        "it would say the role of before"
    );
    assert_eq!(rotate(&journal, 1, 2).await, Rotation::Rotated { operator_id: ann.id, family });
    let version = now(&journal, &ann).await.version;
    assert!(journal.note_access(Uuid::new_v4(), family, version, LATER).await.unwrap());
}

#[tokio::test]
async fn another_password_ends_all_sign_ins_but_the_one_that_changed_it() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Viewer).await;
    let (own, _) = sign_in(&journal, &ann, 1).await;
    let (_, stolen) = sign_in(&journal, &ann, 2).await;
    let late = journal.begin_family(ann.id, &[3; 32]).await.unwrap();
    let access = journal.set_password(ann.id, "other", false, Some(own)).await.unwrap();
    assert_eq!(access, Some(vec![(stolen, LATER)]));
    assert_eq!(journal.operator_by_email(&ann.email).await.unwrap().unwrap().1, "other");
    assert_eq!(rotate(&journal, 2, 12).await, Rotation::Unknown);
    assert!(matches!(rotate(&journal, 1, 11).await, Rotation::Rotated { .. }));
    // Who was let in by the old password, and gets their tokens only now.
    assert!(!journal.note_access(Uuid::new_v4(), late, ann.version, LATER).await.unwrap());
    assert_eq!(ids(&journal.set_password(ann.id, "third", true, None).await.unwrap().unwrap()).len(), 2);
    assert_eq!(rotate(&journal, 11, 21).await, Rotation::Unknown);
    assert_eq!(journal.set_password(Uuid::now_v7(), "x", false, None).await.unwrap(), None);
}

// Refresh tokens --------------------------------------------------------------------------------------

#[tokio::test]
async fn a_refresh_token_is_exchanged_for_the_next_one() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Viewer).await;
    let (family, _) = sign_in(&journal, &ann, 0).await;
    for number in 0..10 {
        let rotated = Rotation::Rotated { operator_id: ann.id, family };
        assert_eq!(rotate(&journal, number, number + 1).await, rotated);
    }
    assert_eq!(rotate(&journal, 99, 100).await, Rotation::Unknown);
    assert!(matches!(journal.begin_family(Uuid::now_v7(), &[50; 32]).await, Err(JournalError::Data(_))));
}

#[tokio::test]
async fn a_refresh_token_used_again_ends_the_family_and_no_other() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Viewer).await;
    let (family, jti) = sign_in(&journal, &ann, 1).await;
    sign_in(&journal, &ann, 9).await;
    rotate(&journal, 1, 2).await;
    time_passes(&database, "6 seconds").await;
    // Told each time: the answer may have been lost.
    for _ in 0..2 {
        let reused = Rotation::Reused { operator_id: ann.id, family, access: vec![(jti, LATER)] };
        assert_eq!(rotate(&journal, 1, 3).await, reused);
    }
    assert_eq!(rotate(&journal, 2, 4).await, Rotation::Unknown, "whoever has it");
    assert_eq!(rotate(&journal, 3, 4).await, Rotation::Unknown, "it was never stored");
    assert_eq!(denied(&journal).await, BTreeSet::from([jti]));
    assert!(!journal.note_access(Uuid::new_v4(), family, ann.version, LATER).await.unwrap());
    assert!(matches!(rotate(&journal, 9, 10).await, Rotation::Rotated { .. }));
}

#[tokio::test]
async fn a_refresh_token_whose_successor_was_used_has_no_grace() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Viewer).await;
    sign_in(&journal, &ann, 1).await;
    rotate(&journal, 1, 2).await;
    rotate(&journal, 2, 3).await;
    assert!(matches!(rotate(&journal, 1, 4).await, Rotation::Reused { .. }));
    assert_eq!(rotate(&journal, 3, 5).await, Rotation::Unknown);
}

#[tokio::test]
async fn within_the_grace_a_token_works_again_and_then_one_of_its_successors_goes_on() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Viewer).await;
    let (family, _) = sign_in(&journal, &ann, 1).await;
    let operator_id = ann.id;
    rotate(&journal, 1, 2).await;
    // An hour earlier: the grace is not over, however slow this test is.
    time_passes(&database, "-1 hour").await;
    assert_eq!(rotate(&journal, 1, 3).await, Rotation::Grace { operator_id, family });
    assert_eq!(rotate(&journal, 1, 3).await, Rotation::Grace { operator_id, family }, "said again");
    assert_eq!(rotate(&journal, 3, 4).await, Rotation::Rotated { operator_id, family });
    time_passes(&database, "1 hour 6 seconds").await;
    // Whoever has the other one is not who went on.
    assert!(matches!(rotate(&journal, 2, 5).await, Rotation::Reused { .. }));
    assert_eq!(rotate(&journal, 4, 6).await, Rotation::Unknown);
}

#[tokio::test]
async fn of_two_rotations_of_one_token_at_once_both_succeed_and_nothing_is_revoked() {
    let database = migrated().await;
    let journals = [database.journal(), another(&database)];
    let ann = create(&journals[0], "ann", Role::Viewer).await;
    for round in 0..ROUNDS {
        let [old, one, other] = [0, 1, 2].map(|number| 10 + 3 * round + number);
        let family = journals[0].begin_family(ann.id, &[old; 32]).await.unwrap();
        let both = tokio::join!(rotate(&journals[0], old, one), rotate(&journals[1], old, other));
        let (rotated, grace) = match both {
            (first @ Rotation::Rotated { .. }, second) => (first, second),
            (first, second) => (second, first),
        };
        let operator_id = ann.id;
        assert_eq!(rotated, Rotation::Rotated { operator_id, family });
        assert_eq!(grace, Rotation::Grace { operator_id, family });
    }
    assert_eq!(denied(&journals[0]).await, BTreeSet::new());
}

#[tokio::test]
async fn of_an_old_token_and_its_successor_used_at_once_neither_goes_on() {
    let database = migrated().await;
    let journals = [database.journal(), another(&database)];
    let ann = create(&journals[0], "ann", Role::Viewer).await;
    for round in 0..ROUNDS {
        let [old, new] = [0, 1].map(|number| 10 + 2 * round + number);
        sign_in(&journals[0], &ann, old).await;
        rotate(&journals[0], old, new).await;
        time_passes(&database, "6 seconds").await;
        let (thief, _) = tokio::join!(rotate(&journals[0], old, 200), rotate(&journals[1], new, 201 + round));
        assert!(matches!(thief, Rotation::Reused { .. }), "{thief:?}");
        assert_eq!(rotate(&journals[0], new, 202).await, Rotation::Unknown);
        assert_eq!(rotate(&journals[0], 200, 202).await, Rotation::Unknown);
        // Whichever came first, what the other one may have got is worth nothing.
        assert_eq!(rotate(&journals[0], 201 + round, 202).await, Rotation::Unknown);
    }
}

#[tokio::test]
async fn a_refresh_token_ends_unused_after_7_days_and_its_family_after_30() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Viewer).await;
    sign_in(&journal, &ann, 1).await;
    sign_in(&journal, &ann, 100).await;
    time_passes(&database, "6 days 23 hours").await;
    assert!(matches!(rotate(&journal, 100, 101).await, Rotation::Rotated { .. }));
    time_passes(&database, "2 hours").await;
    assert_eq!(rotate(&journal, 1, 2).await, Rotation::Unknown);
    for number in 101..104 {
        time_passes(&database, "6 days").await;
        assert!(matches!(rotate(&journal, number, number + 1).await, Rotation::Rotated { .. }));
    }
    time_passes(&database, "5 days").await;
    assert_eq!(rotate(&journal, 104, 105).await, Rotation::Unknown, "used in time, but it is over");
    assert_eq!(rotate(&journal, 101, 105).await, Rotation::Unknown);
}

// Access tokens ---------------------------------------------------------------------------------------

#[tokio::test]
async fn ending_a_sign_in_denies_its_access_tokens_that_may_be_alive() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Viewer).await;
    let (family, first) = sign_in(&journal, &ann, 1).await;
    let (_, other) = sign_in(&journal, &ann, 2).await;
    rotate(&journal, 1, 3).await;
    let (second, over) = (Uuid::new_v4(), Uuid::new_v4());
    assert!(journal.note_access(second, family, ann.version, LATER).await.unwrap());
    assert!(journal.note_access(over, family, ann.version, Millis(1_000)).await.unwrap());
    for _ in 0..2 {
        let access = journal.revoke_family(family).await.unwrap();
        assert_eq!(ids(&access), BTreeSet::from([first, second]));
    }
    assert_eq!(journal.revoke_family(Uuid::now_v7()).await.unwrap(), []);
    assert_eq!(journal.revoke_all_families(Uuid::now_v7()).await.unwrap(), []);
    assert_eq!(rotate(&journal, 3, 4).await, Rotation::Unknown);
    let all = journal.revoke_all_families(ann.id).await.unwrap();
    assert_eq!(ids(&all), BTreeSet::from([first, second, other]));
    assert_eq!(rotate(&journal, 2, 5).await, Rotation::Unknown);
    assert_eq!(denied(&journal).await, ids(&all));
}

#[tokio::test]
async fn the_list_of_what_is_denied_has_ends_and_leaves_out_what_is_over() {
    let database = migrated().await;
    let journal = database.journal();
    let jti = Uuid::new_v4();
    let until = Millis(LATER.0 + 123);
    for _ in 0..2 {
        journal.revoke_access(jti, until).await.unwrap();
        journal.revoke_access(Uuid::new_v4(), Millis(1_000)).await.unwrap();
    }
    assert_eq!(journal.revoked_access().await.unwrap(), [(jti, until)]);
}

#[tokio::test]
async fn no_access_token_slips_through_while_all_sign_ins_end() {
    let database = migrated().await;
    let journals = [database.journal(), another(&database)];
    let ann = create(&journals[0], "ann", Role::Viewer).await;
    for round in 0..3 * ROUNDS {
        let family = journals[0].begin_family(ann.id, &[round; 32]).await.unwrap();
        let jti = Uuid::new_v4();
        let (noted, revoked) = tokio::join!(
            journals[0].note_access(jti, family, ann.version, LATER),
            journals[1].revoke_all_families(ann.id)
        );
        assert_eq!(noted.unwrap(), ids(&revoked.unwrap()).contains(&jti), "given out: denied");
    }
}

#[tokio::test]
async fn tokens_that_have_expired_are_forgotten() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Viewer).await;
    let (family, _) = sign_in(&journal, &ann, 1).await;
    rotate(&journal, 1, 2).await;
    time_passes(&database, "31 days").await;
    let (alive, jti) = sign_in(&journal, &ann, 3).await;
    assert!(!journal.note_access(Uuid::new_v4(), family, ann.version, LATER).await.unwrap(), "it is over");
    assert!(journal.note_access(Uuid::new_v4(), alive, ann.version, Millis(1_000)).await.unwrap());
    journal.revoke_access(Uuid::new_v4(), Millis(1_000)).await.unwrap();
    assert_eq!(journal.forget_expired_operator_tokens(1).await.unwrap(), 3, "one of each kind");
    assert_eq!(journal.forget_expired_operator_tokens(10).await.unwrap(), 1);
    assert_eq!(journal.forget_expired_operator_tokens(10).await.unwrap(), 0);
    assert!(ids(&journal.revoke_family(alive).await.unwrap()).contains(&jti));
}

// Second factors --------------------------------------------------------------------------------------

#[tokio::test]
async fn a_second_factor_counts_from_when_it_was_shown_and_is_not_replaced_then() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Owner).await;
    assert_eq!(journal.mfa_secret(ann.id).await.unwrap(), None);
    assert_eq!(journal.confirm_mfa(ann.id, 1, &[], None).await.unwrap(), None, "nothing waits");
    assert!(journal.store_mfa_secret(ann.id, &[1], "k1").await.unwrap());
    assert!(journal.store_mfa_secret(ann.id, &[2], "k2").await.unwrap());
    let waiting = MfaSecret { sealed: vec![2], key_id: "k2".into(), confirmed: false, last_step: None };
    assert_eq!(journal.mfa_secret(ann.id).await.unwrap(), Some(waiting.clone()));
    assert!(!now(&journal, &ann).await.mfa_enrolled);
    assert!(!journal.accept_step(ann.id, 5).await.unwrap(), "it is no factor yet");
    assert!(!journal.replace_backup_codes(ann.id, &[[1; 32]]).await.unwrap());

    assert_eq!(journal.confirm_mfa(ann.id, 7, &[[1; 32], [2; 32]], None).await.unwrap(), Some(vec![]));
    assert!(now(&journal, &ann).await.mfa_enrolled);
    assert!(!journal.store_mfa_secret(ann.id, &[3], "k3").await.unwrap());
    assert_eq!(journal.confirm_mfa(ann.id, 8, &[], None).await.unwrap(), None);
    let confirmed = MfaSecret { confirmed: true, last_step: Some(7), ..waiting };
    assert_eq!(journal.mfa_secret(ann.id).await.unwrap(), Some(confirmed));
    assert_eq!(journal.backup_codes_left(ann.id).await.unwrap(), 2);

    assert_eq!(journal.remove_mfa(ann.id, None).await.unwrap(), Some(vec![]));
    assert_eq!(journal.remove_mfa(ann.id, None).await.unwrap(), None);
    assert!(!now(&journal, &ann).await.mfa_enrolled);
    assert_eq!(journal.backup_codes_left(ann.id).await.unwrap(), 0);
}

#[tokio::test]
async fn enrolling_a_second_factor_ends_sign_ins_that_came_about_without_it() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Owner).await;
    let (own, own_access) = sign_in(&journal, &ann, 1).await;
    let (_, stolen) = sign_in(&journal, &ann, 2).await;
    journal.store_mfa_secret(ann.id, &[1], "k1").await.unwrap();
    let access = journal.confirm_mfa(ann.id, 1, &[], Some(own)).await.unwrap();
    assert_eq!(access, Some(vec![(stolen, LATER)]));
    assert_eq!(rotate(&journal, 2, 12).await, Rotation::Unknown);
    assert!(matches!(rotate(&journal, 1, 11).await, Rotation::Rotated { .. }));
    // Without it again, what says that there were two is denied.
    let access = journal.remove_mfa(ann.id, Some(own)).await.unwrap().unwrap();
    assert_eq!(ids(&access), BTreeSet::from([own_access, stolen]));
    assert!(matches!(rotate(&journal, 11, 21).await, Rotation::Rotated { .. }));
}

#[tokio::test]
async fn of_two_confirmations_at_once_one_counts() {
    let database = migrated().await;
    let journals = [database.journal(), another(&database)];
    let ann = create(&journals[0], "ann", Role::Admin).await;
    for _ in 0..ROUNDS {
        journals[0].store_mfa_secret(ann.id, &[1], "k1").await.unwrap();
        let version = now(&journals[0], &ann).await.version;
        let (one, other) = tokio::join!(
            journals[0].confirm_mfa(ann.id, 1, &[[1; 32]], None),
            journals[1].confirm_mfa(ann.id, 1, &[[2; 32], [3; 32]], None)
        );
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(one.is_some() != other.is_some());
        let expected = if one.is_some() { 1 } else { 2 };
        assert_eq!(
            journals[0].backup_codes_left(ann.id).await.unwrap(),
            expected,
            "those of the one that counts"
        );
        assert_eq!(now(&journals[0], &ann).await.version, version + 1);
        journals[0].remove_mfa(ann.id, None).await.unwrap();
    }
}

#[tokio::test]
async fn a_totp_step_is_accepted_once_and_none_before_it() {
    let database = migrated().await;
    let journal = database.journal();
    let (ann, bob) = (create(&journal, "ann", Role::Admin).await, create(&journal, "bob", Role::Admin).await);
    enrol(&journal, &ann, &[]).await;
    enrol(&journal, &bob, &[]).await;
    let accept = async |step: i64| journal.accept_step(ann.id, step).await.unwrap();
    assert!(!accept(1).await, "it was used up by enrolling");
    assert!(accept(5).await);
    assert_eq!([accept(5).await, accept(4).await], [false, false]);
    assert!(accept(6).await);
    assert!(journal.accept_step(bob.id, 5).await.unwrap(), "everybody has their own");
    assert!(!journal.accept_step(Uuid::now_v7(), 5).await.unwrap());
}

#[tokio::test]
async fn of_two_uses_of_one_totp_step_at_once_one_is_accepted() {
    let database = migrated().await;
    let journals = [database.journal(), another(&database)];
    let ann = create(&journals[0], "ann", Role::Admin).await;
    enrol(&journals[0], &ann, &[]).await;
    for round in 0..ROUNDS {
        let step = 10 + i64::from(round);
        let (one, other) =
            tokio::join!(journals[0].accept_step(ann.id, step), journals[1].accept_step(ann.id, step));
        assert!(one.unwrap() != other.unwrap(), "step {step}");
    }
}

#[tokio::test]
async fn a_backup_code_works_once_also_for_two_at_once() {
    let database = migrated().await;
    let journals = [database.journal(), another(&database)];
    let (ann, bob) =
        (create(&journals[0], "ann", Role::Admin).await, create(&journals[0], "bob", Role::Admin).await);
    let codes: Vec<[u8; 32]> = (0..ROUNDS).map(|number| [number; 32]).collect();
    enrol(&journals[0], &ann, &codes).await;
    enrol(&journals[0], &bob, &[[200; 32]]).await;
    for (used, code) in (1..).zip(&codes) {
        assert!(!journals[0].use_backup_code(bob.id, code).await.unwrap(), "it is another one's");
        let (one, other) = tokio::join!(
            journals[0].use_backup_code(ann.id, code),
            journals[1].use_backup_code(ann.id, code)
        );
        assert!(one.unwrap() != other.unwrap());
        assert!(!journals[0].use_backup_code(ann.id, code).await.unwrap());
        assert_eq!(journals[1].backup_codes_left(ann.id).await.unwrap(), i64::from(ROUNDS) - used);
    }
}

#[tokio::test]
async fn new_backup_codes_take_the_place_of_all_before() {
    let database = migrated().await;
    let journal = database.journal();
    let ann = create(&journal, "ann", Role::Admin).await;
    enrol(&journal, &ann, &[[1; 32], [2; 32]]).await;
    journal.use_backup_code(ann.id, &[1; 32]).await.unwrap();
    assert!(journal.replace_backup_codes(ann.id, &[[3; 32], [4; 32], [5; 32]]).await.unwrap());
    assert_eq!(journal.backup_codes_left(ann.id).await.unwrap(), 3);
    for (code, works) in [(1, false), (2, false), (3, true)] {
        assert_eq!(journal.use_backup_code(ann.id, &[code; 32]).await.unwrap(), works, "{code}");
    }
}

#[tokio::test]
async fn seeds_under_an_older_key_are_found_page_by_page_and_sealed_again_unless_they_changed() {
    let database = migrated().await;
    let journal = database.journal();
    for name in ["a", "b", "c"] {
        let operator = create(&journal, name, Role::Admin).await;
        journal.store_mfa_secret(operator.id, name.as_bytes(), "k1").await.unwrap();
    }
    let page = async |after| journal.mfa_secrets_sealed_otherwise("k2", after, 2).await.unwrap();
    let first = page(None).await;
    let rest = page(Some(first[1].0)).await;
    assert_eq!((first.len(), rest.len()), (2, 1));
    let (id, old) = &first[0];
    assert!(journal.reseal_mfa_secret(*id, old, &[9], "k2").await.unwrap());
    assert_eq!(journal.mfa_secret(*id).await.unwrap().unwrap().sealed, [9]);
    assert!(!journal.reseal_mfa_secret(*id, old, &[8], "k2").await.unwrap());
    assert_eq!(page(None).await.len(), 2);
}

// The security log ------------------------------------------------------------------------------------

fn entry(kind: &'static str, operator_id: Option<Uuid>, subject: Option<&str>) -> SecurityEntry {
    SecurityEntry {
        kind,
        operator_id,
        subject: subject.map(str::to_owned),
        address: Some("192.0.2.7".into()),
        request_id: "request".into(),
        detail: json!({ "kind": kind }),
    }
}

fn kinds(records: &[SecurityRecord]) -> Vec<&str> {
    records.iter().map(|record| record.kind.as_str()).collect()
}

#[tokio::test]
async fn the_security_log_is_searched_by_who_what_whom_and_when_newest_first_in_pages() {
    let database = migrated().await;
    let journal = database.journal();
    let (ann, bob) = (Uuid::now_v7(), Uuid::now_v7());
    for (kind, operator_id, subject) in [
        ("login", Some(ann), None),
        ("login-failed", None, Some("bob@example.org")),
        ("login", Some(bob), None),
        ("role-changed", Some(ann), Some("bob@example.org")),
    ] {
        journal.log_security(&entry(kind, operator_id, subject)).await.unwrap();
    }
    let find = async |filter: SecurityFilter| journal.security_log(&filter, None, 10).await.unwrap();
    let any = SecurityFilter::default();
    let all = find(any.clone()).await;
    assert_eq!(kinds(&all), ["role-changed", "login", "login-failed", "login"]);
    let newest = &all[0];
    assert_eq!(
        (
            newest.operator_id,
            newest.subject.as_deref(),
            newest.address.as_deref(),
            newest.request_id.as_str()
        ),
        (Some(ann), Some("bob@example.org"), Some("192.0.2.7"), "request")
    );
    assert_eq!(newest.detail, json!({ "kind": "role-changed" }));

    let by_who = find(SecurityFilter { operator_id: Some(ann), ..any.clone() }).await;
    assert_eq!(kinds(&by_who), ["role-changed", "login"]);
    let by_what = find(SecurityFilter { kind: Some("login".into()), ..any.clone() }).await;
    assert_eq!(kinds(&by_what), ["login", "login"]);
    let by_whom = find(SecurityFilter { subject: Some("bob@example.org".into()), ..any.clone() }).await;
    assert_eq!(kinds(&by_whom), ["role-changed", "login-failed"]);
    let by_both =
        find(SecurityFilter { operator_id: Some(ann), kind: Some("login".into()), ..any.clone() }).await;
    assert_eq!(by_both, all[3..]);
    for hostile in ["' OR true --", "login\0", "%"] {
        assert_eq!(find(SecurityFilter { kind: Some(hostile.into()), ..any.clone() }).await, []);
    }

    let (first, last) = (all[3].at, all[0].at);
    let after = |at: Millis| Some(Millis(at.0 + 1));
    assert_eq!(find(SecurityFilter { from: Some(first), to: after(last), ..any.clone() }).await, all);
    assert_eq!(find(SecurityFilter { from: after(last), ..any.clone() }).await, []);
    assert_eq!(find(SecurityFilter { to: Some(first), ..any.clone() }).await, []);

    let page = journal.security_log(&any, None, 3).await.unwrap();
    assert_eq!(page, all[..3]);
    assert_eq!(journal.security_log(&any, Some(page[2].id), 3).await.unwrap(), all[3..]);
}

#[tokio::test]
async fn what_a_stranger_types_is_kept_as_a_value_and_forges_no_record() {
    let database = migrated().await;
    let journal = database.journal();
    let typed = "eve\"\r\n2026-01-01,login,owner\u{1b}[2J\0";
    let mut forged = entry("login-failed", None, Some(typed));
    forged.address = Some("not an address'; --".into());
    forged.request_id = "a\0b\n".into();
    forged.detail = json!({ "user_agent": typed, "list\0": [typed, { "long": "x".repeat(2_000) }] });
    journal.log_security(&forged).await.unwrap();
    let records = journal.security_log(&SecurityFilter::default(), None, 10).await.unwrap();
    let stored = typed.replace('\0', "\u{fffd}");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].subject, Some(stored.clone()));
    assert_eq!(records[0].address.as_deref(), Some("not an address'; --"));
    assert_eq!(records[0].request_id, "a\u{fffd}b\n");
    let list = json!([stored, { "long": "x".repeat(500) }]);
    assert_eq!(records[0].detail, json!({ "user_agent": stored, "list\u{fffd}": list }));
    let by_whom = SecurityFilter { subject: Some(typed.into()), ..SecurityFilter::default() };
    assert_eq!(journal.security_log(&by_whom, None, 10).await.unwrap(), records);
}

#[tokio::test]
async fn the_security_log_refuses_changes_also_by_its_owner() {
    let database = migrated().await;
    let journal = database.journal();
    journal.log_security(&entry("login", None, None)).await.unwrap();
    let mut clients = vec![database.owner().await];
    // On given servers there is but one role.
    if servers().private {
        clients.push(database.app().await);
    }
    for (place, client) in clients.iter().enumerate() {
        for statement in [
            "UPDATE chatpulse.security_log SET kind = kind",
            "DELETE FROM chatpulse.security_log",
            "TRUNCATE chatpulse.security_log",
        ] {
            let error = client.batch_execute(statement).await.expect_err(statement);
            let error = error.as_db_error().unwrap();
            assert_eq!(error.code().code(), INSUFFICIENT_PRIVILEGE, "{statement}");
            let by_trigger = error.message().contains("append-only");
            assert_eq!(by_trigger, place == 0, "{statement}: {error}");
        }
    }
    assert_eq!(journal.security_log(&SecurityFilter::default(), None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_application_can_not_delete_operators() {
    if !servers().private {
        return; // On given servers there is but one role.
    }
    let database = migrated().await;
    create(&database.journal(), "ann", Role::Owner).await;
    let app = database.app().await;
    for statement in ["DELETE FROM chatpulse.operators", "TRUNCATE chatpulse.operators CASCADE"] {
        let error = app.batch_execute(statement).await.expect_err(statement);
        assert_eq!(error.code().unwrap().code(), INSUFFICIENT_PRIVILEGE, "{statement}");
    }
}

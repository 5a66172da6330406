//! Operators: signing in to the admin API, what each role may there, and what is remembered of it.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use chatpulse::domain::operator::Role;
use chatpulse::security::password::Passwords;
use chatpulse::settings::Secret;
use data_encoding::BASE32_NOPAD;
use futures_util::future::join_all;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha1::Sha1;
use uuid::Uuid;

use crate::support::admin::{Admin, Asking, TOKEN_SETTING, some_twitch_id};
use crate::support::eventually;
use crate::support::instance::{Instance, Shared, Slot, Stores};
use crate::support::own_servers::OwnServers;
use crate::support::twitch::Answer;

const PASSWORD: &str = "violet tractor under seven lamps";
const NEW_PASSWORD: &str = "nineteen quiet otters juggle glass";
const KEY: &str = "6b6579206f6e6520666f7220746573747320616e64206e6f7468696e6720656c";
const ENCRYPTION_KEY: &str = "6b65792074776f20666f7220746573747320616e64206e6f7468696e6720656c";

/// An instance that operators can sign in to, however often: tests share an address.
const SETTINGS: [(&str, &str); 6] = [
    TOKEN_SETTING,
    ("CHATPULSE_SECURITY__TOKEN_KEYS", KEY),
    ("CHATPULSE_SECURITY__ENCRYPTION_KEYS", ENCRYPTION_KEY),
    // On a busy machine a password takes its time, and another one waits only so long.
    ("CHATPULSE_SECURITY__PASSWORD_HASHES_AT_ONCE", "16"),
    ("CHATPULSE_LIMITS__OPERATOR_SIGN_INS_PER_MINUTE", "100000"),
    ("CHATPULSE_LIMITS__OPERATOR_CODES_PER_MINUTE", "100000"),
];

/// One instance for the tests that see to their own operators only.
async fn instance() -> Shared {
    static INSTANCE: Slot = Slot::new();
    INSTANCE.get(&SETTINGS).await
}

/// As [`SETTINGS`], with some of them changed.
fn settings<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    SETTINGS.into_iter().chain(changes.iter().copied()).collect()
}

/// An operator, with what they know.
struct Person {
    id: Uuid,
    email: String,
    password: &'static str,
    /// Of the authenticator app.
    secret: Option<String>,
    /// The code that it was confirmed with.
    used_code: String,
    backup_codes: Vec<String>,
    access: String,
    refresh: String,
}

impl Person {
    /// An account that nobody has signed in to yet.
    async fn new(instance: &Instance, role: Role, must_change_password: bool) -> Person {
        let id = Uuid::now_v7();
        let email = format!("op-{}@example.com", id.simple());
        let hash = Passwords::new(1).hash(&Secret::new(PASSWORD.to_owned())).await.expect("it is hashed");
        let sql = "INSERT INTO chatpulse.operators (id, email, role, password_hash, must_change_password)
                   VALUES ($1, $2, $3, $4, $5)";
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&id, &email, &role.name(), &hash, &must_change_password];
        instance.sql().await.execute(sql, &values).await.expect("an account is made");
        Person {
            id,
            email,
            password: PASSWORD,
            secret: None,
            used_code: String::new(),
            backup_codes: Vec::new(),
            access: String::new(),
            refresh: String::new(),
        }
    }

    /// One who is signed in, with a second factor where the role needs one.
    async fn signed_in(instance: &Instance, role: Role) -> Person {
        let admin = Admin::of(instance);
        let mut person = Person::new(instance, role, false).await;
        person.sign_in(&admin).await;
        if role.needs_second_factor() {
            person.enrol(&admin).await;
        }
        person
    }

    fn credentials(&self) -> Value {
        json!({ "email": self.email, "password": self.password })
    }

    /// Signs in without a code.
    async fn login(&self, admin: &Admin) -> Answer {
        login(admin, &self.credentials()).await
    }

    /// Signs in and takes the tokens.
    async fn sign_in(&mut self, admin: &Admin) -> Value {
        let answer = self.login(admin).await;
        self.take(&answer)
    }

    async fn login_with(&self, admin: &Admin, code: &str) -> Answer {
        let mut credentials = self.credentials();
        credentials["code"] = code.into();
        login(admin, &credentials).await
    }

    /// The app's code of the step that is `ahead` of this one.
    fn code(&self, ahead: i64) -> String {
        code(self.secret.as_deref().expect("a second factor"), ahead)
    }

    /// Takes the tokens of an answer.
    fn take(&mut self, answer: &Answer) -> Value {
        assert_eq!(answer.status, 200, "{answer:?}");
        let tokens = answer.json();
        let text = |key: &str| tokens[key].as_str().expect(key).to_owned();
        (self.access, self.refresh) = (text("access_token"), text("refresh_token"));
        tokens
    }

    fn ask(&self, admin: &Admin, method: &str, path: &str) -> Asking {
        let asking = admin.stranger(method, &format!("/admin/api/v1{path}"));
        asking.with("authorization", &format!("Bearer {}", self.access))
    }

    async fn get(&self, admin: &Admin, path: &str) -> Answer {
        self.ask(admin, "GET", path).send().await
    }

    async fn post(&self, admin: &Admin, path: &str, body: &Value) -> Answer {
        self.ask(admin, "POST", path).json(body).send().await
    }

    async fn refresh(&mut self, admin: &Admin) {
        let answer = refresh(admin, &self.refresh).await;
        self.take(&answer);
    }

    async fn enrol(&mut self, admin: &Admin) {
        let begun = self.post(admin, "/auth/mfa", &json!({ "password": self.password })).await;
        assert_eq!(begun.status, 200, "{begun:?}");
        let begun = begun.json();
        self.secret = Some(begun["secret"].as_str().expect("a secret").to_owned());
        assert!(begun["uri"].as_str().is_some_and(|uri| uri.starts_with("otpauth://totp/ChatPulse:")));
        assert!(begun["qr_svg"].as_str().is_some_and(|svg| svg.contains("<svg")));
        self.used_code = self.code(0);
        let confirmed = self.post(admin, "/auth/mfa/confirm", &json!({ "code": self.used_code })).await;
        let codes = self.take(&confirmed)["backup_codes"].as_array().expect("codes").clone();
        self.backup_codes = codes.iter().map(|code| code.as_str().expect("a text").to_owned()).collect();
        assert_eq!(self.backup_codes.len(), 10);
    }
}

async fn login(admin: &Admin, credentials: &Value) -> Answer {
    admin.stranger("POST", "/admin/api/v1/auth/login").json(credentials).send().await
}

async fn refresh(admin: &Admin, token: &str) -> Answer {
    let body = json!({ "refresh_token": token });
    admin.stranger("POST", "/admin/api/v1/auth/refresh").json(&body).send().await
}

/// A code by RFC 6238, worked out apart from the program.
fn code(secret: &str, ahead: i64) -> String {
    let seed = BASE32_NOPAD.decode(secret.as_bytes()).expect("base32");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let step = i64::try_from(now / 30).expect("a step") + ahead;
    let mut mac = Hmac::<Sha1>::new_from_slice(&seed).expect("a key of any length");
    mac.update(&step.to_be_bytes());
    let mac = mac.finalize().into_bytes();
    let at = usize::from(mac[19] & 0xf);
    let number = u32::from_be_bytes([mac[at] & 0x7f, mac[at + 1], mac[at + 2], mac[at + 3]]);
    format!("{:06}", number % 1_000_000)
}

/// What an answer says, apart from which request it was.
fn said(answer: &Answer) -> (u16, Value, BTreeSet<String>) {
    let mut body = answer.json();
    body["request_id"] = Value::Null;
    let headers = answer.headers.keys().map(|name| name.as_str().to_owned()).collect();
    (answer.status, body, headers)
}

/// Requires a refusal, whose type ends like this.
fn assert_type(answer: &Answer, status: u16, kind: &str) {
    let problem = answer.assert_refused(status);
    assert!(problem["type"].as_str().is_some_and(|found| found.ends_with(kind)), "{problem}");
}

/// Entries of the security log that fit this query, newest first.
async fn entries(reader: &Person, admin: &Admin, query: &str) -> Vec<Value> {
    let answer = reader.get(admin, &format!("/security-log?limit=200&{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["items"].as_array().expect("items").clone()
}

fn kinds(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["kind"].as_str().expect("a kind")).collect()
}

// Signing in

#[tokio::test]
async fn an_operator_signs_in_and_is_known() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let mut ada = Person::new(&instance, Role::Viewer, false).await;
    let mut credentials = ada.credentials();
    credentials["email"] = format!(" {}", ada.email.to_uppercase()).into();
    let answer = login(&admin, &credentials).await;
    let tokens = ada.take(&answer);
    let operator = json!({ "operator_id": ada.id, "email": ada.email, "role": "viewer", "disabled": false,
                           "must_change_password": false, "mfa_enrolled": false });
    assert_eq!(tokens["operator"], operator);
    assert_eq!((&tokens["stage"], &tokens["token_type"]), (&json!("full"), &json!("Bearer")));
    assert_eq!(tokens["expires_in"], 900);
    assert_eq!(ada.get(&admin, "/auth/me").await.json()["operator"], operator);
    assert_eq!(ada.get(&admin, "/streamers").await.status, 200);

    let (token, mac) = ada.access.rsplit_once('.').expect("a JWT");
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let payload = token.split('.').nth(1).expect("a JWT");
    let unsigned = [format!("{token}."), format!("{none}.{payload}.")];
    for wrong in unsigned.into_iter().chain([format!("{token}x.{mac}"), "x".repeat(9_000)]) {
        ada.access = wrong;
        ada.get(&admin, "/streamers").await.assert_refused(401);
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_account_are_answered_alike() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let ada = Person::new(&instance, Role::Viewer, false).await;
    let gone = Person::new(&instance, Role::Viewer, false).await;
    let sql = "UPDATE chatpulse.operators SET disabled_at = now() WHERE id = $1";
    instance.sql().await.execute(sql, &[&gone.id]).await.unwrap();
    let wrong = login(&admin, &json!({ "email": ada.email, "password": NEW_PASSWORD })).await;
    wrong.assert_refused(401);
    let nobody = format!("nobody-{}@example.com", Uuid::new_v4());
    for email in [&nobody, "no address", "\0", ""] {
        let unknown = login(&admin, &json!({ "email": email, "password": PASSWORD })).await;
        assert_eq!(said(&unknown), said(&wrong), "{email:?}");
    }
    assert_eq!(said(&gone.login(&admin).await), said(&wrong), "disabled");
}

#[tokio::test]
async fn a_second_factor_is_asked_for_and_its_code_is_used_up() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let ada = Person::signed_in(&instance, Role::Admin).await;
    assert_type(&ada.login(&admin).await, 401, "/code-required");
    ada.login_with(&admin, &ada.used_code).await.assert_refused(401);
    ada.login_with(&admin, "000000x").await.assert_refused(401);
    let mut wrong = ada.credentials();
    wrong["password"] = NEW_PASSWORD.into();
    wrong["code"] = ada.code(1).into();
    let refused = login(&admin, &wrong).await;
    assert_eq!(refused.json()["type"], "about:blank", "a code is worth nothing without the password");

    let next = ada.code(1);
    let answers = join_all((0..4).map(|_| ada.login_with(&admin, &next))).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401, 401, 401], "of all who have a code, one is let in");
    ada.login_with(&admin, &next).await.assert_refused(401);
}

#[tokio::test]
async fn a_backup_code_works_once() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let ada = Person::signed_in(&instance, Role::Owner).await;
    let typed = ada.backup_codes[3].to_lowercase().replace('-', " ");
    let answers = join_all((0..4).map(|_| ada.login_with(&admin, &typed))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    assert_eq!(ada.get(&admin, "/auth/me").await.json()["backup_codes_left"], 9);
    ada.login_with(&admin, &ada.backup_codes[3]).await.assert_refused(401);

    let proof = json!({ "password": PASSWORD, "code": ada.backup_codes[4] });
    let replaced = ada.post(&admin, "/auth/mfa/backup-codes", &proof).await;
    assert_eq!(replaced.json()["backup_codes"].as_array().map(Vec::len), Some(10), "{replaced:?}");
    ada.login_with(&admin, &ada.backup_codes[5]).await.assert_refused(401);
    let used = entries(&ada, &admin, &format!("kind=backup_code_used&operator_id={}", ada.id)).await;
    assert_eq!(used.len(), 2);
}

#[tokio::test]
async fn a_one_time_password_has_to_be_changed_first() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let mut ada = Person::new(&instance, Role::Viewer, true).await;
    assert_eq!(ada.sign_in(&admin).await["stage"], "password");
    assert_eq!(ada.get(&admin, "/auth/me").await.status, 200);
    assert_type(&ada.get(&admin, "/streamers").await, 403, "/password-change-required");
    ada.post(&admin, "/auth/mfa", &json!({ "password": PASSWORD })).await.assert_refused(403);

    let change = |current: &str, new: &str| json!({ "current": current, "new": new });
    for weak in ["short", PASSWORD, "passwordpassword", &ada.email] {
        ada.post(&admin, "/auth/password", &change(PASSWORD, weak)).await.assert_refused(422);
    }
    ada.post(&admin, "/auth/password", &change("something else", NEW_PASSWORD)).await.assert_refused(403);
    let before = ada.access.clone();
    let changed = ada.post(&admin, "/auth/password", &change(PASSWORD, NEW_PASSWORD)).await;
    assert_eq!(ada.take(&changed)["stage"], "full");
    assert_eq!(ada.get(&admin, "/streamers").await.status, 200);
    let after = std::mem::replace(&mut ada.access, before);
    ada.get(&admin, "/auth/me").await.assert_refused(401);
    ada.access = after;
    ada.login(&admin).await.assert_refused(401);
    ada.password = NEW_PASSWORD;
    assert_eq!(ada.login(&admin).await.status, 200);
}

#[tokio::test]
async fn who_may_change_something_has_to_enrol_a_second_factor_first() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    for role in [Role::Admin, Role::Owner] {
        let mut ada = Person::new(&instance, role, false).await;
        assert_eq!(ada.sign_in(&admin).await["stage"], "enrol");
        for path in ["/streamers", "/operators", "/security-log"] {
            assert_type(&ada.get(&admin, path).await, 403, "/enrolment-required");
        }
        let (before, other) = (ada.access.clone(), ada.login(&admin).await.json());
        ada.post(&admin, "/auth/mfa", &json!({ "password": NEW_PASSWORD })).await.assert_refused(403);
        ada.enrol(&admin).await;
        assert_eq!(ada.get(&admin, "/streamers").await.status, 200);
        // Sign-ins that came about by the password alone are worth nothing any more.
        refresh(&admin, other["refresh_token"].as_str().expect("a token")).await.assert_refused(401);
        ada.access = before;
        ada.get(&admin, "/auth/me").await.assert_refused(401);
    }
}

#[tokio::test]
async fn a_second_factor_is_removed_only_by_who_has_password_and_code() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let mut ada = Person::signed_in(&instance, Role::Admin).await;
    ada.post(&admin, "/auth/mfa", &json!({ "password": PASSWORD })).await.assert_refused(409);
    let remove = async |ada: &Person, password: &str, code: &str| {
        let proof = json!({ "password": password, "code": code });
        ada.ask(&admin, "DELETE", "/auth/mfa").json(&proof).send().await
    };
    remove(&ada, NEW_PASSWORD, &ada.code(1)).await.assert_refused(403);
    remove(&ada, PASSWORD, &ada.used_code).await.assert_refused(403);
    let removed = remove(&ada, PASSWORD, &ada.backup_codes[0]).await;
    assert_eq!(ada.take(&removed)["stage"], "enrol");
    assert_type(&ada.get(&admin, "/streamers").await, 403, "/enrolment-required");
}

// Tokens

#[tokio::test]
async fn refresh_tokens_rotate_and_one_that_is_used_again_ends_the_sign_in() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let owner = Person::signed_in(&instance, Role::Owner).await;
    let mut ada = Person::signed_in(&instance, Role::Viewer).await;
    let elsewhere = ada.login(&admin).await.json();
    let stolen = ada.refresh.clone();
    ada.refresh(&admin).await;
    assert_ne!(ada.refresh, stolen);
    ada.refresh(&admin).await;
    assert_eq!(ada.get(&admin, "/auth/me").await.status, 200);

    refresh(&admin, &stolen).await.assert_refused(401);
    refresh(&admin, &ada.refresh).await.assert_refused(401);
    ada.get(&admin, "/auth/me").await.assert_refused(401);
    let other = elsewhere["refresh_token"].as_str().expect("a token");
    assert_eq!(refresh(&admin, other).await.status, 200, "another sign-in of theirs goes on");
    let found = entries(&owner, &admin, &format!("kind=refresh_token_reused&operator_id={}", ada.id)).await;
    assert_eq!((found.len(), &found[0]["address"]), (1, &json!("127.0.0.1")), "{found:?}");
    for made_up in ["", "x", &"A".repeat(43)] {
        refresh(&admin, made_up).await.assert_refused(401);
    }
}

#[tokio::test]
async fn logging_out_everywhere_ends_all_sign_ins() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let mut here = Person::signed_in(&instance, Role::Viewer).await;
    let first = (here.access.clone(), here.refresh.clone());
    here.sign_in(&admin).await;
    assert_eq!(here.ask(&admin, "POST", "/auth/logout-all").send().await.status, 204);
    here.get(&admin, "/auth/me").await.assert_refused(401);
    refresh(&admin, &here.refresh).await.assert_refused(401);
    (here.access, here.refresh) = first;
    here.get(&admin, "/auth/me").await.assert_refused(401);
    refresh(&admin, &here.refresh).await.assert_refused(401);
}

#[tokio::test]
async fn logging_out_is_known_to_every_instance_at_once_and_survives_a_flush() {
    let servers = OwnServers::start().await;
    let one = Instance::start_on_migrated(servers.stores(), &SETTINGS).await;
    let other = Instance::start_on_migrated(servers.stores(), &SETTINGS).await;
    let [here, there] = [&one, &other].map(Admin::of);
    let stays = Person::signed_in(&one, Role::Viewer).await;
    let leaves = Person::signed_in(&one, Role::Viewer).await;
    for admin in [&here, &there] {
        assert_eq!(leaves.get(admin, "/auth/me").await.status, 200);
    }
    assert_eq!(leaves.ask(&here, "POST", "/auth/logout").send().await.status, 204);
    for admin in [&there, &here] {
        leaves.get(admin, "/auth/me").await.assert_refused(401);
    }
    servers.cache::<()>(&["FLUSHALL"]).await;
    for admin in [&there, &here] {
        leaves.get(admin, "/auth/me").await.assert_refused(401);
        assert_eq!(stays.get(admin, "/auth/me").await.status, 200);
    }
    refresh(&there, &leaves.refresh).await.assert_refused(401);
}

#[tokio::test]
async fn without_redis_only_the_bootstrap_token_is_let_in() {
    let mut servers = OwnServers::start().await;
    let instance = Instance::start_on_migrated(servers.stores(), &SETTINGS).await;
    let admin = Admin::of(&instance);
    servers.cache.kill();
    assert_eq!(admin.get("/streamers").await.status, 200, "what is needed most when much is down");
    servers.start_cache().await;
    let mut ada = Person::new(&instance, Role::Viewer, false).await;
    eventually("the instance finds Redis again", async || ada.login(&admin).await.status == 200).await;
    ada.sign_in(&admin).await;
    eventually("she is let in", async || ada.get(&admin, "/auth/me").await.status == 200).await;

    servers.cache.kill();
    let refused = ada.get(&admin, "/auth/me").await;
    refused.assert_refused(503);
    assert!(refused.headers.contains_key("retry-after"));
    ada.login(&admin).await.assert_refused(503);
    refresh(&admin, &ada.refresh).await.assert_refused(503);
    servers.start_cache().await;
    eventually("she is let in again", async || ada.get(&admin, "/auth/me").await.status == 200).await;
}

// Roles

#[tokio::test]
async fn nobody_may_more_than_their_role_does() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let id = Uuid::new_v4();
    let of = |rest: &str| format!("/streamers/{id}{rest}");
    let look = vec![
        ("GET", "/streamers".to_owned()),
        ("GET", of("")),
        ("GET", "/sessions".into()),
        ("GET", format!("/sessions/{id}")),
        ("GET", "/dead-letters".into()),
    ];
    let steer = vec![
        ("POST", "/streamers".into()),
        ("PUT", of("/config")),
        ("POST", of("/reset")),
        ("POST", of("/rotate")),
        ("POST", of("/disable")),
        ("POST", of("/enable")),
        ("POST", "/dead-letters/1-1/retry".into()),
        ("GET", "/security-log".into()),
        ("GET", "/security-log?format=csv".into()),
    ];
    let manage = vec![
        ("GET", "/operators".into()),
        ("POST", "/operators".into()),
        ("GET", format!("/operators/{id}")),
        ("PATCH", format!("/operators/{id}")),
    ];
    for (role, allowed) in [(Role::Viewer, 1), (Role::Admin, 2), (Role::Owner, 3)] {
        let person = Person::signed_in(&instance, role).await;
        for (place, routes) in [&look, &steer, &manage].into_iter().enumerate() {
            for (method, path) in routes {
                let asking = person.ask(&admin, method, path).json(&json!({ "nothing": "of use" }));
                let status = asking.send().await.status;
                assert_eq!(status == 403, place >= allowed, "{role:?}: {method} {path}: {status}");
                assert!(status != 401 && status < 500, "{role:?}: {method} {path}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn a_role_that_was_taken_away_is_gone_at_once() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let owner = Person::signed_in(&instance, Role::Owner).await;
    let mut ada = Person::signed_in(&instance, Role::Admin).await;
    let change = async |changes: Value| {
        owner.ask(&admin, "PATCH", &format!("/operators/{}", ada.id)).json(&changes).send().await
    };
    assert_eq!(change(json!({ "role": "viewer" })).await.json()["role"], "viewer");
    let before = ada.access.clone();
    ada.get(&admin, "/security-log").await.assert_refused(401);
    assert_eq!(change(json!({ "disabled": true })).await.json()["disabled"], true);
    refresh(&admin, &ada.refresh).await.assert_refused(401);
    ada.login_with(&admin, &ada.code(1)).await.assert_refused(401);
    assert_eq!(change(json!({ "disabled": false })).await.json()["disabled"], false);
    ada.access = before;
    ada.get(&admin, "/auth/me").await.assert_refused(401);
    let answer = ada.login_with(&admin, &ada.backup_codes[0]).await;
    assert_eq!(ada.take(&answer)["operator"]["role"], "viewer");
    ada.get(&admin, "/security-log").await.assert_refused(403);

    let found = entries(&owner, &admin, &format!("operator_id={}&subject={}", owner.id, ada.id)).await;
    assert_eq!(kinds(&found), ["operator_enabled", "operator_disabled", "role_changed"]);
    assert_eq!(found[2]["detail"], json!({ "from": "admin", "to": "viewer" }));
}

#[tokio::test]
async fn the_bootstrap_token_ends_with_the_first_account_and_the_last_owner_stays() {
    let one = Instance::start_on(Stores::fresh().await, &SETTINGS).await;
    let other = Instance::start_on_migrated(one.stores.shared(), &SETTINGS).await;
    let (admin, there) = (Admin::of(&one), Admin::of(&other));
    assert_eq!(there.get("/streamers").await.status, 200);
    admin.get("/auth/me").await.assert_refused(403);
    let make = |role: &str| json!({ "email": format!("{role}@example.com"), "role": role });
    admin.ask("POST", "/operators").json(&make("viewer")).send().await.assert_refused(422);
    let made = admin.ask("POST", "/operators").json(&make("owner")).send().await;
    assert_eq!(made.status, 201, "{made:?}");
    admin.get("/streamers").await.assert_refused(401);
    eventually("the other instance knows", async || there.get("/streamers").await.status == 401).await;

    let made = made.json();
    let one_time = made["one_time_password"].as_str().expect("a password").to_owned();
    let mut owner = Person::new(&one, Role::Viewer, false).await;
    owner.id = made["operator_id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    owner.email = "owner@example.com".into();
    let answer = login(&admin, &json!({ "email": owner.email, "password": one_time })).await;
    assert_eq!(owner.take(&answer)["stage"], "password");
    let changed = json!({ "current": one_time, "new": PASSWORD });
    let answer = owner.post(&admin, "/auth/password", &changed).await;
    assert_eq!(owner.take(&answer)["stage"], "enrol");
    owner.enrol(&admin).await;

    let path = format!("/operators/{}", owner.id);
    for change in [json!({ "role": "admin" }), json!({ "disabled": true })] {
        owner.ask(&admin, "PATCH", &path).json(&change).send().await.assert_refused(409);
    }
    let eve = json!({ "email": "eve@example.com", "role": "owner" });
    let second = owner.post(&admin, "/operators", &eve).await;
    assert_eq!(second.status, 201, "{second:?}");
    owner.post(&admin, "/operators", &make("owner")).await.assert_refused(409);
    let down = owner.ask(&admin, "PATCH", &path).json(&json!({ "role": "admin" })).send().await;
    assert_eq!(down.json()["role"], "admin", "another owner is there");
    let secrets = [&one_time, owner.secret.as_ref().expect("a secret"), &owner.access, &owner.refresh];
    let lines = one.lines();
    assert!(!lines.iter().any(|line| secrets.iter().any(|secret| line.contains(secret.as_str()))));
}

// Limits

/// Tries to sign in as a client who says that the request came from this address.
async fn try_from(admin: &Admin, address: &str, email: &str) -> Answer {
    let asking = admin.stranger("POST", "/admin/api/v1/auth/login").with("x-forwarded-for", address);
    asking.json(&json!({ "email": email, "password": PASSWORD })).send().await
}

fn assert_limited(answer: &Answer) {
    answer.assert_refused(429);
    let wait: u64 = answer.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
}

#[tokio::test]
async fn sign_ins_of_an_address_are_limited_whatever_it_says_of_itself() {
    let few = settings(&[("CHATPULSE_LIMITS__OPERATOR_SIGN_INS_PER_MINUTE", "3")]);
    let instance = Instance::start(&few).await;
    let admin = Admin::of(&instance);
    for turn in 0..5 {
        let email = format!("nobody-{turn}@example.com");
        let answer = try_from(&admin, &format!("203.0.113.{turn}"), &email).await;
        if turn < 3 {
            answer.assert_refused(401);
        } else {
            assert_limited(&answer);
        }
    }
}

#[tokio::test]
async fn sign_ins_to_an_account_are_limited_wherever_they_come_from() {
    let few = settings(&[
        ("CHATPULSE_LIMITS__OPERATOR_SIGN_INS_PER_MINUTE", "3"),
        ("CHATPULSE_HTTP__TRUSTED_PROXIES", "127.0.0.0/8"),
    ]);
    let instance = Instance::start(&few).await;
    let admin = Admin::of(&instance);
    let ada = Person::new(&instance, Role::Viewer, false).await;
    for email in [ada.email.as_str(), "nobody@example.com"] {
        for turn in 0..3 {
            let status = try_from(&admin, &format!("203.0.113.{turn}"), email).await.status;
            assert_eq!(status, if email == ada.email { 200 } else { 401 });
        }
        assert_limited(&try_from(&admin, "198.51.100.1", &email.to_uppercase()).await);
    }
    try_from(&admin, "198.51.100.2", "somebody@example.com").await.assert_refused(401);
}

#[tokio::test]
async fn codes_of_an_account_are_limited() {
    let few = settings(&[("CHATPULSE_LIMITS__OPERATOR_CODES_PER_MINUTE", "4")]);
    let instance = Instance::start(&few).await;
    let admin = Admin::of(&instance);
    // Enrolling took two of the four: password and code.
    let ada = Person::signed_in(&instance, Role::Admin).await;
    for _ in 0..2 {
        ada.login_with(&admin, "not-a-code").await.assert_refused(401);
    }
    assert_limited(&ada.login_with(&admin, &ada.code(1)).await);
    let change = json!({ "current": PASSWORD, "new": NEW_PASSWORD });
    assert_limited(&ada.post(&admin, "/auth/password", &change).await);
}

// The security log

#[tokio::test]
async fn the_log_says_who_changed_what_from_where_in_which_request() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let ada = Person::signed_in(&instance, Role::Admin).await;
    let body = json!({ "twitch_user_id": some_twitch_id(), "login": "ada" });
    let made = ada.post(&admin, "/streamers", &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let (id, mut config) = (made.json()["streamer_id"].as_str().expect("an id").to_owned(), made.json());
    let mut config = config["config"].take();
    config.as_object_mut().expect("an object").remove("version");
    config["for_label"] = "Oui".into();
    let saving = ada.ask(&admin, "PUT", &format!("/streamers/{id}/config")).with("if-match", "\"1\"");
    let request_id = format!("test-{}", Uuid::new_v4());
    let saved = saving.with("x-request-id", &request_id).json(&config).send().await;
    assert_eq!(saved.status, 200, "{saved:?}");
    for command in ["rotate", "disable", "enable"] {
        let answer = ada.ask(&admin, "POST", &format!("/streamers/{id}/{command}")).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    let found = entries(&ada, &admin, &format!("operator_id={}&subject={id}", ada.id)).await;
    let expected =
        ["streamer_enabled", "streamer_disabled", "overlay_rotated", "config_saved", "streamer_created"];
    assert_eq!(kinds(&found), expected);
    let entry = &found[3];
    assert_eq!((&entry["request_id"], &entry["address"]), (&json!(request_id), &json!("127.0.0.1")));
    assert_eq!(entry["detail"], json!({ "version": 2 }));
    assert!(found.windows(2).all(|pair| pair[0]["at"].as_i64() >= pair[1]["at"].as_i64()));

    let page = ada.get(&admin, &format!("/security-log?subject={id}&limit=2")).await.json();
    let next = ada.get(&admin, &format!("/security-log?subject={id}&limit=2&cursor={}", page["next"])).await;
    assert_eq!(next.json()["items"].as_array().expect("items")[..], found[2..4]);
    let at = entry["at"].as_i64().expect("a time");
    assert!(entries(&ada, &admin, &format!("subject={id}&to={at}")).await.iter().all(|old| old != entry));
    ada.get(&admin, "/security-log?from=yesterday").await.assert_refused(400);
}

#[tokio::test]
async fn an_export_can_not_be_led_astray_by_what_strangers_write() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let reader = Person::signed_in(&instance, Role::Admin).await;
    let email = format!("=cmd|'/c'!a{}@example.com", Uuid::new_v4().simple());
    let trying = admin.stranger("POST", "/admin/api/v1/auth/login").with("x-request-id", "@x,\"1\"");
    trying.json(&json!({ "email": email, "password": PASSWORD })).send().await.assert_refused(401);
    // What is no address may be a password in the wrong field.
    let slip = json!({ "email": NEW_PASSWORD, "password": "" });
    login(&admin, &slip).await.assert_refused(401);

    let query: String = url::form_urlencoded::byte_serialize(email.as_bytes()).collect();
    let csv = reader.get(&admin, &format!("/security-log?format=csv&subject={query}")).await;
    assert_eq!(csv.status, 200, "{csv:?}");
    assert!(csv.header("content-type").starts_with("text/csv"));
    assert!(csv.header("content-disposition").starts_with("attachment"));
    let lines: Vec<&str> = csv.body.split("\r\n").collect();
    assert_eq!(lines.len(), 3, "a head, an entry, and an end: {}", csv.body);
    assert_eq!(lines[0], r#""id","at","kind","operator_id","subject","address","request_id","detail""#);
    let told = format!("\"sign_in_failed\",\"\",\"'{email}\",\"127.0.0.1\"");
    assert!(lines[1].contains(&told), "{}", lines[1]);
    assert!(lines[1].contains(r#","'@x,""1""","#), "{}", lines[1]);
    let all = reader.get(&admin, "/security-log?format=csv").await.body;
    assert!(!all.contains(NEW_PASSWORD) && !all.contains(PASSWORD));
}

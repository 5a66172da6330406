//! Twitch: the application, the bot's account and its token, the conduit and where its shards lead.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ANSWER_MAX, Application, Finding, Known, SHOWN_MAX, counted, in_time, unanswered, uncalled};
use crate::http::auth::BOT_SCOPES;
use crate::journal::examination::TokenTimes;
use crate::journal::tokens::{Owner, StoredToken};
use crate::journal::{Journal, JournalError};
use crate::reconcile::ReconcileError;
use crate::reconcile::vault::Vault;
use crate::run::twitch::WEBHOOK_PATH;
use crate::security::keyring::Keyring;
use crate::settings::{Settings, Transport};
use crate::twitch::client::{Client, ClientOptions, TwitchError};
use crate::twitch::helix::{Conduit, Shard, User};
use crate::twitch::oauth::{AccessToken, Identity};

const TWITCH: &str = "Twitch";
const BOT: &str = "bot";
const CONDUIT: &str = "conduit";
/// What only writing in chats needs, which votes don't.
const WRITE_SCOPE: &str = "user:write:chat";
const SIGN_IN: &str = "run `chatpulse bot sign-in`, and open the link that it prints";
/// An instance asks hourly; twice that is too long.
const VALIDATED_AGO_MAX: Duration = Duration::from_secs(2 * 60 * 60);
/// Source: Twitch, "Create Conduits": conduits of one application at most.
const CONDUITS_MAX: usize = 5;

pub(super) const NO_JOURNAL: &str = "PostgreSQL is not ready";
const NO_APPLICATION: &str = "the application can't be used";

/// Signs in as the application.
pub(super) async fn application(settings: &Settings) -> (Vec<Finding>, Option<Application>) {
    let twitch = &settings.twitch;
    let (Some(client_id), Some(client_secret)) = (&twitch.client_id, &twitch.client_secret) else {
        return (vec![Finding::left_out(TWITCH, "the application is not set")], None);
    };
    let options = ClientOptions {
        client_id: client_id.clone(),
        client_secret: client_secret.clone(),
        helix_url: twitch.helix_url.to_string(),
        oauth_url: twitch.oauth_url.to_string(),
        timeout: twitch.timeout.min(ANSWER_MAX),
    };
    let client = match Client::new(options) {
        Ok(client) => client,
        Err(error) => return (vec![uncalled(TWITCH, &error)], None),
    };
    match in_time(client.app_grant(), TwitchError::Away).await {
        Ok(grant) => {
            let finding = Finding::good(TWITCH, "it answers, and takes the client id and secret");
            (vec![finding], Some(Application { client, access: grant.access }))
        }
        Err(error) => (vec![grant_refused(&error)], None),
    }
}

fn grant_refused(error: &TwitchError) -> Finding {
    match error {
        TwitchError::Refused { status, message, .. } => {
            let said = format!("it refuses twitch.client_id or twitch.client_secret ({status}: {message})");
            let remedy =
                "copy both again from dev.twitch.tv/console/apps; a secret made there ends the one before it";
            Finding::bad(TWITCH, said, remedy)
        }
        other => uncalled(TWITCH, other),
    }
}

/// Looks at the bot's account and its token.
pub(super) async fn bot(known: &Known<'_>) -> Vec<Finding> {
    let Some(id) = &known.settings.twitch.bot_user_id else {
        return vec![Finding::left_out(BOT, "twitch.bot_user_id is not set")];
    };
    let Some(application) = &known.application else { return vec![Finding::left_out(BOT, NO_APPLICATION)] };
    let (account, token) = tokio::join!(account(application, id), token(known, application, id));
    [vec![account], token].concat()
}

async fn account(application: &Application, id: &str) -> Finding {
    let ids = [id.to_owned()];
    match in_time(application.client.users(&application.access, &ids), TwitchError::Away).await {
        Ok(users) => judge_account(id, &users),
        Err(error) => uncalled(BOT, &error),
    }
}

fn judge_account(id: &str, users: &[User]) -> Finding {
    match users.iter().find(|user| user.id == id) {
        Some(user) => Finding::good(BOT, format!("the account is {} ({id})", user.login)),
        None => {
            let remedy = "set twitch.bot_user_id to the user id, which is a number and not the login; the account may \
                          also be suspended";
            Finding::bad(BOT, format!("Twitch knows no account with the id {id}"), remedy)
        }
    }
}

async fn token(known: &Known<'_>, application: &Application, id: &str) -> Vec<Finding> {
    let Some(journal) = &known.journal else { return vec![Finding::left_out(BOT, NO_JOURNAL)] };
    let owner = Owner::bot(id);
    let asked = tokio::join!(
        in_time(journal.token(&owner), JournalError::Away),
        in_time(journal.token_times(&owner), JournalError::Away),
    );
    let (stored, times) = match asked {
        (Err(error), _) | (_, Err(error)) => return vec![unanswered(BOT, &error)],
        (Ok(Some(stored)), Ok(Some(times))) => (stored, times),
        _ => {
            let said = "it has not signed in, so no chat can be read";
            return vec![Finding::bad(BOT, said, SIGN_IN)];
        }
    };
    if let Some(why) = &stored.invalid {
        return vec![Finding::bad(BOT, format!("its sign-in has ended: {why}"), SIGN_IN)];
    }
    let keyring = Keyring::new(&known.settings.security.encryption_keys.0);
    let newest = keyring.newest().ok().map(|key| key.to_string());
    let access = match open(journal, &keyring, application, &stored) {
        Ok(access) => access,
        Err(finding) => return vec![finding],
    };
    let validated = in_time(application.client.validate(&access), TwitchError::Away).await;
    let mut findings = judge_token(&validated, id, application.client.client_id(), &times);
    if newest.is_some_and(|newest| newest != stored.key_id) {
        let said = "its token is encrypted with an older key";
        findings.push(Finding::note(BOT, said, "run `chatpulse keys rotate` before removing that key"));
    }
    findings
}

fn open(
    journal: &Journal,
    keyring: &Keyring,
    application: &Application,
    stored: &StoredToken,
) -> Result<AccessToken, Finding> {
    let vault = Vault::new(journal.clone(), keyring.clone(), application.client.clone());
    vault.open_access(stored).map_err(|error: ReconcileError| {
        let remedy = "put the key that it was encrypted with back into security.encryption_keys, or have the bot \
                      sign in again: `chatpulse bot sign-in`";
        Finding::bad(BOT, format!("its stored token can't be opened: {error}"), remedy)
    })
}

/// What Twitch says of the token that should be this user's, given to this application.
fn judge_token(
    validated: &Result<Identity, TwitchError>,
    user_id: &str,
    client_id: &str,
    times: &TokenTimes,
) -> Vec<Finding> {
    let identity = match validated {
        Ok(identity) => identity,
        Err(TwitchError::Unauthorized(_)) if times.expires_in.is_zero() => {
            let remedy = "instances refresh it while they run; if one does, its log says what keeps it";
            return vec![Finding::note(
                BOT,
                "its token has expired, and no instance has refreshed it",
                remedy,
            )];
        }
        Err(TwitchError::Unauthorized(_)) => {
            return vec![Finding::bad(BOT, "Twitch does not accept its token any more", SIGN_IN)];
        }
        Err(error) => return vec![uncalled(BOT, error)],
    };
    if identity.client_id != client_id {
        return vec![Finding::bad(BOT, "its token was given to another application", SIGN_IN)];
    }
    if identity.user_id != user_id {
        let said = format!("its token is of another account, {} ({})", identity.login, identity.user_id);
        return vec![Finding::bad(BOT, said, SIGN_IN)];
    }
    let mut findings = missing_permissions(&identity.scopes);
    if findings.is_empty() {
        findings.push(Finding::good(BOT, format!("signed in as {}, with all permissions", identity.login)));
    }
    findings.push(judge_age(times.validated_ago));
    findings
}

fn missing_permissions(scopes: &[String]) -> Vec<Finding> {
    let is_missing = |scope: &&str| !scopes.iter().any(|given| given == scope);
    let (to_write, to_read): (Vec<&str>, Vec<&str>) =
        BOT_SCOPES.iter().copied().filter(is_missing).partition(|scope| *scope == WRITE_SCOPE);
    let mut findings = Vec::new();
    if !to_read.is_empty() {
        let said = format!("it may not read chats: the permission {} is missing", to_read.join(", "));
        findings.push(Finding::bad(BOT, said, SIGN_IN));
    }
    if !to_write.is_empty() {
        let said = format!("it may not write in chats: the permission {WRITE_SCOPE} is missing");
        findings.push(Finding::note(BOT, said, SIGN_IN));
    }
    findings
}

fn judge_age(validated_ago: Duration) -> Finding {
    let minutes = validated_ago.as_secs() / 60;
    if validated_ago <= VALIDATED_AGO_MAX {
        return Finding::good(BOT, format!("an instance asked Twitch about its token {minutes} minutes ago"));
    }
    let said = format!("no instance has asked Twitch about its token for {} hours", minutes / 60);
    Finding::note(BOT, said, "keep an instance running: Twitch demands that it is asked every hour")
}

/// Looks at the conduit, and where its shards lead.
pub(super) async fn conduit(known: &Known<'_>) -> Vec<Finding> {
    let Some(journal) = &known.journal else { return vec![Finding::left_out(CONDUIT, NO_JOURNAL)] };
    let Some(Application { client, access }) = &known.application else {
        return vec![Finding::left_out(CONDUIT, NO_APPLICATION)];
    };
    let (ours, there) = tokio::join!(
        in_time(journal.conduit(client.client_id()), JournalError::Away),
        in_time(client.conduits(access), TwitchError::Away),
    );
    let (ours, there) = match (ours, there) {
        (Err(error), _) => return vec![unanswered(CONDUIT, &error)],
        (_, Err(error)) => return vec![uncalled(CONDUIT, &error)],
        (Ok(ours), Ok(there)) => (ours, there),
    };
    let conduit = match find_conduit(ours.as_deref(), &there) {
        Ok(conduit) => conduit,
        Err(finding) => return vec![finding],
    };
    let twitch = &known.settings.twitch;
    let callback = (twitch.transport == Transport::Webhook)
        .then(|| format!("{}{WEBHOOK_PATH}", known.settings.http.public_url));
    let mut findings = vec![judge_size(conduit, twitch.conduit_shards)];
    match in_time(client.shards(access, &conduit.id), TwitchError::Away).await {
        Ok(shards) => findings.extend(judge_shards(&shards, twitch.conduit_shards, callback.as_deref())),
        Err(error) => findings.push(uncalled(CONDUIT, &error)),
    }
    findings
}

fn find_conduit<'a>(ours: Option<&str>, there: &'a [Conduit]) -> Result<&'a Conduit, Finding> {
    if let Some(conduit) = there.iter().find(|conduit| Some(conduit.id.as_str()) == ours) {
        return Ok(conduit);
    }
    let said = match ours {
        None => "there is none yet".to_owned(),
        Some(id) => format!("{id} is gone at Twitch"),
    };
    let remedy = if there.len() >= CONDUITS_MAX {
        "delete conduits at Twitch that nobody needs: the application has as many as it may, so no other can be made"
    } else {
        "the instance that looks after Twitch makes one within half a minute; if it does not, its log says why"
    };
    Err(Finding::bad(CONDUIT, said, remedy))
}

fn judge_size(conduit: &Conduit, wanted: u32) -> Finding {
    let (id, has) = (&conduit.id, conduit.shard_count);
    if has == wanted {
        return Finding::good(
            CONDUIT,
            format!("{id} is there, with as many shards as it should have: {has}"),
        );
    }
    let said = format!("{id} has {has} shards, but twitch.conduit_shards is {wanted}");
    Finding::note(CONDUIT, said, "give all instances the same settings, and start them again")
}

/// Whether each shard works and leads to `callback`, or, without that, to a session.
fn judge_shards(shards: &[Shard], wanted: u32, callback: Option<&str>) -> Vec<Finding> {
    let by_id: BTreeMap<&str, &Shard> = shards.iter().map(|shard| (shard.id.as_str(), shard)).collect();
    let wrong: Vec<Finding> = (0..wanted)
        .map(|id| id.to_string())
        .filter_map(|id| {
            let (what, remedy) = shard_trouble(by_id.get(id.as_str()).copied(), callback)?;
            Some(Finding::bad(CONDUIT, format!("shard {id} {what}"), remedy))
        })
        .collect();
    let (count, wanted) = (wrong.len(), wanted as usize);
    if count == 0 {
        let whither = callback.unwrap_or("sessions of instances");
        let said = format!("{} enabled, leading to {whither}", counted(wanted, "shard"));
        return vec![Finding::good(CONDUIT, said)];
    }
    let mut shown: Vec<Finding> = wrong.into_iter().take(SHOWN_MAX).collect();
    if count > SHOWN_MAX {
        let said = format!("{} like these, of {wanted}", counted(count - SHOWN_MAX, "more shard"));
        shown.push(Finding { remedy: None, ..Finding::bad(CONDUIT, said, "") });
    }
    shown
}

/// What is wrong with a shard, and what to do. Source of the statuses: Twitch, "Get Conduit Shards".
fn shard_trouble(shard: Option<&Shard>, callback: Option<&str>) -> Option<(String, &'static str)> {
    const HEALS: &str = "the instance that looks after Twitch mends this within half a minute; if it does not, its log \
                         says why";
    const OTHER: &str = "restart the instances if http.public_url or twitch.transport was changed; another deployment \
                         needs a Twitch application of its own";
    const UNPROVEN: &str = "Twitch asked the address to prove itself and got no right answer: mend what is wrong with \
                            the public address, above; an instance tries again every 20 seconds";
    const FAILED: &str = "Twitch gave up after too many failures: mend what is wrong with the public address, above; \
                          an instance leads the shard there again within half a minute";
    const SOCKET: &str = "an instance begins another session within a minute; if it does not, its log says why. It \
                          has to be able to connect to twitch.eventsub_url";
    let Some(shard) = shard else { return Some(("leads nowhere yet".to_owned(), HEALS)) };
    match (callback, shard.callback.as_deref()) {
        (Some(ours), Some(theirs)) if ours != theirs => return Some((format!("leads to {theirs}"), OTHER)),
        (Some(_), None) if shard.method != "webhook" => {
            return Some((format!("leads to a {}", shard.method), OTHER));
        }
        (None, Some(theirs)) => return Some((format!("leads to {theirs}, not to a session"), OTHER)),
        _ => {}
    }
    if shard.is_enabled() {
        let attached = callback.is_some() || shard.session_id.is_some();
        return (!attached).then(|| ("has no session".to_owned(), SOCKET));
    }
    let status = shard.status.as_str();
    let remedy = match status {
        "webhook_callback_verification_failed" | "webhook_callback_verification_pending" => UNPROVEN,
        "notification_failures_exceeded" => FAILED,
        status if status.starts_with("websocket_") => SOCKET,
        _ => HEALS,
    };
    Some((format!("is not enabled: {status}"), remedy))
}

#[cfg(test)]
mod tests;

//! OAuth: tokens, <https://dev.twitch.tv/docs/authentication/>.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::consent::{Code, SCOPES};
use super::{State, subscriptions};
use crate::settings::Secret;
use crate::twitch::simulator::platform::refusal::{Fields, Refusal};

const ACCESS_LETTERS: usize = 30;
const REFRESH_LETTERS: usize = 50;
/// Valid access tokens of one authorization; the oldest gives way.
const ACCESS_PER_FAMILY_MAX: usize = 50;
/// Refresh tokens of one authorization, while none of the newer ones was used.
const REFRESHES_PER_FAMILY_MAX: usize = 50;
/// Access tokens that are kept.
const KEPT_MAX: usize = 100_000;
#[derive(Default)]
pub struct Tokens {
    pub(super) codes: HashMap<String, Code>,
    access: HashMap<String, Access>,
    refreshes: HashMap<String, Refresh>,
}

struct Access {
    serial: u64,
    /// `None`: the application's own.
    user_id: Option<String>,
    scopes: Vec<String>,
    expires: OffsetDateTime,
    /// All tokens that came of one consent.
    family: u64,
}

#[derive(Clone)]
struct Refresh {
    serial: u64,
    user_id: String,
    scopes: Vec<String>,
    family: u64,
    /// Ends when this one is used.
    replaces: Option<String>,
}

/// Who asks: the bearer of a valid access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `None`: the application itself.
    pub user_id: Option<String>,
    pub scopes: Vec<String>,
}

impl Caller {
    /// Lets only the application itself pass.
    ///
    /// # Errors
    /// [`Refusal`] for a user's token.
    pub fn require_app(&self) -> Result<(), Refusal> {
        let refused = || Refusal::new(401, "This endpoint requires an app access token");
        if self.user_id.is_none() { Ok(()) } else { Err(refused()) }
    }
}

/// A user's tokens, made without the authorize page.
#[derive(Clone, Debug)]
pub struct GrantedTokens {
    pub access_token: Secret<String>,
    pub refresh_token: Secret<String>,
    pub expires_in: Duration,
}

impl State {
    /// `POST /token`, all grants.
    ///
    /// # Errors
    /// [`Refusal`] for a wrong client or secret, and whatever is wrong with the code or refresh token.
    pub fn token(&mut self, form: &Fields, now: OffsetDateTime) -> Result<Value, Refusal> {
        self.check_client_id(form)?;
        match form.get("client_secret") {
            None => return Err(Refusal::bare(400, "missing client secret")),
            Some(secret) if secret != self.client_secret.expose() => {
                return Err(Refusal::bare(403, "invalid client secret"));
            }
            Some(_) => {}
        }
        match form.get("grant_type") {
            Some("authorization_code") => self.exchange_code(form, now),
            Some("client_credentials") => Ok(self.app_token(now)),
            Some("refresh_token") => self.refresh(form, now),
            None => Err(Refusal::bare(400, "missing grant type")),
            Some(_) => Err(Refusal::bare(400, "invalid grant type")),
        }
    }

    pub(super) fn check_client_id(&self, fields: &Fields) -> Result<(), Refusal> {
        match fields.get("client_id") {
            None => Err(Refusal::bare(400, "missing client id")),
            Some(id) if id == self.client_id => Ok(()),
            Some(_) => Err(Refusal::bare(400, "invalid client")),
        }
    }

    fn exchange_code(&mut self, form: &Fields, now: OffsetDateTime) -> Result<Value, Refusal> {
        // A code that was shown once is used up, whatever else is wrong.
        let code = form.get("code").and_then(|code| self.tokens.codes.remove(code));
        let code = code.filter(|code| code.expires > now);
        let code = code.ok_or_else(|| Refusal::bare(400, "Invalid authorization code"))?;
        if form.get("redirect_uri") != Some(code.redirect_uri.as_str()) {
            return Err(Refusal::bare(400, "Parameter redirect_uri does not match registered URI"));
        }
        let family = self.next_serial();
        let tokens = self.new_tokens(&code.user_id, &code.scopes, family, None, now);
        Ok(token_answer(&tokens, &code.scopes))
    }

    fn app_token(&mut self, now: OffsetDateTime) -> Value {
        let family = self.next_serial();
        let lifetime = self.rules.app_token;
        let token = self.new_access(None, &[], family, now + lifetime, now);
        json!({ "access_token": token, "expires_in": lifetime.as_secs(), "token_type": "bearer" })
    }

    fn refresh(&mut self, form: &Fields, now: OffsetDateTime) -> Result<Value, Refusal> {
        let given = form.get("refresh_token").unwrap_or_default();
        let known = self.tokens.refreshes.get(given).cloned();
        let known = known.ok_or_else(|| Refusal::new(400, "Invalid refresh token"))?;
        if let Some(replaced) = &known.replaces {
            // Its use shows that it arrived: what it replaced, and what else was to, is not needed any more.
            self.tokens.refreshes.retain(|token, other| {
                token == given || (token != replaced && other.replaces.as_ref() != Some(replaced))
            });
        }
        let replaces = if self.rules.strict_rotation {
            self.tokens.refreshes.remove(given);
            None
        } else {
            Some(given.to_owned())
        };
        let tokens = self.new_tokens(&known.user_id, &known.scopes, known.family, replaces, now);
        Ok(token_answer(&tokens, &known.scopes))
    }

    fn new_tokens(
        &mut self,
        user_id: &str,
        scopes: &[String],
        family: u64,
        replaces: Option<String>,
        now: OffsetDateTime,
    ) -> GrantedTokens {
        let lifetime = self.rules.user_token;
        let access = self.new_access(Some(user_id), scopes, family, now + lifetime, now);
        let refresh = self.new_token(REFRESH_LETTERS);
        let serial = self.next_serial();
        let refreshes = &mut self.tokens.refreshes;
        let of_family = refreshes.iter().filter(|(_, known)| known.family == family);
        let of_family: Vec<(u64, String)> =
            of_family.map(|(token, known)| (known.serial, token.clone())).collect();
        if of_family.len() >= REFRESHES_PER_FAMILY_MAX {
            let oldest = of_family.into_iter().filter(|(_, token)| Some(token) != replaces.as_ref()).min();
            if let Some((_, token)) = oldest {
                refreshes.remove(&token);
            }
        }
        let (user_id, scopes) = (user_id.to_owned(), scopes.to_vec());
        refreshes.insert(refresh.clone(), Refresh { serial, user_id, scopes, family, replaces });
        GrantedTokens {
            access_token: Secret::new(access),
            refresh_token: Secret::new(refresh),
            expires_in: lifetime,
        }
    }

    fn new_access(
        &mut self,
        user_id: Option<&str>,
        scopes: &[String],
        family: u64,
        expires: OffsetDateTime,
        now: OffsetDateTime,
    ) -> String {
        let token = self.new_token(ACCESS_LETTERS);
        let serial = self.next_serial();
        let access = &mut self.tokens.access;
        let of_family = access.iter().filter(|(_, known)| known.family == family && known.expires > now);
        let of_family: Vec<(u64, String)> =
            of_family.map(|(token, known)| (known.serial, token.clone())).collect();
        let is_full = of_family.len() >= ACCESS_PER_FAMILY_MAX;
        if let Some((_, oldest)) = of_family.into_iter().min().filter(|_| is_full) {
            access.remove(&oldest);
        }
        if access.len() >= KEPT_MAX {
            access.retain(|_, known| known.expires > now);
        }
        let user_id = user_id.map(str::to_owned);
        access.insert(token.clone(), Access { serial, user_id, scopes: scopes.to_vec(), expires, family });
        token
    }

    /// `GET /validate`.
    ///
    /// # Errors
    /// [`Refusal`] for a token that is not valid (any more).
    pub fn validate(&self, token: &str, now: OffsetDateTime) -> Result<Value, Refusal> {
        let access = self.tokens.access.get(token).filter(|access| access.expires > now);
        let access = access.ok_or_else(|| Refusal::bare(401, "invalid access token"))?;
        let expires_in = (access.expires - now).whole_seconds();
        let mut answer =
            json!({ "client_id": self.client_id, "scopes": access.scopes, "expires_in": expires_in });
        if let Some(user_id) = &access.user_id {
            answer["user_id"] = json!(user_id);
            answer["login"] = json!(self.account_or_viewer(user_id).login);
        }
        Ok(answer)
    }

    /// `POST /revoke`: ends one access token.
    ///
    /// # Errors
    /// [`Refusal`] for another client and for a token that is not valid.
    pub fn revoke_token(&mut self, form: &Fields) -> Result<(), Refusal> {
        match form.get("client_id") {
            None => return Err(Refusal::bare(400, "missing client id")),
            Some(id) if id != self.client_id => return Err(Refusal::bare(404, "client does not exist")),
            Some(_) => {}
        }
        let access = form.get("token").and_then(|token| self.tokens.access.remove(token));
        access.map(drop).ok_or_else(|| Refusal::bare(400, "Invalid token"))
    }

    /// Who bears `token`; `client_id` as the header says it.
    ///
    /// # Errors
    /// [`Refusal`] when one of them is missing or not right.
    pub fn caller(
        &self,
        token: Option<&str>,
        client_id: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Caller, Refusal> {
        let unauthorized = |message| Refusal::new(401, message);
        let token = token.ok_or_else(|| unauthorized("OAuth token is missing"))?;
        let client_id = client_id.ok_or_else(|| unauthorized("Client ID is missing"))?;
        let access = self.tokens.access.get(token).filter(|access| access.expires > now);
        let access = access.ok_or_else(|| unauthorized("Invalid OAuth token"))?;
        if client_id != self.client_id {
            return Err(unauthorized("Client ID and OAuth token do not match"));
        }
        Ok(Caller { user_id: access.user_id.clone(), scopes: access.scopes.clone() })
    }

    /// Has a user allow these scopes, without the authorize page.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such user or scope.
    pub fn grant(
        &mut self,
        user_id: &str,
        scopes: &[String],
        now: OffsetDateTime,
    ) -> Result<GrantedTokens, Refusal> {
        self.account(user_id)?;
        if let Some(unknown) = scopes.iter().find(|scope| !SCOPES.contains(&scope.as_str())) {
            return Err(Refusal::new(400, format!("there is no scope '{unknown}'")));
        }
        self.grants.entry(user_id.into()).or_default().extend(scopes.iter().cloned());
        let family = self.next_serial();
        Ok(self.new_tokens(user_id, scopes, family, None, now))
    }

    /// What a user's "Disconnect" does, or a new password: all tokens end, and what rested on them.
    pub fn disconnect(&mut self, user_id: &str, now: OffsetDateTime) {
        self.grants.remove(user_id);
        self.tokens.codes.retain(|_, code| code.user_id != user_id);
        self.tokens.access.retain(|_, access| access.user_id.as_deref() != Some(user_id));
        self.tokens.refreshes.retain(|_, refresh| refresh.user_id != user_id);
        let account = self.accounts.get(user_id);
        let event = json!({
            "client_id": self.client_id, "user_id": user_id,
            "user_login": account.map(|account| &account.login),
            "user_name": account.map(|account| &account.display_name),
        });
        let client_id = self.client_id.clone();
        self.deliver("user.authorization.revoke", &client_id, &event, now);
        self.end_unauthorized(subscriptions::AUTHORIZATION_REVOKED, now);
    }

    /// Ends a user's access tokens as if their time were over; refresh tokens stay. `None`: the
    /// application's own.
    pub fn expire_access(&mut self, user_id: Option<&str>) {
        self.tokens.access.retain(|_, access| access.user_id.as_deref() != user_id);
    }

    /// Ends a user's refresh tokens; access tokens stay.
    pub fn forget_refresh(&mut self, user_id: &str) {
        self.tokens.refreshes.retain(|_, refresh| refresh.user_id != user_id);
    }
}

fn token_answer(tokens: &GrantedTokens, scopes: &[String]) -> Value {
    json!({
        "access_token": tokens.access_token.expose(),
        "refresh_token": tokens.refresh_token.expose(),
        "expires_in": tokens.expires_in.as_secs(),
        "scope": scopes,
        "token_type": "bearer",
    })
}

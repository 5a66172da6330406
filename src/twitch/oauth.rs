//! Tokens: asking users for their consent, and getting, renewing, checking and revoking tokens.
//!
//! Plain form posts, the secrets in the body only, as the token endpoint takes them; a URL is what proxies
//! and servers log. <https://dev.twitch.tv/docs/authentication/getting-tokens-oauth/>,
//! <https://dev.twitch.tv/docs/authentication/refresh-tokens/>,
//! <https://dev.twitch.tv/docs/authentication/validate-tokens/>,
//! <https://dev.twitch.tv/docs/authentication/revoke-tokens/>.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;

use super::client::{Call, Client, TwitchError, parse};
use crate::settings::Secret;

/// How long a token is trusted whose answer does not say when it expires, which Twitch's always do: long
/// enough not to ask for a new one with each call.
const LIFE_UNTOLD: Duration = Duration::from_secs(3600);

/// An access token, of the app or of a user.
#[derive(Clone, Debug)]
pub struct AccessToken(Secret<String>);

impl AccessToken {
    /// A token as Twitch gave it.
    pub fn new(token: Secret<String>) -> Self {
        AccessToken(token)
    }

    /// The token itself, to be stored encrypted.
    pub fn secret(&self) -> &Secret<String> {
        &self.0
    }
}

/// What a user's consent gives.
#[derive(Clone, Debug)]
pub struct UserGrant {
    pub access: AccessToken,
    /// To be stored before `access` is used: an older one may have become worthless with this answer.
    pub refresh: Secret<String>,
    /// From now; Twitch may end it sooner. About four hours.
    pub expires_in: Duration,
    pub scopes: Vec<String>,
}

/// The app's own token: it can't be refreshed, only replaced by another.
#[derive(Clone, Debug)]
pub struct AppGrant {
    pub access: AccessToken,
    /// From now; Twitch may end it sooner. About two months.
    pub expires_in: Duration,
}

/// Whose a valid token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Empty for an app's token.
    pub user_id: String,
    /// Empty for an app's token.
    pub login: String,
    pub scopes: Vec<String>,
    /// The application that the token was given to. A token of another one is not ours.
    pub client_id: String,
    pub expires_in: Duration,
}

impl Client {
    /// Where a user's browser is sent to be asked for consent. Twitch sends it back to `redirect_uri`, which
    /// must be registered exactly so, with `code` or `error`, and with `state`. With `force_verify` Twitch
    /// asks again although the user has agreed before, and lets them change the account.
    pub fn authorize_url(
        &self,
        redirect_uri: &str,
        scopes: &[&str],
        state: &str,
        force_verify: bool,
    ) -> String {
        let mut url = self.oauth_url("/authorize");
        {
            let mut query = url.query_pairs_mut();
            query
                .append_pair("response_type", "code")
                .append_pair("client_id", self.client_id())
                .append_pair("redirect_uri", redirect_uri)
                .append_pair("scope", &scopes.join(" "))
                .append_pair("state", state);
            if force_verify {
                query.append_pair("force_verify", "true");
            }
        }
        url.into()
    }

    /// Gives the code that a user came back with for tokens. A code is good for one time.
    ///
    /// # Errors
    /// [`TwitchError::Refused`] for a code, redirect URI or client secret that is not right; never
    /// [`TwitchError::Unauthorized`]. After [`TwitchError::Away`] the code may be used up: the user has to
    /// sign in again.
    pub async fn exchange_code(&self, code: &str, redirect_uri: &str) -> Result<UserGrant, TwitchError> {
        let call = self.exchange_call(code, redirect_uri);
        self.call(call, |body| parse::<Grant>(body)?.of_user(None)).await.map_err(refused)
    }

    /// Gets a new access token for a refresh token. Whoever calls sees to it that one token is refreshed by
    /// one caller at a time, and stores the new refresh token before the access token is used.
    ///
    /// # Errors
    /// [`TwitchError::Refused`] with 400 or 401 when the refresh token is not valid any more, because the
    /// user disconnected the application or changed the password: only a new consent helps. It is never
    /// [`TwitchError::Unauthorized`], which is about an access token. After [`TwitchError::Away`] and
    /// [`TwitchError::Answer`] the refresh token may have been replaced; try it again all the same.
    pub async fn refresh(&self, refresh: &Secret<String>) -> Result<UserGrant, TwitchError> {
        let call = self.refresh_call(refresh);
        self.call(call, |body| parse::<Grant>(body)?.of_user(Some(refresh))).await.map_err(refused)
    }

    /// Gets a token of the app's own. Those given before stay valid.
    ///
    /// # Errors
    /// [`TwitchError::Refused`] for a client id or secret that is not right.
    pub async fn app_grant(&self) -> Result<AppGrant, TwitchError> {
        let call = self.token_call("client_credentials", &[]);
        self.call(call, |body| parse::<Grant>(body)?.of_app()).await.map_err(refused)
    }

    /// Whose `access` is. Twitch demands this at the start and each hour for each sign-in that is kept.
    ///
    /// # Errors
    /// [`TwitchError::Unauthorized`] when it is not valid any more: what was signed in with it must end.
    pub async fn validate(&self, access: &AccessToken) -> Result<Identity, TwitchError> {
        let call = self.validate_call(access)?;
        self.call(call, |body| parse::<Validation>(body).map(Identity::from)).await
    }

    /// Makes `access` worthless. One that is so already is no error.
    ///
    /// # Errors
    /// [`TwitchError::Refused`] with 404 when the application doesn't exist.
    pub async fn revoke(&self, access: &AccessToken) -> Result<(), TwitchError> {
        gone(self.call(self.revoke_call(access), |_| Ok(())).await.map_err(refused))
    }

    fn exchange_call(&self, code: &str, redirect_uri: &str) -> Call {
        let fields = [("code", code), ("redirect_uri", redirect_uri)];
        self.token_call("authorization_code", &fields).hiding(&Secret::new(code.to_owned()))
    }

    fn refresh_call(&self, refresh: &Secret<String>) -> Call {
        self.token_call("refresh_token", &[("refresh_token", refresh.expose().as_str())]).hiding(refresh)
    }

    fn token_call(&self, grant_type: &str, fields: &[(&str, &str)]) -> Call {
        let secret = self.client_secret();
        let mut form = vec![
            ("client_id", self.client_id()),
            ("client_secret", secret.expose().as_str()),
            ("grant_type", grant_type),
        ];
        form.extend_from_slice(fields);
        Call::new(Method::POST, self.oauth_url("/token")).hiding(secret).form(&form)
    }

    fn validate_call(&self, access: &AccessToken) -> Result<Call, TwitchError> {
        Call::new(Method::GET, self.oauth_url("/validate")).authorized("OAuth", access.secret())
    }

    fn revoke_call(&self, access: &AccessToken) -> Call {
        let form = [("client_id", self.client_id()), ("token", access.secret().expose().as_str())];
        Call::new(Method::POST, self.oauth_url("/revoke")).hiding(access.secret()).form(&form)
    }
}

/// These calls present no access token: a 401 is about what their body holds.
fn refused(error: TwitchError) -> TwitchError {
    match error {
        TwitchError::Unauthorized(message) => TwitchError::Refused { status: 401, message, id: None },
        other => other,
    }
}

/// A token that Twitch doesn't know is as good as revoked.
fn gone(result: Result<(), TwitchError>) -> Result<(), TwitchError> {
    match result {
        Err(TwitchError::Refused { status: 400, message, .. })
            if message.to_lowercase().contains("invalid token") =>
        {
            Ok(())
        }
        other => other,
    }
}

/// What the token endpoint answers. No Debug: it holds secrets.
#[derive(Deserialize)]
struct Grant {
    access_token: String,
    refresh_token: Option<String>,
    /// Seconds.
    expires_in: Option<u64>,
    scope: Option<Scopes>,
}

impl Grant {
    /// `refresh` is the refresh token used; it stays valid where Twitch gives no other (RFC 6749, 6).
    fn of_user(self, refresh: Option<&Secret<String>>) -> Result<UserGrant, TwitchError> {
        let AppGrant { access, expires_in } = access_of(self.access_token, self.expires_in)?;
        let given = self.refresh_token.filter(|token| !token.is_empty()).map(Secret::new);
        let refresh = given.or_else(|| refresh.cloned()).ok_or_else(|| without("refresh_token"))?;
        Ok(UserGrant { access, refresh, expires_in, scopes: Scopes::list(self.scope) })
    }

    fn of_app(self) -> Result<AppGrant, TwitchError> {
        access_of(self.access_token, self.expires_in)
    }
}

fn access_of(token: String, expires_in: Option<u64>) -> Result<AppGrant, TwitchError> {
    if token.is_empty() {
        return Err(without("access_token"));
    }
    let expires_in = expires_in.map_or(LIFE_UNTOLD, Duration::from_secs);
    Ok(AppGrant { access: AccessToken::new(Secret::new(token)), expires_in })
}

fn without(field: &str) -> TwitchError {
    TwitchError::Answer(format!("it has no {field}"))
}

/// What validation answers; for an app's token without a user.
#[derive(Deserialize)]
struct Validation {
    client_id: String,
    user_id: Option<String>,
    login: Option<String>,
    scopes: Option<Scopes>,
    /// Seconds.
    expires_in: Option<u64>,
}

impl From<Validation> for Identity {
    fn from(found: Validation) -> Self {
        Identity {
            user_id: found.user_id.unwrap_or_default(),
            login: found.login.unwrap_or_default(),
            scopes: Scopes::list(found.scopes),
            client_id: found.client_id,
            expires_in: found.expires_in.map_or(LIFE_UNTOLD, Duration::from_secs),
        }
    }
}

/// Scopes are documented as a list, and in one place as a text with spaces between them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scopes {
    List(Vec<String>),
    Text(String),
}

impl Scopes {
    fn list(scopes: Option<Scopes>) -> Vec<String> {
        let scopes = match scopes {
            Some(Scopes::List(list)) => list,
            Some(Scopes::Text(text)) => text.split_whitespace().map(str::to_owned).collect(),
            None => Vec::new(),
        };
        scopes.into_iter().filter(|scope| !scope.is_empty()).collect()
    }
}

#[cfg(test)]
#[path = "oauth_tests.rs"]
mod tests;

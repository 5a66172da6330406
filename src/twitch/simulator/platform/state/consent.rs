//! The authorize page: what it may be asked, and what follows from the user's answer,
//! <https://dev.twitch.tv/docs/authentication/getting-tokens-oauth/#authorization-code-grant-flow>.

use time::OffsetDateTime;
use url::Url;

use super::State;
use crate::twitch::simulator::platform::refusal::{Fields, Refusal};

const CODE_LETTERS: usize = 30;
/// Codes that are kept.
const CODES_MAX: usize = 100_000;
/// Scopes that can be asked for, of <https://dev.twitch.tv/docs/authentication/scopes/> those of chat.
pub(super) const SCOPES: [&str; 24] = [
    "channel:bot",
    "channel:manage:broadcast",
    "channel:manage:moderators",
    "channel:manage:polls",
    "channel:moderate",
    "channel:read:polls",
    "channel:read:redemptions",
    "channel:read:subscriptions",
    "chat:edit",
    "chat:read",
    "moderation:read",
    "moderator:manage:announcements",
    "moderator:manage:banned_users",
    "moderator:manage:chat_messages",
    "moderator:manage:chat_settings",
    "moderator:read:chat_settings",
    "moderator:read:chatters",
    "moderator:read:followers",
    "user:bot",
    "user:manage:chat_color",
    "user:read:chat",
    "user:read:email",
    "user:read:emotes",
    "user:write:chat",
];

/// A code that was not exchanged yet.
pub struct Code {
    pub(super) user_id: String,
    pub(super) scopes: Vec<String>,
    pub(super) redirect_uri: String,
    pub(super) expires: OffsetDateTime,
}

/// What a user is asked to allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    pub redirect_uri: String,
    pub scopes: Vec<String>,
    pub state: String,
}

impl State {
    /// Checks what the authorize page was asked.
    ///
    /// # Errors
    /// [`Refusal`] for an unknown client, a redirect that is not registered exactly so, another response type
    /// than `code`, and scopes that do not exist.
    pub fn consent(&self, query: &Fields) -> Result<Consent, Refusal> {
        self.check_client_id(query)?;
        let redirect_uri = query.get("redirect_uri").unwrap_or_default();
        if !self.redirect_uris.iter().any(|registered| registered == redirect_uri) {
            return Err(Refusal::bare(400, "Parameter redirect_uri does not match registered URI"));
        }
        if query.get("response_type") != Some("code") {
            return Err(Refusal::bare(400, "invalid response type"));
        }
        let scopes: Vec<String> =
            query.get("scope").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        if let Some(unknown) = scopes.iter().find(|scope| !SCOPES.contains(&scope.as_str())) {
            return Err(Refusal::bare(400, format!("invalid scope requested: '{unknown}'")));
        }
        let state = query.get("state").unwrap_or_default().to_owned();
        Ok(Consent { redirect_uri: redirect_uri.into(), scopes, state })
    }

    /// Takes the answer of the authorize page's form; answers where the browser goes next.
    ///
    /// # Errors
    /// [`Refusal`] as for the page, and for a user that does not exist.
    pub fn answer_consent(&mut self, form: &Fields, now: OffsetDateTime) -> Result<String, Refusal> {
        let consent = self.consent(form)?;
        let mut target = Url::parse(&consent.redirect_uri)
            .map_err(|_| Refusal::bare(400, "the registered redirect_uri is no URL"))?;
        if form.get("answer") == Some("authorize") {
            let user_id = form.required("user_id")?.to_owned();
            self.account(&user_id)?;
            self.grants.entry(user_id.clone()).or_default().extend(consent.scopes.iter().cloned());
            let code = self.new_code(user_id, &consent, now);
            target
                .query_pairs_mut()
                .append_pair("code", &code)
                .append_pair("scope", &consent.scopes.join(" "));
        } else {
            target
                .query_pairs_mut()
                .append_pair("error", "access_denied")
                .append_pair("error_description", "The user denied you access");
        }
        if !consent.state.is_empty() {
            target.query_pairs_mut().append_pair("state", &consent.state);
        }
        Ok(target.into())
    }

    fn new_code(&mut self, user_id: String, consent: &Consent, now: OffsetDateTime) -> String {
        let code = self.new_token(CODE_LETTERS);
        let codes = &mut self.tokens.codes;
        if codes.len() >= CODES_MAX {
            codes.retain(|_, code| code.expires > now);
        }
        if codes.len() < CODES_MAX {
            let (scopes, redirect_uri) = (consent.scopes.clone(), consent.redirect_uri.clone());
            let expires = now + self.rules.code;
            codes.insert(code.clone(), Code { user_id, scopes, redirect_uri, expires });
        }
        code
    }
}

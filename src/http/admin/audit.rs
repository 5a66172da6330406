//! Writing to the security log: who did what, from where, in which request. Never a secret.

use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::caller::{Account, Caller, Origin};
use crate::http::problem::Problem;
use crate::http::state::State;
use crate::journal::security_log::SecurityEntry;

// Kinds of entries. The names are part of the API: people filter by them.
pub const SIGNED_IN: &str = "signed_in";
pub const SIGN_IN_FAILED: &str = "sign_in_failed";
pub const SIGNED_OUT: &str = "signed_out";
pub const SIGNED_OUT_EVERYWHERE: &str = "signed_out_everywhere";
pub const REFRESH_TOKEN_REUSED: &str = "refresh_token_reused";
/// A signed-in operator gave a wrong password or code where it was asked for again.
pub const PROOF_FAILED: &str = "proof_failed";
pub const PASSWORD_CHANGED: &str = "password_changed";
pub const MFA_BEGUN: &str = "mfa_begun";
pub const MFA_ENROLLED: &str = "mfa_enrolled";
pub const MFA_REMOVED: &str = "mfa_removed";
pub const BACKUP_CODE_USED: &str = "backup_code_used";
pub const BACKUP_CODES_REPLACED: &str = "backup_codes_replaced";
pub const OPERATOR_CREATED: &str = "operator_created";
pub const ROLE_CHANGED: &str = "role_changed";
pub const OPERATOR_DISABLED: &str = "operator_disabled";
pub const OPERATOR_ENABLED: &str = "operator_enabled";
pub const SECURITY_LOG_EXPORTED: &str = "security_log_exported";
pub const STREAMER_CREATED: &str = "streamer_created";
pub const CONFIG_SAVED: &str = "config_saved";
pub const SESSION_RESET: &str = "session_reset";
pub const OVERLAY_ROTATED: &str = "overlay_rotated";
pub const STREAMER_DISABLED: &str = "streamer_disabled";
pub const STREAMER_ENABLED: &str = "streamer_enabled";
pub const DEAD_LETTER_RETRIED: &str = "dead_letter_retried";

/// An entry to be written.
#[must_use]
pub struct Entry(SecurityEntry);

impl Entry {
    /// Something that happened in a request of somebody unknown.
    pub fn new(kind: &'static str, origin: &Origin) -> Entry {
        Entry(SecurityEntry {
            kind,
            operator_id: None,
            subject: None,
            address: Some(origin.address.to_string()),
            request_id: origin.request_id.as_str().to_owned(),
            detail: json!({}),
        })
    }

    /// Something that a caller did.
    pub fn of(kind: &'static str, caller: &Caller) -> Entry {
        let entry = Entry::new(kind, &caller.origin);
        match &caller.account {
            Some(account) => entry.by(account.operator.id),
            None => entry.with(json!({ "by": "bootstrap token" })),
        }
    }

    /// Something that an operator did to their own account.
    pub fn own(kind: &'static str, account: &Account, origin: &Origin) -> Entry {
        Entry::new(kind, origin).by(account.operator.id).about(account.operator.id)
    }

    /// Who did it, or who it pretended to be.
    pub fn by(mut self, operator_id: Uuid) -> Entry {
        self.0.operator_id = Some(operator_id);
        self
    }

    /// What it was done to: an id, or the e-mail that was given.
    pub fn about(mut self, subject: impl ToString) -> Entry {
        self.0.subject = Some(subject.to_string());
        self
    }

    /// More about it: an object, whose members join those that are there.
    pub fn with(mut self, detail: Value) -> Entry {
        let more = detail.as_object().into_iter().flatten();
        more.for_each(|(name, value)| self.0.detail[name] = value.clone());
        self
    }

    /// Writes it. What was done is done, but who asked for it is told that something failed.
    ///
    /// # Errors
    /// [`Problem`] 503 when PostgreSQL is away.
    pub async fn write(self, state: &State) -> Result<(), Problem> {
        Ok(state.journal.log_security(&self.0).await?)
    }

    /// Writes it for an answer that shows a secret once, which is not to be lost over the entry.
    pub async fn write_if_possible(self, state: &State) {
        if let Err(error) = state.journal.log_security(&self.0).await {
            let SecurityEntry { kind, request_id, .. } = &self.0;
            tracing::error!(%error, kind, request_id, "the security log lacks an entry");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::http::request_id::RequestId;

    #[test]
    fn an_entry_says_who_what_and_from_where() {
        let origin = Origin { address: Ipv4Addr::LOCALHOST.into(), request_id: RequestId::generate() };
        let id = origin.request_id.as_str().to_owned();
        let caller = Caller { origin, account: None };
        let Entry(entry) = Entry::of(CONFIG_SAVED, &caller).about("x").with(json!({ "version": 2 }));
        assert_eq!((entry.kind, entry.operator_id, entry.request_id), (CONFIG_SAVED, None, id));
        assert_eq!((entry.subject.as_deref(), entry.address.as_deref()), (Some("x"), Some("127.0.0.1")));
        assert_eq!(entry.detail, json!({ "by": "bootstrap token", "version": 2 }));
    }
}

//! Operators' accounts, and their second factors.
//!
//! What makes a sign-in worth less than it was (another password, another factor, another role, a disabled account) ends
//! it in the same transaction, and answers the ids of access tokens that may be alive, each with its end: PostgreSQL has
//! noted that they are denied, and whoever refuses them by a copy has to be told.

use tokio_postgres::Row;
use uuid::Uuid;

use super::operator_tokens::alive;
use super::{Journal, JournalError};
use crate::domain::operator::{Operator, Role, canonical_email};
use crate::domain::time::Millis;

const COLUMNS: &str =
    "o.id, o.email, o.role, o.disabled_at IS NOT NULL AS disabled, o.must_change_password, o.version,
                       EXISTS (SELECT FROM chatpulse.mfa_secrets m
                               WHERE m.operator_id = o.id AND m.confirmed_at IS NOT NULL) AS mfa_enrolled";

/// What became of a change of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is as wanted. Access tokens that have to be denied, each until its end.
    Done(Vec<(Uuid, Millis)>),
    /// Refused: it would leave no owner who can sign in.
    LastOwner,
    /// There is no such operator.
    Unknown,
}

/// The seed of a second factor, sealed for this operator's row.
#[derive(Clone, PartialEq, Eq)]
pub struct MfaSecret {
    pub sealed: Vec<u8>,
    /// The key that it is sealed with.
    pub key_id: String,
    /// Whether the operator has shown a code of it.
    pub confirmed: bool,
    /// The last step whose code was accepted.
    pub last_step: Option<i64>,
}

impl std::fmt::Debug for MfaSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MfaSecret")
            .field("key_id", &self.key_id)
            .field("confirmed", &self.confirmed)
            .field("last_step", &self.last_step)
            .finish_non_exhaustive()
    }
}

/// Accounts.
impl Journal {
    /// Makes an account; `None` when the e-mail address has one.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have been made.
    pub async fn create_operator(
        &self,
        email: &str,
        role: Role,
        password_hash: &str,
        must_change: bool,
    ) -> Result<Option<Operator>, JournalError> {
        let sql = format!(
            "INSERT INTO chatpulse.operators AS o (id, email, role, password_hash, must_change_password)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (email) DO NOTHING
             RETURNING {COLUMNS}"
        );
        let client = self.client().await?;
        let row = client
            .query_opt(
                &sql,
                &[&Uuid::now_v7(), &canonical_email(email), &role.name(), &password_hash, &must_change],
            )
            .await?;
        row.as_ref().map(operator).transpose()
    }

    /// The account of an e-mail address, with the hash of its password.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or the row can't be read.
    pub async fn operator_by_email(&self, email: &str) -> Result<Option<(Operator, String)>, JournalError> {
        // PostgreSQL's text has no such character, so no address in it has.
        if email.contains('\0') {
            return Ok(None);
        }
        let sql = format!("SELECT {COLUMNS}, o.password_hash FROM chatpulse.operators o WHERE o.email = $1");
        let row = self.client().await?.query_opt(&sql, &[&canonical_email(email)]).await?;
        row.map(|row| Ok((operator(&row)?, row.try_get("password_hash")?))).transpose()
    }

    /// An account by its id.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or the row can't be read.
    pub async fn operator(&self, id: Uuid) -> Result<Option<Operator>, JournalError> {
        let sql = format!("SELECT {COLUMNS} FROM chatpulse.operators o WHERE o.id = $1");
        let row = self.client().await?.query_opt(&sql, &[&id]).await?;
        row.as_ref().map(operator).transpose()
    }

    /// Accounts by id (the order in which they were made), at most `limit`, after the given one.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn operators(&self, after: Option<Uuid>, limit: i64) -> Result<Vec<Operator>, JournalError> {
        let sql =
            format!("SELECT {COLUMNS} FROM chatpulse.operators o WHERE o.id > $1 ORDER BY o.id LIMIT $2");
        let rows = self.client().await?.query(&sql, &[&after.unwrap_or_default(), &limit]).await?;
        rows.iter().map(operator).collect()
    }

    /// Whether there is an account at all, disabled ones included.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn has_operators(&self) -> Result<bool, JournalError> {
        let client = self.client().await?;
        Ok(client.query_one("SELECT EXISTS (SELECT FROM chatpulse.operators)", &[]).await?.try_get(0)?)
    }

    /// Gives an operator another password and ends all their sign-ins except the family `keep`. Answers the access
    /// tokens to deny; `None`: no such operator.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn set_password(
        &self,
        id: Uuid,
        password_hash: &str,
        must_change: bool,
        keep: Option<Uuid>,
    ) -> Result<Option<Vec<(Uuid, Millis)>>, JournalError> {
        let sql = "SELECT * FROM chatpulse.set_operator_password($1, $2, $3, $4)";
        let client = self.client().await?;
        let row = client.query_opt(sql, &[&id, &password_hash, &must_change, &keep]).await?;
        row.as_ref().map(alive).transpose()
    }

    /// Gives an operator another role. They stay signed in, but access tokens that say the old one are denied.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn set_role(&self, id: Uuid, role: Role) -> Result<Changed, JournalError> {
        self.change_operator(id, Some(role), None).await
    }

    /// Disables an operator, which ends all their sign-ins, or enables them again.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn set_operator_disabled(&self, id: Uuid, disabled: bool) -> Result<Changed, JournalError> {
        self.change_operator(id, None, Some(disabled)).await
    }

    /// Changes role and state of an operator at once; `None`: stays as it is.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn change_operator(
        &self,
        id: Uuid,
        role: Option<Role>,
        disabled: Option<bool>,
    ) -> Result<Changed, JournalError> {
        let sql = "SELECT * FROM chatpulse.change_operator($1, $2, $3)";
        let client = self.client().await?;
        let Some(row) = client.query_opt(sql, &[&id, &role.map(Role::name), &disabled]).await? else {
            return Ok(Changed::Unknown);
        };
        Ok(if row.try_get("done")? { Changed::Done(alive(&row)?) } else { Changed::LastOwner })
    }
}

/// Second factors.
impl Journal {
    /// Stores the seed of a second factor that the operator has still to show, in place of another such one. `false` when
    /// there is a factor already: that one has to be removed first.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn store_mfa_secret(
        &self,
        id: Uuid,
        sealed: &[u8],
        key_id: &str,
    ) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "INSERT INTO chatpulse.mfa_secrets AS m (operator_id, secret, key_id)
                 VALUES ($1, $2, $3)
                 ON CONFLICT (operator_id) DO UPDATE SET
                     secret = excluded.secret, key_id = excluded.key_id, created_at = clock_timestamp()
                 WHERE m.confirmed_at IS NULL
                 RETURNING 1",
                &[&id, &sealed, &key_id],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// An operator's second factor.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or the row can't be read.
    pub async fn mfa_secret(&self, id: Uuid) -> Result<Option<MfaSecret>, JournalError> {
        let sql = "SELECT operator_id, secret, key_id, confirmed_at IS NOT NULL AS confirmed, last_step
                   FROM chatpulse.mfa_secrets WHERE operator_id = $1";
        let row = self.client().await?.query_opt(sql, &[&id]).await?;
        row.as_ref().map(mfa_secret).transpose()
    }

    /// Notes that the operator has shown the code of `step`: from now on the factor is asked for, and all sign-ins except
    /// the family `keep` end, because they came about without it. Answers the access tokens to deny; `None`: no factor
    /// waits for it.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened.
    pub async fn confirm_mfa(
        &self,
        id: Uuid,
        step: i64,
        backup_hashes: &[[u8; 32]],
        keep: Option<Uuid>,
    ) -> Result<Option<Vec<(Uuid, Millis)>>, JournalError> {
        let sql = "SELECT * FROM chatpulse.confirm_mfa($1, $2, $3, $4)";
        let client = self.client().await?;
        let row = client.query_opt(sql, &[&id, &step, &slices(backup_hashes), &keep]).await?;
        row.as_ref().map(alive).transpose()
    }

    /// Notes that the code of `step` is used up. `false` when it was, or a later one: then it must not be accepted (RFC
    /// 6238, section 5.2). Also `false` without a factor that is confirmed.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; the code may be used up.
    pub async fn accept_step(&self, id: Uuid, step: i64) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "UPDATE chatpulse.mfa_secrets SET last_step = $2
                 WHERE operator_id = $1 AND confirmed_at IS NOT NULL AND (last_step IS NULL OR last_step < $2)
                 RETURNING 1",
                &[&id, &step],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Uses up a backup code, which works once.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; the code may be used up.
    pub async fn use_backup_code(&self, id: Uuid, hash: &[u8; 32]) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "UPDATE chatpulse.backup_codes SET used_at = clock_timestamp()
                 WHERE operator_id = $1 AND code_hash = $2 AND used_at IS NULL
                 RETURNING 1",
                &[&id, &&hash[..]],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// How many backup codes are not used up.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn backup_codes_left(&self, id: Uuid) -> Result<i64, JournalError> {
        let sql = "SELECT count(*) FROM chatpulse.backup_codes WHERE operator_id = $1 AND used_at IS NULL";
        Ok(self.client().await?.query_one(sql, &[&id]).await?.try_get(0)?)
    }

    /// Gives other backup codes in place of all there were; `false` without a factor that is confirmed.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn replace_backup_codes(&self, id: Uuid, hashes: &[[u8; 32]]) -> Result<bool, JournalError> {
        let sql = "SELECT chatpulse.replace_backup_codes($1, $2)";
        Ok(self.client().await?.query_one(sql, &[&id, &slices(hashes)]).await?.try_get(0)?)
    }

    /// Takes an operator's second factor and backup codes away. All sign-ins except the family `keep` end, and all access
    /// tokens are to be denied, also that family's: a new one says what may be done without the factor. `None`: there was
    /// none.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened.
    pub async fn remove_mfa(
        &self,
        id: Uuid,
        keep: Option<Uuid>,
    ) -> Result<Option<Vec<(Uuid, Millis)>>, JournalError> {
        let client = self.client().await?;
        let row = client.query_opt("SELECT * FROM chatpulse.remove_mfa($1, $2)", &[&id, &keep]).await?;
        row.as_ref().map(alive).transpose()
    }

    /// Seeds that are sealed with another key than `key_id`, by operator, at most `limit`, after the given one.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn mfa_secrets_sealed_otherwise(
        &self,
        key_id: &str,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<(Uuid, MfaSecret)>, JournalError> {
        let sql = "SELECT operator_id, secret, key_id, confirmed_at IS NOT NULL AS confirmed, last_step
                   FROM chatpulse.mfa_secrets
                   WHERE key_id <> $1 AND operator_id > $2
                   ORDER BY operator_id LIMIT $3";
        let rows = self.client().await?.query(sql, &[&key_id, &after.unwrap_or_default(), &limit]).await?;
        rows.iter().map(|row| Ok((row.try_get("operator_id")?, mfa_secret(row)?))).collect()
    }

    /// Stores the same seed sealed with another key; `false` when it is another seed by now.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened.
    pub async fn reseal_mfa_secret(
        &self,
        id: Uuid,
        old: &MfaSecret,
        sealed: &[u8],
        key_id: &str,
    ) -> Result<bool, JournalError> {
        let sql = "UPDATE chatpulse.mfa_secrets SET secret = $3, key_id = $4
                   WHERE operator_id = $1 AND secret = $2
                   RETURNING 1";
        let client = self.client().await?;
        let rows = client.query(sql, &[&id, &old.sealed, &sealed, &key_id]).await?;
        Ok(!rows.is_empty())
    }
}

fn slices(hashes: &[[u8; 32]]) -> Vec<&[u8]> {
    hashes.iter().map(|hash| &hash[..]).collect()
}

fn operator(row: &Row) -> Result<Operator, JournalError> {
    let role: &str = row.try_get("role")?;
    Ok(Operator {
        id: row.try_get("id")?,
        email: row.try_get("email")?,
        role: Role::named(role)
            .ok_or_else(|| JournalError::Unreadable(format!("an operator whose role is {role}")))?,
        disabled: row.try_get("disabled")?,
        must_change_password: row.try_get("must_change_password")?,
        mfa_enrolled: row.try_get("mfa_enrolled")?,
        version: row.try_get("version")?,
    })
}

fn mfa_secret(row: &Row) -> Result<MfaSecret, JournalError> {
    Ok(MfaSecret {
        sealed: row.try_get("secret")?,
        key_id: row.try_get("key_id")?,
        confirmed: row.try_get("confirmed")?,
        last_step: row.try_get("last_step")?,
    })
}

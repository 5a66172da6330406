//! Keeping secrets: what is stored is sealed, and what a browser holds is signed.
//!
//! Reading order: [`keyring`] (sealing what is stored), [`ticket`] (random ids and what becomes of them at
//! rest), [`password`], [`totp`] and [`access_token`] (how operators sign in).

pub mod access_token;
pub mod keyring;
pub mod password;
pub mod ticket;
pub mod totp;

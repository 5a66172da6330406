//! Keeping secrets: what is stored is sealed, and what a browser holds is signed.
//!
//! Reading order: [`keyring`] (sealing what is stored), [`ticket`] (random ids and what becomes of them at rest).

pub mod keyring;
pub mod ticket;

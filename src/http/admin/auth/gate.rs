//! Whether the bootstrap token lets in: while nobody has an account.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::http::state::State;
use crate::journal::JournalError;

/// Between two questions whether there is an account.
const ASK_MS: i64 = 1_000;

/// What an instance knows of whether there are accounts. New: nothing.
#[derive(Debug, Default)]
pub struct Gate {
    /// Never unset: accounts are disabled, but stay.
    has_accounts: AtomicBool,
    /// When it was asked last, in Unix milliseconds.
    asked_at: AtomicI64,
}

impl Gate {
    /// Notes that there is an account.
    pub fn note_account(&self) {
        self.has_accounts.store(true, Ordering::Release);
    }

    /// Whether an operator's account exists. That there is none is believed for a second.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL has to be asked and is away.
    pub async fn has_accounts(&self, state: &State) -> Result<bool, JournalError> {
        if self.has_accounts.load(Ordering::Acquire) {
            return Ok(true);
        }
        let now = state.services.clock.now().0;
        if self.is_fresh(now) {
            return Ok(false);
        }
        let found = state.journal.has_operators().await?;
        if found {
            self.note_account();
        }
        self.asked_at.store(now, Ordering::Release);
        Ok(found)
    }

    fn is_fresh(&self, now: i64) -> bool {
        (0..ASK_MS).contains(&now.saturating_sub(self.asked_at.load(Ordering::Acquire)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_there_is_no_account_is_believed_for_a_second() {
        let gate = Gate::default();
        assert!(!gate.is_fresh(1_763_700_000_000), "nothing was asked yet");
        gate.asked_at.store(1_763_700_000_000, Ordering::Release);
        assert!(gate.is_fresh(1_763_700_000_999) && !gate.is_fresh(1_763_700_001_000));
        assert!(!gate.is_fresh(1_763_699_999_000), "the clock was set back");
    }
}

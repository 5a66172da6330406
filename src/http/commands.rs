//! `!pulse` and what moderators may say after it. What a moderator commands is delivered again while PostgreSQL is away;
//! to the mood of a moment ago nobody would listen any more.

use uuid::Uuid;

use crate::actors::directory::LiveEntry;
use crate::domain::command::{Answer, Command, MoodNow};
use crate::domain::time::Millis;
use crate::hot::replies::Reply;
use crate::journal::JournalError;
use crate::twitch::eventsub::ChatMessage;

use super::state::State;

/// The correlation id of changes that somebody commanded in chat.
const CORRELATION: &str = "chat command";

/// Does what a command says, if who says it may, and queues the answer.
///
/// # Errors
/// [`JournalError::Away`] or [`JournalError::Busy`] when a moderator's command should be delivered again.
pub(super) async fn obey(
    command: Command,
    message: &ChatMessage<'_>,
    live: &LiveEntry,
    state: &State,
) -> Result<(), JournalError> {
    let is_broadcaster = message.chatter_user_id == message.broadcaster_user_id;
    // A streamer's own account may be the bot; others who don't vote command nothing either.
    let is_heard =
        is_broadcaster || state.audience.votes(&message.chatter_user_id, &message.chatter_user_login);
    let badges = if command == Command::Mood { Vec::new() } else { message.badges() };
    if !is_heard || !command.is_allowed(is_broadcaster, badges.iter().map(AsRef::as_ref)) {
        return Ok(());
    }
    let now = state.services.clock.now();
    let done = match command {
        Command::Mood => tell_mood(message, live, state, now).await,
        command => steer(command, message, live, state, now).await,
    };
    match done {
        Ok(Some(text)) => answer(text, message, state).await,
        Ok(None) => {}
        Err(error) if command != Command::Mood && is_passing(&error) => return Err(error),
        Err(error) => tracing::warn!(%error, ?command, "a command in chat could not be obeyed"),
    }
    Ok(())
}

/// Whether trying again may help.
fn is_passing(error: &JournalError) -> bool {
    matches!(error, JournalError::Away(_) | JournalError::Busy(_))
}

/// The mood of this moment; `None` when it was told a moment ago.
async fn tell_mood(
    message: &ChatMessage<'_>,
    live: &LiveEntry,
    state: &State,
    now: Millis,
) -> Result<Option<String>, JournalError> {
    if !state.chat_limits.may_tell_mood(&message.broadcaster_user_id, now).await {
        return Ok(None);
    }
    let entry = state.journal.entry(live.streamer_id).await?;
    let Some((entry, session)) = entry.and_then(|entry| entry.live.clone().map(|live| (entry, live))) else {
        return Ok(None);
    };
    let config = &entry.streamer.config.config;
    Ok(Some(Answer::Mood(MoodNow::of(&session.head, config, session.paused, now)).to_string()))
}

/// Resets, pauses or goes on; `None` when there is nothing to say about it.
async fn steer(
    command: Command,
    message: &ChatMessage<'_>,
    live: &LiveEntry,
    state: &State,
    now: Millis,
) -> Result<Option<String>, JournalError> {
    if !state.chat_limits.is_first(&message.message_id, now).await {
        return Ok(None);
    }
    let changed = change(command, live.streamer_id, state).await;
    if changed.is_err() {
        // Else it would count as obeyed when it is delivered again.
        state.chat_limits.forget(&message.message_id).await;
    }
    let Some(answer) = changed? else { return Ok(None) };
    // The change is made. If the feed can't see it now, it catches up by itself and says so in the log.
    let _ = state.feed.refresh().await;
    let may_say = state.chat_limits.may_confirm(&message.broadcaster_user_id, now).await;
    Ok(may_say.then(|| answer.to_string()))
}

/// Makes a command's change; `None` for one that makes none.
async fn change(
    command: Command,
    streamer_id: Uuid,
    state: &State,
) -> Result<Option<Answer<'static>>, JournalError> {
    let answer = match command {
        Command::Mood => return Ok(None),
        Command::Reset => {
            state.journal.reset(streamer_id, CORRELATION).await?;
            Answer::Reset
        }
        Command::Pause => {
            state.journal.pause(streamer_id, CORRELATION).await?;
            Answer::Paused
        }
        Command::Resume => {
            state.journal.resume(streamer_id, CORRELATION).await?;
            Answer::Resumed
        }
    };
    Ok(Some(answer))
}

async fn answer(text: String, message: &ChatMessage<'_>, state: &State) {
    // Nobody would say it.
    if state.twitch.as_ref().is_none_or(|twitch| twitch.options.bot_user_id.is_none()) {
        return;
    }
    let reply = Reply {
        broadcaster_id: message.broadcaster_user_id.clone().into_owned(),
        text,
        reply_to: Some(message.message_id.clone().into_owned()),
        made_at: state.services.clock.now(),
    };
    if let Err(error) = state.replies.push(&reply).await {
        tracing::debug!(%error, "an answer in chat can't be queued");
        state.services.metrics.twitch.replies.with_label_values(&["dropped"]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_succeed_later_is_delivered_again() {
        let why = String::new;
        assert!(is_passing(&JournalError::Away(why())) && is_passing(&JournalError::Busy(why())));
        for error in
            [JournalError::Refused(why()), JournalError::Data(why()), JournalError::Unreadable(why())]
        {
            assert!(!is_passing(&error), "{error:?}");
        }
    }
}

//! The Redis function library in `lua/` and how it gets into a server.
//!
//! A server may lose the library (a fresh or promoted node), so it is loaded when an instance first
//! meets a server, and again when a call answers "Function not found". Instances that load at the
//! same time write the same text; another release has another name.

use deadpool_redis::redis::aio::ConnectionLike;
use deadpool_redis::redis::{Cmd, RedisResult, Value, cmd};

/// The library's text, compiled in.
const LIBRARY: &str = concat!(
    include_str!("../../lua/chatpulse.lua"),
    include_str!("../../lua/queues.lua"),
    include_str!("../../lua/chat.lua")
);

/// The library's functions; their keys, arguments and answers are described in the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Mirror,
    Move,
    Read,
    ChangesSince,
    Holders,
    Remove,
    Discard,
    DeleteIfHolds,
    Enqueue,
    Settle,
    Fail,
    RetryDead,
    DropConsumers,
    RateLimit,
    ChatAppend,
    ChatErase,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Function::Mirror => "chatpulse_v2_mirror",
            Function::Move => "chatpulse_v2_move",
            Function::Read => "chatpulse_v2_read",
            Function::ChangesSince => "chatpulse_v2_changes_since",
            Function::Holders => "chatpulse_v2_holders",
            Function::Remove => "chatpulse_v2_remove",
            Function::Discard => "chatpulse_v2_discard",
            Function::DeleteIfHolds => "chatpulse_v2_delete_if_holds",
            Function::Enqueue => "chatpulse_v2_enqueue",
            Function::Settle => "chatpulse_v2_settle",
            Function::Fail => "chatpulse_v2_fail",
            Function::RetryDead => "chatpulse_v2_retry_dead",
            Function::DropConsumers => "chatpulse_v2_drop_consumers",
            Function::RateLimit => "chatpulse_v2_rate_limit",
            Function::ChatAppend => "chatpulse_v2_chat_append",
            Function::ChatErase => "chatpulse_v2_chat_erase",
        }
    }

    /// A call with these keys; the arguments are to be added.
    pub(super) fn call(self, keys: &[String]) -> Cmd {
        // Room for what a vote's call has: it is made with every vote.
        let mut call = Cmd::with_capacity(32, 640);
        call.arg(match self {
            Function::Read => "FCALL_RO",
            _ => "FCALL",
        });
        call.arg(self.name()).arg(keys.len()).arg(keys);
        call
    }
}

/// The command that loads the library; on a cluster each master needs it.
pub(super) fn load_command() -> Cmd {
    let mut load = cmd("FUNCTION");
    load.arg("LOAD").arg("REPLACE").arg(LIBRARY);
    load
}

/// Loads the library into the server behind `connection`.
pub(super) async fn load(connection: &mut impl ConnectionLike) -> RedisResult<()> {
    load_command().exec_async(connection).await
}

/// Whether an answer says that the server does not have the library.
pub(super) fn is_missing(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error)
        if error.details().is_some_and(|details| details.starts_with("Function not found")))
}

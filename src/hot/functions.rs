//! The Redis function library in `lua/chatpulse.lua` and how it gets into a server.
//!
//! A server may lose the library (a fresh or promoted node), so it is loaded when an instance first
//! meets a server, and again when a call answers "Function not found". Instances that load at the
//! same time write the same text; another release has another name.

use deadpool_redis::redis::aio::ConnectionLike;
use deadpool_redis::redis::{Cmd, RedisResult, Value, cmd};

/// The library's text, compiled in.
const LIBRARY: &str = include_str!("../../lua/chatpulse.lua");

/// The library's functions; their keys, arguments and answers are described in the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Mirror,
    Read,
    ChangesSince,
    Hold,
    Release,
    Remove,
    DeleteIfHolds,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Function::Mirror => "chatpulse_v1_mirror",
            Function::Read => "chatpulse_v1_read",
            Function::ChangesSince => "chatpulse_v1_changes_since",
            Function::Hold => "chatpulse_v1_hold",
            Function::Release => "chatpulse_v1_release",
            Function::Remove => "chatpulse_v1_remove",
            Function::DeleteIfHolds => "chatpulse_v1_delete_if_holds",
        }
    }

    /// A call with these keys; the arguments are to be added.
    pub(super) fn call(self, keys: &[String]) -> Cmd {
        let mut call = cmd(match self {
            Function::Read | Function::ChangesSince => "FCALL_RO",
            _ => "FCALL",
        });
        call.arg(self.name()).arg(keys.len()).arg(keys);
        call
    }
}

/// Loads the library into the server behind `connection`; on a cluster, call it for each master.
pub(super) async fn load(connection: &mut impl ConnectionLike) -> RedisResult<()> {
    cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(LIBRARY).exec_async(connection).await
}

/// Whether an answer says that the server does not have the library.
pub(super) fn is_missing(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error)
        if error.details().is_some_and(|details| details.starts_with("Function not found")))
}

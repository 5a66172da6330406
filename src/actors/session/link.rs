//! A session's end of the way to one overlay.

use std::sync::Arc;

use actix::Recipient;
use uuid::Uuid;

use crate::actors::outbox::Outbox;
use crate::actors::overlay::Look;

/// One overlay as its session sees it.
pub(super) struct OverlayLink {
    pub(super) overlay_uuid: Uuid,
    pub(super) outbox: Arc<Outbox>,
    pub(super) address: Recipient<Look>,
}

impl OverlayLink {
    /// Tells the socket to look into its outbox. A closed mailbox needs no telling: the socket is gone.
    pub(super) fn tell(&self) {
        let _ = self.address.try_send(Look);
    }
}

//! What comes over Twitch's WebSocket: the same messages as the webhook's. There nobody sends again what could not be
//! made durable, so it is tried again here.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::state::State;
use super::webhook;
use crate::reconcile::shards::Arrival;

/// Messages in hand at a time; beyond, Twitch is not read.
const AT_ONCE: usize = 256;
/// The pauses before another try of a message that could not be made durable; then it is lost.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
];

/// Takes what arrives, for as long as somebody sends.
pub async fn take_all(state: Data<State>, mut inbox: mpsc::Receiver<Arrival>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(arrival) = inbox.recv().await {
        // Nobody closes it.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let state = state.clone();
        actix::spawn(async move {
            take(&state, &arrival).await;
            drop(place);
        });
    }
}

async fn take(state: &State, arrival: &Arrival) {
    let arrived = Instant::now();
    for pause in PAUSES {
        if webhook::take_arrival(state, arrival, arrived).await {
            return;
        }
        tokio::time::sleep(pause).await;
    }
    if !webhook::take_arrival(state, arrival, arrived).await {
        tracing::error!("a message of Twitch could not be made durable for a minute, and is lost");
    }
}

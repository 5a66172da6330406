//! What waits to be written to one overlay socket: the latest frames, never a backlog.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::frames::{Frame, Kind};

/// Why a socket is closed. Codes 4000–4099 tell the client not to come back, 4100–4199 to
/// reconnect with backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The overlay's URL was rotated, or the streamer disabled or erased.
    UrlGone,
    /// What served this socket is gone; another try will find it rebuilt.
    Restarted,
    /// This instance is about to stop.
    Draining,
    /// The client did not answer pings in time.
    TooSlow,
    /// More overlays of this session, or of this address, than one instance serves.
    LimitReached,
}

impl Close {
    /// The code on the wire.
    pub fn code(self) -> u16 {
        match self {
            Close::UrlGone => 4004,
            Close::Restarted => 4100,
            Close::Draining => 4101,
            Close::TooSlow => 4102,
            Close::LimitReached => 4103,
        }
    }

    /// The reason on the wire, for people who look.
    pub fn reason(self) -> &'static str {
        match self {
            Close::UrlGone => "this overlay URL is no longer valid",
            Close::Restarted => "please reconnect",
            Close::Draining => "this instance is stopping, please reconnect",
            Close::TooSlow => "no answer to pings",
            Close::LimitReached => "too many overlays are open",
        }
    }
}

/// What waits for one socket. At most one frame of each kind: a newer one takes its place.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    hello: Option<Frame>,
    config: Option<Frame>,
    reset: Option<Frame>,
    sentiment: Option<Frame>,
    close: Option<Close>,
    /// Of a socket that has found nothing here.
    socket: Option<Waker>,
}

/// What a socket finds when it looks.
#[derive(Debug, Default)]
pub struct Taken {
    /// One of each kind, where one waited, in the order to send them.
    frames: [Option<Frame>; 4],
    pub close: Option<Close>,
}

impl Taken {
    /// The frames, in the order to send them.
    pub fn into_frames(self) -> impl Iterator<Item = Frame> {
        self.frames.into_iter().flatten()
    }
}

impl Outbox {
    /// Offers a frame and wakes the socket; the frame takes the place of what it makes out of date. Answers how
    /// many frames were waiting that never will be sent.
    pub fn offer(&self, frame: &Frame) -> u64 {
        let mut waiting = self.lock();
        let frame = Some(frame.clone());
        // Every frame carries the whole state, so it makes any waiting `sentiment` out of date.
        let outdated = match frame.as_ref().map(|frame| frame.kind) {
            Some(Kind::Hello) => {
                let outdated = [waiting.config.take(), waiting.reset.take(), waiting.sentiment.take()];
                let replaced = std::mem::replace(&mut waiting.hello, frame);
                outdated.iter().flatten().count() + usize::from(replaced.is_some())
            }
            Some(Kind::Config) => {
                let outdated = [waiting.reset.take(), waiting.sentiment.take()];
                let replaced = std::mem::replace(&mut waiting.config, frame);
                outdated.iter().flatten().count() + usize::from(replaced.is_some())
            }
            Some(Kind::Reset) => {
                let outdated = waiting.sentiment.take();
                let replaced = std::mem::replace(&mut waiting.reset, frame);
                usize::from(outdated.is_some()) + usize::from(replaced.is_some())
            }
            Some(Kind::Sentiment) => usize::from(std::mem::replace(&mut waiting.sentiment, frame).is_some()),
            None => 0,
        };
        wake(waiting);
        outdated as u64
    }

    /// Asks for the socket to be closed after what waits.
    pub fn close(&self, close: Close) {
        let mut waiting = self.lock();
        waiting.close.get_or_insert(close);
        wake(waiting);
    }

    /// Takes what waits, or has the socket woken when something does.
    pub fn poll_take(&self, context: &mut Context<'_>) -> Poll<Taken> {
        let mut waiting = self.lock();
        let frames =
            [waiting.hello.take(), waiting.config.take(), waiting.reset.take(), waiting.sentiment.take()];
        let taken = Taken { frames, close: waiting.close.take() };
        if taken.close.is_none() && taken.frames.iter().all(Option::is_none) {
            waiting.socket = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(taken)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here can panic half-way, so a poisoned lock still guards whole data.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the socket, if it waits, when it can take the lock.
fn wake(mut waiting: MutexGuard<'_, Waiting>) {
    let socket = waiting.socket.take();
    drop(waiting);
    if let Some(socket) = socket {
        socket.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;

    fn frame(kind: Kind, text: &'static str) -> Frame {
        Frame { kind, wire: text.into() }
    }

    fn take(outbox: &Outbox) -> Option<Taken> {
        poll_fn(|context| outbox.poll_take(context)).now_or_never()
    }

    fn texts(outbox: &Outbox) -> Vec<String> {
        let frames = take(outbox).into_iter().flat_map(Taken::into_frames);
        frames.map(|frame| String::from_utf8_lossy(&frame.wire).into_owned()).collect()
    }

    #[test]
    fn the_latest_sentiment_takes_the_place_of_the_one_that_waits() {
        let outbox = Outbox::default();
        assert_eq!(outbox.offer(&frame(Kind::Sentiment, "1")), 0);
        assert_eq!(outbox.offer(&frame(Kind::Sentiment, "2")), 1);
        assert_eq!(texts(&outbox), ["2"]);
        assert!(take(&outbox).is_none());
    }

    #[tokio::test]
    async fn a_socket_that_found_nothing_is_woken_by_a_frame_and_by_a_close() {
        let outbox = Outbox::default();
        let next = || poll_fn(|context| outbox.poll_take(context));
        let (taken, _) = tokio::join!(next(), async { outbox.offer(&frame(Kind::Sentiment, "1")) });
        assert_eq!(taken.into_frames().count(), 1);
        let (taken, ()) = tokio::join!(next(), async { outbox.close(Close::Draining) });
        assert_eq!(taken.close, Some(Close::Draining));
    }

    #[test]
    fn a_config_or_reset_is_never_lost_to_a_later_sentiment() {
        let outbox = Outbox::default();
        outbox.offer(&frame(Kind::Sentiment, "old"));
        outbox.offer(&frame(Kind::Config, "config"));
        outbox.offer(&frame(Kind::Reset, "reset"));
        outbox.offer(&frame(Kind::Sentiment, "new"));
        assert_eq!(texts(&outbox), ["config", "reset", "new"]);
    }

    #[test]
    fn a_hello_is_the_new_base() {
        let outbox = Outbox::default();
        outbox.offer(&frame(Kind::Config, "config"));
        outbox.offer(&frame(Kind::Sentiment, "old"));
        assert_eq!(outbox.offer(&frame(Kind::Hello, "hello")), 2);
        assert_eq!(texts(&outbox), ["hello"]);
    }

    #[test]
    fn the_first_reason_to_close_stays() {
        let outbox = Outbox::default();
        outbox.close(Close::UrlGone);
        outbox.close(Close::Draining);
        assert_eq!(take(&outbox).and_then(|taken| taken.close), Some(Close::UrlGone));
    }
}

//! The loop around a session: reads its connections, asks what follows, and does it.

use std::future::{Future, pending};
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::dial::{Connection, Dialer, Greeted, Heard, address, ask_to_close, hear, let_go};
use super::session::{Line, Session, Step};
use super::{Reason, SocketOptions, Told};

/// Runs one session until it ends, or `stop` is ready, or nobody takes what it tells. Answers why it
/// ended, which is also told last, unless the owner stopped it.
///
/// What is not taken from `tell`'s channel is not read from Twitch, so an owner who takes nothing for
/// long loses the session: Twitch's pings are not answered in that time either. After `stop` what was
/// not told yet is lost. Must run in a Tokio runtime.
pub async fn run(
    options: &SocketOptions,
    tell: mpsc::Sender<Told>,
    stop: impl Future<Output = ()>,
) -> Reason {
    let mut stop = pin!(stop);
    let reason = match prepare(options) {
        Ok((dialer, url)) => {
            let mut io = Io::new(dialer, &tell);
            let reason = tokio::select! {
                biased;
                () = &mut stop => Reason::Stopped,
                reason = io.work(url, options.keepalive) => reason,
            };
            io.hang_up().await;
            reason
        }
        Err(reason) => reason,
    };
    if reason != Reason::Stopped {
        tokio::select! {
            biased;
            () = &mut stop => {}
            // Err: nobody wants to know.
            _ = tell.send(Told::Ended(reason.clone())) => {}
        }
    }
    reason
}

fn prepare(options: &SocketOptions) -> Result<(Dialer, String), Reason> {
    let address = address(options)?;
    Ok((Dialer::new(&address, options.connect_timeout)?, address.into()))
}

struct Io<'a> {
    dialer: Dialer,
    owner: &'a mpsc::Sender<Told>,
    current: Option<Connection>,
    /// Welcomed, not yet the current one.
    next: Option<Connection>,
    /// Left, and read to its end.
    leaving: Option<Connection>,
    /// Connects to where Twitch asks to go; a task, so that it goes on while the owner is slow.
    moving: JoinSet<Result<Greeted, Reason>>,
}

impl<'a> Io<'a> {
    fn new(dialer: Dialer, owner: &'a mpsc::Sender<Told>) -> Io<'a> {
        Io { dialer, owner, current: None, next: None, leaving: None, moving: JoinSet::new() }
    }

    async fn work(&mut self, url: String, keepalive: Duration) -> Reason {
        let Greeted { connection, first } = match self.dialer.clone().greet(url).await {
            Ok(greeted) => greeted,
            Err(reason) => return reason,
        };
        let (mut session, welcome) = match Session::begin(&first, keepalive, Instant::now()) {
            Ok(begun) => begun,
            Err(reason) => return reason,
        };
        self.current = Some(connection);
        let mut step = Step::Tell(welcome);
        loop {
            if let ControlFlow::Break(reason) = self.take(step, &mut session).await {
                return reason;
            }
            step = self.next_step(&mut session).await;
        }
    }

    async fn next_step(&mut self, session: &mut Session) -> Step {
        let deadline = session.deadline();
        // What was read counts before the clock does: the deadline comes last.
        let (line, heard) = tokio::select! {
            biased;
            Some(greeted) = self.moving.join_next() => return self.moved(greeted, session),
            heard = hear_on(&mut self.leaving) => (Line::Leaving, heard),
            heard = hear_on(&mut self.current) => (Line::Current, heard),
            () = until(deadline) => return session.due(Instant::now()),
        };
        match heard {
            Heard::Text(text) => session.hear(line, &text, Instant::now(), OffsetDateTime::now_utc()),
            Heard::Other => Step::Nothing,
            Heard::Ended(reason) => session.lose(line, reason),
        }
    }

    fn moved(&mut self, greeted: Result<Result<Greeted, Reason>, JoinError>, session: &mut Session) -> Step {
        match greeted {
            Ok(Ok(Greeted { connection, first })) => {
                self.next = Some(connection);
                session.moved(&first, Instant::now())
            }
            Ok(Err(reason)) => session.move_failed(&reason),
            Err(_) => session.move_failed(&Reason::Lost("its task ended".to_owned())),
        }
    }

    async fn take(&mut self, step: Step, session: &mut Session) -> ControlFlow<Reason> {
        match step {
            Step::Nothing => {}
            Step::Tell(told) => self.tell(told, session).await?,
            Step::Move { url } => {
                self.moving.spawn(self.dialer.clone().greet(url));
            }
            Step::Switch(told) => {
                self.leaving = std::mem::replace(&mut self.current, self.next.take());
                if let Some(leaving) = &mut self.leaving {
                    ask_to_close(leaving).await;
                }
                if let Some(told) = told {
                    self.tell(told, session).await?;
                }
            }
            Step::HangUp(Line::Leaving) => self.leaving = None,
            Step::HangUp(Line::Current) => self.current = None,
            Step::End(reason) => return ControlFlow::Break(reason),
        }
        // A connection that was welcomed wrongly.
        self.next = None;
        ControlFlow::Continue(())
    }

    async fn tell(&mut self, told: Told, session: &mut Session) -> ControlFlow<Reason> {
        let began = Instant::now();
        if self.owner.send(told).await.is_err() {
            return ControlFlow::Break(Reason::Stopped);
        }
        session.paused(began.elapsed());
        ControlFlow::Continue(())
    }

    async fn hang_up(&mut self) {
        if let Some(current) = &mut self.current {
            let_go(current).await;
        }
    }
}

async fn hear_on(connection: &mut Option<Connection>) -> Heard {
    match connection {
        Some(connection) => hear(connection).await,
        None => pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

#[cfg(test)]
#[path = "io_tests.rs"]
mod tests;

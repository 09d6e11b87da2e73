//! The signals that a host obeys: two stop it, one has it read its files again, and one it only survives.
//!
//! All are taken from the first moment on: a signal that nobody listens for ends the process where it
//! stands, with logs that are not sealed.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::api::auth::Tokens;
use crate::api::tls::Identity;
use crate::serve::Serving;

/// The two that stop whatever runs.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

/// All that a host listens for.
pub(super) struct Signals {
    stop: Stop,
    hangup: Signal,
    had_terminal: bool,
}

/// What SIGHUP reads again: files that change more often than hosts start.
pub(super) struct ReadAgain {
    tls: Option<Arc<Identity>>,
    tokens: Option<Arc<Tokens>>,
}

impl Stop {
    /// Listens at once: a signal that comes before it is asked for counts then. Needs a runtime.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    /// Resolves at either. Cancel safe.
    pub(super) async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = self.interrupt.recv() => tracing::info!("interrupted: stopping"),
        }
    }
}

impl Signals {
    /// As [`Stop::listen`].
    pub(super) fn listen() -> anyhow::Result<Self> {
        // For good: a write above the limit on the size of files then fails as any other does, and is told.
        let file_size = signal(SignalKind::from_raw(libc::SIGXFSZ));
        drop(file_size.context("cannot listen for SIGXFSZ")?);
        let hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        Ok(Self { stop: Stop::listen()?, hangup, had_terminal: std::io::stderr().is_terminal() })
    }

    /// As [`Stop::told`]. A SIGHUP waits for [`Signals::stop`].
    pub(super) async fn told(&mut self) {
        self.stop.told().await;
    }

    /// Resolves at SIGTERM or SIGINT, and at the SIGHUP of a terminal that is gone. At any other
    /// SIGHUP files are read again: beside, as a file may keep its reader waiting for ever.
    pub(super) async fn stop(mut self, files: ReadAgain) {
        let files = Arc::new(files);
        loop {
            tokio::select! {
                () = self.stop.told() => return,
                _ = self.hangup.recv() => {}
            }
            // Whoever watched it is gone, as after Ctrl-C.
            if self.had_terminal && !std::io::stderr().is_terminal() {
                return;
            }
            let (files, (over, read)) = (Arc::clone(&files), oneshot::channel::<()>());
            // Not of the runtime, which would wait for it at its end.
            let thread = std::thread::Builder::new().name("read-again".to_owned());
            let begun = thread.spawn(move || {
                files.read();
                drop(over);
            });
            if let Err(error) = begun {
                tracing::error!("SIGHUP: nothing is read again: {error}");
            }
            tokio::select! {
                () = self.stop.told() => return,
                _ = read => {}
            }
        }
    }
}

impl ReadAgain {
    /// What this host was given as files.
    pub(super) fn of(serving: &Serving) -> Self {
        let tokens = serving.tokens.clone().filter(|tokens| tokens.file().is_some());
        Self { tls: serving.tls.clone(), tokens }
    }

    /// Each on its own: a broken file keeps nothing but itself from being taken.
    fn read(&self) {
        if let Some(identity) = &self.tls {
            match identity.reload() {
                Ok(()) => tracing::info!("SIGHUP: certificate and key are read again"),
                Err(error) => tracing::error!("SIGHUP: the old certificate stays: {error}"),
            }
        }
        if let Some(tokens) = &self.tokens {
            match tokens.reload() {
                Ok(()) => tracing::info!("SIGHUP: the tokens file is read again"),
                Err(error) => tracing::error!("SIGHUP: the old tokens stay: {error}"),
            }
        }
        if self.tls.is_none() && self.tokens.is_none() {
            tracing::info!("SIGHUP: there is no certificate and no tokens file to read again");
        }
    }
}

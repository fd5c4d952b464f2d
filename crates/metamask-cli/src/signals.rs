//! Signals that ask the program to end: the first one lets it save, a second one
//! of any kind ends it at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use anyhow::Context as _;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2, SIGXFSZ},
    flag,
};

/// What a shell adds to the number of the signal that ended a program.
const ENDED_BY_SIGNAL: usize = 128;

/// A file that may not grow is an error of the write, not the end of the program.
///
/// # Errors
/// If the system does not let us listen.
pub(crate) fn survive_limits_of_files() -> anyhow::Result<()> {
    // Whoever catches the signal gets EFBIG; nobody asks the flag.
    flag::register(SIGXFSZ, Arc::default()).context("failed to listen for signals")?;
    Ok(())
}

/// Remembers the signal that came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    came: Arc<AtomicUsize>,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the system does not let us.
    pub fn listen() -> anyhow::Result<Self> {
        let signals = Self::default();
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGUSR2] {
            let status = ENDED_BY_SIGNAL as i32 + signal;
            let listening = flag::register_conditional_shutdown(signal, status, again.clone())
                .and_then(|_| flag::register(signal, again.clone()))
                .and_then(|_| flag::register_usize(signal, signals.came.clone(), signal as usize));
            listening.context("failed to listen for signals")?;
        }
        Ok(signals)
    }

    /// Takes the end of stdin for a SIGTERM: whoever started this program has gone, or
    /// asks it to stop.
    pub fn end_with_stdin(&self) {
        let came = self.came.clone();
        std::thread::spawn(move || {
            // Nothing is ever written there.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            came.store(SIGTERM as usize, Ordering::Relaxed);
        });
    }

    /// Whether one has come.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed) != 0
    }

    /// The exit status that tells of it.
    pub fn exit_status(&self) -> u8 {
        (ENDED_BY_SIGNAL + self.came.load(Ordering::Relaxed)) as u8
    }
}

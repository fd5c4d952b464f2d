//! Telling whoever watches what a load or a download is doing.

use std::fmt;
use std::sync::Arc;

/// Something worth showing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A long piece of work begins.
    Started {
        /// What, for people: `decoding cifar10`.
        what: String,
        /// How much it is, if that is known.
        total: Option<u64>,
        /// What it is counted in.
        unit: Unit,
    },
    /// So much more is done.
    Advanced(u64),
    /// The piece of work is done.
    Finished,
    /// A line a user should read.
    Note(String),
}

/// What work is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Images.
    Images,
    /// Bytes.
    Bytes,
}

/// Where events go; nowhere by default. Called from many threads.
#[derive(Clone, Default)]
pub struct Reporter(Option<Arc<dyn Fn(Event) + Send + Sync>>);

impl Reporter {
    /// Calls `watch` with each event.
    pub fn new(watch: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    pub(crate) fn started(&self, what: String, total: Option<u64>, unit: Unit) {
        self.send(Event::Started { what, total, unit });
    }

    pub(crate) fn advanced(&self, n: u64) {
        self.send(Event::Advanced(n));
    }

    pub(crate) fn finished(&self) {
        self.send(Event::Finished);
    }

    pub(crate) fn note(&self, line: impl Into<String>) {
        self.send(Event::Note(line.into()));
    }

    fn send(&self, event: Event) {
        if let Some(watch) = &self.0 {
            watch(event);
        }
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Reporter(watched)" } else { "Reporter" })
    }
}

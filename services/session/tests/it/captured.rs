//! Logs of one test. For tests of one thread: the subscriber is the thread's own.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Everything that was logged, spans and their fields with it.
#[derive(Clone, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Captured;

    fn make_writer(&'a self) -> Captured {
        self.clone()
    }
}

/// Captures until it is dropped.
pub(crate) struct Capturing {
    _subscriber: tracing::subscriber::DefaultGuard,
    _second: tracing::Dispatch,
}

impl Captured {
    pub(crate) fn start(&self, spans: FmtSpan) -> Capturing {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_span_events(spans)
            .with_ansi(false)
            .with_writer(self.clone())
            .finish();
        // As long as there is one subscriber only, `tracing` believes that other tests' threads, which have none, speak
        // for all, and a place that one of them passed first is silent for ever.
        let second = tracing::Dispatch::new(tracing_subscriber::registry());
        Capturing { _subscriber: tracing::subscriber::set_default(subscriber), _second: second }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
    }
}

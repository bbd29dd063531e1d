//! What happened when: the world's own words and those of each daemon's log, in one list.
//!
//! Two runs of a seed are compared by it line by line, so nothing in it may depend on the machine: no real time,
//! no process number, no path but the world's own, which is left out.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// The list, and the world's time. A cheap handle.
#[derive(Debug, Clone)]
pub struct Timeline(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    now_us: AtomicU64,
    lines: Mutex<Vec<String>>,
    /// The world's folder, which is another for each process.
    folder: String,
}

impl Timeline {
    /// An empty list of a world in `folder`.
    #[must_use]
    pub fn new(folder: &std::path::Path) -> Self {
        Self(Arc::new(Inner {
            now_us: AtomicU64::new(0),
            lines: Mutex::default(),
            folder: folder.display().to_string(),
        }))
    }

    /// Microseconds since the world began.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.0.now_us.load(Ordering::Relaxed)
    }

    /// Milliseconds since the world began.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_us() / 1_000
    }

    pub(crate) fn set_now_us(&self, now_us: u64) {
        self.0.now_us.store(now_us, Ordering::Relaxed);
    }

    /// Adds a line of somebody's.
    pub fn say(&self, who: &str, what: impl fmt::Display) {
        let now = self.now_us();
        let (seconds, millis) = (now / 1_000_000, now / 1_000 % 1_000);
        let text = format!("{seconds:3}.{millis:03} {who:<11} {what}");
        self.lines().push(text.replace(&self.0.folder, "~"));
    }

    /// All lines so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Writes down what the daemons log, from now on and for good.
    ///
    /// # Errors
    /// When this process already has a log.
    pub fn listen(&self) -> anyhow::Result<()> {
        let subscriber = tracing_subscriber::registry().with(Ear(self.clone()));
        Ok(tracing::subscriber::set_global_default(subscriber)?)
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what daemons log.
#[derive(Debug)]
struct Ear(Timeline);

/// The host on whose turn something was said.
struct Host(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Ear {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        if metadata.is_span() {
            // turmoil opens one around each host's turn.
            return metadata.name() == "node";
        }
        // Here "less" is more severe: tracing has errors first.
        metadata.target().starts_with("marquee") && *metadata.level() <= Level::INFO
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut words = Words::default();
        attributes.record(&mut words);
        if let (Some(span), Some(name)) = (context.span(id), words.name) {
            span.extensions_mut().insert(Host(name));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut words = Words::default();
        event.record(&mut words);
        let host = context.lookup_current().and_then(|span| {
            let extensions = span.extensions();
            extensions.get::<Host>().map(|host| host.0.clone())
        });
        let mark = if *event.metadata().level() <= Level::WARN {
            "! "
        } else {
            ""
        };
        let text = format!("{mark}{}{}", words.message, words.fields);
        self.0.say(host.as_deref().unwrap_or("?"), text);
    }
}

/// An event's message and its fields as text.
#[derive(Debug, Default)]
struct Words {
    message: String,
    fields: String,
    name: Option<String>,
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => {
                if name == "name" {
                    self.name = Some(value.to_owned());
                }
                let _ = write!(self.fields, " {name}={value}");
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

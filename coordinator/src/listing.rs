//! The settings in force with the place where each was written: what administrators see of them.

use std::sync::{Arc, PoisonError, RwLock};

use marquee_settings::Setting;

/// The settings in force, for whoever looks. A cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Listing(Arc<RwLock<Arc<[Setting]>>>);

impl Listing {
    #[must_use]
    pub fn new(settings: Vec<Setting>) -> Self {
        Self(Arc::new(RwLock::new(settings.into())))
    }

    /// As they are now.
    #[must_use]
    pub fn get(&self) -> Arc<[Setting]> {
        let settings = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&settings)
    }

    pub(crate) fn set(&self, settings: Vec<Setting>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = settings.into();
    }
}

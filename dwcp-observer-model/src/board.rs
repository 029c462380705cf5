//! Where one thread leaves a value for others.

use std::sync::{Arc, PoisonError, RwLock};

/// The last value that was published; its readers keep what they took.
#[derive(Debug)]
pub struct Board<T>(Arc<RwLock<Option<Arc<T>>>>);

impl<T> Clone for Board<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Board<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Board<T> {
    /// Replaces what readers see.
    pub fn publish(&self, value: T) {
        // A poisoned lock holds a whole value all the same: it is only ever replaced.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(value));
    }

    /// What was published last; `None` before the first.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

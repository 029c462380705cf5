//! Caches response bodies: each is rendered at most once per cycle.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

use crate::cycle::published::Published;

/// The body made from the last cycle.
#[derive(Debug, Default)]
pub(super) struct PerCycle(Mutex<Option<(Weak<Published>, Bytes)>>);

impl PerCycle {
    /// The body for `published`, made by `render` unless it is there already.
    pub(super) fn get<E>(
        &self,
        published: &Arc<Published>,
        render: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Bytes, E> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The weak reference keeps the address from being used again.
        if let Some((key, body)) = cached.as_ref()
            && std::ptr::eq(key.as_ptr(), Arc::as_ptr(published))
        {
            return Ok(body.clone());
        }
        let body = Bytes::from(render()?);
        *cached = Some((Arc::downgrade(published), body.clone()));
        Ok(body)
    }
}

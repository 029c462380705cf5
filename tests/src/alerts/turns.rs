//! Whose turn it is, where several threads wait.

use std::sync::{Condvar, Mutex, PoisonError};

/// Turns in the order of their numbers, from 0 and without a gap.
#[derive(Debug, Default)]
pub struct Turns {
    now: Mutex<usize>,
    changed: Condvar,
}

/// It is this one's turn until this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits until all turns before this one are over.
    pub(super) fn wait(&self, number: usize) -> Turn<'_> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.changed
                .wait_while(now, |now| *now < number)
                .unwrap_or_else(PoisonError::into_inner),
        );
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.now.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_their_order() {
        let (turns, seen) = (Turns::default(), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for number in [2, 0, 3, 1] {
                let (turns, seen) = (&turns, &seen);
                scope.spawn(move || {
                    let _turn = turns.wait(number);
                    seen.lock().unwrap().push(number);
                });
            }
        });
        assert_eq!(*seen.lock().unwrap(), [0, 1, 2, 3]);
    }
}

//! Recorded seconds through the same signals: what they would have said.

use jiff::Timestamp;

use super::{Event, Phase, Sample, Signals};

/// The events of a recorded course, each as it was when it began, oldest first. `seconds` are in the order of time; the
/// detectors begin without a past, so what is to be judged should follow some minutes of ordinary migrations.
pub fn replay<'a>(seconds: impl IntoIterator<Item = (Timestamp, Vec<Sample<'a>>)>) -> Vec<Event> {
    let mut signals = Signals::new();
    let mut began = Vec::new();
    for (now, samples) in seconds {
        let events = signals.observe(now, &samples);
        began.extend(events.into_iter().filter(|event| event.phase == Phase::Began));
    }
    began
}

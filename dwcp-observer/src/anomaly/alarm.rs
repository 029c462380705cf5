//! Merges the samples of an anomaly into one event.

/// A sample below this part of the level is calm.
const RELEASE: f64 = 0.7;

/// Hysteresis: which of the surprises are one event.
#[derive(Clone, Copy, Debug)]
pub struct Alarm {
    level: f64,
    calm: u32,
    quiet: u32,
    active: bool,
}

/// What a sample changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// An event begins.
    Begins,
    /// The event ends.
    Ends,
}

impl Alarm {
    /// An event begins at a surprise of `level`, above 0, and ends after `calm` calm samples in a row, at least one.
    #[must_use]
    pub fn new(level: f64, calm: u32) -> Self {
        Self { level, calm: calm.max(1), quiet: 0, active: false }
    }

    /// Takes in the surprise of a sample. Not a number: no change.
    pub fn observe(&mut self, surprise: f64) -> Option<Edge> {
        if !self.active {
            if surprise >= self.level {
                self.active = true;
                self.quiet = 0;
                return Some(Edge::Begins);
            }
            return None;
        }
        if surprise >= RELEASE * self.level {
            self.quiet = 0;
        } else if surprise < RELEASE * self.level {
            self.quiet += 1;
        }
        if self.quiet < self.calm {
            return None;
        }
        self.active = false;
        Some(Edge::Ends)
    }

    /// Ends the event, if one goes on: nothing more is heard of its series.
    pub fn end(&mut self) -> Option<Edge> {
        let was_active = std::mem::take(&mut self.active);
        was_active.then_some(Edge::Ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(alarm: &mut Alarm, surprises: &[f64]) -> Vec<(usize, Edge)> {
        let all = surprises.iter().enumerate();
        all.filter_map(|(at, surprise)| Some((at, alarm.observe(*surprise)?))).collect()
    }

    #[test]
    fn one_event_however_long_and_uneven() {
        let mut alarm = Alarm::new(3.0, 3);
        let course = [0.0, 3.0, 9.0, 2.0, 3.5, 2.0, 2.0, 2.2, 1.0, 1.0, 1.0, 1.0, 3.0];
        let expected = [(1, Edge::Begins), (10, Edge::Ends), (12, Edge::Begins)];
        assert_eq!(edges(&mut alarm, &course), expected);
    }

    #[test]
    fn the_level_itself_fires_and_what_is_no_number_does_nothing() {
        let mut alarm = Alarm::new(3.0, 1);
        assert_eq!(edges(&mut alarm, &[2.999, f64::NAN]), []);
        assert_eq!(edges(&mut alarm, &[3.0, f64::NAN, f64::NAN]), [(0, Edge::Begins)]);
        assert_eq!(alarm.end(), Some(Edge::Ends));
        assert_eq!(alarm.end(), None);
    }
}

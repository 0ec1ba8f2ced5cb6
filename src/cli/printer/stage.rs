//! The stage that runs now, as text: `[3/8] calibrate: 37/210 decoder.layers.3.mlp.down (eta 12 s)`. Time comes in as an argument.

use std::time::{Duration, Instant};

use crate::cli::format::{count, duration};
use crate::pipeline::Stage;

/// At most one line per this span: logs are read by people.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// A first guess after less than this is a guess about start-up.
const ETA_AFTER: Duration = Duration::from_secs(1);

/// A stage that has begun and not ended.
#[derive(Clone, Debug)]
pub struct Running {
    stage: Stage,
    total: u64,
    began: Instant,
    last_line: Instant,
}

impl Running {
    /// Begins now.
    pub fn new(stage: Stage, total: u64, now: Instant) -> Self {
        Self { stage, total, began: now, last_line: now }
    }

    /// Steps expected.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// `[3/8] calibrate`.
    pub fn label(&self) -> String {
        let (number, all) = self.stage.place();
        format!("[{number}/{all}] {}", self.stage.name())
    }

    /// The line at the beginning.
    pub fn first_line(&self) -> String {
        match self.total {
            // One step says no more than the name of the stage.
            0 | 1 => self.label(),
            n => format!("{}: {} steps", self.label(), count(n)),
        }
    }

    /// The line on the way, when it is time for one.
    pub fn line_at(&mut self, now: Instant, done: u64, what: &str) -> Option<String> {
        if now.saturating_duration_since(self.last_line) < LINE_EVERY {
            return None;
        }
        self.last_line = now;
        let text = self.text(now, done, what);
        let line = if self.total == 0 {
            format!("{}: {text}", self.label())
        } else {
            format!("{}: {done}/{} {text}", self.label(), self.total)
        };
        Some(line.trim_end().to_string())
    }

    /// The current step and the time left.
    pub fn text(&self, now: Instant, done: u64, what: &str) -> String {
        match remaining(now.saturating_duration_since(self.began), done, self.total) {
            Some(left) => format!("{what} (eta {})", duration(left)).trim_start().to_string(),
            None => what.to_string(),
        }
    }

    /// The line at the end.
    pub fn last_line(&self, now: Instant) -> String {
        let s = now.saturating_duration_since(self.began).as_secs_f64();
        let span = if s < 60.0 { format!("{s:.1} s") } else { duration(Duration::from_secs_f64(s)) };
        format!("{}: done in {span}", self.label())
    }
}

/// Time left at the average pace so far; `None` while there is nothing to go by.
fn remaining(elapsed: Duration, done: u64, total: u64) -> Option<Duration> {
    if done == 0 || done >= total || elapsed < ETA_AFTER {
        return None;
    }
    let left = elapsed.as_secs_f64() / done as f64 * (total - done) as f64;
    // No stage takes a century; a broken count must not panic in the conversion.
    Some(Duration::from_secs_f64(left.min(3e9)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    #[test]
    fn eta_is_the_average_pace() {
        assert_eq!(remaining(secs(30.0), 10, 30), Some(secs(60.0)));
        assert_eq!(remaining(secs(0.5), 10, 30), None);
        assert_eq!(remaining(secs(30.0), 0, 30), None);
        assert_eq!(remaining(secs(30.0), 30, 30), None);
        assert_eq!(remaining(secs(30.0), 31, 30), None);
        assert!(remaining(secs(1e9), 1, u64::MAX).is_some());
    }

    #[test]
    fn lines_are_throttled() {
        let t = Instant::now();
        let mut r = Running::new(Stage::Calibrate, 210, t);
        assert_eq!(r.first_line(), "[3/8] calibrate: 210 steps");
        assert_eq!(r.line_at(t + secs(0.9), 1, "a"), None);
        let line = r.line_at(t + secs(10.0), 105, "decoder.layers.3.mlp.down");
        assert_eq!(line.as_deref(), Some("[3/8] calibrate: 105/210 decoder.layers.3.mlp.down (eta 10 s)"));
        assert_eq!(r.line_at(t + secs(10.9), 106, "b"), None);
        assert_eq!(r.line_at(t + secs(11.0), 210, "").as_deref(), Some("[3/8] calibrate: 210/210"));
        assert_eq!(r.last_line(t + secs(12.34)), "[3/8] calibrate: done in 12.3 s");
        assert_eq!(r.last_line(t + secs(75.0)), "[3/8] calibrate: done in 1 min 15 s");
    }

    #[test]
    fn a_stage_without_count_shows_its_step() {
        let t = Instant::now();
        let mut r = Running::new(Stage::Read, 0, t);
        assert_eq!(r.first_line(), "[1/8] read");
        assert_eq!(r.line_at(t + secs(2.0), 0, "config.json").as_deref(), Some("[1/8] read: config.json"));
    }
}

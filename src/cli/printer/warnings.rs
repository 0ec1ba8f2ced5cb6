//! Which warnings are shown: of a kind that comes once per linear, the first few are enough on a terminal.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};

use crate::pipeline::Warning;

/// Shown per kind; all are in the report.
const SHOWN: usize = 5;

/// The warnings told so far, by kind.
#[derive(Debug, Default)]
pub struct Told {
    counts: HashMap<Discriminant<Warning>, usize>,
}

impl Told {
    /// The text to show, or nothing when enough of this kind was shown.
    pub fn tell(&mut self, warning: &Warning) -> Option<String> {
        let n = self.counts.entry(discriminant(warning)).or_default();
        *n += 1;
        (*n <= SHOWN).then(|| warning.to_string())
    }

    /// Says how many were held back, once.
    pub fn rest(&mut self) -> Option<String> {
        let held: usize = self.counts.drain().map(|(_, n)| n.saturating_sub(SHOWN)).sum();
        (held > 0).then(|| format!("{held} more of these were not shown; the report of --json lists all"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_of_a_kind_is_held_back() {
        let mut told = Told::default();
        let rows = |i| Warning::NoRows { linear: format!("decoder.layers.{i}.mlp.down"), modality: "visual" };
        let shown: Vec<bool> = (0..8).map(|i| told.tell(&rows(i)).is_some()).collect();
        assert_eq!(shown, [true, true, true, true, true, false, false, false]);
        assert!(told.tell(&Warning::NoGenai { family: "x".into(), reason: "y".into() }).is_some());
        assert!(told.rest().unwrap().starts_with("3 more"));
        assert_eq!(told.rest(), None);
    }
}

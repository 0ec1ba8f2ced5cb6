//! What a verification of the artifact is held to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Thresholds of a verification; those that are absent are not checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Largest mean Kullback-Leibler divergence of the distributions of the next token from the float model's, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_kld: Option<f64>,
    /// Least share of rows with the float model's best token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_top1: Option<f64>,
    /// Largest share of samples whose greedy answer is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_flips: Option<f64>,
    /// Largest loss of the task's score, float model's minus artifact's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_accuracy_drop: Option<f64>,
}

impl Thresholds {
    /// Those of `self`, and of `other` where `self` has none.
    pub fn or(self, other: Self) -> Self {
        Self {
            max_kld: self.max_kld.or(other.max_kld),
            min_top1: self.min_top1.or(other.min_top1),
            max_flips: self.max_flips.or(other.max_flips),
            max_accuracy_drop: self.max_accuracy_drop.or(other.max_accuracy_drop),
        }
    }

    /// Whether nothing is checked.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with the numbers, if anything.
    pub fn problem(&self) -> Option<String> {
        let share = |name: &str, x: Option<f64>| match x {
            Some(x) if !(0.0..=1.0).contains(&x) => {
                Some(format!("{name} is {x}, a share from 0 to 1 is expected"))
            }
            _ => None,
        };
        let kld = self.max_kld.filter(|x| !(x.is_finite() && *x >= 0.0));
        kld.map(|x| format!("max_kld is {x}, a finite number of nats from 0 is expected"))
            .or_else(|| share("min_top1", self.min_top1))
            .or_else(|| share("max_flips", self.max_flips))
            .or_else(|| share("max_accuracy_drop", self.max_accuracy_drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_recipe() {
        let recipe = Thresholds { max_kld: Some(0.1), min_top1: Some(0.9), ..Thresholds::default() };
        let flags = Thresholds { max_kld: Some(0.2), max_flips: Some(0.0), ..Thresholds::default() };
        let both = flags.or(recipe);
        assert_eq!((both.max_kld, both.min_top1, both.max_flips), (Some(0.2), Some(0.9), Some(0.0)));
    }

    #[test]
    fn shares_are_shares() {
        let bad = |t: Thresholds| t.problem().unwrap();
        assert!(bad(Thresholds { min_top1: Some(99.0), ..Thresholds::default() }).contains("min_top1 is 99"));
        assert!(bad(Thresholds { max_kld: Some(f64::NAN), ..Thresholds::default() }).contains("max_kld"));
        assert!(bad(Thresholds { max_flips: Some(-0.1), ..Thresholds::default() }).contains("max_flips"));
        assert_eq!(
            Thresholds { max_kld: Some(3.0), min_top1: Some(1.0), ..Thresholds::default() }.problem(),
            None
        );
    }
}

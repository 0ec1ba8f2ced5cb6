//! What was weighed for one linear (`--explain`).

use super::format::{property, table};
use crate::pipeline::Explanation;
use crate::quantize::{LinearDecision, Reason};

/// For people: the candidates as a table, the chosen one marked.
pub fn lines(e: &Explanation) -> Vec<String> {
    let l = &e.linear;
    let mut lines = vec![
        property("linear", &l.role),
        property("out x in", format!("{} x {}", l.out, l.input)),
        property("recipe", &e.recipe),
        property("weights", l.precision.weights.to_string()),
        property("activations", format!("{:?}", l.precision.activations).to_lowercase()),
    ];
    match &e.decision {
        None => lines.push(property("decided by", "the recipe, which leaves no choice here")),
        Some(decision) => {
            lines.push(property("decided by", reason(decision.reason)));
            lines.push(String::new());
            lines.extend(candidates(decision));
            lines.extend(decision.impossible.iter().map(|why| property("not possible", why)));
        }
    }
    lines
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::LeastError => "the least expected error (an online product must take away a fifth of it)",
        Reason::WithinBudget => "the cheapest that meets the budget's error",
        Reason::NoneWithinBudget => "none meets the budget's error, this comes nearest",
        Reason::Bits => "the budget's bits, spent where they take away the most error",
    }
}

fn candidates(decision: &LinearDecision) -> Vec<String> {
    let head = ["", "weights", "remedy", "bits", "expected error"].map(String::from).to_vec();
    let rows = decision.candidates.iter().enumerate().map(|(i, c)| {
        let mark = if i == decision.chosen { "*" } else { "" };
        let error = format!("{:.3} %", 100.0 * c.error);
        vec![mark.to_string(), c.weights.to_string(), c.remedy.clone(), format!("{:.2}", c.bits), error]
    });
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>(), &[3, 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::recipe::{Activations, Precision, Weights};
    use crate::quantize::{Candidate, Decision, LinearPlan};

    #[test]
    fn the_chosen_candidate_is_marked() {
        let precision = Precision { weights: Weights::INT8, activations: Activations::Msq };
        let candidate = |remedy: &str, error| Candidate {
            remedy: remedy.into(),
            weights: Weights::INT8,
            bits: 8.02,
            error,
        };
        let decision = LinearDecision {
            role: "decoder.layers.0.mlp.down".into(),
            candidates: vec![candidate("none", 0.0712), candidate("smooth", 0.0213)],
            chosen: 1,
            reason: Reason::LeastError,
            impossible: vec!["hadamard 3: rotation order impossible".into()],
        };
        let linear = LinearPlan {
            role: decision.role.clone(),
            out: 96,
            input: 256,
            precision,
            decided_by: Decision::Component,
        };
        let explained =
            Explanation { schema_version: 1, recipe: "w8a8".into(), linear, decision: Some(decision) };
        let lines = lines(&explained);
        assert!(lines.contains(&"activations  msq".to_string()), "{lines:?}");
        assert!(lines.last().unwrap().contains("hadamard 3"), "{lines:?}");
        let last = &lines[lines.len() - 2];
        assert!(last.trim_start().starts_with("*  int8     smooth"), "{last}");
        assert!(last.ends_with("2.130 %"), "{last}");
        let silent = Explanation { decision: None, ..explained };
        assert!(super::lines(&silent).last().unwrap().contains("no choice"));
    }
}

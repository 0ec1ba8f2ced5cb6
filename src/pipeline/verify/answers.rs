//! What the float model answers: what is expected where it says so, found in one pass over all samples, and what it generates otherwise.

use crate::pipeline::error::PipelineError;
use crate::verify::runner::{Question, Runner, Scored, Until};

/// The float model's greedy answers without the token that ends them, and its distributions behind each of their tokens. `questions` are fed the expected answers, and the
/// model's own afterwards.
pub(super) fn greedy(
    runner: &mut dyn Runner,
    questions: &mut [Question],
    until: Until<'_>,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Scored>, PipelineError> {
    for question in questions.iter_mut() {
        question.fed.truncate(until.max_new);
    }
    let mut scored = runner.score(questions, done)?;
    let others: Vec<usize> =
        (0..questions.len()).filter(|i| !is_greedy(&questions[*i], &scored[*i], until)).collect();
    let mut again = Vec::with_capacity(others.len());
    for i in &others {
        let mut ids = runner.generate(&questions[*i], until, &mut |_| true)?;
        if ids.last().is_some_and(|id| until.stop.contains(id)) {
            ids.pop();
        }
        questions[*i].fed = ids;
        again.push(questions[*i].clone());
    }
    for (i, other) in others.into_iter().zip(runner.score(&again, &mut |_| {})?) {
        scored[i] = other;
    }
    Ok(scored)
}

/// Whether what was fed is what the model says by itself: each token its best, and then the end, or no room for more.
fn is_greedy(question: &Question, scored: &Scored, until: Until<'_>) -> bool {
    let mut best = scored.rows.iter().map(|row| row.best());
    let fed = question.fed.iter().all(|id| best.next() == Some(*id));
    let full = question.fed.len() == until.max_new;
    fed && (full || best.next().is_some_and(|id| until.stop.contains(&id)))
}

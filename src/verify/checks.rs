//! What a verification is held to: thresholds, and sanity that catches the classic failures whatever the numbers say.

use super::compare::{SampleDifference, divergence};
use super::report::{Attribution, Check, LinearGap, Measured};
use super::runner::Scored;
use crate::quantize::recipe::Thresholds;

/// The artifact must depend on the image at least this share of how much the float model does.
const LEAST_DEPENDENCE: f64 = 0.1;

/// Nats by which the float model has to depend on the image for anything to be said.
const DEPENDS: f64 = 1e-3;

/// One token this many times in a row is a model that does not answer any more.
const REPEATS: usize = 8;

/// Nats that the runtime, with the vision files at hand, may be from the text files alone on prompts without images: its own arithmetic moves distributions less
/// (measured at most 1.2e-4: Q8_0 in llama.cpp, which rounds activations and caches in half precision).
const TEXT_ONLY: f64 = 1e-2;

fn check(name: &str, passed: bool, (measured, limit): (Option<f64>, Option<f64>), text: String) -> Check {
    Check { name: name.into(), passed, measured, limit, text }
}

/// The checks of the thresholds that are given.
pub fn thresholds(limits: &Thresholds, measured: &Measured) -> Vec<Check> {
    let drop = measured.accuracy_float.zip(measured.accuracy).map(|(float, own)| float.value - own.value);
    let at_most = |name: &str, limit: Option<f64>, value: f64, what: &str| {
        limit.map(|limit| {
            check(
                name,
                value <= limit,
                (Some(value), Some(limit)),
                format!("{what} is {}, at most {} is allowed.", number(value), number(limit)),
            )
        })
    };
    let kld = at_most(
        "max_kld",
        limits.max_kld,
        measured.kld_mean.value,
        "The mean divergence from the float model in nats",
    );
    let flips =
        at_most("max_flips", limits.max_flips, measured.flips.value, "The share of answers that changed");
    let top1 = limits.min_top1.map(|limit| {
        let value = measured.top1.value;
        let text = format!(
            "The share of rows with the float model's best token is {}, at least {} is required.",
            number(value),
            number(limit)
        );
        check("min_top1", value >= limit, (Some(value), Some(limit)), text)
    });
    let accuracy = limits.max_accuracy_drop.and_then(|limit| match drop {
        Some(drop) => at_most("max_accuracy_drop", Some(limit), drop, "The loss of the task's score"),
        None => Some(check(
            "max_accuracy_drop",
            false,
            (None, Some(limit)),
            "No sample has an expected answer, so accuracy cannot be measured.".into(),
        )),
    });
    [kld, top1, flips, accuracy].into_iter().flatten().collect()
}

/// A number for a sentence: short, without an exponent where it is of everyday size.
fn number(x: f64) -> String {
    if x == 0.0 || (1e-3..1e4).contains(&x.abs()) {
        let text = format!("{x:.4}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        return text.to_string();
    }
    format!("{x:.1e}")
}

/// Every row holds numbers.
pub fn finite(samples: &[SampleDifference]) -> Check {
    let broken = samples.iter().filter(|s| s.broken()).count();
    let text = match broken {
        0 => "All logits are numbers.".to_string(),
        n => {
            format!("On {n} of {} samples some row of logits is missing or holds no numbers.", samples.len())
        }
    };
    check("finite", broken == 0, (Some(broken as f64), Some(0.0)), text)
}

/// Mean divergence over rows between what one model says to two lists of questions.
pub fn apart(a: &[Scored], b: &[Scored]) -> f64 {
    let rows = a.iter().zip(b).flat_map(|(a, b)| a.rows.iter().zip(&b.rows));
    let (sum, count) = rows.map(|(a, b)| divergence(a, b)).fold((0.0, 0usize), |(s, n), x| (s + x, n + 1));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// Another image must change the answer, for the artifact as for the float model. Takes how far each is from itself when images are exchanged, on `pairs` questions.
pub fn image_swap(reference: f64, artifact: f64, pairs: usize) -> Check {
    let limit = LEAST_DEPENDENCE * reference;
    let name = "image_swap";
    if pairs == 0 {
        return check(
            name,
            true,
            (None, None),
            "Not checked: fewer than two samples have images of their own.".into(),
        );
    }
    if reference < DEPENDS {
        let text =
            "Not checked: the float model itself hardly depends on the images of these samples.".into();
        return check(name, true, (Some(artifact), None), text);
    }
    let passed = artifact >= limit;
    let text = match passed {
        true => format!(
            "Another image moves the answer by {} nats, the float model's by {}.",
            number(artifact),
            number(reference)
        ),
        false => format!(
            "Another image moves the answer by {} nats only, the float model's by {}: the artifact does not see its images. Look at the vision file and at the placeholder tokens.",
            number(artifact),
            number(reference)
        ),
    };
    check(name, passed, (Some(artifact), Some(limit)), text)
}

/// Answers must not be one token over and over where the float model's are not. Takes pairs of answers, the float model's first.
pub fn degenerate<'a>(answers: impl Iterator<Item = (&'a [i64], &'a [i64])>) -> Check {
    let stuck = |ids: &[i64]| ids.chunk_by(|a, b| a == b).any(|run| run.len() >= REPEATS);
    let (mut all, mut found) = (0, 0);
    for (float, own) in answers {
        all += 1;
        found += usize::from(stuck(own) && !stuck(float));
    }
    let text = match found {
        0 => "No answer repeats one token over and over.".to_string(),
        n => format!(
            "{n} of {all} answers repeat one token {REPEATS} times or more, where the float model's do not."
        ),
    };
    check("degenerate", found == 0, (Some(found as f64), Some(0.0)), text)
}

/// Prompts without images must not depend on the vision files. Takes how far the runtime is from what the text files alone hold, on `samples` such prompts.
pub fn text_only(apart: Option<f64>, samples: usize) -> Check {
    let name = "text_only";
    let Some(apart) = apart else {
        let text = "Prompts without images were answered from the text files alone: the vision files were not opened for them.";
        return check(name, true, (None, None), text.into());
    };
    let passed = apart <= TEXT_ONLY;
    let told = format!(
        "On {samples} prompts without images the runtime is {} nats from the text files alone",
        number(apart)
    );
    let text = if passed {
        format!("{told}.")
    } else {
        format!("{told}: something else than the text files decides.")
    };
    check(name, passed, (Some(apart), Some(TEXT_ONLY)), text)
}

/// No linear has a channel that is off by itself. Takes what was found by attribution, where it was asked for.
pub fn structure(attribution: Option<&Attribution>) -> Check {
    let name = "structure";
    let Some(attribution) = attribution else {
        return check(name, true, (None, None), "Not checked: the difference was not attributed.".into());
    };
    let odd = |l: &LinearGap| Some(format!("channel {} of {}", l.odd_channel?.channel, l.role));
    let found: Vec<String> = attribution.linears.iter().filter_map(odd).collect();
    let text = match found.as_slice() {
        [] => "Errors of linears are those of rounding: alike in all channels of each.".to_string(),
        all => format!(
            "Errors that rounding does not make: {}. Their scales or weights are not those that were exported.",
            all.join(", ")
        ),
    };
    check(name, found.is_empty(), (Some(found.len() as f64), Some(0.0)), text)
}

/// What the artifact's files say of prompts must be what the checkpoint's say.
pub fn configuration(differences: &[String]) -> Check {
    let text = match differences {
        [] => "Configuration, tokenizer and processor files say what the checkpoint's say.".to_string(),
        all => format!("These files do not say what the checkpoint's say: {}.", all.join("; ")),
    };
    check("configuration", differences.is_empty(), (Some(differences.len() as f64), Some(0.0)), text)
}

/// Ids and pixels that the artifact's files prepare must be those that the checkpoint's prepare. Takes the number of samples whose ids differ, and the largest difference of
/// pixels after normalisation.
pub fn preprocessing(ids: usize, pixels: f64, samples: usize) -> Check {
    let text = match (ids, pixels) {
        (0, 0.0) => "The artifact's files prepare the same ids and pixels as the checkpoint's.".to_string(),
        (0, p) => format!(
            "The artifact's processor makes pixels that are up to {} away from the checkpoint's: look at preprocessor_config.json.",
            number(p)
        ),
        (n, _) => format!(
            "On {n} of {samples} samples the artifact's files make other token ids or image sizes than the checkpoint's: look at tokenizer, chat template and processor."
        ),
    };
    check("preprocessing", ids == 0 && pixels == 0.0, (Some(pixels), Some(0.0)), text)
}

#[cfg(test)]
mod tests {
    use super::super::report::Interval;
    use super::super::runner::Distribution;
    use super::*;

    fn measured(kld: f64, top1: f64) -> Measured {
        let at = |value| Interval { value, low: value, high: value };
        Measured {
            rows: 4,
            kld_mean: at(kld),
            kld_median: at(kld),
            kld_p99: at(kld),
            top1: at(top1),
            flips: at(0.25),
            accuracy_float: Some(at(0.9)),
            accuracy: Some(at(0.8)),
            features: None,
        }
    }

    #[test]
    fn thresholds_are_inclusive_and_only_those_given() {
        let limits = Thresholds { max_kld: Some(0.1), min_top1: Some(0.99), ..Thresholds::default() };
        let passed =
            |m: &Measured, l: &Thresholds| thresholds(l, m).iter().map(|c| c.passed).collect::<Vec<_>>();
        assert_eq!(passed(&measured(0.1, 0.99), &limits), [true, true]);
        assert_eq!(passed(&measured(0.11, 0.98), &limits), [false, false]);
        assert_eq!(passed(&measured(f64::NAN, 0.99), &limits), [false, true]);
        let rest =
            Thresholds { max_flips: Some(0.2), max_accuracy_drop: Some(0.05), ..Thresholds::default() };
        assert_eq!(passed(&measured(0.0, 1.0), &rest), [false, false]);
        let none = Measured { accuracy: None, ..measured(0.0, 1.0) };
        let accuracy = thresholds(&rest, &none).pop().unwrap();
        assert!(!accuracy.passed && accuracy.text.contains("expected answer"));
        assert!(thresholds(&limits, &measured(0.2, 1.0))[0].text.contains("0.2, at most 0.1"));
    }

    #[test]
    fn blind_artifacts_are_found() {
        assert!(image_swap(2.0, 1.9, 4).passed && !image_swap(2.0, 0.1, 4).passed);
        assert!(image_swap(1e-5, 0.0, 4).passed && image_swap(2.0, 0.0, 0).passed);
        assert!(!image_swap(2.0, f64::NAN, 4).passed);
    }

    #[test]
    fn stuck_answers_are_found() {
        let (stuck, fine) = ([vec![1, 2], vec![7; 8]].concat(), vec![7, 7, 7, 8, 7, 7, 7, 7, 7]);
        assert!(!degenerate([(&fine[..], &stuck[..])].into_iter()).passed);
        assert!(degenerate([(&stuck[..], &stuck[..]), (&fine[..], &fine[..])].into_iter()).passed);
    }

    #[test]
    fn others_say_what_is_wrong() {
        assert!(
            text_only(None, 3).passed && text_only(Some(1e-4), 3).passed && !text_only(Some(1.0), 3).passed
        );
        assert!(configuration(&[]).passed);
        let other = configuration(&["config.json: image_token_id is 5, the checkpoint has 6".into()]);
        assert!(!other.passed && other.text.contains("image_token_id is 5"));
        assert!(
            preprocessing(0, 0.0, 4).passed
                && !preprocessing(0, 0.5, 4).passed
                && !preprocessing(1, 0.0, 4).passed
        );
        let row = |a: f32| Scored { rows: vec![Distribution::Full(vec![a, 0.0])], features: None };
        assert_eq!(apart(&[row(1.0)], &[row(1.0)]), 0.0);
        assert!(apart(&[row(9.0)], &[row(-9.0)]) > 8.0 && apart(&[], &[]) == 0.0);
        let nan = SampleDifference::of(&row(1.0), &row(f32::NAN));
        assert!(!finite(&[nan]).passed);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            ["0", "0.99", "0.1", "3.0e-7", "12", "2.0e4"],
            [0.0, 0.99, 0.1, 3e-7, 12.0, 2e4].map(number)[..]
        );
    }
}

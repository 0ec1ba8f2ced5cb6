//! Configurations with one number changed to another, sensible or not: each is refused, or the model runs. Nothing panics, and nothing is
//! accepted that fails later.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mquant_export::checkpoint::Checkpoint;
use mquant_export::exec::{DecoderState, Executor};
use mquant_export::family::{CheckpointWeights, Library, resolve};
use serde_json::{Value as Json, json};

use super::damaged::numbers_read;
use super::sizes::{Prompt, most_tiles};
use crate::common::folder;
use crate::common::golden::for_each_fixture;
use crate::common::synthetic::{self, Draw};

/// Other values for a number.
fn others(value: &Json) -> Vec<Json> {
    let x = value.as_f64().unwrap();
    let near = match value.as_u64() {
        Some(n) => [json!(n + 1), json!(2 * n)],
        None => [json!(x + 1.0), json!(2.0 * x)],
    };
    let mut all = vec![json!(0), json!(1), json!(3), json!(-1), json!(0.3), json!(1e12), json!(1e300)];
    all.extend(near);
    all
}

/// What is wrong with how a configuration is taken; `accepted` counts those that are.
fn fault(library: &Library, base: &str, config: &Json, accepted: &mut usize) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut draw = Draw::new(5);
    let written = synthetic::try_write(library, base, config, &mut draw, dir.path());
    let Ok((checkpoint, resolved)) = written else { return None };
    *accepted += 1;
    let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let exec = Executor::<f32>::keeping(&resolved.model, &weights);
    let spec = &resolved.model.spec;
    let prompt = Prompt::random(spec, &mut draw, most_tiles(spec).min(2));
    match DecoderState::prefill(&exec, &prompt.generation()) {
        Ok(state) if state.logits.data().iter().all(|x| x.is_finite()) => None,
        Ok(_) => Some("gives logits that are not finite".into()),
        Err(e) => Some(format!("is accepted and then fails: {e}")),
    }
}

fn changed_numbers_are_refused_or_run(base: &str) {
    let library = Library::built_in().unwrap();
    let (config, sizes) = synthetic::random_config(base, &mut Draw::new(77));
    let (mut faults, mut tried, mut accepted) = (vec![], 0, 0);
    for at in numbers_read(&library, &config) {
        for value in others(config.pointer(&at).unwrap()) {
            let mut changed = config.clone();
            folder::set(&mut changed, &at, value.clone());
            tried += 1;
            let found = catch_unwind(AssertUnwindSafe(|| fault(&library, base, &changed, &mut accepted)));
            let found = found.unwrap_or_else(|_| Some("panics".into()));
            faults.extend(found.map(|f| format!("{at} = {value}: {f}")));
        }
    }
    println!("{base}: {tried} changes, {accepted} accepted");
    assert!(faults.is_empty(), "{base}:{sizes}\n{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(accepted > 0 && accepted < tried);
}

#[test]
fn contradictions_are_told_by_name() {
    let library = Library::built_in().unwrap();
    let cases = [
        ("internvl2", "/llm_config/vocab_size", json!(7), "prompt.image_token_id is 402 with 7 rows"),
        ("internvl2", "/force_image_size", json!(42), "vision.positions.side is 3 with blocks of 2"),
        ("internvl2", "/llm_config/rms_norm_eps", json!(-1), "/llm_config/rms_norm_eps is -1"),
        ("qwen2_vl", "/image_token_id", json!(352), "prompt.image_token_id is 352 with 352 rows"),
        // The list of missing tensors ends somewhere.
        ("minicpm_v_2_6", "/num_hidden_layers", json!(1e12), "llm.model.layers.999.mlp.up_proj.weight"),
    ];
    for (base, at, value, told) in cases {
        let dir = tempfile::tempdir().unwrap();
        folder::copy(base, dir.path(), |_| true);
        let mut config = folder::config(base);
        folder::set(&mut config, at, value);
        folder::write_config(dir.path(), &config);
        let refused = resolve(&library, &Checkpoint::open(dir.path()).unwrap()).unwrap_err().to_string();
        assert!(refused.contains(told), "{base}, {at}: {}", refused.chars().take(1000).collect::<String>());
    }
}

macro_rules! fixtures {
    ($($name:ident,)*) => {
        $(#[test]
        fn $name() {
            changed_numbers_are_refused_or_run(stringify!($name));
        })*
    };
}
for_each_fixture!(fixtures);

//! What GPTQ in ggml's blocks is worth against llama.cpp's own rounding at the same size, in llama.cpp itself.

use crate::common::case::Case;
use crate::common::eval::{TINY, samples};
use crate::common::fixture;
use crate::common::gguf::{exported, said_by};
use crate::common::llama::Files;
use crate::common::planted::{PLANTED, planted};

/// Evaluation samples.
const SAMPLES: usize = 128;

#[test]
fn four_bits_by_gptq_lose_half_of_what_nearest_rounding_loses_or_less() {
    let dir = tempfile::tempdir().unwrap();
    let samples = &samples("evaluation.tsv")[..SAMPLES];
    let twin = planted(dir.path(), &PLANTED);
    for (model, folder) in [("natural", fixture(TINY)), ("planted", twin)] {
        let case = Case::open(&folder);
        let float = said_by(&case, &exported(dir.path(), model, &folder, "f16", None), samples);
        // Issue 5: at least 99 % of the evaluation samples right at F16.
        assert!(float.accuracy() >= 0.99, "{model}: {}", float.accuracy());
        for recipe in ["q4_0", "q4_k_m", "q8_0"] {
            let [nearest, ours] = ["nearest", "gptq"].map(|method| {
                let files = exported(dir.path(), model, &folder, recipe, Some(method));
                // Metadata and its padding: 2 KB of names and scales.
                (said_by(&case, &files, samples).against(&float), Files::of(&files).bytes())
            });
            println!("{model} {recipe}: nearest {}; gptq {}", nearest.0, ours.0);
            let more = ours.1.abs_diff(nearest.1);
            assert!(more < 8192, "{model} {recipe}: {more} bytes more");
            if recipe != "q8_0" {
                assert!(ours.0.kld <= 0.5 * nearest.0.kld, "{model} {recipe}");
            }
        }
    }
}

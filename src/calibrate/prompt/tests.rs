//! Tests of whole samples against the goldens of the reference processor, and of what is refused.

mod goldens;

use std::path::Path;

use safetensors::SafeTensors;

use super::*;
use crate::calibrate::chat::{SpecialTokens, template_source};
use crate::calibrate::dataset::{Content, ImageSource, LoadOptions, Message, Role, load};
use crate::family::inputs::{ContentForm, PatchRows, TemplateSource, Views};
use crate::tokenizer::TokenizerFormat;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/qwen2_vl");

fn image_plan() -> ImagePlan {
    ImagePlan {
        views: Views::Smart { factor: 28, min_pixels: 3136, max_pixels: 12_845_056 },
        mean: [0.48145466, 0.4578275, 0.40821073],
        std: [0.26862954, 0.261_302_6, 0.275_777_1],
        rescale: 1.0 / 255.0,
        rows: PatchRows { patch: 14, merge: 2, temporal: 2, channels: 3 },
    }
}

fn prompt_plan() -> PromptPlan {
    PromptPlan {
        template: TemplateSource::Checkpoint,
        content: ContentForm::Parts,
        marker: "<|image_pad|>".into(),
        expansion: "{{ views[0][0][0] }}".into(),
        tokens: TileTokens::Merged { merge: 2, extra: 0 },
        image_token_id: 340,
        image_token: "<|image_pad|>".into(),
        eos_token_ids: vec![330, 328],
        positions: PositionRule::MropeGrid { merge: 2 },
        max_positions: 32768,
    }
}

fn parts() -> (ChatTemplate, Tokenizer) {
    let path = Path::new(FIXTURE).join("chat_template.json");
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let source = template_source(value.get("chat_template")).unwrap().unwrap();
    let template = ChatTemplate::new(&source, SpecialTokens::default(), ContentForm::Parts).unwrap();
    (template, Tokenizer::from_folder(Path::new(FIXTURE), &TokenizerFormat::HuggingFace {}).unwrap())
}

fn preparer(prompt: PromptPlan) -> Result<Preparer, DataError> {
    let (template, tokenizer) = parts();
    Preparer::new(image_plan(), prompt, template, tokenizer)
}

fn samples() -> Vec<Sample> {
    load(&Path::new(FIXTURE).join("samples.jsonl"), &LoadOptions::default()).unwrap().samples
}

fn ask(content: Vec<Content>) -> Sample {
    let messages = vec![Message { role: Role::User, content, plain: false }];
    let (id, sha256) = ("q".into(), String::new());
    Sample { id, messages, answer: None, category: None, metric: None, sha256 }
}

fn integers(goldens: &SafeTensors<'_>, name: &str) -> Vec<i64> {
    let view = goldens.tensor(name).unwrap();
    view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn floats(goldens: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = goldens.tensor(name).unwrap();
    view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn every_sample_of_the_fixture_equals_the_reference_bit_for_bit() {
    let bytes = std::fs::read(Path::new(FIXTURE).join("goldens.safetensors")).unwrap();
    let goldens = SafeTensors::deserialize(&bytes).unwrap();
    let preparer = preparer(prompt_plan()).unwrap();
    let samples = samples();
    assert_eq!(samples.len(), 5);
    for (i, sample) in samples.iter().enumerate() {
        let got = preparer.prepare_sample(sample).unwrap();
        assert_eq!(got.input_ids, integers(&goldens, &format!("s{i}.input_ids")), "s{i}");
        assert_eq!(got.position_ids.concat(), integers(&goldens, &format!("s{i}.position_ids")), "s{i}");
        assert_eq!(got.answer_ids, None);
        if got.grids.is_empty() {
            assert_eq!(got.pixel_values.shape(), [0, 1176]);
            continue;
        }
        let grids: Vec<i64> = got.grids.concat().into_iter().map(|g| g as i64).collect();
        assert_eq!(grids, integers(&goldens, &format!("s{i}.image_grid_thw")), "s{i}");
        let expected = floats(&goldens, &format!("s{i}.pixel_values"));
        assert_eq!(got.pixel_values.shape(), [expected.len() / 1176, 1176], "s{i}");
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(bits(got.pixel_values.data()) == bits(&expected), "s{i}: pixel values differ");
    }
}

#[test]
fn decoding_continues_after_the_largest_position() {
    let preparer = preparer(prompt_plan()).unwrap();
    let samples = samples();
    let text = preparer.prepare_sample(&samples[2]).unwrap();
    assert_eq!(text.next_position(), text.input_ids.len() as i64);
    let image = preparer.prepare_sample(&samples[0]).unwrap();
    let largest = image.position_ids.iter().flatten().max().copied().unwrap();
    assert_eq!(image.next_position(), largest + 1);
    assert!(image.next_position() < image.input_ids.len() as i64);
}

#[test]
fn answers_are_tokenized_without_an_end() {
    let mut sample = samples().remove(2);
    sample.answer = Some("The picture".into());
    let preparer = preparer(prompt_plan()).unwrap();
    let ids = preparer.prepare_sample(&sample).unwrap().answer_ids.unwrap();
    assert_eq!(preparer.tokenizer().decode(&ids, false).unwrap(), "The picture");
}

#[test]
fn placeholders_must_match_the_images() {
    let preparer = preparer(prompt_plan()).unwrap();
    let spelled = ask(vec![Content::Text("What is <|image_pad|>?".into())]);
    let error = preparer.prepare_sample(&spelled).unwrap_err();
    assert!(
        matches!(
            &error,
            DataError::Prompt { sample, source: PromptError::Placeholders { placeholders: 1, images: 0 } } if sample == "q"
        ),
        "{error:?}"
    );
    let error = preparer.prepare(&spelled, &[RgbImage::new(30, 30)]).unwrap_err();
    assert!(
        matches!(error, DataError::Prompt { source: PromptError::Images { expected: 0, found: 1 }, .. }),
        "{error:?}"
    );
}

#[test]
fn a_placeholder_that_belongs_to_no_image_is_an_error() {
    // The marker is another text than the placeholder, which the user spells.
    let expansion = "<|image_pad|>".to_string();
    let preparer =
        preparer(PromptPlan { marker: "<|video_pad|>".into(), expansion, ..prompt_plan() }).unwrap();
    let error = preparer.prepare_sample(&ask(vec![Content::Text("<|image_pad|>".into())])).unwrap_err();
    assert!(
        matches!(error, DataError::Prompt { source: PromptError::ImageTokens { expected: 0, found: 1 }, .. }),
        "{error:?}"
    );
}

#[test]
fn prompt_and_answer_must_fit_the_positions() {
    let mut sample = samples().remove(2);
    let limited = |max_positions| preparer(PromptPlan { max_positions, ..prompt_plan() }).unwrap();
    assert_eq!(limited(50).prepare_sample(&sample).unwrap().input_ids.len(), 50);
    let error = limited(49).prepare_sample(&sample).unwrap_err();
    let DataError::Prompt { sample: id, source } = &error else { panic!("{error:?}") };
    assert_eq!(id, "line 3");
    assert!(matches!(source, PromptError::TooLong { prompt: 50, answer: 0, limit: 49 }), "{source}");
    sample.answer = Some("a".into());
    let error = limited(50).prepare_sample(&sample).unwrap_err();
    assert!(
        matches!(error, DataError::Prompt { source: PromptError::TooLong { answer: 1, .. }, .. }),
        "{error:?}"
    );
}

#[test]
fn bad_images_name_sample_and_place() {
    let preparer = preparer(prompt_plan()).unwrap();
    let missing = Content::Image(ImageSource::File("/nonexistent.png".into()));
    let error = preparer.prepare_sample(&ask(vec![missing.clone()])).unwrap_err();
    assert!(matches!(&error, DataError::Image { sample, index: 0, .. } if sample == "q"), "{error:?}");
    let error = preparer.prepare(&ask(vec![missing]), &[RgbImage::new(1, 201)]).unwrap_err();
    assert!(
        matches!(
            error,
            DataError::Image {
                source: crate::calibrate::image::ImageError::Aspect { width: 1, height: 201 },
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn plans_that_do_not_fit_the_tokenizer_are_refused() {
    let error = preparer(PromptPlan { image_token_id: 341, ..prompt_plan() }).unwrap_err();
    assert!(
        matches!(error, DataError::Plan(PromptError::PlaceholderId { expected: 341, found: Some(340), .. })),
        "{error:?}"
    );
    let error = preparer(PromptPlan { image_token: "<image>".into(), ..prompt_plan() }).unwrap_err();
    assert!(matches!(error, DataError::Plan(PromptError::PlaceholderId { found: None, .. })), "{error:?}");
    let positions = PositionRule::MropeGrid { merge: 1 };
    let error = preparer(PromptPlan { positions, ..prompt_plan() }).unwrap_err();
    assert!(matches!(error, DataError::Plan(PromptError::Merge { rows: 2, positions: 1, .. })), "{error:?}");
}

#[test]
fn the_thread_count_does_not_change_the_result() {
    let preparer = preparer(prompt_plan()).unwrap();
    let sample = &samples()[3];
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| preparer.prepare_sample(sample).unwrap())
    };
    assert_eq!(run(1), run(3));
}

//! Images and prompts of every fixture against what the original code made of them. The plans come from the families'
//! input sections, so these are tests of those too.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::super::*;
use crate::calibrate::chat::{SpecialTokens, template_source};
use crate::calibrate::dataset::{LoadOptions, load};
use crate::checkpoint::SideFiles;
use crate::family::inputs::TemplateSource;
use crate::family::{Description, Library, describe};

/// A fixture and its number of samples.
struct Case {
    fixture: &'static str,
    samples: usize,
}

const INTERNLM2: Case = Case { fixture: "internvl2", samples: 5 };
const VIT6B: Case = Case { fixture: "internvl2_vit6b", samples: 5 };
const HERMES2: Case = Case { fixture: "internvl2_qwen2", samples: 5 };
const RESAMPLED: Case = Case { fixture: "qwen_vl", samples: 4 };
const SLICED: Case = Case { fixture: "minicpm_v_2_6", samples: 5 };
const SHARED: Case = Case { fixture: "glm_4v", samples: 4 };

impl Case {
    fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(self.fixture)
    }

    fn description(&self) -> Description {
        describe(&Library::built_in().unwrap(), &SideFiles::open(&self.folder()).unwrap()).unwrap()
    }

    fn plans(&self) -> (ImagePlan, PromptPlan) {
        let description = self.description();
        (description.image, description.prompt)
    }

    fn samples(&self) -> Vec<Sample> {
        let samples = load(&self.folder().join("samples.jsonl"), &LoadOptions::default()).unwrap().samples;
        assert_eq!(samples.len(), self.samples);
        samples
    }

    fn goldens(&self) -> Goldens {
        Goldens(std::fs::read(self.folder().join("goldens.safetensors")).unwrap())
    }

    fn template(&self) -> ChatTemplate {
        let prompt = self.plans().1;
        let path = self.folder().join("tokenizer_config.json");
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let special = SpecialTokens { bos: config["bos_token"].as_str().map(String::from), eos: None };
        match prompt.template {
            TemplateSource::Checkpoint => {
                let source = template_source(config.get("chat_template")).unwrap().unwrap();
                ChatTemplate::new(&source, special, prompt.content).unwrap()
            }
            TemplateSource::Text(text) => ChatTemplate::of_family(&text, special, prompt.content).unwrap(),
        }
    }

    /// Pixel rows of every image of a sample.
    fn rows(&self, sample: &Sample) -> Vec<PixelRows> {
        let plan = self.plans().0;
        sample.images().map(|source| pixel_rows(&decode(source).unwrap(), &plan).unwrap()).collect()
    }

    /// The pieces of a sample that are tokenized.
    fn pieces(&self, sample: &Sample) -> Vec<String> {
        let rows = self.rows(sample);
        let tiles: Vec<_> = rows.iter().map(|r| ImageTiles { views: &r.views, grids: &r.grids }).collect();
        let text = self.template().render(&sample.messages, true).unwrap();
        Expansion::new(&self.plans().1).unwrap().pieces(&text, &tiles).unwrap()
    }

    /// Every sample's ids and positions are the goldens'.
    fn check_ids(&self) {
        let Description { image, prompt, tokenizer, .. } = self.description();
        let token = prompt.image_token_id;
        let preparer = Preparer::new(image, prompt, self.template(), tokenizer).unwrap();
        let goldens = self.goldens();
        for (i, sample) in self.samples().iter().enumerate() {
            let got = preparer.prepare_sample(sample).unwrap();
            let want = expanded(&goldens.ints(&format!("s{i}.input_ids")), &got.input_ids, token);
            assert_eq!(got.input_ids, want, "{} s{i}", self.fixture);
            if let Some(positions) = goldens.get(&format!("s{i}.position_ids")) {
                assert_eq!(positions.0, [got.input_ids.len()]);
                assert_eq!(got.position_ids, [goldens.ints(&format!("s{i}.position_ids"))]);
            }
            assert_eq!(got.tiles.iter().sum::<usize>(), got.grids.len());
        }
    }
}

/// Golden ids with one placeholder per image row. One family's goldens hold begin, placeholder and end of an image as three ids; another's
/// hold the bytes of the image's path where placeholders stand, which nothing reads.
fn expanded(golden: &[i64], ours: &[i64], token: i64) -> Vec<i64> {
    let mut ids = golden.to_vec();
    let rows = ours.iter().filter(|id| **id == token).count();
    if let (true, Some(at)) = (ids.len() + rows == ours.len() + 3, ids.iter().position(|id| *id == token)) {
        ids.splice(at..at + 3, std::iter::repeat_n(token, rows));
    } else if ids.len() == ours.len() {
        // Bytes are ids below 256, and they stand between the same tags as our placeholders.
        for (id, our) in ids.iter_mut().zip(ours) {
            if *our == token && *id < 256 {
                *id = token;
            }
        }
    }
    ids
}

struct Goldens(Vec<u8>);

impl Goldens {
    fn get(&self, name: &str) -> Option<(Vec<usize>, Vec<u8>)> {
        let all = SafeTensors::deserialize(&self.0).unwrap();
        all.tensor(name).ok().map(|view| (view.shape().to_vec(), view.data().to_vec()))
    }

    fn ints(&self, name: &str) -> Vec<i64> {
        let (_, data) = self.get(name).unwrap_or_else(|| panic!("{name}"));
        data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// Shape and bits.
    fn bits(&self, name: &str) -> Option<(Vec<usize>, Vec<u32>)> {
        let (shape, data) = self.get(name)?;
        Some((shape, data.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()))
    }
}

/// Rows of patches in merge-block order as tiles `[tiles, 3, height, width]`, or as `[tiles, 3, patch, patch * longest]` with the
/// patches of a tile side by side and zeros behind them.
fn as_tiles(
    rows: &[PixelRows],
    (patch, merge): (usize, usize),
    side_by_side: bool,
) -> (Vec<usize>, Vec<u32>) {
    let grids: Vec<[usize; 3]> = rows.iter().flat_map(|r| r.grids.clone()).collect();
    let longest = grids.iter().map(|g| g[1] * g[2]).max().unwrap();
    let (height, width) = if side_by_side { (1, longest) } else { (grids[0][1], grids[0][2]) };
    let (height, width) = (height * patch, width * patch);
    let mut out = vec![0u32; grids.len() * 3 * height * width];
    let mut patches = rows.iter().flat_map(|r| r.values.chunks(3 * patch * patch));
    for (tile, &[_, gh, gw]) in grids.iter().enumerate() {
        for (p, values) in patches.by_ref().take(gh * gw).enumerate() {
            let (block, inside) = (p / (merge * merge), p % (merge * merge));
            let (top, left) = (block / (gw / merge) * merge, block % (gw / merge) * merge);
            let place = (top + inside / merge, left + inside % merge);
            let (row, column) = if side_by_side { (0, p) } else { place };
            for (i, value) in values.iter().enumerate() {
                let (channel, y, x) = (i / (patch * patch), i / patch % patch, i % patch);
                let line = (tile * 3 + channel) * height + row * patch + y;
                out[line * width + column * patch + x] = value.to_bits();
            }
        }
    }
    (vec![grids.len(), 3, height, width], out)
}

#[test]
fn pixels_equal_the_reference_bit_for_bit() {
    let mut compared = 0;
    for case in [INTERNLM2, VIT6B, HERMES2, RESAMPLED, SLICED, SHARED] {
        let goldens = case.goldens();
        let plan = case.plans().0.rows;
        for (i, sample) in case.samples().iter().enumerate() {
            let Some((shape, expected)) = goldens.bits(&format!("s{i}.pixel_values")) else { continue };
            let (found_shape, found) =
                as_tiles(&case.rows(sample), (plan.patch, plan.merge), case.fixture == SLICED.fixture);
            assert_eq!(found_shape, shape, "{} s{i}", case.fixture);
            let differing = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
            assert_eq!(differing, 0, "{} s{i}", case.fixture);
            compared += 1;
        }
    }
    assert_eq!(compared, 3 * 4 + 1 + 4 + 3);
}

#[test]
fn tile_grids_are_those_of_the_reference() {
    let goldens = SLICED.goldens();
    for (i, sample) in SLICED.samples().iter().enumerate().filter(|(i, _)| *i != 2) {
        let grids: Vec<i64> = SLICED
            .rows(sample)
            .iter()
            .flat_map(|r| &r.grids)
            .flat_map(|g| [g[1] as i64, g[2] as i64])
            .collect();
        assert_eq!(grids, goldens.ints(&format!("s{i}.tgt_sizes")), "s{i}");
    }
}

#[test]
fn ids_and_positions_equal_the_reference() {
    for case in [INTERNLM2, VIT6B, HERMES2, RESAMPLED, SLICED, SHARED] {
        case.check_ids();
    }
}

/// A run of placeholders.
fn rows(token: &str, n: usize) -> String {
    token.repeat(n)
}

#[test]
fn templates_with_a_first_token_differ_in_that_alone() {
    let (with, without) = (INTERNLM2.samples(), HERMES2.samples());
    for (a, b) in with.iter().zip(&without) {
        let text = HERMES2.pieces(b).concat();
        assert_eq!(INTERNLM2.pieces(a), [format!("<s>{text}")]);
        assert_eq!(VIT6B.pieces(a), [format!("<s>{text}")]);
    }
    let system = "<|im_start|>system\n你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, \
        是一个有用无害的人工智能助手。<|im_end|>";
    let expected = format!(
        "{system}<|im_start|>user\nImage-1: <img>{}</img>\nImage-2: <img>{}</img>\nCompare the two pictures.\
         <|im_end|><|im_start|>assistant\n",
        rows("<IMG_CONTEXT>", 4),
        rows("<IMG_CONTEXT>", 12)
    );
    assert_eq!(HERMES2.pieces(&without[3]), [expected]);
    let expected = format!(
        "{system}<|im_start|>user\n<img>{}</img>\nWhat colour is it?<|im_end|><|im_start|>assistant\nIt is blue.\
         <|im_end|><|im_start|>user\nAnd the text?<|im_end|><|im_start|>assistant\n",
        rows("<IMG_CONTEXT>", 4)
    );
    assert_eq!(HERMES2.pieces(&without[4]), [expected]);
}

#[test]
fn roles_newlines_and_contents_are_cut_where_the_reference_cuts() {
    let samples = RESAMPLED.samples();
    let start = ["<|im_start|>system", "\n", "You are a helpful assistant.<|im_end|>"];
    let end = ["<|im_end|>", "\n", "<|im_start|>assistant", "\n"];
    let expect = |sample: &Sample, middle: &[&str]| {
        assert_eq!(RESAMPLED.pieces(sample), [&start, middle, &end].concat(), "{}", sample.id);
    };
    let turn = ["\n", "<|im_start|>user", "\n"];
    let image = |n: usize| format!("Picture {n}: <img>{}</img>\n", rows("<imgpad>", 256));
    expect(&samples[0], &[&turn[..], &[&(image(1) + "What is shown in the picture?")]].concat());
    expect(&samples[1], &[&turn[..], &["Explain why the sky is blue."]].concat());
    let two = image(1) + &image(2) + "Compare the two pictures.";
    expect(&samples[2], &[&turn[..], &[&two]].concat());
    let answer = ["<|im_end|>", "\n", "<|im_start|>assistant", "\n", "It is blue.", "<|im_end|>"];
    let history = [&turn[..], &["What colour is the sky?"], &answer, &turn, &["描述这张图片。"]].concat();
    expect(&samples[3], &history);

    let samples = SHARED.samples();
    let image = rows("<|begin_of_image|>", 18);
    let first =
        |text: &str| vec!["[gMASK]<sop><|user|>".into(), "\n".into(), image.clone(), text.to_string()];
    let answer = || vec!["<|assistant|>".to_string()];
    assert_eq!(SHARED.pieces(&samples[0]), [first("What is shown in the picture?"), answer()].concat());
    assert_eq!(SHARED.pieces(&samples[1]), [first("描述这张图片。"), answer()].concat());
    let words = ["<|assistant|>", "\n", "It is blue.", "<|user|>", "\n", "And the text?", "<|assistant|>"];
    let history = [first("What colour is it?"), words.map(String::from).to_vec()].concat();
    assert_eq!(SHARED.pieces(&samples[3]), history);
}

#[test]
fn system_messages_replace_the_default_or_are_refused() {
    use crate::calibrate::dataset::{Content, Message, Role};
    let say = |role, text: &str| Message { role, content: vec![Content::Text(text.into())], plain: true };
    let (system, user) = (say(Role::System, "Be brief."), say(Role::User, "Hi"));
    let render = |case: &Case, messages: &[Message]| case.template().render(messages, true);
    let text = render(&HERMES2, &[system.clone(), user.clone()]).unwrap();
    let expected =
        "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nHi<|im_end|><|im_start|>assistant\n";
    assert_eq!(text, expected);
    let text = render(&RESAMPLED, &[system.clone(), user.clone()]).unwrap().replace('\u{10FFFE}', "");
    let expected =
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(text, expected);
    let error = render(&RESAMPLED, &[user.clone(), system.clone()]).unwrap_err();
    assert!(matches!(error, PromptError::TemplateRender { .. }), "{error}");
    let text = render(&SHARED, &[system, user]).unwrap().replace('\u{10FFFE}', "");
    assert_eq!(text, "[gMASK]<sop><|system|>\nBe brief.<|user|>\nHi<|assistant|>");
    let two = HERMES2.samples().remove(3).messages;
    assert!(matches!(render(&SHARED, &two), Err(PromptError::TemplateRender { .. })));
}

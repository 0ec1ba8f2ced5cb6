//! What the sections `image` and `prompt` of the families make of the fixtures, and what such sections may not say.

use std::path::{Path, PathBuf};

use super::super::super::{Description, FamilyError, Library, describe};
use super::*;
use crate::checkpoint::SideFiles;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn plans(name: &str) -> (ImagePlan, PromptPlan) {
    let files = SideFiles::open(&fixture(name)).unwrap();
    let Description { image, prompt, .. } = describe(&Library::built_in().unwrap(), &files).unwrap();
    (image, prompt)
}

#[test]
fn numbers_come_from_the_checkpoint() {
    let (image, prompt) = plans("internvl2");
    assert_eq!(image.views, Views::Tiles { size: 56, min_tiles: 1, max_tiles: 6, thumbnail: true });
    assert_eq!(image.mean, [0.485, 0.456, 0.406]);
    assert_eq!((prompt.tokens, prompt.image_token_id), (TileTokens::Merged { merge: 2, extra: 0 }, 402));
    assert_eq!(prompt.eos_token_ids, [398, 399]);
    let (image, prompt) = plans("minicpm_v_2_6");
    assert_eq!(image.views, Views::Slices { resolution: 84, patch: 14, max_slices: 9 });
    assert_eq!(prompt.tokens, TileTokens::Fixed { rows: 8, extra: 0 });
    let (separator, image) = ("\n".into(), "(<image>./</image>)".into());
    assert_eq!(prompt.content, ContentForm::Joined { separator, image });
    let (image, prompt) = plans("glm_4v");
    assert_eq!(image.views, Views::Stretch { width: 112, height: 112 });
    assert_eq!((prompt.tokens, prompt.image_token_id), (TileTokens::Merged { merge: 2, extra: 2 }, 326));
    assert_eq!(prompt.positions, PositionRule::SharedImage);
}

#[test]
fn impossible_numbers_are_problems() {
    let good = include_str!("../../../../converters/glm_4v.yaml");
    let files = SideFiles::open(&fixture("glm_4v")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let problem = |from: &str, to: &str| -> String {
        assert!(good.contains(from), "{from}");
        let file = dir.path().join("family.yaml");
        std::fs::write(&file, good.replace(from, to)).unwrap();
        match describe(&Library::from_file(&file).unwrap(), &files) {
            Ok(_) => String::new(),
            Err(FamilyError::Misfit { problems, .. }) => {
                problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
            Err(e) => panic!("{e}"),
        }
    };
    let text = problem("width: image_side", "width: 32769");
    assert_eq!(
        text,
        "family file: 32769 is 32769, more than 32768, expected a smaller number (needed for image.views.stretch.width)"
    );
    assert!(problem("extra: 2", "extra: 2000000").contains("prompt.tokens.extra"));
    assert!(problem("merge: merge, extra", "merge: 17, extra").contains("prompt.tokens.merge"));
    assert!(
        problem("temporal: 1, channels: channels", "temporal: 1, channels: 0.5")
            .contains("image.rows.channels")
    );
    let text = problem("marker: \"<|begin_of_image|><|endoftext|><|end_of_image|>\"", "marker: ''");
    assert!(text.contains("expected a text that is not empty (needed for prompt.marker)"), "{text}");
    assert_eq!(problem("extra: 2", "extra: 2"), "");
}

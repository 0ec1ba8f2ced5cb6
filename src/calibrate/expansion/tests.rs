//! Tests of what an expansion may say and of what is refused.

use super::*;
use crate::family::inputs::{ContentForm, PositionRule, TemplateSource};

fn plan(expansion: &str, tokens: TileTokens) -> PromptPlan {
    PromptPlan {
        template: TemplateSource::Checkpoint,
        content: ContentForm::Parts,
        marker: "<image>".into(),
        expansion: expansion.into(),
        image_token_id: 7,
        image_token: "*".into(),
        tokens,
        eos_token_ids: vec![],
        positions: PositionRule::Sequential,
        max_positions: 100,
    }
}

/// An overview and two rows of three tiles, four patches each.
const VIEWS: [View; 2] =
    [View { width: 4, height: 4, columns: 1, rows: 1 }, View { width: 12, height: 8, columns: 3, rows: 2 }];

fn pieces(
    expansion: &str,
    tokens: TileTokens,
    text: &str,
    images: usize,
) -> Result<Vec<String>, PromptError> {
    let image = ImageTiles { views: &VIEWS, grids: &[[1, 2, 2]; 7] };
    Expansion::new(&plan(expansion, tokens))?.pieces(text, &vec![image; images])
}

const ALL: &str = "{{ index }}{% for view in views %}({% for row in view %}[{{ row | join('|') }}]{% endfor %}){% endfor %}";

#[test]
fn an_expansion_sees_number_views_rows_and_tiles() {
    let fixed = TileTokens::Fixed { rows: 2, extra: 0 };
    let found = pieces(ALL, fixed, "a<image>b<image>", 2).unwrap();
    let tiles = "([**])([**|**|**][**|**|**])";
    assert_eq!(found, [format!("a0{tiles}b1{tiles}")]);
    let merged = TileTokens::Merged { merge: 2, extra: 2 };
    assert_eq!(pieces("{{ views[0][0][0] }}", merged, "<image>", 1).unwrap(), ["***"]);
    let merged = TileTokens::Merged { merge: 1, extra: 0 };
    assert_eq!(pieces("{{ views[1][1][2] }}", merged, "<image>", 1).unwrap(), ["****"]);
}

#[test]
fn cuts_separate_pieces_and_empty_ones_vanish() {
    let fixed = TileTokens::Fixed { rows: 1, extra: 0 };
    let text = format!("{CUT}a{CUT}{CUT}<image>{CUT}b{CUT}");
    assert_eq!(pieces("{{ views[0][0][0] }}", fixed, &text, 1).unwrap(), ["a", "*", "b"]);
    assert_eq!(pieces("", fixed, "", 0).unwrap(), [""; 0]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let fixed = TileTokens::Fixed { rows: 1, extra: 0 };
    let error = pieces(ALL, fixed, "<image><image>", 1).unwrap_err();
    assert!(matches!(error, PromptError::Placeholders { placeholders: 2, images: 1 }), "{error}");
    let error = pieces(ALL, fixed, "none", 1).unwrap_err();
    assert!(matches!(error, PromptError::Placeholders { placeholders: 0, images: 1 }), "{error}");
    let error = pieces(ALL, TileTokens::Fixed { rows: 15, extra: 0 }, "<image>", 1).unwrap_err();
    assert!(matches!(error, PromptError::TooLong { prompt: 105, answer: 0, limit: 100 }), "{error}");
    let huge = TileTokens::Fixed { rows: usize::MAX, extra: usize::MAX };
    assert!(matches!(pieces(ALL, huge, "<image>", 1), Err(PromptError::TooLong { .. })));
    let odd = TileTokens::Merged { merge: 3, extra: 0 };
    assert!(matches!(pieces(ALL, odd, "<image>", 1), Err(PromptError::Grid { .. })));
    assert!(matches!(pieces("{% for %}", fixed, "", 0), Err(PromptError::TemplateSyntax { .. })));
    let unknown = pieces("{{ views[0] | nothing }}", fixed, "<image>", 1);
    assert!(matches!(unknown, Err(PromptError::TemplateSyntax { .. } | PromptError::TemplateRender { .. })));
    let empty = PromptPlan { marker: String::new(), ..plan(ALL, fixed) };
    assert!(matches!(Expansion::new(&empty), Err(PromptError::NoMarker)));
}

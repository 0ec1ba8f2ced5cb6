//! Position ids. Pure arithmetic on ids and grids; ids come from `prompt`.

use crate::family::inputs::PositionRule;

use super::prompt::PromptError;

/// Rows of the images of a prompt, in prompt order.
#[derive(Clone, Copy, Debug)]
pub struct ImageRows<'a> {
    /// Id that stands once per row.
    pub token_id: i64,
    /// Decoder rows of each image.
    pub rows: &'a [usize],
    /// Frames, patch rows and patch columns of each tile of all images.
    pub grids: &'a [[usize; 3]],
}

/// Position ids of every token of the expanded prompt `ids`: one list per axis, each as long as `ids`.
///
/// # Errors
/// [`PromptError::Run`] when the runs of image tokens do not match the images, [`PromptError::Grid`],
/// [`PromptError::SharedRows`].
pub fn position_ids(
    rule: PositionRule,
    ids: &[i64],
    images: ImageRows<'_>,
) -> Result<Vec<Vec<i64>>, PromptError> {
    match rule {
        PositionRule::MropeGrid { merge } => {
            mrope_positions(ids, images.grids, images.token_id, merge).map(Vec::from)
        }
        PositionRule::Sequential => Ok(vec![(0..ids.len() as i64).collect()]),
        PositionRule::SharedImage => Ok(vec![shared_positions(ids, images.rows, images.token_id)?]),
    }
}

/// One position per token, but three for an image: its first row p, its last p + 2, all between p + 1
/// (`ChatGLMModel.forward` of GLM-4V's `modeling_chatglm.py`, where they are those of begin, placeholder and end before
/// the placeholder is expanded). `rows` are the decoder rows of each image.
///
/// # Errors
/// [`PromptError::Run`], and [`PromptError::SharedRows`] when an image has fewer than three rows.
pub fn shared_positions(ids: &[i64], rows: &[usize], image_token_id: i64) -> Result<Vec<i64>, PromptError> {
    let mut positions = Vec::with_capacity(ids.len());
    let (mut next, mut image) = (0i64, 0);
    while let Some(&id) = ids.get(positions.len()) {
        if id != image_token_id {
            positions.push(next);
            next += 1;
            continue;
        }
        let found = ids[positions.len()..].iter().take_while(|&&id| id == image_token_id).count();
        // Two images may stand side by side, so a longer run is not wrong yet.
        let expected = *rows.get(image).ok_or(PromptError::Run { image, expected: 0, found })?;
        if found < expected {
            return Err(PromptError::Run { image, expected, found });
        }
        if expected < 3 {
            return Err(PromptError::SharedRows { image, rows: expected });
        }
        positions.push(next);
        positions.extend(std::iter::repeat_n(next + 1, expected - 2));
        positions.push(next + 2);
        next += 3;
        image += 1;
    }
    match rows.get(image) {
        None => Ok(positions),
        Some(&expected) => Err(PromptError::Run { image, expected, found: 0 }),
    }
}

/// Tokens that an image of `grid` (t, patch rows, patch columns) takes in the prompt when `merge` x `merge` patches
/// become one token.
///
/// # Errors
/// [`PromptError::Grid`] when the grid is empty or no whole number of merge blocks.
pub fn image_tokens(grid: [usize; 3], merge: usize) -> Result<usize, PromptError> {
    let [t, rows, columns] = merged(grid, merge)?;
    t.checked_mul(rows).and_then(|n| n.checked_mul(columns)).ok_or(PromptError::Grid { grid, merge })
}

/// Position ids (time, height, width) of every token, each as long as `ids` (arXiv 2409.12191 section 2.1;
/// transformers' `get_rope_index`). Text advances all three together. An image that starts at position s takes (s +
/// t, s + row, s + column) over the merged grid, and the token after it continues after the largest of them. `ids`
/// holds the expanded prompt: one `image_token_id` per merged token; `grids` are in patches, in prompt order.
///
/// # Errors
/// [`PromptError::Grid`], and [`PromptError::Run`] when the runs of image tokens do not match the grids.
pub fn mrope_positions(
    ids: &[i64],
    grids: &[[usize; 3]],
    image_token_id: i64,
    merge: usize,
) -> Result<[Vec<i64>; 3], PromptError> {
    let mut axes: [Vec<i64>; 3] = std::array::from_fn(|_| Vec::with_capacity(ids.len()));
    let mut next = 0i64;
    let mut at = 0;
    let mut images = grids.iter();
    while let Some(&id) = ids.get(at) {
        if id != image_token_id {
            axes.iter_mut().for_each(|axis| axis.push(next));
            next += 1;
            at += 1;
            continue;
        }
        let image = grids.len() - images.len();
        let run = ids[at..].iter().take_while(|&&id| id == image_token_id).count();
        let Some(&grid) = images.next() else {
            return Err(PromptError::Run { image, expected: 0, found: run });
        };
        let expected = image_tokens(grid, merge)?;
        // Two images may stand side by side, so a longer run is not wrong yet.
        if run < expected {
            return Err(PromptError::Run { image, expected, found: run });
        }
        next += push_image(&mut axes, merged(grid, merge)?, next);
        at += expected;
    }
    match images.next() {
        None => Ok(axes),
        Some(&grid) => {
            let image = grids.len() - images.len() - 1;
            Err(PromptError::Run { image, expected: image_tokens(grid, merge)?, found: 0 })
        }
    }
}

/// Appends the positions of one image that starts at `start`; returns how far the next token is from `start`.
fn push_image(axes: &mut [Vec<i64>; 3], [frames, rows, columns]: [usize; 3], start: i64) -> i64 {
    for t in 0..frames {
        for row in 0..rows {
            for column in 0..columns {
                for (axis, offset) in axes.iter_mut().zip([t, row, column]) {
                    axis.push(start + offset as i64);
                }
            }
        }
    }
    frames.max(rows).max(columns) as i64
}

/// The grid in merge blocks.
fn merged(grid: [usize; 3], merge: usize) -> Result<[usize; 3], PromptError> {
    let [t, rows, columns] = grid;
    let whole = merge > 0 && rows.is_multiple_of(merge) && columns.is_multiple_of(merge);
    if whole && t > 0 && rows > 0 && columns > 0 {
        Ok([t, rows / merge, columns / merge])
    } else {
        Err(PromptError::Grid { grid, merge })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: i64 = 9;

    #[test]
    fn the_worked_example_of_the_family_notes() {
        let ids = [5, 6, 1, 9, 9, 9, 9, 9, 9, 2, 7, 8];
        let [t, h, w] = mrope_positions(&ids, &[[1, 4, 6]], IMAGE, 2).unwrap();
        assert_eq!(t, [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7, 8]);
        assert_eq!(h, [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7, 8]);
        assert_eq!(w, [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn text_only_counts_up_and_neighbouring_images_follow_each_other() {
        let [t, h, w] = mrope_positions(&[1, 2, 3], &[], IMAGE, 2).unwrap();
        assert_eq!([&t, &h, &w], [&[0, 1, 2]; 3]);
        let [t, h, w] = mrope_positions(&[9, 9, 9, 9], &[[1, 2, 4], [2, 2, 2]], IMAGE, 2).unwrap();
        assert_eq!(t, [0, 0, 2, 3]);
        assert_eq!(h, [0, 0, 2, 2]);
        assert_eq!(w, [0, 1, 2, 2]);
    }

    #[test]
    fn shared_images_take_three_positions() {
        let images = |rows| ImageRows { token_id: IMAGE, rows, grids: &[] };
        let ids = [5, 9, 9, 9, 9, 6, 9, 9, 9, 9, 9, 9, 7];
        let found = position_ids(PositionRule::SharedImage, &ids, images(&[4, 3, 3])).unwrap();
        assert_eq!(found, [[0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]);
        let fails = |ids, rows| shared_positions(ids, rows, IMAGE).unwrap_err();
        assert!(matches!(fails(&[9, 9], &[2]), PromptError::SharedRows { image: 0, rows: 2 }));
        assert!(matches!(fails(&[9, 9], &[3]), PromptError::Run { image: 0, expected: 3, found: 2 }));
        assert!(matches!(fails(&[9, 9, 9, 9], &[3]), PromptError::Run { image: 1, expected: 0, found: 1 }));
        assert!(matches!(fails(&[1], &[3]), PromptError::Run { image: 0, expected: 3, found: 0 }));
    }

    #[test]
    fn sequential_positions_do_not_see_images() {
        let images = ImageRows { token_id: IMAGE, rows: &[2], grids: &[[1, 2, 4]] };
        assert_eq!(position_ids(PositionRule::Sequential, &[1, 9, 9, 2], images).unwrap(), [[0, 1, 2, 3]]);
        let grid = position_ids(PositionRule::MropeGrid { merge: 2 }, &[1, 9, 9, 2], images).unwrap();
        assert_eq!(grid, [[0, 1, 1, 3], [0, 1, 1, 3], [0, 1, 2, 3]]);
    }

    #[test]
    fn runs_that_do_not_match_the_grids_are_errors() {
        let fails = |ids: &[i64], grids: &[[usize; 3]]| mrope_positions(ids, grids, IMAGE, 2).unwrap_err();
        assert!(matches!(fails(&[9], &[]), PromptError::Run { image: 0, expected: 0, found: 1 }));
        assert!(matches!(fails(&[9, 1], &[[1, 2, 4]]), PromptError::Run { image: 0, expected: 2, found: 1 }));
        let two = [[1, 2, 2], [1, 2, 2]];
        assert!(matches!(fails(&[9, 1], &two), PromptError::Run { image: 1, expected: 1, found: 0 }));
        assert!(matches!(fails(&[9], &[[1, 3, 2]]), PromptError::Grid { grid: [1, 3, 2], merge: 2 }));
        assert!(matches!(image_tokens([0, 2, 2], 2), Err(PromptError::Grid { .. })));
        assert!(matches!(image_tokens([1, 2, 2], 0), Err(PromptError::Grid { .. })));
    }
}

//! M-RoPE position ids. Pure arithmetic on ids and grids; ids come from `prompt`.

use super::prompt::PromptError;

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

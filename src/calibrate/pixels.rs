//! From a decoded image to rows of `pixel_values`: resize, cut into tiles, rescale, normalise, cut into patches.
//! Decoding is in `image`, the sizes in `views`, the resampler in `resize`.

use ::image::RgbImage;
use rayon::prelude::*;

use crate::family::inputs::{ImagePlan, PatchRows};

use super::image::ImageError;
use super::resize::bicubic;
use super::views::{View, views};

/// Rows of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct PixelRows {
    /// Normalised values, row-major, the rows of each tile after those of the tile before: `[sum of t * gh * gw, width]`
    /// with `width` = [`PatchRows::width`].
    pub values: Vec<f32>,
    /// Frames, patch rows and patch columns of each tile: `[t, gh, gw]`.
    pub grids: Vec<[usize; 3]>,
    /// The views, whose tiles follow each other row by row.
    pub views: Vec<View>,
}

/// Turns `image` into rows as `plan` says: for each view the whole image is resized and cut into tiles; each tile becomes
/// `(x * rescale - mean) / std`, then patches in merge-block order (`Qwen2VLImageProcessorPil` of transformers 5.23). A
/// still image gives one temporal step (t = 1).
///
/// # Errors
/// Those of [`views`]; [`ImageError::Channels`] when the plan is not for three channels; [`ImageError::Patches`] when a
/// tile is not a whole number of merge blocks.
pub fn pixel_rows(image: &RgbImage, plan: &ImagePlan) -> Result<PixelRows, ImageError> {
    let rows = &plan.rows;
    if rows.channels != 3 {
        return Err(ImageError::Channels { channels: rows.channels });
    }
    let views = views(&plan.views, image.width(), image.height())?;
    let grids: Vec<[usize; 3]> = views.iter().map(|v| tile_grid(v, rows)).collect::<Result<_, _>>()?;
    let table = normalised(plan);
    let count: usize = views.iter().zip(&grids).map(|(v, [_, gh, gw])| v.tiles() * gh * gw).sum();
    let mut values = vec![0.0; count * rows.width()];
    let mut rest = values.as_mut_slice();
    for (view, [_, gh, gw]) in views.iter().zip(&grids) {
        let resized = bicubic(image, view.width, view.height);
        let tile_rows = gh * gw;
        let (here, after) = rest.split_at_mut(view.tiles() * tile_rows * rows.width());
        here.par_chunks_mut(rows.width()).enumerate().for_each(|(index, row)| {
            let (tile, index) = (index / tile_rows, index % tile_rows);
            let (tile_row, tile_column) = (tile / view.columns as usize, tile % view.columns as usize);
            let (top, left) = origin(index, *gw, rows);
            let corner = (tile_row * gh * rows.patch + top, tile_column * gw * rows.patch + left);
            fill_row(row, &resized, corner, rows, &table);
        });
        rest = after;
    }
    let grids = views.iter().zip(grids).flat_map(|(v, grid)| vec![grid; v.tiles()]).collect();
    Ok(PixelRows { values, grids, views })
}

/// The patch grid of each tile of `view`.
fn tile_grid(view: &View, rows: &PatchRows) -> Result<[usize; 3], ImageError> {
    let (width, height) = (view.width / view.columns, view.height / view.rows);
    let block = rows.patch.saturating_mul(rows.merge);
    let whole = |side: u32| block > 0 && side > 0 && (side as usize).is_multiple_of(block);
    if rows.temporal == 0 || !whole(width) || !whole(height) {
        return Err(ImageError::Patches { width, height, block });
    }
    Ok([1, height as usize / rows.patch, width as usize / rows.patch])
}

/// The normalised value of each 8-bit value per channel. Precision follows `image_transforms.py`: the product in f64 is
/// rounded to f32, mean and std are f32, subtraction and division happen in f32.
fn normalised(plan: &ImagePlan) -> [[f32; 256]; 3] {
    let mut table = [[0.0; 256]; 3];
    for (channel, line) in table.iter_mut().enumerate() {
        for (value, out) in line.iter_mut().enumerate() {
            let scaled = (value as f64 * plan.rescale) as f32;
            *out = (scaled - plan.mean[channel]) / plan.std[channel];
        }
    }
    table
}

/// Top and left pixel of patch `index` of a tile with `columns` patch columns. The order is block row, block
/// column, row inside the block, column inside the block.
fn origin(index: usize, columns: usize, rows: &PatchRows) -> (usize, usize) {
    let (m, per_block) = (rows.merge, rows.merge * rows.merge);
    let (block, inside) = (index / per_block, index % per_block);
    let blocks = columns / m;
    let row = (block / blocks) * m + inside / m;
    let column = (block % blocks) * m + inside % m;
    (row * rows.patch, column * rows.patch)
}

/// Writes one patch as `(channel, time, y, x)`; every time step repeats the still image.
fn fill_row(
    row: &mut [f32],
    image: &RgbImage,
    (top, left): (usize, usize),
    rows: &PatchRows,
    table: &[[f32; 256]; 3],
) {
    let (p, stride) = (rows.patch, image.width() as usize * 3);
    let pixels: &[u8] = image;
    for (channel, volume) in row.chunks_exact_mut(rows.temporal * p * p).enumerate() {
        for (step, line) in volume.chunks_exact_mut(p).enumerate() {
            let start = (top + step % p) * stride + left * 3 + channel;
            for (x, out) in line.iter_mut().enumerate() {
                *out = table[channel][usize::from(pixels[start + x * 3])];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::inputs::Views;

    fn plan(views: Views, channels: usize) -> ImagePlan {
        ImagePlan {
            views,
            mean: [0.0, 0.25, 0.5],
            std: [1.0, 0.5, 0.25],
            rescale: 1.0 / 255.0,
            rows: PatchRows { patch: 2, merge: 2, temporal: 2, channels },
        }
    }

    #[test]
    fn rows_are_in_merge_block_order_and_repeat_the_still_image() {
        // 8 x 4 pixels = 2 x 4 patches of 2 x 2; the red channel holds the patch number in raster order.
        let image =
            RgbImage::from_fn(8, 4, |x, y| ::image::Rgb([(y / 2 * 4 + x / 2) as u8, x as u8, y as u8]));
        let smart = Views::Smart { factor: 4, min_pixels: 1, max_pixels: 1 << 20 };
        let rows = pixel_rows(&image, &plan(smart, 3)).unwrap();
        assert_eq!(rows.grids, [[1, 2, 4]]);
        let red: Vec<i64> = rows.values.chunks(24).map(|r| (r[0] * 255.0).round() as i64).collect();
        assert_eq!(red, [0, 1, 4, 5, 2, 3, 6, 7]);
        let last = &rows.values[7 * 24..];
        assert_eq!(last[8..12], last[12..16], "both time steps of the green channel");
        let green = |x: f32| (x / 255.0 - 0.25) / 0.5;
        assert_eq!(&last[8..12], &[green(6.0), green(7.0), green(6.0), green(7.0)]);
        let blue = |y: f32| (y / 255.0 - 0.5) / 0.25;
        assert_eq!(&last[16..20], &[blue(2.0), blue(2.0), blue(3.0), blue(3.0)]);
    }

    #[test]
    fn tiles_follow_each_other_row_by_row_and_the_whole_image_is_last() {
        // 12 x 8 pixels in tiles of 4 x 4: red holds the tile number, green the patch number inside the tile.
        let image = RgbImage::from_fn(12, 8, |x, y| {
            ::image::Rgb([(y / 4 * 3 + x / 4) as u8, (y % 4 / 2 * 2 + x % 4 / 2) as u8, 9])
        });
        let tiles = Views::Tiles { size: 4, min_tiles: 1, max_tiles: 6, thumbnail: true };
        let mut plan = plan(tiles, 3);
        (plan.mean, plan.std) = ([0.0; 3], [1.0; 3]);
        let rows = pixel_rows(&image, &plan).unwrap();
        assert_eq!(rows.grids, [[1, 2, 2]; 7]);
        let (first, last) = ((12, 8, 3, 2), (4, 4, 1, 1));
        let view = |(width, height, columns, rows)| View { width, height, columns, rows };
        assert_eq!(rows.views, [view(first), view(last)]);
        let value = |row: &[f32], at: usize| (row[at] * 255.0).round() as usize;
        for (i, row) in rows.values.chunks(24).take(24).enumerate() {
            assert_eq!((value(row, 0), value(row, 8), value(row, 16)), (i / 4, i % 4, 9), "row {i}");
        }
        assert_eq!(rows.values.len(), 28 * 24);
        let thumbnail = bicubic(&image, 4, 4);
        assert_eq!(value(&rows.values[27 * 24..], 0), usize::from(thumbnail.get_pixel(2, 2).0[0]));
    }

    #[test]
    fn plans_that_cannot_be_followed_are_refused() {
        let image = RgbImage::new(8, 8);
        let smart = |factor| Views::Smart { factor, min_pixels: 1, max_pixels: 1 << 20 };
        let error = pixel_rows(&image, &plan(smart(4), 1)).unwrap_err();
        assert!(matches!(error, ImageError::Channels { channels: 1 }));
        let error = pixel_rows(&image, &plan(smart(6), 3)).unwrap_err();
        assert!(matches!(error, ImageError::Patches { width: 6, height: 6, block: 4 }), "{error}");
    }
}

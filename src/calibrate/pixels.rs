//! From a decoded image to rows of `pixel_values`: resize, rescale, normalise, cut into patches.
//! Decoding is in `image`, the resampler in `resize`.

use ::image::RgbImage;
use rayon::prelude::*;

use crate::family::inputs::{ImagePlan, PatchRows};

use super::image::ImageError;
use super::resize::{bicubic, target_size};

/// Rows of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct PixelRows {
    /// Normalised values, `[t * gh * gw, width]` row-major with `width` = [`PatchRows::width`].
    pub values: Vec<f32>,
    /// Frames, patch rows and patch columns: `[t, gh, gw]`.
    pub grid: [usize; 3],
}

/// Turns `image` into rows as `plan` says: resize, then `(x * rescale - mean) / std`, then patches in merge-block order
/// (`Qwen2VLImageProcessorPil` of transformers 5.23). A still image gives one temporal step (t = 1).
///
/// # Errors
/// Those of [`target_size`]; [`ImageError::Channels`] when the plan is not for three channels;
/// [`ImageError::Patches`] when the resized image is not a whole number of merge blocks.
pub fn pixel_rows(image: &RgbImage, plan: &ImagePlan) -> Result<PixelRows, ImageError> {
    let rows = &plan.rows;
    if rows.channels != 3 {
        return Err(ImageError::Channels { channels: rows.channels });
    }
    let (width, height) = target_size(&plan.resize, image.width(), image.height())?;
    let block = rows.patch * rows.merge;
    if block == 0
        || rows.temporal == 0
        || !(width as usize).is_multiple_of(block)
        || !(height as usize).is_multiple_of(block)
    {
        return Err(ImageError::Patches { width, height, block });
    }
    let resized = bicubic(image, width, height);
    let grid = [1, height as usize / rows.patch, width as usize / rows.patch];
    let table = normalised(plan);
    let mut values = vec![0.0; grid[1] * grid[2] * rows.width()];
    values.par_chunks_mut(rows.width()).enumerate().for_each(|(index, row)| {
        let (top, left) = origin(index, grid[2], rows);
        fill_row(row, &resized, (top, left), rows, &table);
    });
    Ok(PixelRows { values, grid })
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

/// Top and left pixel of patch `index` of an image with `columns` patch columns. The order is block row, block
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
    use crate::family::inputs::Resize;

    fn plan(resize: Resize, channels: usize) -> ImagePlan {
        ImagePlan {
            resize,
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
        let resize = Resize::Smart { factor: 4, min_pixels: 1, max_pixels: 1 << 20 };
        let rows = pixel_rows(&image, &plan(resize, 3)).unwrap();
        assert_eq!(rows.grid, [1, 2, 4]);
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
    fn plans_that_cannot_be_followed_are_refused() {
        let image = RgbImage::new(8, 8);
        let smart = |factor| Resize::Smart { factor, min_pixels: 1, max_pixels: 1 << 20 };
        let error = pixel_rows(&image, &plan(smart(4), 1)).unwrap_err();
        assert!(matches!(error, ImageError::Channels { channels: 1 }));
        let error = pixel_rows(&image, &plan(smart(6), 3)).unwrap_err();
        assert!(matches!(error, ImageError::Patches { width: 6, height: 6, block: 4 }), "{error}");
    }
}

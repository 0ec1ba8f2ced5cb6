//! What a vision tower sees of an image: the sizes it is resized to and the tiles each result is cut into, as the
//! references choose them. Pure arithmetic on sizes; pixels are touched in `resize` and `pixels`.
//!
//! All divisions are in double precision in Python's order, rounding is Python's (half to even). The logarithm of
//! `slices` is the platform's, as in Python.

use crate::family::inputs::{MAX_TILES, Views};

use super::image::{ImageError, MAX_PIXELS};

/// Largest ratio of the longer to the shorter side that `smart_resize` accepts.
pub const MAX_ASPECT: f64 = 200.0;

/// The whole image at one size, cut into a grid of equal tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Width of the resized image in pixels.
    pub width: u32,
    /// Height of the resized image in pixels.
    pub height: u32,
    /// Tiles side by side.
    pub columns: u32,
    /// Tiles one below the other.
    pub rows: u32,
}

impl View {
    fn whole((width, height): (u32, u32)) -> Self {
        Self { width, height, columns: 1, rows: 1 }
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.columns as usize * self.rows as usize
    }
}

/// The views that `rule` gives an image of `width` x `height` pixels, in the order in which the tower sees them; never
/// none. Columns divide widths and rows divide heights.
///
/// # Errors
/// [`ImageError::EmptyTarget`] when a side of the image or of a view is 0 or absurdly long, [`ImageError::Aspect`] when
/// the rule limits the ratio of the sides, [`ImageError::Tiles`] when the rule's own numbers allow no tiles or too many,
/// [`ImageError::Target`] when a resized image would have more than [`MAX_PIXELS`].
pub fn views(rule: &Views, width: u32, height: u32) -> Result<Vec<View>, ImageError> {
    if width == 0 || height == 0 {
        return Err(ImageError::EmptyTarget { width, height, factor: 1 });
    }
    let views = match *rule {
        Views::Smart { factor, min_pixels, max_pixels } => {
            vec![View::whole(smart_resize(width, height, factor, min_pixels, max_pixels)?)]
        }
        Views::Stretch { width, height } => vec![View::whole((width, height))],
        Views::Tiles { size, min_tiles, max_tiles, thumbnail } => {
            let (columns, rows) = tile_grid((width, height), size, min_tiles, max_tiles)?;
            // A product that does not fit becomes the largest number, which the area limit refuses.
            let first = View {
                width: size.saturating_mul(columns),
                height: size.saturating_mul(rows),
                columns,
                rows,
            };
            let last = (thumbnail && first.tiles() > 1).then_some(View::whole((size, size)));
            std::iter::once(first).chain(last).collect()
        }
        Views::Slices { resolution, patch, max_slices } => {
            slices((width, height), resolution, patch, max_slices)?
        }
    };
    for view in &views {
        if view.width == 0 || view.height == 0 {
            return Err(ImageError::EmptyTarget { width, height, factor: 1 });
        }
        let area = |w: u32, h: u32| u64::from(w) * u64::from(h);
        // The resampler holds the image with one side resized.
        let most = area(view.width, view.height).max(area(view.width, height)).max(area(width, view.height));
        if most > MAX_PIXELS {
            return Err(ImageError::Target { width, height, to: (view.width, view.height) });
        }
    }
    Ok(views)
}

/// Size `(width, height)` in pixels with both sides multiples of `factor` and the area between `min_pixels` and
/// `max_pixels` where the rounding allows it: `smart_resize` of transformers' `image_processing_qwen2_vl.py`.
/// Rounding to the multiple is Python's, half to even; divisions are in double precision in Python's order.
///
/// # Errors
/// As [`views`].
pub fn smart_resize(
    width: u32,
    height: u32,
    factor: u32,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<(u32, u32), ImageError> {
    if width == 0 || height == 0 || factor == 0 {
        return Err(ImageError::EmptyTarget { width, height, factor });
    }
    let (w, h, f) = (f64::from(width), f64::from(height), f64::from(factor));
    if w.max(h) / w.min(h) > MAX_ASPECT {
        return Err(ImageError::Aspect { width, height });
    }
    let (mut nw, mut nh) = ((w / f).round_ties_even(), (h / f).round_ties_even());
    // Products of two u32 stay exact in u128, as Python's integers do.
    let area = (nw * f) as u128 * (nh * f) as u128;
    if area > u128::from(max_pixels) {
        let beta = (w * h / max_pixels as f64).sqrt();
        nw = (w / beta / f).floor().max(1.0);
        nh = (h / beta / f).floor().max(1.0);
    } else if area < u128::from(min_pixels) {
        let beta = (min_pixels as f64 / (w * h)).sqrt();
        nw = (w * beta / f).ceil();
        nh = (h * beta / f).ceil();
    }
    if nw < 1.0 || nh < 1.0 || nw * f > f64::from(u32::MAX) || nh * f > f64::from(u32::MAX) {
        return Err(ImageError::EmptyTarget { width, height, factor });
    }
    Ok(((nw * f) as u32, (nh * f) as u32))
}

/// Columns and rows of the tiles of an image: of all grids with `min` to `max` tiles the one whose aspect ratio is nearest
/// to the image's; of equally near ones a later one only while the image has more than half the pixels of its tiles.
/// Grids stand in order of their tiles (`find_closest_aspect_ratio` of InternVL's `internvl/train/dataset.py`).
///
/// Grids of equally many tiles stand in order of their columns. In the reference they have the order of a Python set,
/// which no rule gives; with `min` = 1 and `max` up to 40 it never matters, because no two such grids are ever equally
/// near with no grid nearer (checked by enumeration).
fn tile_grid((width, height): (u32, u32), size: u32, min: u32, max: u32) -> Result<(u32, u32), ImageError> {
    if min == 0 || min > max || max > MAX_TILES {
        return Err(ImageError::Tiles { min, max });
    }
    let ratio = f64::from(width) / f64::from(height);
    let area = f64::from(width) * f64::from(height);
    let (mut best, mut least) = ((1, 1), f64::INFINITY);
    for tiles in min..=max {
        for columns in (1..=tiles).filter(|c| tiles.is_multiple_of(*c)) {
            let rows = tiles / columns;
            let difference = (ratio - f64::from(columns) / f64::from(rows)).abs();
            let half = 0.5 * f64::from(size) * f64::from(size) * f64::from(columns) * f64::from(rows);
            if difference < least || difference == least && area > half {
                (best, least) = ((columns, rows), difference);
            }
        }
    }
    Ok(best)
}

/// Overview and cells (`slice_image` of MiniCPM-V 2.6's `image_processing_minicpmv.py`).
fn slices(
    (width, height): (u32, u32),
    resolution: u32,
    patch: u32,
    max: u32,
) -> Result<Vec<View>, ImageError> {
    if max == 0 || max > MAX_TILES {
        return Err(ImageError::Tiles { min: 1, max });
    }
    if resolution == 0 || patch == 0 {
        return Err(ImageError::EmptyTarget { width, height, factor: patch });
    }
    let size = (f64::from(width), f64::from(height));
    let Some((columns, rows)) = slice_grid(size, resolution, max) else {
        return Ok(vec![View::whole(best_size(size, resolution, patch, true))]);
    };
    let overview = View::whole(best_size(size, resolution, patch, false));
    // The aspect ratio of a cell is that of the image with its sides rounded to multiples of the grid.
    let cell =
        (to_multiple(size.0, columns) / f64::from(columns), to_multiple(size.1, rows) / f64::from(rows));
    let (w, h) = best_size(cell, resolution, patch, true);
    let refined = View { width: w.saturating_mul(columns), height: h.saturating_mul(rows), columns, rows };
    Ok(vec![overview, refined])
}

/// Columns and rows of the cells, none for an image that is not cut (`get_sliced_grid`).
fn slice_grid((width, height): (f64, f64), resolution: u32, max: u32) -> Option<(u32, u32)> {
    let log_ratio = (width / height).ln();
    let cells = (width * height / (f64::from(resolution) * f64::from(resolution))).ceil();
    let count = cells.min(f64::from(max)) as u32;
    if count <= 1 {
        return None;
    }
    let (mut best, mut least) = ((1, 1), f64::INFINITY);
    for number in (count - 1..=count + 1).filter(|&n| n != 1 && n <= max) {
        for columns in (1..=number).filter(|c| number.is_multiple_of(*c)) {
            let grid = (columns, number / columns);
            let error = (log_ratio - (f64::from(grid.0) / f64::from(grid.1)).ln()).abs();
            if error < least {
                (best, least) = (grid, error);
            }
        }
    }
    Some(best)
}

/// Size near `resolution`^2 pixels with sides that are multiples of `patch`; smaller images keep theirs unless
/// `enlarge` (`find_best_resize`).
fn best_size((width, height): (f64, f64), resolution: u32, patch: u32, enlarge: bool) -> (u32, u32) {
    let side = f64::from(resolution);
    let (mut w, mut h) = (width, height);
    if enlarge || width * height > side * side {
        let ratio = width / height;
        h = (side / ratio.sqrt()).trunc();
        w = (h * ratio).trunc();
    }
    // The casts stop at the largest u32, which the area limit then refuses.
    (to_multiple(w, patch) as u32, to_multiple(h, patch) as u32)
}

/// The multiple of `unit` nearest to `length`, at least one (`ensure_divide`).
fn to_multiple(length: f64, unit: u32) -> f64 {
    let unit = f64::from(unit);
    ((length / unit).round_ties_even() * unit).max(unit)
}

#[cfg(test)]
mod tests;

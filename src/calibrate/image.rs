//! Decodes PNG, JPEG and WebP files to 8-bit RGB as the reference does (transformers' `load_image`:
//! `ImageOps.exif_transpose`, then Pillow's `convert("RGB")`). Resizing and normalising are not here.
//!
//! - Alpha is dropped, not blended; palettes are looked up; grey is repeated. (transformers 5.23 blends onto white only
//!   when it is handed a PIL image that still has alpha; an image loaded from a path has lost it before.)
//! - 16-bit samples keep their high byte, as Pillow does for colour. For 16-bit grey Pillow saturates everything above
//!   255 to white; that is taken for a defect and the high byte is used there too.
//! - The EXIF orientation is applied. Pillow also looks for it in XMP when there is no EXIF; that is not done here.
//! - WebP and PNG decode to Pillow's bytes. JPEG does not quite (another decoder than libjpeg-turbo): at most 3 steps
//!   and 0.02 on average with full chroma, 5 and 0.4 with halved chroma (measured in the tests).

use std::io::Cursor;

use ::image::error::{LimitError, LimitErrorKind};
use ::image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};

use crate::family::inputs::MAX_TILES;

use super::dataset::ImageSource;

/// Longest side of an image file that is decoded, in pixels.
pub const MAX_SIDE: u32 = 32768;

/// Largest area of an image file that is decoded, in pixels: where Pillow raises `DecompressionBombError`
/// (twice its `MAX_IMAGE_PIXELS`).
pub const MAX_PIXELS: u64 = 2 * 89_478_485;

/// Most bytes a decoder may allocate: 16-bit RGBA at [`MAX_PIXELS`], and as much as a third again for its work space.
const MAX_ALLOC: u64 = MAX_PIXELS * 8 / 3 * 4;

/// Why an image could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be read.
    #[error("cannot read image {name}")]
    Read {
        /// File or place of the image.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are no PNG, JPEG or WebP image, or a damaged one.
    #[error("cannot decode image {name} (PNG, JPEG and WebP are supported)")]
    Decode {
        /// File or place of the image.
        name: String,
        /// What the decoder said.
        source: ::image::ImageError,
    },
    /// Header dimensions are over the limits; nothing was decoded.
    #[error(
        "image {name} is {width} x {height} pixels; the limits are {MAX_SIDE} pixels a side and {MAX_PIXELS} in all"
    )]
    TooLarge {
        /// File or place of the image.
        name: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// One side is too many times the other.
    #[error(
        "the image is {width} x {height} pixels: its longer side may be at most {} times its shorter side",
        super::views::MAX_ASPECT
    )]
    Aspect {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The image, or what it would be resized to, has an empty (or absurdly long) side.
    #[error(
        "an image of {width} x {height} pixels cannot be resized to multiples of {factor} within the area limits"
    )]
    EmptyTarget {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Side granularity in pixels.
        factor: u32,
    },
    /// The plan's numbers of tiles allow none, or too many.
    #[error("an image cannot be cut into {min} to {max} tiles: 1 to {MAX_TILES} are possible")]
    Tiles {
        /// Fewest tiles of the plan.
        min: u32,
        /// Most tiles of the plan.
        max: u32,
    },
    /// The image would become too large.
    #[error(
        "an image of {width} x {height} pixels would be resized to {} x {}, through more than {MAX_PIXELS} pixels",
        to.0, to.1
    )]
    Target {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Width and height it would get.
        to: (u32, u32),
    },
    /// The plan asks for something else than RGB.
    #[error("images have 3 channels, the model's image plan has {channels}")]
    Channels {
        /// Channels of the plan.
        channels: usize,
    },
    /// A tile is not a whole number of merge blocks.
    #[error("a tile of {width} x {height} pixels is not a whole number of blocks of {block} pixels")]
    Patches {
        /// Width of the tile in pixels.
        width: u32,
        /// Height of the tile in pixels.
        height: u32,
        /// Side of a merge block in pixels.
        block: usize,
    },
}

/// Reads and decodes an image of a sample.
///
/// # Errors
/// [`ImageError::Read`] when the file cannot be read, otherwise those of [`decode_bytes`].
pub fn decode(source: &ImageSource) -> Result<RgbImage, ImageError> {
    match source {
        ImageSource::File(path) => {
            let name = path.display().to_string();
            let bytes =
                std::fs::read(path).map_err(|source| ImageError::Read { name: name.clone(), source })?;
            decode_bytes(&name, &bytes)
        }
        ImageSource::Bytes { name, bytes } => decode_bytes(name, bytes),
    }
}

/// Decodes an image held in memory; `name` stands for it in errors. The format is recognised by content.
///
/// # Errors
/// [`ImageError::TooLarge`] when its header claims more than [`MAX_SIDE`] or [`MAX_PIXELS`], [`ImageError::Decode`]
/// when it is of another format or damaged.
pub fn decode_bytes(name: &str, bytes: &[u8]) -> Result<RgbImage, ImageError> {
    let fail = |source| ImageError::Decode { name: name.to_owned(), source };
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| fail(e.into()))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_ALLOC);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(fail)?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(ImageError::TooLarge { name: name.to_owned(), width, height });
    }
    if width == 0 || height == 0 {
        let kind = LimitErrorKind::DimensionError;
        return Err(fail(::image::ImageError::Limits(LimitError::from_kind(kind))));
    }
    let orientation = decoder.orientation().map_err(fail)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(fail)?;
    image.apply_orientation(orientation);
    Ok(to_rgb8(image))
}

/// Pillow's `convert("RGB")` on what the decoder gave (palettes and 1, 2, 4-bit grey are already expanded by it).
fn to_rgb8(image: DynamicImage) -> RgbImage {
    let high = |v: u16| (v >> 8) as u8;
    let (width, height) = (image.width(), image.height());
    let rgb =
        |f: &dyn Fn(u32, u32) -> [u8; 3]| RgbImage::from_fn(width, height, |x, y| ::image::Rgb(f(x, y)));
    match &image {
        DynamicImage::ImageLuma16(i) => rgb(&|x, y| [high(i.get_pixel(x, y).0[0]); 3]),
        DynamicImage::ImageLumaA16(i) => rgb(&|x, y| [high(i.get_pixel(x, y).0[0]); 3]),
        DynamicImage::ImageRgb16(i) => rgb(&|x, y| i.get_pixel(x, y).0.map(high)),
        DynamicImage::ImageRgba16(i) => rgb(&|x, y| {
            let [r, g, b, _] = i.get_pixel(x, y).0.map(high);
            [r, g, b]
        }),
        // For 8-bit images into_rgb8 copies, repeats grey and drops alpha, as Pillow does.
        _ => image.into_rgb8(),
    }
}

#[cfg(test)]
mod tests;

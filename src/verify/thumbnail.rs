//! Small pictures of images for the report.

use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::imageops::FilterType;
use image::{ImageFormat, RgbImage};

use super::report::Thumbnail;

/// Longest side in pixels.
const SIDE: u32 = 256;

/// The image with a longest side of at most 256 pixels; none where it cannot be made into a PNG.
pub fn thumbnail(image: &RgbImage) -> Option<Thumbnail> {
    let (width, height) = image.dimensions();
    let longest = width.max(height).max(1);
    let scaled = |side: u32| (u64::from(side) * u64::from(SIDE) / u64::from(longest)).max(1) as u32;
    let small = match longest <= SIDE {
        true => image.clone(),
        false => image::imageops::resize(image, scaled(width), scaled(height), FilterType::Triangle),
    };
    let mut bytes = Cursor::new(Vec::new());
    small.write_to(&mut bytes, ImageFormat::Png).ok()?;
    Some(Thumbnail { width, height, png: STANDARD.encode(bytes.into_inner()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(thumbnail: &Thumbnail) -> RgbImage {
        image::load_from_memory(&STANDARD.decode(&thumbnail.png).unwrap()).unwrap().to_rgb8()
    }

    #[test]
    fn large_images_become_small_and_small_ones_stay() {
        let large = RgbImage::from_pixel(1024, 3, image::Rgb([9, 8, 7]));
        let found = thumbnail(&large).unwrap();
        assert_eq!((found.width, found.height, read(&found).dimensions()), (1024, 3, (256, 1)));
        assert_eq!(read(&found).get_pixel(0, 0).0, [9, 8, 7]);
        let small = RgbImage::from_fn(5, 4, |x, y| image::Rgb([x as u8, y as u8, 0]));
        assert_eq!(read(&thumbnail(&small).unwrap()), small);
    }
}

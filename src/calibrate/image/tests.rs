//! Tests of decoding against Pillow's output (`testdata/images.tsv`) and of the limits.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;

/// File and upright RGB bytes of a case of the table.
fn case(name: &str) -> (Vec<u8>, u32, u32, Vec<u8>) {
    let table = include_str!("../testdata/images.tsv");
    let line = table.lines().find(|l| l.split('\t').next() == Some(name)).unwrap();
    let cells: Vec<&str> = line.split('\t').collect();
    let bytes = |text: &str| STANDARD.decode(text).unwrap();
    (bytes(cells[3]), cells[1].parse().unwrap(), cells[2].parse().unwrap(), bytes(cells[4]))
}

/// Largest and mean difference to Pillow, in 8-bit steps.
fn difference(name: &str) -> (u8, f64) {
    let (file, width, height, expected) = case(name);
    let image = decode_bytes(name, &file).unwrap();
    assert_eq!(image.dimensions(), (width, height), "{name}");
    let steps: Vec<u8> = image.as_raw().iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).collect();
    let mean = steps.iter().map(|&s| f64::from(s)).sum::<f64>() / steps.len() as f64;
    (steps.into_iter().max().unwrap(), mean)
}

#[test]
fn lossless_files_decode_as_pillow_converts_them() {
    for name in ["RGBA", "P", "PT", "1", "LA", "RGBT", "PNGEXIF", "WEBPLL", "WEBPA"] {
        assert_eq!(difference(name), (0, 0.0), "{name}");
    }
}

/// Largest and mean difference allowed, in 8-bit steps. The decoders round the inverse DCT differently, and the one
/// used here spreads halved chroma by another filter. On 320 x 240 pictures at quality 75 and 90 the same comparison
/// gave at most (3, 0.013) with full chroma, (4, 0.38) with halved chroma, and no difference for WebP.
#[test]
fn lossy_files_decode_within_the_rounding_of_their_decoders() {
    let cases = [
        ("JPEG444", 2, 0.02),
        ("JPEG420", 5, 0.4),
        ("JPEGL", 1, 0.01),
        ("JPEGEXIF", 1, 0.03),
        ("CMYKJPEG", 1, 0.01),
        ("WEBP", 0, 0.0),
    ];
    for (name, most, mean_most) in cases {
        let (largest, mean) = difference(name);
        assert!(largest <= most && mean <= mean_most, "{name}: {largest} {mean}");
    }
}

#[test]
fn sixteen_bit_samples_keep_their_high_byte() {
    let values: Vec<u16> = vec![0, 127, 255, 256, 300, 384, 32767, 32768, 65279, 65535, 1, 2];
    let high: Vec<u8> = values.iter().map(|v| (v >> 8) as u8).collect();
    let png = |image: DynamicImage| {
        let mut out = Cursor::new(Vec::new());
        image.write_to(&mut out, ::image::ImageFormat::Png).unwrap();
        decode_bytes("x", out.get_ref()).unwrap().into_raw()
    };
    let rgb = ::image::ImageBuffer::from_raw(2, 2, values.clone()).unwrap();
    assert_eq!(png(DynamicImage::ImageRgb16(rgb)), high);
    let grey = ::image::ImageBuffer::from_raw(4, 3, values.clone()).unwrap();
    let repeated: Vec<u8> = high.iter().flat_map(|&v| [v; 3]).collect();
    assert_eq!(png(DynamicImage::ImageLuma16(grey)), repeated);
    let rgba = ::image::ImageBuffer::from_raw(3, 1, values.clone()).unwrap();
    let colours: Vec<u8> = high.chunks(4).flat_map(|p| &p[..3]).copied().collect();
    assert_eq!(png(DynamicImage::ImageRgba16(rgba)), colours);
    let grey_alpha = ::image::ImageBuffer::from_raw(6, 1, values).unwrap();
    let grey: Vec<u8> = high.chunks(2).flat_map(|p| [p[0]; 3]).collect();
    assert_eq!(png(DynamicImage::ImageLumaA16(grey_alpha)), grey);
}

/// A PNG that claims a size and holds no pixels.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let chunk = |kind: &[u8], data: &[u8]| {
        let body = [kind, data].concat();
        let crc = !body.iter().fold(u32::MAX, |crc, &b| {
            (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 })
        });
        [&(data.len() as u32).to_be_bytes(), body.as_slice(), &crc.to_be_bytes()].concat()
    };
    let header = [width.to_be_bytes().as_slice(), &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let signature = b"\x89PNG\r\n\x1a\n".to_vec();
    [signature, chunk(b"IHDR", &header), chunk(b"IDAT", &[0x78, 0x9c]), chunk(b"IEND", &[])].concat()
}

#[test]
fn image_bombs_are_refused_by_their_header() {
    let fails = |w, h| decode_bytes("bomb.png", &bomb(w, h)).unwrap_err();
    assert!(matches!(fails(40_000, 10), ImageError::TooLarge { width: 40_000, height: 10, .. }));
    let error = fails(30_000, 30_000);
    assert!(matches!(&error, ImageError::TooLarge { width: 30_000, height: 30_000, .. }), "{error}");
    assert!(error.to_string().contains("bomb.png is 30000 x 30000 pixels"), "{error}");
    assert!(matches!(fails(100, 100), ImageError::Decode { .. }), "truncated data is a decoding error");
}

#[test]
fn other_formats_and_missing_files_are_named() {
    for bytes in [b"GIF89a\x01\x00\x01\x00".as_slice(), b"", b"no image at all"] {
        let error = decode_bytes("a.bin", bytes).unwrap_err();
        assert!(matches!(&error, ImageError::Decode { name, .. } if name == "a.bin"), "{error}");
    }
    let error = decode(&ImageSource::File("/nonexistent/a.png".into())).unwrap_err();
    assert!(matches!(&error, ImageError::Read { name, .. } if name == "/nonexistent/a.png"), "{error}");
}

proptest! {
    #[test]
    fn damaged_files_never_panic(kind in 0usize..4, at in 0.0f64..1.0, byte: u8, cut: bool) {
        let (mut file, ..) = case(["JPEG420", "P", "WEBP", "PNGEXIF"][kind]);
        let at = (at * file.len() as f64) as usize;
        file[at] = byte;
        if cut {
            file.truncate(at);
        }
        // Whether it is refused does not matter here.
        let _ = decode_bytes("damaged", &file);
    }
}

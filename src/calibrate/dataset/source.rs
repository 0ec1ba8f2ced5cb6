//! What the formats share: image references resolved inside the data set's folder, and samples with their hash.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest, Sha256};

use super::error::{DatasetError, Place};
use super::fields::{At, clip};
use super::{Content, ImageSource, Message, Sample};

/// Base64 as published sets write it: with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The data set file and the folder its image paths are relative to.
pub(super) struct Folder<'a> {
    pub path: &'a Path,
    root: PathBuf,
    allow_outside: bool,
}

impl<'a> Folder<'a> {
    /// The folder of the data set file `path`. A link to a data file counts as lying where the link lies.
    pub fn of(path: &'a Path, allow_outside: bool) -> Result<Self, DatasetError> {
        let parent = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let root =
            parent.canonicalize().map_err(|source| DatasetError::Read { path: path.to_owned(), source })?;
        Ok(Self { path, root, allow_outside })
    }

    /// This file at a place, for errors.
    pub fn at(&self, place: Place) -> At<'a> {
        At { path: self.path, place }
    }

    /// The image that `text` names: a data URI, or a path relative to the folder (absolute ones are treated alike).
    /// Links are resolved before the folder is checked.
    pub fn image(&self, place: Place, key: &str, text: &str) -> Result<ImageSource, DatasetError> {
        let at = self.at(place);
        if let Some(uri) = text.strip_prefix("data:") {
            let Some((_, data)) = uri.split_once(";base64,") else {
                return Err(at.wrong(key, "a data URI with ;base64,", clip(text)));
            };
            return self.bytes(place, key, data);
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Err(at.wrong(
                key,
                "a path (images are not downloaded)",
                format!("the URL '{}'", clip(text)),
            ));
        }
        let (path, joined) =
            (self.path.to_owned(), self.root.join(text.strip_prefix("file://").unwrap_or(text)));
        let image = joined.canonicalize().map_err(|source| DatasetError::ImageRead {
            path: path.clone(),
            place,
            image: joined,
            source,
        })?;
        if !self.allow_outside && !image.starts_with(&self.root) {
            return Err(DatasetError::ImageOutside { path, place, image });
        }
        Ok(ImageSource::File(image))
    }

    /// The image held in base64 (white space is skipped).
    pub fn bytes(&self, place: Place, key: &str, text: &str) -> Result<ImageSource, DatasetError> {
        let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        match BASE64.decode(&compact) {
            Ok(bytes) if !bytes.is_empty() => {
                let name = format!("in {}, {place}, {key}", self.path.display());
                Ok(ImageSource::Bytes { name, bytes: bytes.into() })
            }
            _ => Err(self.at(place).wrong(key, "an image in base64", format!("'{}'", clip(text)))),
        }
    }
}

/// A sample before its hash.
pub(super) struct Draft<'a> {
    pub at: At<'a>,
    pub id: Option<String>,
    pub messages: Vec<Message>,
    pub answer: Option<String>,
    pub category: Option<String>,
    pub metric: Option<String>,
}

impl Draft<'_> {
    /// Adds the hash; reads the image files.
    pub fn finish(self) -> Result<Sample, DatasetError> {
        let sha256 = self.hash()?;
        let id = self.id.unwrap_or_else(|| self.at.place.to_string());
        Ok(Sample {
            id,
            messages: self.messages,
            answer: self.answer,
            category: self.category,
            metric: self.metric,
            sha256,
        })
    }

    /// SHA-256 of tagged, length-prefixed parts, so that no two conversations share their bytes. Neighbouring texts of
    /// a turn count as one; an image counts by the hash of its encoded bytes.
    fn hash(&self) -> Result<String, DatasetError> {
        let mut sha = Sha256::new_with_prefix(b"mquant sample 1\n");
        let mut part = |tag: u8, bytes: &[u8]| {
            sha.update([tag]);
            sha.update((bytes.len() as u64).to_le_bytes());
            sha.update(bytes);
        };
        for message in &self.messages {
            part(b'r', message.role.name().as_bytes());
            let mut text = String::new();
            for content in &message.content {
                match content {
                    Content::Text(t) => text.push_str(t),
                    Content::Image(image) => {
                        if !text.is_empty() {
                            part(b't', std::mem::take(&mut text).as_bytes());
                        }
                        part(b'i', &self.image_hash(image)?);
                    }
                }
            }
            if !text.is_empty() {
                part(b't', text.as_bytes());
            }
        }
        Ok(sha.finalize().iter().map(|b| format!("{b:02x}")).collect())
    }

    fn image_hash(&self, image: &ImageSource) -> Result<[u8; 32], DatasetError> {
        match image {
            ImageSource::Bytes { bytes, .. } => Ok(Sha256::digest(bytes).into()),
            ImageSource::File(file) => match std::fs::read(file) {
                Ok(bytes) => Ok(Sha256::digest(bytes).into()),
                Err(source) => Err(DatasetError::ImageRead {
                    path: self.at.path.to_owned(),
                    place: self.at.place,
                    image: file.clone(),
                    source,
                }),
            },
        }
    }
}

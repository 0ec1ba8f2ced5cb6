//! The checkpoint folder as a set of plain files: names in, contents out. Keeps every read inside the checkpoint.
//! What the files mean is decided elsewhere.

use std::fs;
use std::io;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::error::{CheckpointError, FileError};

/// Largest text file read into memory, in bytes. The largest tokenizers of released models are about 35 MB.
pub(super) const MAX_TEXT: u64 = 256 << 20;

/// A readable folder, remembered with its canonical form for the containment check.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    canonical: PathBuf,
    /// Where links of the Hugging Face hub cache lead, if this folder is one of its snapshots.
    blobs: Option<PathBuf>,
}

impl Folder {
    /// Opens `dir`.
    ///
    /// # Errors
    /// [`CheckpointError::Folder`] when it does not exist, is no folder or cannot be listed.
    pub(super) fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let fail = |cause| CheckpointError::Folder { dir: dir.to_owned(), cause };
        let canonical = fs::canonicalize(dir).map_err(fail)?;
        fs::read_dir(&canonical).map_err(fail)?;
        // `models--org--name/snapshots/<revision>/file` is a link to `models--org--name/blobs/<hash>`.
        let blobs = canonical
            .parent()
            .filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))
            .and_then(Path::parent)
            .map(|repository| repository.join("blobs"));
        Ok(Self { dir: dir.to_owned(), canonical, blobs })
    }

    /// The folder as the user gave it.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Path of the file `name`; `None` when there is none.
    ///
    /// # Errors
    /// When `name` is not one plain name, or the thing is a link that leads nowhere or out of the checkpoint, or not a
    /// regular file. A link may only lead to a file of this folder or to a blob of the hub cache: a checkpoint comes
    /// from strangers, and what its links read ends up in the artifact.
    pub(super) fn find(&self, name: &str) -> Result<Option<PathBuf>, FileError> {
        if !is_plain_name(name) {
            return Err(FileError::NotPlainName { name: name.to_owned() });
        }
        let file = self.dir.join(name);
        match fs::symlink_metadata(&file) {
            Ok(_) => {}
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(FileError::Io { file, cause }),
        }
        let target = match fs::canonicalize(&file) {
            Ok(target) => target,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                return Err(FileError::Dangling { file });
            }
            Err(cause) => return Err(FileError::Io { file, cause }),
        };
        let inside =
            target.starts_with(&self.canonical) || self.blobs.as_ref().is_some_and(|b| target.starts_with(b));
        if !inside {
            return Err(FileError::Escapes { file, target });
        }
        match fs::metadata(&target) {
            Ok(metadata) if metadata.is_file() => Ok(Some(file)),
            Ok(_) => Err(FileError::NotRegular { file }),
            Err(cause) => Err(FileError::Io { file, cause }),
        }
    }

    /// Text of the file `name`; `None` when there is none.
    ///
    /// # Errors
    /// Those of [`find`](Self::find), and files that are too large or not UTF-8.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, FileError> {
        self.text_up_to(name, MAX_TEXT)
    }

    /// [`text`](Self::text) with another size limit.
    fn text_up_to(&self, name: &str, cap: u64) -> Result<Option<String>, FileError> {
        let Some(file) = self.find(name)? else { return Ok(None) };
        let io = |cause| FileError::Io { file: file.clone(), cause };
        let reader = fs::File::open(&file).map_err(io)?;
        let len = reader.metadata().map_err(io)?.len();
        if len > cap {
            return Err(FileError::TooLarge { file, len, cap });
        }
        // `take` holds the limit also for a file that grows while it is read.
        let mut bytes = Vec::new();
        reader.take(cap).read_to_end(&mut bytes).map_err(io)?;
        String::from_utf8(bytes)
            .map(Some)
            .map_err(|error| FileError::NotUtf8 { file, offset: error.utf8_error().valid_up_to() })
    }

    /// JSON of the file `name` as any type serde can read; `None` when there is no such file.
    ///
    /// # Errors
    /// Those of [`text`](Self::text) and [`FileError::Json`].
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, FileError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|cause| FileError::Json { file: self.dir.join(name), cause })
    }

    /// Names of all entries that are UTF-8, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.canonical).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

/// True for one path component without separators of any platform, drive letters or control characters.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(c)), None) if c == name)
        && !name.contains(['/', '\\', ':'])
        && !name.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names() {
        for name in ["config.json", "model-00001-of-00002.safetensors", "..."] {
            assert!(is_plain_name(name), "{name}");
        }
        for name in ["", ".", "..", "../a", "a/b", "/a", "a/", "./a", "a\\b", "C:a", "a\0", "a\nb"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
    }

    #[test]
    fn reads_text_and_json_and_names_the_file_in_errors() {
        let tmp = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(tmp.path().join(name), bytes).unwrap();
        write("a.json", b"{\"x\": [1, 2]}");
        write("broken.json", b"{\n  \"x\": nope\n}");
        write("latin.txt", b"caf\xe9");
        std::fs::create_dir(tmp.path().join("sub")).unwrap();
        let folder = Folder::open(tmp.path()).unwrap();
        assert_eq!(folder.names(), ["a.json", "broken.json", "latin.txt", "sub"]);
        assert_eq!(folder.json::<serde_json::Value>("a.json").unwrap().unwrap()["x"][1], 2);
        assert!(folder.text("none").unwrap().is_none());
        let broken = folder.json::<serde_json::Value>("broken.json").unwrap_err().to_string();
        assert!(broken.contains("broken.json") && broken.contains("line 2 column"), "{broken}");
        assert!(matches!(folder.text("latin.txt"), Err(FileError::NotUtf8 { offset: 3, .. })));
        assert!(matches!(folder.text("sub"), Err(FileError::NotRegular { .. })));
        assert!(matches!(folder.text("../a.json"), Err(FileError::NotPlainName { .. })));
        assert!(matches!(folder.text_up_to("a.json", 4), Err(FileError::TooLarge { len: 13, cap: 4, .. })));
    }

    #[test]
    fn refuses_what_is_no_folder() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("f");
        std::fs::write(&file, b"").unwrap();
        for path in [file, tmp.path().join("none")] {
            let text = Folder::open(&path).unwrap_err().to_string();
            assert!(text.starts_with(path.to_str().unwrap()), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_inside_or_lead_to_hub_blobs() {
        use std::os::unix::fs::symlink;
        let tmp = tempfile::tempdir().unwrap();
        let (blobs, snapshot) = (tmp.path().join("m/blobs"), tmp.path().join("m/snapshots/abc"));
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::write(blobs.join("hash"), b"{}").unwrap();
        std::fs::write(tmp.path().join("secret"), b"{}").unwrap();
        symlink("../../blobs/hash", snapshot.join("config.json")).unwrap();
        symlink("config.json", snapshot.join("alias.json")).unwrap();
        symlink("../../../secret", snapshot.join("leak.json")).unwrap();
        symlink("../../blobs/pruned", snapshot.join("gone.json")).unwrap();
        let folder = Folder::open(&snapshot).unwrap();
        assert_eq!(folder.text("config.json").unwrap().unwrap(), "{}");
        assert_eq!(folder.text("alias.json").unwrap().unwrap(), "{}");
        assert!(matches!(folder.text("leak.json"), Err(FileError::Escapes { .. })));
        assert!(matches!(folder.text("gone.json"), Err(FileError::Dangling { .. })));
    }
}

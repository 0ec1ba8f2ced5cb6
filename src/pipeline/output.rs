//! The output folder: written beside its final place under a hidden name, renamed when complete, removed when anything fails.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::error::PipelineError;
use super::manifest::MANIFEST_FILE;

/// An output folder under construction. Dropping it removes what was written.
#[derive(Debug)]
pub(super) struct Output {
    target: PathBuf,
    partial: TempDir,
    /// Parents that did not exist before; removed again when the export fails.
    made: MadeFolders,
}

/// Folders made on the way to the target, outermost first. Dropping removes those that are empty.
#[derive(Debug, Default)]
struct MadeFolders(Vec<PathBuf>);

impl MadeFolders {
    /// Makes `folder` and its missing parents.
    fn make(folder: &Path) -> std::io::Result<Self> {
        let missing = folder.ancestors().take_while(|a| !a.as_os_str().is_empty() && !a.exists());
        let mut made: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
        made.reverse();
        // Held before anything is made, so that a failure half way is undone too.
        let made = Self(made);
        std::fs::create_dir_all(folder)?;
        Ok(made)
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // A folder that is no longer empty has become somebody's; it stays.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

impl Output {
    /// Makes the hidden folder next to `target`, so a path that cannot be written fails before any work is done.
    ///
    /// # Errors
    /// [`PipelineError::Output`] when `target` exists and may not be replaced, or its parent cannot be written.
    pub(super) fn begin(target: &Path, force: bool) -> Result<Self, PipelineError> {
        let bad = |reason: String| PipelineError::Output { path: target.to_path_buf(), reason };
        check_target(target, force)?;
        let name = target.file_name().ok_or_else(|| bad("is not a folder name".into()))?.to_string_lossy();
        let parent = parent_of(target);
        let made = MadeFolders::make(&parent)
            .map_err(|e| bad(format!("its parent {} cannot be made: {e}", parent.display())))?;
        let partial = tempfile::Builder::new().prefix(&format!(".{name}.partial-")).tempdir_in(&parent);
        let partial =
            partial.map_err(|e| bad(format!("nothing can be written in {}: {e}", parent.display())))?;
        share_permissions(partial.path());
        Ok(Self { target: target.to_path_buf(), partial, made })
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        self.partial.path()
    }

    /// Gives the folder its final name; what stood there is removed only after the new one is complete.
    ///
    /// # Errors
    /// [`PipelineError::Output`] when the target appeared meanwhile or cannot be renamed.
    pub(super) fn finish(mut self, force: bool) -> Result<PathBuf, PipelineError> {
        let bad = |reason: String| PipelineError::Output { path: self.target.clone(), reason };
        check_target(&self.target, force)?;
        let old = if self.target.exists() {
            let aside = tempfile::Builder::new().prefix(".replaced-").tempdir_in(parent_of(&self.target));
            let aside = aside.map_err(|e| bad(format!("the old one cannot be set aside: {e}")))?;
            std::fs::rename(&self.target, aside.path().join("old"))
                .map_err(|e| bad(format!("the old one cannot be set aside: {e}")))?;
            Some(aside)
        } else {
            None
        };
        if let Err(e) = std::fs::rename(self.partial.path(), &self.target) {
            if let Some(aside) = &old {
                // Best effort: the rename just failed, and the first error is the one to tell.
                let _ = std::fs::rename(aside.path().join("old"), &self.target);
            }
            return Err(bad(format!("the finished folder cannot be renamed: {e}")));
        }
        // The folder has a new name now; nothing is left to remove under the old one.
        let _ = self.partial.keep();
        self.made.0.clear();
        Ok(self.target)
    }
}

/// The folder of `target`, which need not exist.
pub(super) fn parent_of(target: &Path) -> PathBuf {
    match target.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// An existing target is replaced only on request, and only if it is ours or empty.
fn check_target(target: &Path, force: bool) -> Result<(), PipelineError> {
    let bad = |reason: &str| Err(PipelineError::Output { path: target.to_path_buf(), reason: reason.into() });
    // A dangling link is something that exists, and would only be found in the way when all work is done.
    if target.symlink_metadata().is_err() {
        return Ok(());
    }
    if !force {
        return bad("already exists (pass --force to replace it, or -o another folder)");
    }
    let empty = std::fs::read_dir(target).is_ok_and(|mut d| d.next().is_none());
    if empty || target.join(MANIFEST_FILE).is_file() {
        return Ok(());
    }
    bad(
        "exists and is not an artifact of this program (no mquant.json); --force does not remove other folders",
    )
}

/// Temporary folders are private; a finished artifact has the permissions of any new folder.
#[cfg(unix)]
fn share_permissions(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    // Failing to widen permissions leaves a private artifact, which is no reason to fail the export.
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755));
}

#[cfg(not(unix))]
fn share_permissions(_: &Path) {}

/// Writes one text file of an output folder.
///
/// # Errors
/// [`PipelineError::Io`].
pub(super) fn write_text(dir: &Path, name: &str, text: &str) -> Result<(), PipelineError> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(|source| PipelineError::Io { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_finished_folder_is_all_that_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let out = Output::begin(&dir.path().join("a/b"), false).unwrap();
        std::fs::write(out.path().join("x"), "1").unwrap();
        out.finish(false).unwrap();
        assert_eq!(names(&dir.path().join("a")), ["b"]);
        assert_eq!(names(&dir.path().join("a/b")), ["x"]);
    }

    #[test]
    fn an_abandoned_folder_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(Output::begin(&dir.path().join("b"), false).unwrap());
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn existing_folders_are_replaced_only_when_ours_and_asked() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("b");
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("thesis.tex"), "").unwrap();
        assert!(Output::begin(&target, false).unwrap_err().to_string().contains("--force"));
        assert!(Output::begin(&target, true).unwrap_err().to_string().contains("mquant.json"));
        std::fs::write(target.join(MANIFEST_FILE), "{}").unwrap();
        let out = Output::begin(&target, true).unwrap();
        std::fs::write(out.path().join("new"), "").unwrap();
        out.finish(true).unwrap();
        assert_eq!(names(dir.path()), ["b"]);
        assert_eq!(names(&target), ["new"]);
    }
}

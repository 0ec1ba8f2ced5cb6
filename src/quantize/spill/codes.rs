//! Quantized weights by role, written to a temporary file as they are made and read when the model is written out, so that memory does not grow
//! with the number of layers.

use std::collections::BTreeMap;
use std::path::Path;

use super::SpillError;
use super::file::{Extent, ScratchFile};

const HINT: &str = "free space there: the quantized weights of the whole model must fit";

/// Bytes by role, always in a file. Written once each, never removed.
#[derive(Debug)]
pub struct CodeStore {
    file: ScratchFile,
    roles: BTreeMap<String, Extent>,
}

impl CodeStore {
    /// An empty store over an unnamed file in `dir`.
    ///
    /// # Errors
    /// [`SpillError::Create`].
    pub fn new(dir: &Path) -> Result<Self, SpillError> {
        Ok(Self { file: ScratchFile::new(dir, HINT)?, roles: BTreeMap::new() })
    }

    /// Stores the bytes of a role.
    ///
    /// # Errors
    /// [`SpillError::RoleTwice`] for a role that is stored already, [`SpillError::Write`]. The store is then as before.
    pub fn put(&mut self, role: &str, bytes: &[u8]) -> Result<(), SpillError> {
        if self.roles.contains_key(role) {
            return Err(SpillError::RoleTwice { role: role.to_owned() });
        }
        let extent = self.file.take(bytes.len() as u64);
        if let Err(e) = self.file.write(&extent, 0, bytes) {
            self.file.give_back(extent);
            return Err(e);
        }
        self.roles.insert(role.to_owned(), extent);
        Ok(())
    }

    /// The bytes of a role. May be called from several threads at once.
    ///
    /// # Errors
    /// [`SpillError::UnknownRole`], [`SpillError::Read`].
    pub fn get(&self, role: &str) -> Result<Vec<u8>, SpillError> {
        let unknown = || SpillError::UnknownRole { role: role.to_owned() };
        let extent = self.roles.get(role).ok_or_else(unknown)?;
        let mut bytes = vec![0; extent.length() as usize];
        self.file.read(extent, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Whether the role was stored.
    pub fn contains(&self, role: &str) -> bool {
        self.roles.contains_key(role)
    }

    /// Bytes stored, the length of the file.
    pub fn bytes(&self) -> u64 {
        self.file.size()
    }
}

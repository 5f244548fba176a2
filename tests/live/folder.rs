//! A folder of YAML, and the ways in which people change its files.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Written aside and moved into place, as editors and `kubectl`'s users do.
    pub fn put(&self, name: &str, text: &str) {
        let aside = self.file(&format!(".{name}.new"));
        fs::write(&aside, text).expect("written");
        fs::rename(aside, self.file(name)).expect("renamed");
    }

    /// Overwritten where it is.
    pub fn save(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("saved");
    }

    /// Overwritten in part, and not closed until the file that is returned is dropped.
    pub fn begin(&self, name: &str, text: &str) -> File {
        let mut file = File::create(self.file(name)).expect("opened");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    pub fn delete(&self, name: &str) {
        fs::remove_file(self.file(name)).expect("deleted");
    }
}

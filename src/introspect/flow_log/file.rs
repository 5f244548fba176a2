//! A file of lines that makes room for a new one when it is full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use super::File as Place;

/// Open for writing at its end.
#[derive(Debug)]
pub(super) struct Rotated {
    place: Place,
    file: File,
    size: u64,
}

impl Rotated {
    pub fn open(place: &Place) -> io::Result<Self> {
        let file = open(place)?;
        Ok(Self {
            size: file.metadata()?.len(),
            place: place.clone(),
            file,
        })
    }

    /// Where it fails, none of the lines of a file is there.
    pub fn write(&mut self, lines: &[Vec<u8>]) -> io::Result<()> {
        self.find_again()?;
        let mut rest = lines;
        while !rest.is_empty() {
            let mut fits = 0;
            let mut bytes = 0;
            for line in rest {
                let line = line.len() as u64;
                // A line that is longer than a file may be has one of its own.
                if self.size + bytes + line > self.place.max_bytes && self.size + bytes > 0 {
                    break;
                }
                bytes += line;
                fits += 1;
            }
            if fits == 0 {
                self.rotate()?;
                continue;
            }
            if let Err(error) = self.file.write_all(&rest[..fits].concat()) {
                // A torn line would be taken for one.
                let _ = self.file.set_len(self.size);
                return Err(error);
            }
            self.size += bytes;
            rest = &rest[fits..];
        }
        Ok(())
    }

    /// Somebody may have moved or removed it, as other rotations do.
    fn find_again(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let is_ours = match fs::metadata(&self.place.path) {
            Ok(there) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()),
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !is_ours {
            self.file = open(&self.place)?;
        }
        self.size = self.file.metadata()?.len();
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let old = |number: usize| -> PathBuf {
            let mut name = self.place.path.clone().into_os_string();
            name.push(format!(".{number}"));
            name.into()
        };
        if self.place.keep == 0 {
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        for number in (1..self.place.keep).rev() {
            match fs::rename(old(number), old(number + 1)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.place.path, old(1))?;
        self.file = open(&self.place)?;
        self.size = self.file.metadata()?.len();
        Ok(())
    }
}

fn open(place: &Place) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&place.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &tempfile::TempDir, max_bytes: u64, keep: usize) -> Place {
        Place {
            path: folder.path().join("flows"),
            max_bytes,
            keep,
        }
    }

    fn lines(texts: &[&str]) -> Vec<Vec<u8>> {
        texts
            .iter()
            .map(|text| format!("{text}\n").into_bytes())
            .collect()
    }

    fn there(folder: &tempfile::TempDir) -> Vec<(String, String)> {
        let mut found: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let text = fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        found.sort();
        found
    }

    fn pair(name: &str, text: &str) -> (String, String) {
        (name.into(), text.into())
    }

    #[test]
    fn a_full_file_makes_room_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = Rotated::open(&place(&folder, 8, 2)).unwrap();
        file.write(&lines(&["aaa", "bbb", "ccc"])).unwrap();
        assert_eq!(
            there(&folder),
            [pair("flows", "ccc\n"), pair("flows.1", "aaa\nbbb\n")]
        );
        file.write(&lines(&["a line of its own", "ddd", "eee", "fff"]))
            .unwrap();
        assert_eq!(
            there(&folder),
            [
                pair("flows", "fff\n"),
                pair("flows.1", "ddd\neee\n"),
                pair("flows.2", "a line of its own\n")
            ]
        );
        // A next process goes on where this one stopped.
        let mut file = Rotated::open(&place(&folder, 8, 2)).unwrap();
        file.write(&lines(&["ggg"])).unwrap();
        assert_eq!(there(&folder)[0], pair("flows", "fff\nggg\n"));
    }

    #[test]
    fn without_old_files_it_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = Rotated::open(&place(&folder, 8, 0)).unwrap();
        file.write(&lines(&["aaa", "bbb", "ccc"])).unwrap();
        assert_eq!(there(&folder), [pair("flows", "ccc\n")]);
    }

    #[test]
    fn a_file_that_another_rotation_moved_or_removed_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(&folder, 100, 2);
        let mut file = Rotated::open(&place).unwrap();
        file.write(&lines(&["aaa"])).unwrap();
        fs::rename(&place.path, folder.path().join("moved")).unwrap();
        file.write(&lines(&["bbb"])).unwrap();
        fs::remove_file(&place.path).unwrap();
        file.write(&lines(&["ccc"])).unwrap();
        assert_eq!(there(&folder), [pair("flows", "ccc\n"), pair("moved", "aaa\n")]);
    }

    #[test]
    fn a_disk_that_is_full_leaves_no_torn_line() {
        let Ok(full) = OpenOptions::new().append(true).open("/dev/full") else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let mut file = Rotated::open(&place(&folder, 100, 2)).unwrap();
        file.write(&lines(&["aaa"])).unwrap();
        // The device is what is at the path too, so it is not opened anew.
        fs::remove_file(folder.path().join("flows")).unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join("flows")).unwrap();
        file.file = full;
        assert!(file.write(&lines(&["bbb"])).is_err());
    }
}

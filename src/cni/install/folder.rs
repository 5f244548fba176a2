//! Which file of the CNI folder counts, and Palisade's entry in it.
//!
//! Runtimes take the first file by name that ends in `.conflist`, `.conf` or `.json`. A `.conflist` gets the entry itself. The other
//! two hold one plugin, to which nothing can be chained: from `10-bridge.conf` a list is made, `10-bridge-palisade.conflist`, that
//! comes just before it by name, so that it counts where the file did.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::conflist::{self, Unusable};
use super::replace::{self, Outcome};
use crate::model::Problem;

/// Appended to the name of the file that a list is made from; sorts before the dot.
const MADE: &str = "-palisade.conflist";

/// What was done, and what stands in the way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Files written or removed.
    pub changed: Vec<PathBuf>,
    pub problems: Vec<Problem>,
    /// Somebody else was writing: look again.
    pub again: bool,
}

struct File {
    path: PathBuf,
    name: String,
    contents: String,
}

/// Sees to it that the file that counts has `entry` as its last plugin.
pub fn put(folder: &Path, entry: &Value) -> Done {
    let mut done = Done::default();
    let files = match files(folder, &mut done.problems) {
        Ok(files) => files,
        Err(error) => {
            done.problems.push(of_folder(folder, &error));
            return done;
        }
    };
    let mut wanted = None;
    let mut others = files.iter().filter(|file| !conflist::is_made(&file.contents));
    let active = others.find(|file| match is_list(file) {
        true => match conflist::with_entry(&file.contents, entry) {
            Ok(text) => done.note(&file.path, change(file, &text)),
            Err(unusable) => done.unusable(&file.path, unusable),
        },
        false => match conflist::made_from(&file.name, &file.contents, entry) {
            Ok(text) => {
                let path = made_path(&file.path);
                wanted = Some(path.clone());
                let there = files.iter().find(|there| there.path == path);
                let outcome = match there {
                    Some(there) => change(there, &text),
                    None => replace::create(&path, text.as_bytes()).map(Some),
                };
                done.note(&path, outcome)
            }
            Err(unusable) => done.unusable(&file.path, unusable),
        },
    });
    if active.is_none() && done.problems.is_empty() {
        done.problems.push(Problem {
            object: format!("CNI configuration {}", folder.display()),
            field: String::new(),
            value: String::new(),
            message: "there is no configuration yet".into(),
            remedy: "install a CNI plugin; Palisade puts its entry in as soon as there is a file".into(),
        });
    }
    // Where no file counts, as while one is being written, what is in place stays.
    if let Some(active) = active {
        for file in files
            .iter()
            .filter(|file| file.path != active.path && Some(&file.path) != wanted.as_ref())
        {
            take_out(file, &mut done);
        }
    }
    done
}

/// Takes Palisade's entry out of every file.
pub fn remove(folder: &Path) -> Done {
    let mut done = Done::default();
    let files = match files(folder, &mut done.problems) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => return done,
        Err(error) => {
            done.problems.push(of_folder(folder, &error));
            return done;
        }
    };
    for file in &files {
        take_out(file, &mut done);
    }
    done
}

fn take_out(file: &File, done: &mut Done) {
    if conflist::is_made(&file.contents) {
        let removed = fs::remove_file(&file.path).map(|()| Some(Outcome::Done));
        done.note(&file.path, removed);
    } else if is_list(file)
        && let Ok(text) = conflist::without_entry(&file.contents)
    {
        // One that cannot be read has no entry that counts.
        done.note(&file.path, change(file, &text));
    }
}

impl Done {
    fn note(&mut self, path: &Path, outcome: io::Result<Option<Outcome>>) -> bool {
        match outcome {
            Ok(None) => {}
            Ok(Some(Outcome::Done)) => self.changed.push(path.to_path_buf()),
            Ok(Some(Outcome::Changed)) => self.again = true,
            Err(error) => self.problems.push(Problem {
                object: format!("CNI configuration {}", path.display()),
                field: String::new(),
                value: String::new(),
                message: format!("it cannot be written: {error}; it stays as it was"),
                remedy: write_remedy(&error).into(),
            }),
        }
        true
    }

    fn unusable(&mut self, path: &Path, Unusable { field, message }: Unusable) -> bool {
        self.problems.push(Problem {
            object: format!("CNI configuration {}", path.display()),
            field: field.into(),
            value: String::new(),
            message,
            remedy: "correct or remove the file: runtimes may load nothing because of it".into(),
        });
        false
    }
}

fn change(file: &File, text: &str) -> io::Result<Option<Outcome>> {
    match text == file.contents {
        true => Ok(None),
        false => replace::change(&file.path, file.contents.as_bytes(), text.as_bytes()).map(Some),
    }
}

/// Files that runtimes read, in their order.
fn files(folder: &Path, problems: &mut Vec<Problem>) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let ends = path.extension().and_then(|end| end.to_str());
        let name = path.file_name().and_then(|name| name.to_str());
        if let (Some("conflist" | "conf" | "json"), Some(name)) = (ends, name)
            && path.metadata().is_ok_and(|found| found.is_file())
        {
            files.push((name.to_string(), path));
        }
    }
    files.sort();
    let mut read = Vec::new();
    for (name, path) in files {
        match fs::read_to_string(&path) {
            Ok(contents) => read.push(File { path, name, contents }),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => problems.push(Problem {
                object: format!("CNI configuration {}", path.display()),
                field: String::new(),
                value: String::new(),
                message: format!("it cannot be read: {error}"),
                remedy: "correct or remove the file: runtimes may load nothing because of it".into(),
            }),
        }
    }
    Ok(read)
}

fn is_list(file: &File) -> bool {
    file.name.ends_with(".conflist")
}

fn made_path(path: &Path) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push(MADE);
    path.with_file_name(name)
}

fn of_folder(folder: &Path, error: &io::Error) -> Problem {
    Problem {
        object: format!("CNI configuration {}", folder.display()),
        field: String::new(),
        value: String::new(),
        message: format!("the folder cannot be listed: {error}"),
        remedy: "check --cni-conf-dir, and that the folder is mounted into the palisade pod".into(),
    }
}

pub fn write_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free space on the node's disk; it is tried again"
        }
        ErrorKind::ReadOnlyFilesystem => "mount the folder writable into the palisade pod",
        ErrorKind::PermissionDenied => "let the palisade pod write to the folder as root",
        _ => "it is tried again",
    }
}

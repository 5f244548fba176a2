//! One file: its bytes, and from them its [`Contents`].

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::document::{self, Document};
use super::object::{self, Contents};
use super::salvage;
use crate::model::Problem;
use crate::objects::text;

/// Bytes of the largest file that is read.
const LARGEST: u64 = 8 << 20;
/// Problems of one file that are reported one by one.
const MOST_PROBLEMS: usize = 100;

/// Tells versions of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(of: &Metadata) -> Self {
        Self {
            device: of.dev(),
            inode: of.ino(),
            size: of.size(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        }
    }
}

/// Whether a file of this name is read: as `kubectl apply -R` has it, and none of editors' temporary files.
pub fn is_read(name: &Path) -> bool {
    !is_hidden(name)
        && matches!(
            name.extension().and_then(|extension| extension.to_str()),
            Some("yaml" | "yml" | "json")
        )
}

pub fn is_hidden(name: &Path) -> bool {
    name.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Reads and parses `path`; messages call it `shown`. Never waits, whatever the path is.
pub fn read(path: &Path, shown: &Path) -> (Option<Stamp>, Contents) {
    let shown = text::path(shown);
    match bytes(path) {
        Ok((stamp, bytes)) => (
            Some(stamp),
            parse(&shown, &bytes, path.extension().is_some_and(|e| e == "json")),
        ),
        Err(Refused { message, remedy }) => (None, Contents::unreadable(problem(shown, message, remedy))),
    }
}

struct Refused {
    message: String,
    remedy: &'static str,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => "let the user that runs Palisade read it",
            io::ErrorKind::NotFound => "remove the link, or create what it points to",
            _ => "check the file and its file system",
        };
        Self {
            message: format!("cannot be read: {}", reason(&error)),
            remedy,
        }
    }
}

fn bytes(path: &Path) -> Result<(Stamp, Vec<u8>), Refused> {
    // Some devices act on being opened, so what it is comes first; what was opened is checked again.
    check(&path.metadata()?)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?);
    let metadata = file.metadata()?;
    check(&metadata)?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.size()).unwrap_or_default());
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(too_large(bytes.len() as u64));
    }
    Ok((Stamp::from(&metadata), bytes))
}

fn check(metadata: &Metadata) -> Result<(), Refused> {
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        return if metadata.size() > LARGEST {
            Err(too_large(metadata.size()))
        } else {
            Ok(())
        };
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_dir() {
        "a folder"
    } else {
        "a device"
    };
    Err(Refused {
        message: format!("is {what}, not a file"),
        remedy: "move it out of the folder",
    })
}

fn too_large(size: u64) -> Refused {
    Refused {
        message: format!("has {size} bytes, more than the {LARGEST} that are read"),
        remedy: "split it into smaller files",
    }
}

/// A problem of a file, a document or a folder as a whole.
pub fn problem(object: impl Into<String>, message: impl Into<String>, remedy: &str) -> Problem {
    Problem {
        object: object.into(),
        field: String::new(),
        value: String::new(),
        message: message.into(),
        remedy: remedy.to_string(),
    }
}

/// An error of the system, as people read it.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text::plain(text.split(" (os error").next().unwrap_or_default())
}

/// From bytes to objects. Pure.
pub fn parse(shown: &str, bytes: &[u8], is_json: bool) -> Contents {
    let refuse = |message: String, remedy: &str| Contents::unreadable(problem(shown, message, remedy));
    let line_of = |position: usize| 1 + bytes[..position].iter().filter(|byte| **byte == b'\n').count();
    if let Some(position) = bytes.iter().position(|byte| *byte == 0) {
        let message = format!("holds binary data (a zero byte in line {})", line_of(position));
        return refuse(message, "replace it by text, in UTF-8");
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("is not UTF-8 (line {})", line_of(error.valid_up_to()));
            return refuse(message, "save it as UTF-8");
        }
    };
    let mut contents = Contents {
        empty: bytes.is_empty(),
        ..Contents::default()
    };
    let mut more = 0;
    let mut take = |document: Document<'_>| {
        add(shown, &document, &mut contents);
        more += contents.problems.len().saturating_sub(MOST_PROBLEMS);
        contents.problems.truncate(MOST_PROBLEMS);
    };
    if is_json {
        document::json(text).into_iter().for_each(&mut take);
    } else {
        document::yaml(text).for_each(&mut take);
    }
    if more > 0 {
        let message = format!("has {more} more problems");
        contents
            .problems
            .push(problem(shown, message, "correct those above first"));
    }
    contents
}

fn add(shown: &str, document: &Document<'_>, contents: &mut Contents) {
    let place = format!("{shown}, document {}, line {}", document.number, document.line);
    match &document.tree {
        Ok(tree) => object::read(&place, tree, contents),
        Err(error) => {
            let line = error
                .line
                .map(|line| format!(" in line {line}"))
                .unwrap_or_default();
            let stand_in = salvage::policy(document.text, &place);
            let remedy = match &stand_in {
                Some(_) => {
                    "correct it; until then it denies all in its namespace, or stays as it was if it was readable before"
                }
                None => "correct it; until then what the file held before stays as it was",
            };
            contents.items.extend(stand_in);
            contents.doubtful = true;
            let message = format!("cannot be parsed{line}: {}", error.message);
            contents.problems.push(problem(place, message, remedy));
        }
    }
}

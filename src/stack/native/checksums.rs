//! Whether downloaded files are those that the repository has the checksums of.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

/// So much of a file is read at once.
const BUFFER: usize = 64 * 1024;

/// What is wrong with the files of a folder.
#[derive(Debug, thiserror::Error)]
pub enum ChecksumError {
    #[error("{file} is not the file that fanout was tested with: its checksum is {found}")]
    Differs { file: String, found: String },
    #[error("{file} is missing")]
    Missing { file: String },
    #[error("{file} was not asked for")]
    Unexpected { file: String },
    #[error("the list of checksums has the line {line:?}")]
    List { line: String },
    #[error("{file} cannot be read")]
    Read {
        file: String,
        #[source]
        source: io::Error,
    },
}

/// Checks that a folder holds the jars of a list, each as `sha256sum` prints
/// it, and no others.
///
/// # Errors
/// Names the first file that is not right.
pub fn check(folder: &Path, list: &str) -> Result<(), ChecksumError> {
    let expected = parse(list)?;
    let read = |file: &str| {
        let file = file.to_owned();
        |source| ChecksumError::Read { file, source }
    };
    let shown = folder.display().to_string();
    let entries = fs::read_dir(folder).map_err(read(&shown))?;
    for entry in entries {
        let name = entry.map_err(read(&shown))?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".jar") && !expected.contains_key(name.as_ref()) {
            let file = name.into_owned();
            return Err(ChecksumError::Unexpected { file });
        }
    }
    for (name, expected) in expected {
        let file = name.to_owned();
        let found = match sha256(&folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ChecksumError::Missing { file });
            }
            found => found.map_err(read(name))?,
        };
        if found != expected {
            return Err(ChecksumError::Differs { file, found });
        }
    }
    Ok(())
}

/// File → checksum.
fn parse(list: &str) -> Result<BTreeMap<&str, &str>, ChecksumError> {
    let entry = |line| {
        let parts: Option<(&str, &str)> = str::split_once(line, "  ");
        let (checksum, file) = parts.filter(|(checksum, _)| checksum.len() == 64)?;
        Some((file, checksum))
    };
    let malformed = |line: &str| ChecksumError::List {
        line: line.to_owned(),
    };
    list.lines()
        .map(|line| entry(line).ok_or_else(|| malformed(line)))
        .collect()
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    let mut text = String::with_capacity(64);
    for byte in hasher.finalize() {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checksum of `a`.
    const A: &str = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";

    #[test]
    fn only_the_very_files_of_the_list_will_do() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &str| folder.path().join(name);
        let list = format!("{A}  one.jar\n");
        let problem = |list: &str| check(folder.path(), list).map_err(|error| error.to_string());
        assert_eq!(problem(&list), Err("one.jar is missing".to_owned()));
        fs::write(place("one.jar"), "a").expect("written");
        fs::write(place("pom.xml"), "").expect("written");
        assert_eq!(problem(&list), Ok(()));
        fs::write(place("one.jar"), "b").expect("written");
        let differs = problem(&list).expect_err("another file");
        assert!(differs.starts_with("one.jar is not the file"), "{differs}");
        fs::write(place("one.jar"), "a").expect("written");
        fs::write(place("two.jar"), "").expect("written");
        assert_eq!(problem(&list), Err("two.jar was not asked for".to_owned()));
        assert!(problem("nonsense").is_err());
    }
}

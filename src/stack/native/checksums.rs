//! Verifies downloaded files against the checksums in the repository.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

/// Number of bytes read from a file in one call.
const BUFFER: usize = 64 * 1024;

/// Problem with the files of a folder.
#[derive(Debug, thiserror::Error)]
pub enum ChecksumError {
    #[error("{file} differs from the file that fanout was tested with: its checksum is {found}")]
    Differs { file: String, found: String },
    #[error("{file} is missing")]
    Missing { file: String },
    #[error("{file} is not in the list of checksums")]
    Unexpected { file: String },
    #[error("the list of checksums has an invalid line: {line:?}")]
    List { line: String },
    #[error("{file} cannot be read")]
    Read {
        file: String,
        #[source]
        source: io::Error,
    },
}

/// Checks that a folder contains exactly the jars of a list in the format of
/// `sha256sum`.
///
/// # Errors
/// Returns the first file with a problem.
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

/// Parses the list: file → checksum.
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

    /// Checksum of the content `a`.
    const A: &str = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";

    #[test]
    fn only_exactly_the_listed_files_are_accepted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        let list = format!("{A}  one.jar\n");
        let problem = |list: &str| check(folder.path(), list).map_err(|error| error.to_string());
        assert_eq!(problem(&list), Err("one.jar is missing".to_owned()));
        fs::write(path("one.jar"), "a").expect("write the file");
        fs::write(path("pom.xml"), "").expect("write the file");
        assert_eq!(problem(&list), Ok(()));
        fs::write(path("one.jar"), "b").expect("write the file");
        let differs = problem(&list).expect_err("another file");
        assert!(
            differs.starts_with("one.jar differs from the file"),
            "{differs}"
        );
        fs::write(path("one.jar"), "a").expect("write the file");
        fs::write(path("two.jar"), "").expect("write the file");
        assert_eq!(
            problem(&list),
            Err("two.jar is not in the list of checksums".to_owned())
        );
        assert!(problem("nonsense").is_err());
    }
}

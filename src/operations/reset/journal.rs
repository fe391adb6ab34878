//! What a reset has set out to remove, kept until all of it is gone: killed at
//! any step, the next one finishes the same list, though what it was found by
//! may be gone by then.
//!
//! ```text
//! <home>/<project>/reset.json   format 1
//! ```

use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::external::Owned;
use crate::stack::{ProjectDir, files::write_atomically};

/// Format of the file that this program writes and reads.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    format: u32,
    external: Vec<Owned>,
}

fn path(dir: &ProjectDir) -> PathBuf {
    dir.path().join("reset.json")
}

/// Whether a reset of this project has begun and not ended.
#[must_use]
pub fn is_unfinished(dir: &ProjectDir) -> bool {
    path(dir).exists()
}

/// What an unfinished reset has left to remove in servers that are not
/// fanout's. One that nobody can read has nothing: what is there is found anew.
pub(super) fn load(dir: &ProjectDir) -> Vec<Owned> {
    let text = fs::read(path(dir)).unwrap_or_default();
    let journal: Option<Journal> = serde_json::from_slice(&text).ok();
    journal
        .filter(|journal| journal.format == FORMAT)
        .map_or(Vec::new(), |journal| journal.external)
}

/// Keeps the list, whole or not at all, before the first of it is removed.
pub(super) fn save(dir: &ProjectDir, external: &[Owned]) -> io::Result<()> {
    let journal = Journal {
        format: FORMAT,
        external: external.to_vec(),
    };
    write_atomically(&path(dir), &serde_json::to_vec_pretty(&journal)?)
}

/// What was found now and what an earlier reset had found, each once.
pub(super) fn merge(found: Vec<Owned>, earlier: Vec<Owned>) -> Vec<Owned> {
    let mut all = found;
    for owned in earlier {
        if !all.contains(&owned) {
            all.push(owned);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::project::Project, stack::Home};

    fn owned(name: &str) -> Owned {
        Owned {
            service: "kafka".into(),
            kind: "topic".into(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn the_list_outlives_the_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = Home::at(folder.path()).project(&Project::default());
        fs::create_dir_all(dir.path()).expect("a folder");
        assert!(!is_unfinished(&dir));
        assert_eq!(load(&dir), []);
        let list = [owned("a"), owned("b")];
        save(&dir, &list).expect("saved");
        assert!(is_unfinished(&dir));
        assert_eq!(load(&dir), list);
        fs::write(path(&dir), "{").expect("written");
        assert_eq!(load(&dir), []);
        assert!(is_unfinished(&dir));
    }

    #[test]
    fn what_is_found_again_is_listed_once() {
        let merged = merge(vec![owned("a"), owned("b")], vec![owned("b"), owned("c")]);
        assert_eq!(merged, [owned("a"), owned("b"), owned("c")]);
    }
}

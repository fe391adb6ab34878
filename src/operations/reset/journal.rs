//! The list of external objects that a reset removes. It is stored until all of
//! them are removed: if the reset is killed, the next one continues with the same
//! list, even if the means to find the objects are gone by then.
//!
//! ```text
//! <home>/<project>/reset.json   format 1
//! ```

use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::stack::{ProjectDir, files::write_atomically, owned::Object};

/// Format of the file. Other formats are ignored.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    format: u32,
    external: Vec<Object>,
}

fn path(dir: &ProjectDir) -> PathBuf {
    dir.path().join("reset.json")
}

/// Returns true if a reset of this project has begun and not ended.
#[must_use]
pub fn is_unfinished(dir: &ProjectDir) -> bool {
    path(dir).exists()
}

/// Returns the objects that an unfinished reset has listed on external servers.
/// An unreadable journal counts as empty: existing objects are found again.
pub(super) fn load(dir: &ProjectDir) -> Vec<Object> {
    let text = fs::read(path(dir)).unwrap_or_default();
    let journal: Option<Journal> = serde_json::from_slice(&text).ok();
    journal
        .filter(|journal| journal.format == FORMAT)
        .map_or(Vec::new(), |journal| journal.external)
}

/// Stores the list atomically, before the first object is removed.
pub(super) fn save(dir: &ProjectDir, external: &[Object]) -> io::Result<()> {
    let journal = Journal {
        format: FORMAT,
        external: external.to_vec(),
    };
    write_atomically(&path(dir), &serde_json::to_vec_pretty(&journal)?)
}

/// Merges the objects found now with those that an earlier reset found, without
/// duplicates.
pub(super) fn merge(found: Vec<Object>, earlier: Vec<Object>) -> Vec<Object> {
    let mut all = found;
    for object in earlier {
        if !all.contains(&object) {
            all.push(object);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::project::Project, stack::Home};

    fn topic(name: &str) -> Object {
        Object::new("kafka", "topic", name)
    }

    #[test]
    fn the_list_outlives_the_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = Home::at(folder.path()).project(&Project::default());
        fs::create_dir_all(dir.path()).expect("a folder");
        assert!(!is_unfinished(&dir));
        assert_eq!(load(&dir), []);
        let list = [topic("a"), topic("b")];
        save(&dir, &list).expect("saved");
        assert!(is_unfinished(&dir));
        assert_eq!(load(&dir), list);
        fs::write(path(&dir), "{").expect("written");
        assert_eq!(load(&dir), []);
        assert!(is_unfinished(&dir));
    }

    #[test]
    fn what_is_found_again_is_listed_once() {
        let merged = merge(vec![topic("a"), topic("b")], vec![topic("b"), topic("c")]);
        assert_eq!(merged, [topic("a"), topic("b"), topic("c")]);
    }
}

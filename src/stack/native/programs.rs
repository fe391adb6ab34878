//! Programs of the machine: their paths, their versions, and one report of all
//! missing ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use super::environment;
use crate::{
    failure::{Error, Kind},
    stack::{definition::Program, files},
};

/// A program that is missing or unsuitable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub program: String,
    /// Problem with the program: `is missing`.
    pub problem: String,
    /// Service or install that needs the program.
    pub wanted_by: String,
    pub debian: String,
}

/// Returns the error for all missing programs.
#[must_use]
pub fn missing_error(missing: &[Missing]) -> Error {
    let programs = missing.iter();
    let packages: BTreeSet<&str> = programs
        .flat_map(|program| program.debian.split(' '))
        .collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    let message = format!("this machine lacks required programs: {}", listing(missing));
    Error::new(Kind::Environment, "programs_missing", message)
        .with_hint(format!("on Debian: apt-get install {}", packages.join(" ")))
}

/// Formats the list: `java is missing (for kafka, connect); …`
fn listing(missing: &[Missing]) -> String {
    let mut wanted_by: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for program in missing {
        let dependents = wanted_by
            .entry((&program.program, &program.problem))
            .or_default();
        if !dependents.contains(&program.wanted_by.as_str()) {
            dependents.push(&program.wanted_by);
        }
    }
    let lines: Vec<String> = wanted_by
        .into_iter()
        .map(|((program, problem), dependents)| {
            format!("{program} {problem} (for {})", dependents.join(", "))
        })
        .collect();
    lines.join("; ")
}

/// Paths of the programs found, and the missing ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchResult {
    pub paths: BTreeMap<String, PathBuf>,
    pub missing: Vec<Missing>,
}

/// Looks for all of `programs` on PATH and in their additional folders.
#[must_use]
pub fn find(programs: &BTreeMap<String, Program>, wanted_by: &str) -> SearchResult {
    find_for(Path::new(""), programs, wanted_by)
}

/// Looks for `programs` like [`find`]. A program that opens only data of its
/// own version must have the version of `data`, if that exists.
#[must_use]
pub fn find_for(
    data: &Path,
    programs: &BTreeMap<String, Program>,
    wanted_by: &str,
) -> SearchResult {
    let path = env::var_os("PATH").unwrap_or_default();
    let search = Search {
        path: &path,
        data,
        programs,
    };
    search.all(wanted_by)
}

struct Search<'a> {
    path: &'a OsStr,
    data: &'a Path,
    programs: &'a BTreeMap<String, Program>,
}

impl Search<'_> {
    fn all(&self, wanted_by: &str) -> SearchResult {
        let mut found = SearchResult::default();
        for (name, program) in self.programs {
            match self.locate(name, program) {
                Some(path) => {
                    found.paths.insert(name.clone(), path);
                }
                None => found.missing.push(self.missing(name, program, wanted_by)),
            }
        }
        found
    }

    fn locate(&self, name: &str, program: &Program) -> Option<PathBuf> {
        if let Some((other, beside)) = self.beside(program) {
            // PATH often has links; related programs are in the program's real
            // folder.
            let other = self.locate(other, beside)?.canonicalize().ok()?;
            return Some(other.with_file_name(name)).filter(|path| is_executable(path));
        }
        let made_by = self.made_by(program);
        let is_right = |path: &Path| made_by.is_none_or(|made_by| version(path) == Some(made_by));
        env::split_paths(self.path)
            .chain(
                program
                    .also_in
                    .iter()
                    .flat_map(|pattern| expand_pattern(pattern)),
            )
            .map(|folder| folder.join(name))
            .find(|path| is_executable(path) && is_right(path))
    }

    fn beside(&self, program: &Program) -> Option<(&String, &Program)> {
        self.programs.get_key_value(program.beside.as_ref()?)
    }

    /// Returns the major version that created the data.
    fn made_by(&self, program: &Program) -> Option<u32> {
        let text = files::read_small(&self.data.join(program.made_by.as_ref()?)).ok()?;
        first_number(&text)
    }

    fn missing(&self, name: &str, program: &Program, wanted_by: &str) -> Missing {
        let related = self.beside(program).map_or(program, |(_, related)| related);
        let (problem, debian) = match self.made_by(related) {
            Some(version) => (
                format!("of version {version}, which created its data, is missing"),
                format!("{}-{version}", program.debian),
            ),
            None => ("is missing".to_owned(), program.debian.clone()),
        };
        Missing {
            program: name.to_owned(),
            problem,
            wanted_by: wanted_by.to_owned(),
            debian,
        }
    }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Returns the folders that match `pattern`, in which one path component may
/// contain `*`. The highest number comes first.
fn expand_pattern(pattern: &str) -> Vec<PathBuf> {
    let parts: Vec<&str> = pattern.split('/').collect();
    let Some(index) = parts.iter().position(|part| part.contains('*')) else {
        return vec![PathBuf::from(pattern)];
    };
    let (parent, rest) = (parts[..index].join("/"), parts[index + 1..].join("/"));
    let (before, after) = parts[index].split_once('*').unwrap_or_default();
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut folders: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let star = name.strip_prefix(before)?.strip_suffix(after)?;
            Some((
                first_number(star).unwrap_or_default(),
                entry.path().join(&rest),
            ))
        })
        .collect();
    folders.sort_by(|first, second| second.cmp(first));
    folders.into_iter().map(|(_, path)| path).collect()
}

/// Returns the programs that are older than their minimum version.
#[must_use]
pub fn too_old(
    programs: &BTreeMap<String, Program>,
    paths: &BTreeMap<String, PathBuf>,
    wanted_by: &str,
) -> Vec<Missing> {
    let find_problem = |(name, path): (&String, &PathBuf)| {
        let program = programs.get(name)?;
        let minimum = program.at_least?;
        let version = version(path);
        if version.is_some_and(|version| version >= minimum) {
            return None;
        }
        let problem = match version {
            Some(version) => format!("has version {version}, but {minimum} or newer is required"),
            None => format!("does not report its version, but {minimum} or newer is required"),
        };
        Some(Missing {
            program: name.clone(),
            problem,
            wanted_by: wanted_by.to_owned(),
            debian: program.debian.clone(),
        })
    };
    paths.iter().filter_map(find_problem).collect()
}

/// Returns the major version that a program reports.
fn version(path: &Path) -> Option<u32> {
    let output = environment::command(path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    first_number(&String::from_utf8_lossy(&output.stdout))
}

fn first_number(text: &str) -> Option<u32> {
    let digits = text.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    let end = digits
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure as _;

    fn program(also_in: &[String], beside: Option<&str>) -> Program {
        Program {
            debian: "package".to_owned(),
            also_in: also_in.to_vec(),
            beside: beside.map(str::to_owned),
            at_least: None,
            made_by: None,
        }
    }

    fn make(path: &Path) {
        make_of_version("9.2", path);
    }

    fn make_of_version(version: &str, path: &Path) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("create the folder");
        let text = format!("#!/bin/sh\necho \"thing (The Thing) {version}\"\n");
        fs::write(path, text).expect("write the file");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("change the mode");
    }

    #[test]
    fn the_newest_version_is_found_outside_of_path() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for version in ["9", "15", "14"] {
            make(&folder.path().join(version).join("bin/server"));
            make(&folder.path().join(version).join("bin/tool"));
        }
        let pattern = format!("{}/*/bin", folder.path().display());
        let programs = BTreeMap::from([
            ("server".to_owned(), program(&[pattern], None)),
            ("tool".to_owned(), program(&[], Some("server"))),
        ]);
        let search = Search {
            path: OsStr::new(""),
            data: Path::new(""),
            programs: &programs,
        };
        let found = search.all("service");
        assert_eq!(found.missing, []);
        let path_in_15 = |name| folder.path().join("15/bin").join(name);
        assert_eq!(found.paths["server"], path_in_15("server"));
        assert_eq!(
            found.paths["tool"],
            path_in_15("tool").canonicalize().expect("the path exists")
        );
    }

    #[test]
    fn data_is_opened_only_by_the_version_that_created_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for version in ["14", "15"] {
            for name in ["server", "tool"] {
                let path = folder.path().join(version).join("bin").join(name);
                make_of_version(version, &path);
            }
        }
        let mut server = program(&[format!("{}/*/bin", folder.path().display())], None);
        server.made_by = Some("VERSION".to_owned());
        let programs = BTreeMap::from([
            ("server".to_owned(), server),
            ("tool".to_owned(), program(&[], Some("server"))),
        ]);
        let path = folder.path().join("15/bin");
        let search = Search {
            path: path.as_os_str(),
            data: folder.path(),
            programs: &programs,
        };
        fs::write(folder.path().join("VERSION"), "14\n").expect("write the file");
        let found = search.all("service");
        let path = |name| folder.path().join("14/bin").join(name);
        assert_eq!(found.paths["server"], path("server"));
        assert_eq!(
            found.paths["tool"],
            path("tool").canonicalize().expect("the path exists")
        );
        fs::write(folder.path().join("VERSION"), "13\n").expect("write the file");
        let missing = search.all("service").missing;
        assert_eq!(missing.len(), 2);
        assert_eq!(
            missing[0].problem,
            "of version 13, which created its data, is missing"
        );
        assert_eq!(missing[0].debian, "package-13");
    }

    #[test]
    fn all_missing_programs_are_reported_with_their_packages() {
        let missing = |program: &str, wanted_by: &str, debian: &str| Missing {
            program: program.to_owned(),
            problem: "is missing".to_owned(),
            wanted_by: wanted_by.to_owned(),
            debian: debian.to_owned(),
        };
        let error = missing_error(&[
            missing("java", "kafka", "openjdk-17-jre-headless"),
            missing("java", "connect", "openjdk-17-jre-headless"),
            missing("redis-server", "redis", "redis-server"),
        ]);
        assert_eq!(
            error.to_string(),
            "this machine lacks required programs: java is missing (for kafka, connect); \
             redis-server is missing (for redis)"
        );
        assert_eq!(
            error.hint().as_deref(),
            Some("on Debian: apt-get install openjdk-17-jre-headless redis-server")
        );
    }

    #[test]
    fn a_program_that_is_too_old_is_reported() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("thing");
        make(&path);
        let old = |at_least| {
            let mut thing = program(&[], None);
            thing.at_least = Some(at_least);
            let paths = BTreeMap::from([("thing".to_owned(), path.clone())]);
            too_old(&BTreeMap::from([("thing".to_owned(), thing)]), &paths, "x")
        };
        assert_eq!(old(9), []);
        assert_eq!(
            old(10)[0].problem,
            "has version 9, but 10 or newer is required"
        );
    }
}

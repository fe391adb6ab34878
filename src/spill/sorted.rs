//! A sorted set of keys that need not fit into memory. It is built once and then only
//! read. A key is a byte array, ordered lexicographically; [`Field`] converts numbers
//! into bytes with the same order.
//!
//! A small set stays in memory. A larger one is written in sorted runs, which are
//! merged into one file. Only one key per block of the file stays in memory.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, BufWriter, Write as _},
    os::unix::fs::FileExt as _,
};

use super::scratch::Scratch;

/// Number of keys sorted in memory, which is the length of a run.
const RUN_LEN: usize = 64 * 1024;

/// Maximum number of open runs. When it is reached, the runs are merged into one.
const MAX_RUNS: usize = 64;

/// Number of keys per block, the unit of reading.
const BLOCK_LEN: usize = 128;

/// A number that can be converted into bytes with the same order.
pub trait Field<const N: usize> {
    /// Returns the bytes.
    fn field(self) -> [u8; N];
}

impl Field<4> for i32 {
    fn field(self) -> [u8; 4] {
        (self.cast_unsigned() ^ (1 << 31)).to_be_bytes()
    }
}

impl Field<8> for i64 {
    fn field(self) -> [u8; 8] {
        (self.cast_unsigned() ^ (1 << 63)).to_be_bytes()
    }
}

/// Returns the number of a [`Field`].
#[must_use]
pub fn number(field: [u8; 8]) -> i64 {
    (u64::from_be_bytes(field) ^ (1 << 63)).cast_signed()
}

/// Concatenates fields to a key.
#[must_use]
pub fn key<const N: usize>(fields: &[&[u8]]) -> [u8; N] {
    let mut key = [0; N];
    for (target, byte) in key.iter_mut().zip(fields.iter().copied().flatten()) {
        *target = *byte;
    }
    key
}

/// Returns the part of a key that starts at `at`.
#[must_use]
pub fn part<const N: usize, const M: usize>(key: &[u8; N], at: usize) -> [u8; M] {
    let mut part = [0; M];
    if let Some(bytes) = key.get(at..at + M) {
        part.copy_from_slice(bytes);
    }
    part
}

/// Builder of a sorted set.
#[derive(Debug)]
pub struct Sorting<const N: usize> {
    scratch: Scratch,
    /// Keys that are not written yet, in any order.
    keys: Vec<[u8; N]>,
    runs: Vec<File>,
}

impl<const N: usize> Sorting<N> {
    /// Creates an empty set. Nothing is written while the set is small.
    #[must_use]
    pub fn new(scratch: &Scratch) -> Self {
        Self {
            scratch: scratch.clone(),
            keys: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// Adds a key. Keys can be added in any order and any number of times.
    ///
    /// # Errors
    /// If the keys cannot be written to disk.
    pub fn add(&mut self, key: [u8; N]) -> io::Result<()> {
        self.keys.push(key);
        if self.keys.len() < RUN_LEN {
            return Ok(());
        }
        self.sort();
        if self.keys.len() < RUN_LEN / 2 {
            return Ok(());
        }
        let mut run = BufWriter::new(self.scratch.file()?);
        for key in self.keys.drain(..) {
            run.write_all(&key)?;
        }
        let run = run.into_inner().map_err(io::IntoInnerError::into_error)?;
        self.runs.push(run);
        if self.runs.len() >= MAX_RUNS {
            self.merge()?;
        }
        Ok(())
    }

    /// Merges the runs into one, so that the number of open files is bounded.
    fn merge(&mut self) -> io::Result<()> {
        let runs = std::mem::take(&mut self.runs);
        let mut merge = Merge::<N>::new(&runs, &[])?;
        let mut file = BufWriter::new(self.scratch.file()?);
        while let Some(key) = merge.next()? {
            file.write_all(&key)?;
        }
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        self.runs.push(file);
        Ok(())
    }

    /// Sorts the keys in memory and removes duplicates.
    fn sort(&mut self) {
        self.keys.sort_unstable();
        self.keys.dedup();
    }

    /// Returns the sorted set.
    ///
    /// # Errors
    /// If the set cannot be written to disk.
    pub fn finish(mut self) -> io::Result<Sorted<N>> {
        self.sort();
        if self.runs.is_empty() {
            return Ok(Sorted::Memory(self.keys));
        }
        let mut merge = Merge::new(&self.runs, &self.keys)?;
        let mut file = BufWriter::new(self.scratch.file()?);
        let (mut firsts, mut count) = (Vec::new(), 0);
        while let Some(key) = merge.next()? {
            if count % BLOCK_LEN == 0 {
                firsts.push(key);
            }
            file.write_all(&key)?;
            count += 1;
        }
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Sorted::Disk {
            file,
            firsts,
            count,
        })
    }
}

/// Merges the runs with the keys that are still in memory.
struct Merge<'a, const N: usize> {
    runs: Vec<Run<'a, N>>,
    /// The next key of each run.
    heads: BinaryHeap<Reverse<([u8; N], usize)>>,
    last: Option<[u8; N]>,
}

/// A sorted run that is read block by block.
struct Run<'a, const N: usize> {
    file: Option<&'a File>,
    /// Number of keys already read from the file.
    position: u64,
    block: Vec<[u8; N]>,
    next: usize,
}

impl<'a, const N: usize> Merge<'a, N> {
    fn new(files: &'a [File], rest: &[[u8; N]]) -> io::Result<Self> {
        let file_run = |file| Run {
            file: Some(file),
            position: 0,
            block: Vec::new(),
            next: 0,
        };
        let mut runs: Vec<Run<'a, N>> = files.iter().map(file_run).collect();
        runs.push(Run {
            file: None,
            position: 0,
            block: rest.to_vec(),
            next: 0,
        });
        let mut heads = BinaryHeap::new();
        for (number, run) in runs.iter_mut().enumerate() {
            heads.extend(run.next()?.map(|key| Reverse((key, number))));
        }
        Ok(Self {
            runs,
            heads,
            last: None,
        })
    }

    /// Returns the next key, without duplicates.
    fn next(&mut self) -> io::Result<Option<[u8; N]>> {
        while let Some(Reverse((key, number))) = self.heads.pop() {
            if let Some(run) = self.runs.get_mut(number) {
                let following = run.next()?;
                self.heads
                    .extend(following.map(|key| Reverse((key, number))));
            }
            if self.last != Some(key) {
                self.last = Some(key);
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}

impl<const N: usize> Run<'_, N> {
    fn next(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.next == self.block.len()
            && let Some(file) = self.file
        {
            self.block = read_block(file, self.position)?;
            self.position += self.block.len() as u64;
            self.next = 0;
        }
        let key = self.block.get(self.next).copied();
        self.next += 1;
        Ok(key)
    }
}

/// Reads at most one block of keys, starting at key number `from`.
fn read_block<const N: usize>(file: &File, from: u64) -> io::Result<Vec<[u8; N]>> {
    let mut bytes = vec![0; BLOCK_LEN * N];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], from * N as u64 + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    let (keys, _) = bytes[..filled].as_chunks();
    Ok(keys.to_vec())
}

/// A sorted set of keys.
#[derive(Debug)]
pub enum Sorted<const N: usize> {
    Memory(Vec<[u8; N]>),
    Disk {
        file: File,
        /// The first key of each block.
        firsts: Vec<[u8; N]>,
        count: usize,
    },
}

impl<const N: usize> Default for Sorted<N> {
    /// Returns the empty set.
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl<const N: usize> Sorted<N> {
    /// Returns the number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(keys) => keys.len(),
            Self::Disk { count, .. } => *count,
        }
    }

    /// Returns the first key that is equal to `key` or after it.
    ///
    /// # Errors
    /// If the disk cannot be read.
    pub fn at_or_after(&self, key: &[u8; N]) -> io::Result<Option<[u8; N]>> {
        let find = |keys: &[[u8; N]]| {
            let index = keys.partition_point(|other| other < key);
            keys.get(index).copied()
        };
        match self {
            Self::Memory(keys) => Ok(find(keys)),
            Self::Disk { file, firsts, .. } => {
                let next = firsts.partition_point(|first| first <= key);
                let Some(number) = next.checked_sub(1) else {
                    return Ok(firsts.first().copied());
                };
                let keys = read_block(file, (number * BLOCK_LEN) as u64)?;
                Ok(find(&keys).or_else(|| firsts.get(next).copied()))
            }
        }
    }

    /// Returns true if the set contains the key.
    ///
    /// # Errors
    /// If the disk cannot be read.
    pub fn contains(&self, key: &[u8; N]) -> io::Result<bool> {
        Ok(self.at_or_after(key)?.as_ref() == Some(key))
    }

    /// Returns the first key that is equal to `key` or after it, if it starts with
    /// `prefix`.
    ///
    /// # Errors
    /// If the disk cannot be read.
    pub fn first_with(&self, prefix: &[u8], key: &[u8; N]) -> io::Result<Option<[u8; N]>> {
        let first = self.at_or_after(key)?;
        Ok(first.filter(|first| first.starts_with(prefix)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::{config::project::Project, stack::Home};

    fn scratch() -> (tempfile::TempDir, Scratch) {
        let home = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::of(Home::at(home.path()).project(&Project::default()));
        (home, scratch)
    }

    fn sorted(scratch: &Scratch, numbers: impl Iterator<Item = i64>) -> Sorted<8> {
        let mut sorting = Sorting::new(scratch);
        for number in numbers {
            sorting.add(number.field()).expect("add a key");
            assert!(sorting.keys.len() <= RUN_LEN);
        }
        sorting.finish().expect("finish the set")
    }

    /// Returns at most `limit` keys, starting at `from`.
    fn walk(set: &Sorted<8>, from: i64, limit: usize) -> Vec<i64> {
        let mut found = Vec::new();
        let mut next = Some(from);
        while let Some(from) = next.filter(|_| found.len() < limit) {
            let key = set.at_or_after(&from.field()).expect("readable");
            let value = key.map(number);
            found.extend(value);
            next = value.and_then(|value| value.checked_add(1));
        }
        found
    }

    #[test]
    fn a_large_set_is_complete_and_sorted_on_disk() {
        let (home, scratch) = scratch();
        let keys = 3 * RUN_LEN + 77;
        let count = i64::try_from(keys).expect("a small number");
        // Each number twice, in an order that differs from that of every run.
        let numbers = (0..count).map(|number| number * 7_919 % count);
        let set = sorted(&scratch, numbers.clone().chain(numbers).map(|n| n * 2));
        let Sorted::Disk { firsts, .. } = &set else {
            panic!("the set stayed in memory");
        };
        assert_eq!(firsts.len(), keys.div_ceil(BLOCK_LEN));
        assert_eq!(set.len(), keys);
        assert_eq!(walk(&set, i64::MIN, 3), [0, 2, 4]);
        assert_eq!(walk(&set, 2 * count - 3, 9), [2 * count - 2]);
        for number in [0, 254, 256, 131_072, 2 * count - 2] {
            assert!(set.contains(&number.field()).expect("readable"));
            assert!(!set.contains(&(number + 1).field()).expect("readable"));
        }
        assert!(walk(&set, 2 * count, 1).is_empty());
        drop(set);
        let files = list_files(home.path());
        assert!(files.is_empty(), "{files:?}");
    }

    /// Returns every file below a folder.
    fn list_files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(folder).expect("a folder").flatten();
        let files = |path: std::path::PathBuf| {
            if path.is_dir() {
                list_files(&path)
            } else {
                vec![path]
            }
        };
        entries.flat_map(|entry| files(entry.path())).collect()
    }

    #[test]
    fn a_small_set_writes_nothing() {
        let (home, scratch) = scratch();
        let set = sorted(&scratch, [3, 1, 2, 3].into_iter());
        assert_eq!(walk(&set, i64::MIN, 9), [1, 2, 3]);
        assert_eq!(std::fs::read_dir(home.path()).expect("home").count(), 0);
    }

    #[test]
    fn duplicates_take_no_disk_space() {
        let (home, scratch) = scratch();
        let many = (0..100).cycle().take(10 * RUN_LEN);
        assert_eq!(sorted(&scratch, many).len(), 100);
        assert_eq!(std::fs::read_dir(home.path()).expect("home").count(), 0);
    }

    #[test]
    fn the_number_of_open_files_is_bounded() {
        let (_home, scratch) = scratch();
        let mut sorting = Sorting::<8>::new(&scratch);
        for number in 1_i64..64 {
            let mut file = scratch.file().expect("a file");
            file.write_all(&(-number).field()).expect("write a key");
            sorting.runs.push(file);
        }
        let count = i64::try_from(RUN_LEN).expect("a small number");
        for number in 0..count {
            sorting.add(number.field()).expect("add a key");
        }
        assert_eq!(sorting.runs.len(), 1);
        let set = sorting.finish().expect("finish the set");
        assert_eq!(set.len(), RUN_LEN + 63);
        assert_eq!(walk(&set, i64::MIN, 2), [-63, -62]);
        assert_eq!(walk(&set, count - 1, 2), [count - 1]);
    }

    proptest! {
        #[test]
        fn fields_have_the_order_of_their_numbers(one: i64, other: i64, a: i32, b: i32) {
            prop_assert_eq!(one.cmp(&other), one.field().cmp(&other.field()));
            prop_assert_eq!(a.cmp(&b), a.field().cmp(&b.field()));
            prop_assert_eq!(number(one.field()), one);
        }

        #[test]
        fn a_merge_of_runs_is_the_set_of_their_keys(
            runs in proptest::collection::vec(
                proptest::collection::btree_set(-50_i64..50, 0..40), 0..6),
            rest in proptest::collection::btree_set(-50_i64..50, 0..40),
            merged in any::<bool>(),
        ) {
            let (_home, scratch) = scratch();
            let mut sorting = Sorting::<8>::new(&scratch);
            for run in &runs {
                let mut file = scratch.file().expect("a file");
                for number in run {
                    file.write_all(&number.field()).expect("write a key");
                }
                sorting.runs.push(file);
            }
            if merged {
                sorting.merge().expect("merge the runs");
            }
            sorting.keys = rest.iter().map(|number| number.field()).collect();
            let set = sorting.finish().expect("finish the set");
            let all: BTreeSet<i64> = runs.iter().flatten().chain(&rest).copied().collect();
            prop_assert_eq!(walk(&set, i64::MIN, 1_000), all.iter().copied().collect::<Vec<_>>());
            for number in -51..52 {
                let expected = all.range(number..).next().copied();
                let found = set.at_or_after(&number.field()).expect("readable");
                prop_assert_eq!(found.map(super::number), expected);
            }
        }
    }
}

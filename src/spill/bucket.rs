//! What does not fit into memory, sorted into heaps by key: entries of one key
//! are in one heap, and a heap is small enough to be compared at once. Each heap
//! is a temporary file.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _},
    marker::PhantomData,
};

use super::scratch::Scratch;

/// Entries that one heap is meant to hold: some megabytes.
const PER_HEAP: u64 = 50_000;

/// The most heaps. Each is a file, and has a buffer.
const MAX_HEAPS: u64 = 128;

/// Bytes held back of each heap before they are written.
const BUFFER: usize = 8 * 1024;

/// What can be put away: always so many bytes.
pub(crate) trait Entry: Sized {
    type Bytes: AsRef<[u8]>;

    /// What it is found by.
    fn key(&self) -> u64;

    fn bytes(&self) -> Self::Bytes;

    /// Reads one; none at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn read(from: &mut Source) -> io::Result<Option<Self>>;
}

/// Where entries are read from.
#[derive(Debug)]
pub(crate) struct Source(BufReader<File>);

impl Source {
    /// The bytes of the next entry; none at the end.
    pub(crate) fn next<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        match self.0.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How many heaps so many entries are sorted into.
pub(crate) fn heaps_for(entries: u64) -> usize {
    let heaps = entries.div_ceil(PER_HEAP).clamp(1, MAX_HEAPS);
    usize::try_from(heaps).unwrap_or(1)
}

/// Entries on their way into heaps.
#[derive(Debug)]
pub(crate) struct Spill<E> {
    heaps: Vec<BufWriter<File>>,
    of: PhantomData<E>,
}

impl<E: Entry> Spill<E> {
    /// Empty heaps. What is compared with each other has the same number.
    ///
    /// # Errors
    /// When the temporary files cannot be made.
    pub(crate) fn new(scratch: &Scratch, heaps: usize) -> io::Result<Self> {
        let heap = |_| Ok(BufWriter::with_capacity(BUFFER, scratch.file()?));
        Ok(Self {
            heaps: (0..heaps).map(heap).collect::<io::Result<_>>()?,
            of: PhantomData,
        })
    }

    /// Puts an entry away, after all that were before it.
    ///
    /// # Errors
    /// When the disk is full.
    pub(crate) fn push(&mut self, entry: &E) -> io::Result<()> {
        let heaps = self.heaps.len() as u64;
        // Ids count up, and are spread like anything else.
        let place = entry.key().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let place = usize::try_from(place % heaps).unwrap_or_default();
        match self.heaps.get_mut(place) {
            Some(heap) => heap.write_all(entry.bytes().as_ref()),
            None => Ok(()),
        }
    }

    /// The heaps, one after the other, each in the order it was filled in.
    ///
    /// # Errors
    /// When the disk is full.
    pub(crate) fn heaps(self) -> io::Result<Vec<Heap<E>>> {
        let heap = |heap: BufWriter<File>| {
            let mut file = heap.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            Ok(Heap {
                source: Source(BufReader::new(file)),
                of: PhantomData,
            })
        };
        self.heaps.into_iter().map(heap).collect()
    }
}

/// One heap's entries.
#[derive(Debug)]
pub(crate) struct Heap<E> {
    source: Source,
    of: PhantomData<E>,
}

impl<E: Entry> Iterator for Heap<E> {
    type Item = io::Result<E>;

    fn next(&mut self) -> Option<Self::Item> {
        E::read(&mut self.source).transpose()
    }
}

/// A folder for temporary files, in a home of its own.
#[cfg(test)]
pub(crate) fn scratch() -> (tempfile::TempDir, Scratch) {
    use crate::{config::project::Project, stack::Home};

    let home = tempfile::tempdir().expect("a folder");
    let scratch = Scratch::of(Home::at(home.path()).project(&Project::default()));
    (home, scratch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Entry for (u64, u32) {
        type Bytes = [u8; 12];

        fn key(&self) -> u64 {
            self.0
        }

        fn bytes(&self) -> [u8; 12] {
            let mut bytes = [0; 12];
            bytes[..8].copy_from_slice(&self.0.to_le_bytes());
            bytes[8..].copy_from_slice(&self.1.to_le_bytes());
            bytes
        }

        fn read(from: &mut Source) -> io::Result<Option<Self>> {
            let bytes: Option<[u8; 12]> = from.next()?;
            Ok(bytes.map(|bytes| {
                let (key, value) = bytes.split_at(8);
                (
                    u64::from_le_bytes(key.try_into().expect("eight")),
                    u32::from_le_bytes(value.try_into().expect("four")),
                )
            }))
        }
    }

    #[test]
    fn many_entries_are_many_heaps_and_never_too_many() {
        assert_eq!(heaps_for(0), 1);
        assert_eq!(heaps_for(PER_HEAP), 1);
        assert_eq!(heaps_for(PER_HEAP + 1), 2);
        assert_eq!(heaps_for(u64::MAX), 128);
    }

    proptest! {
        #[test]
        fn a_heap_has_all_of_a_key_in_order(
            entries in proptest::collection::vec((0_u64..40, any::<u32>()), 0..300),
            heaps in 1_usize..9,
        ) {
            let (_home, scratch) = scratch();
            let mut spill = Spill::new(&scratch, heaps).expect("files");
            for entry in &entries {
                spill.push(entry).expect("space");
            }
            let mut found = Vec::new();
            for heap in spill.heaps().expect("files") {
                let heap: io::Result<Vec<(u64, u32)>> = heap.collect();
                found.push(heap.expect("entries"));
            }
            prop_assert_eq!(found.len(), heaps);
            for key in 0..40 {
                let of_key = |entries: &[(u64, u32)]| -> Vec<u32> {
                    let of_key = entries.iter().filter(|entry| entry.0 == key);
                    of_key.map(|entry| entry.1).collect()
                };
                let homes: Vec<Vec<u32>> = found.iter().map(|heap| of_key(heap)).collect();
                let filled = homes.iter().filter(|home| !home.is_empty()).count();
                prop_assert!(filled <= 1);
                prop_assert_eq!(homes.concat(), of_key(&entries));
            }
        }
    }
}

//! Partitions entries that do not fit into memory into buckets by key, called heaps in
//! the code. All entries of a key are in the same heap, and a heap fits into memory.
//! Each heap is a temporary file.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _},
    marker::PhantomData,
};

use super::scratch::Scratch;

/// Target number of entries per heap, which is a few megabytes.
const ENTRIES_PER_HEAP: u64 = 50_000;

/// Maximum number of heaps. Each has a file and a buffer.
const MAX_HEAPS: u64 = 128;

/// Size of the write buffer of each heap in bytes.
const BUFFER_BYTES: usize = 8 * 1024;

/// An entry with a fixed size in bytes.
pub(crate) trait Entry: Sized {
    type Bytes: AsRef<[u8]>;

    /// Returns the key that determines the heap.
    fn key(&self) -> u64;

    /// Returns the serialised entry.
    fn bytes(&self) -> Self::Bytes;

    /// Reads the next entry, or returns `None` at the end.
    ///
    /// # Errors
    /// If the file cannot be read.
    fn read(source: &mut Source) -> io::Result<Option<Self>>;
}

/// The file that the entries of a heap are read from.
#[derive(Debug)]
pub(crate) struct Source(BufReader<File>);

impl Source {
    /// Returns the bytes of the next entry, or `None` at the end.
    pub(crate) fn next<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        match self.0.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Returns the number of heaps for a number of entries.
pub(crate) fn heaps_for(entries: u64) -> usize {
    let heaps = entries.div_ceil(ENTRIES_PER_HEAP).clamp(1, MAX_HEAPS);
    usize::try_from(heaps).unwrap_or(1)
}

/// Writes entries to heaps.
#[derive(Debug)]
pub(crate) struct Spill<E> {
    heaps: Vec<BufWriter<File>>,
    entry: PhantomData<E>,
}

impl<E: Entry> Spill<E> {
    /// Creates empty heaps. Two spills that are compared must have the same number of
    /// heaps.
    ///
    /// # Errors
    /// If the temporary files cannot be created.
    pub(crate) fn new(scratch: &Scratch, heaps: usize) -> io::Result<Self> {
        let heap = |_| Ok(BufWriter::with_capacity(BUFFER_BYTES, scratch.file()?));
        Ok(Self {
            heaps: (0..heaps).map(heap).collect::<io::Result<_>>()?,
            entry: PhantomData,
        })
    }

    /// Appends an entry to the heap of its key.
    ///
    /// # Errors
    /// If the disk is full.
    pub(crate) fn push(&mut self, entry: &E) -> io::Result<()> {
        let heaps = self.heaps.len() as u64;
        // Hash the key, so that sequential ids are also distributed evenly.
        let hash = entry.key().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let index = usize::try_from(hash % heaps).unwrap_or_default();
        match self.heaps.get_mut(index) {
            Some(heap) => heap.write_all(entry.bytes().as_ref()),
            None => Ok(()),
        }
    }

    /// Returns the heaps. Each has its entries in the order in which they were added.
    ///
    /// # Errors
    /// If the disk is full.
    pub(crate) fn heaps(self) -> io::Result<Vec<Heap<E>>> {
        let heap = |heap: BufWriter<File>| {
            let mut file = heap.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            Ok(Heap {
                source: Source(BufReader::new(file)),
                entry: PhantomData,
            })
        };
        self.heaps.into_iter().map(heap).collect()
    }
}

/// Iterator over the entries of one heap.
#[derive(Debug)]
pub(crate) struct Heap<E> {
    source: Source,
    entry: PhantomData<E>,
}

impl<E: Entry> Iterator for Heap<E> {
    type Item = io::Result<E>;

    fn next(&mut self) -> Option<Self::Item> {
        E::read(&mut self.source).transpose()
    }
}

/// Creates a folder for temporary files in a new home.
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

        fn read(source: &mut Source) -> io::Result<Option<Self>> {
            let bytes: Option<[u8; 12]> = source.next()?;
            Ok(bytes.map(|bytes| {
                let (key, value) = bytes.split_at(8);
                (
                    u64::from_le_bytes(key.try_into().expect("eight bytes")),
                    u32::from_le_bytes(value.try_into().expect("four bytes")),
                )
            }))
        }
    }

    #[test]
    fn the_number_of_heaps_grows_with_the_entries_and_is_bounded() {
        assert_eq!(heaps_for(0), 1);
        assert_eq!(heaps_for(ENTRIES_PER_HEAP), 1);
        assert_eq!(heaps_for(ENTRIES_PER_HEAP + 1), 2);
        assert_eq!(heaps_for(u64::MAX), 128);
    }

    proptest! {
        #[test]
        fn a_heap_has_all_entries_of_a_key_in_order(
            entries in proptest::collection::vec((0_u64..40, any::<u32>()), 0..300),
            heaps in 1_usize..9,
        ) {
            let (_home, scratch) = scratch();
            let mut spill = Spill::new(&scratch, heaps).expect("create the files");
            for entry in &entries {
                spill.push(entry).expect("add an entry");
            }
            let mut found = Vec::new();
            for heap in spill.heaps().expect("read the files") {
                let heap: io::Result<Vec<(u64, u32)>> = heap.collect();
                found.push(heap.expect("read the entries"));
            }
            prop_assert_eq!(found.len(), heaps);
            for key in 0..40 {
                let values = |entries: &[(u64, u32)]| -> Vec<u32> {
                    let matching = entries.iter().filter(|entry| entry.0 == key);
                    matching.map(|entry| entry.1).collect()
                };
                let by_heap: Vec<Vec<u32>> = found.iter().map(|heap| values(heap)).collect();
                let filled = by_heap.iter().filter(|values| !values.is_empty()).count();
                prop_assert!(filled <= 1);
                prop_assert_eq!(by_heap.concat(), values(&entries));
            }
        }
    }
}

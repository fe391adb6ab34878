//! Records of one partition, copied from the consumer into one block of memory. Many records
//! need only one allocation, and a batch can be decoded again if a write is repeated.

use std::{ops::Range, sync::Arc};

use crate::debezium::Record;

/// Consecutive records of one partition.
#[derive(Debug, Clone)]
pub struct Chunk {
    topic: Arc<str>,
    partition: i32,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// The position of one record in the block.
#[derive(Debug, Clone)]
struct Entry {
    offset: i64,
    timestamp_ms: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
}

impl Chunk {
    /// Returns a chunk without records.
    pub fn new(topic: Arc<str>, partition: i32) -> Self {
        Self {
            topic,
            partition,
            bytes: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Appends a copy of a record, which must belong to the topic and partition of the chunk.
    pub fn push(
        &mut self,
        offset: i64,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) {
        let key = key.map(|key| self.copy(key));
        let value = value.map(|value| self.copy(value));
        self.entries.push(Entry {
            offset,
            timestamp_ms,
            key,
            value,
        });
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if there are no records.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the size of keys and values, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the source topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the source partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Returns the offset after the last record, or `None` if there are no records.
    pub fn next_offset(&self) -> Option<i64> {
        self.entries.last().map(|entry| entry.offset + 1)
    }

    /// Returns the record at `index`, if it exists.
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        self.entries.get(index).map(|entry| self.record(entry))
    }

    /// Returns all records, in the order of the log.
    pub fn records(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.entries.iter().map(|entry| self.record(entry))
    }

    fn record(&self, entry: &Entry) -> Record<'_> {
        let slice = |range: &Range<usize>| self.bytes.get(range.clone()).unwrap_or_default();
        Record {
            topic: &self.topic,
            partition: self.partition,
            offset: entry.offset,
            timestamp_ms: entry.timestamp_ms,
            key: entry.key.as_ref().map(slice),
            value: entry.value.as_ref().map(slice),
        }
    }

    /// Returns true if any record may contain this text.
    pub fn mentions(&self, text: &str) -> bool {
        memchr::memmem::find(&self.bytes, text.as_bytes()).is_some()
    }

    /// Removes the first `count` records.
    pub fn drop_front(&mut self, count: usize) {
        self.entries.drain(..count.min(self.entries.len()));
    }

    /// Removes and returns the records from `index` onwards.
    #[must_use]
    pub fn split_off(&mut self, index: usize) -> Self {
        let index = index.min(self.entries.len());
        Self {
            topic: Arc::clone(&self.topic),
            partition: self.partition,
            bytes: self.bytes.clone(),
            entries: self.entries.split_off(index),
        }
    }

    /// Appends copies of the records of another chunk of the same partition.
    pub fn append(&mut self, other: &Self) {
        for record in other.records() {
            self.push(record.offset, record.timestamp_ms, record.key, record.value);
        }
    }

    /// Removes the records from this offset onwards. Returns whether there were any.
    pub fn keep_before(&mut self, offset: i64) -> bool {
        let kept = self.entries.partition_point(|entry| entry.offset < offset);
        let has_removed = kept < self.entries.len();
        self.entries.truncate(kept);
        has_removed
    }

    /// Removes all records but keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_can_be_split_off_and_appended() {
        let mut chunk = Chunk::new(Arc::from("t"), 2);
        for offset in 0..5 {
            chunk.push(offset, 70, Some(b"k"), Some(offset.to_string().as_bytes()));
        }
        let rest = chunk.split_off(3);
        let mut middle = chunk.split_off(1);
        middle.append(&rest);
        let read = |chunk: &Chunk| -> Vec<(i64, Vec<u8>)> {
            let records = chunk.records();
            records
                .map(|record| (record.offset, record.value.unwrap_or_default().to_vec()))
                .collect()
        };
        let value = |offset: i64| (offset, offset.to_string().into_bytes());
        assert_eq!(read(&chunk), [value(0)]);
        assert_eq!(read(&middle), [1, 2, 3, 4].map(value));
    }

    #[test]
    fn records_are_returned_unchanged() {
        let mut chunk = Chunk::new(Arc::from("t"), 2);
        chunk.push(5, 70, Some(b"k"), Some(b"value"));
        chunk.push(9, 71, None, Some(b""));
        chunk.push(10, 72, Some(b"k"), None);
        let seen: Vec<_> = chunk
            .records()
            .map(|record| (record.offset, record.timestamp_ms, record.key, record.value))
            .collect();
        assert_eq!(
            seen,
            [
                (5, 70, Some(&b"k"[..]), Some(&b"value"[..])),
                (9, 71, None, Some(&b""[..])),
                (10, 72, Some(&b"k"[..]), None),
            ]
        );
        assert_eq!(chunk.next_offset(), Some(11));
        let mut front = chunk.clone();
        assert!(!front.keep_before(11));
        assert!(front.keep_before(9));
        assert_eq!(front.next_offset(), Some(6));
        chunk.drop_front(2);
        assert_eq!(chunk.len(), 1);
        assert_eq!(chunk.get(0).map(|record| record.offset), Some(10));
    }
}

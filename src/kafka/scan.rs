//! Reads a topic from given offsets, without a group and without leaving a trace: once up to an
//! end offset, or continuously.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use super::{Kafka, consumer_config};
use crate::debezium::Record;

/// Maximum number and size (in KiB) of records that are read ahead. A larger record is read
/// alone.
const READ_AHEAD: usize = 256;
const READ_AHEAD_KIB: u32 = 32 * 1024;

/// How long an idle reader waits before it checks whether it should stop.
const SLICE: Duration = Duration::from_millis(100);

/// A scan with an end that makes no progress for this long has stalled. A scan without an end
/// waits for the broker indefinitely.
const STALL: Duration = Duration::from_mins(1);

/// A record with everything that the log contains about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    /// Time at which the broker appended the record, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

/// An offset range of one partition to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    pub partition: i32,
    pub from: i64,
    /// One past the last offset. `None` means without end.
    pub until: Option<i64>,
}

/// A running scan. It stops when it is dropped.
#[derive(Debug)]
pub struct Scan {
    records: mpsc::Receiver<Item>,
    stop: Arc<AtomicBool>,
}

/// An item that was read ahead: a record with its share of the memory budget, or an error.
type Item = Result<(Seen, OwnedSemaphorePermit), KafkaError>;

/// Sends the items to the scan's owner.
struct Sender {
    records: mpsc::Sender<Item>,
    memory: Arc<Semaphore>,
    runtime: Handle,
}

/// The receiver was dropped.
struct ReceiverDropped;

impl Sender {
    /// Waits until there is room for the record, and sends it.
    fn record(&self, seen: Seen) -> Result<(), ReceiverDropped> {
        let kib = u32::try_from(seen.size() / 1024).unwrap_or(u32::MAX);
        let share = Arc::clone(&self.memory).acquire_many_owned(kib.clamp(1, READ_AHEAD_KIB));
        let share = self.runtime.block_on(share).map_err(|_| ReceiverDropped)?;
        self.send(Ok((seen, share)))
    }

    fn send(&self, item: Item) -> Result<(), ReceiverDropped> {
        self.records
            .blocking_send(item)
            .map_err(|_| ReceiverDropped)
    }
}

impl Seen {
    /// Returns the record in the form that the decoder accepts.
    #[must_use]
    pub fn record<'a>(&'a self, topic: &'a str) -> Record<'a> {
        Record {
            topic,
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
        }
    }

    /// Returns the size of key, value and headers in bytes.
    fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self.headers.iter();
        let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
        length(&self.key) + length(&self.value) + headers
    }

    /// Returns the header with this name as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }
}

impl From<&BorrowedMessage<'_>> for Seen {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| {
            let owned = headers.iter().map(|header| {
                let value = header.value.unwrap_or_default();
                (header.key.to_owned(), value.to_vec())
            });
            owned.collect()
        });
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        }
    }
}

impl Kafka {
    /// Starts to read these offset ranges of a topic. Empty ranges are skipped. Must be called
    /// within the runtime.
    ///
    /// # Errors
    /// If the client cannot be created.
    pub fn scan(
        &self,
        group: &str,
        topic: &str,
        stretches: &[Stretch],
    ) -> Result<Scan, KafkaError> {
        Scan::start(self, group, topic, stretches)
    }
}

impl Scan {
    fn start(
        kafka: &Kafka,
        group: &str,
        topic: &str,
        stretches: &[Stretch],
    ) -> Result<Self, KafkaError> {
        let open: Vec<Stretch> = stretches
            .iter()
            .filter(|stretch| stretch.until.is_none_or(|until| stretch.from < until))
            .copied()
            .collect();
        let consumer: BaseConsumer = consumer_config(kafka, group).create()?;
        let mut list = TopicPartitionList::with_capacity(open.len());
        for stretch in &open {
            list.add_partition_offset(topic, stretch.partition, Offset::Offset(stretch.from))?;
        }
        consumer.assign(&list)?;
        let (sender, records) = mpsc::channel(READ_AHEAD);
        let sender = Sender {
            records: sender,
            memory: Arc::new(Semaphore::new(READ_AHEAD_KIB as usize)),
            runtime: Handle::current(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        std::thread::Builder::new()
            .name(format!("scan {topic}"))
            .spawn(move || read(&consumer, open, &sender, &is_stopped))
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { records, stop })
    }

    /// Returns the next record, or `None` when all ranges have been read.
    ///
    /// # Errors
    /// If the broker stays unreachable or an offset is no longer available.
    pub async fn next(&mut self) -> Result<Option<Seen>, KafkaError> {
        let item = self.records.recv().await.transpose()?;
        Ok(item.map(|(seen, _share)| seen))
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.records.close();
    }
}

fn read(consumer: &BaseConsumer, mut open: Vec<Stretch>, sender: &Sender, stop: &AtomicBool) {
    let mut last_progress = Instant::now();
    while !open.is_empty() && !stop.load(Ordering::Acquire) {
        let polled = consumer.poll(SLICE);
        let is_stalled =
            last_progress.elapsed() > STALL && open.iter().all(|stretch| stretch.until.is_some());
        let sent = match polled {
            Some(Ok(message)) => {
                let outcome = deliver(&message, &mut open, sender);
                // Measured after the send, because the receiver may be slow.
                last_progress = Instant::now();
                outcome
            }
            // The end was determined after the caller chose `until`, so all records before
            // `until` have been read.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.retain(|stretch| stretch.partition != partition || stretch.until.is_none());
                last_progress = Instant::now();
                Ok(())
            }
            None if is_stalled => {
                open.clear();
                let error = RDKafkaErrorCode::OperationTimedOut;
                sender.send(Err(KafkaError::MessageConsumption(error)))
            }
            None => Ok(()),
            Some(Err(error))
                if super::is_transient(&error)
                    && !super::is_out_of_range(&error)
                    && !is_stalled =>
            {
                tracing::debug!(%error, "error in a scan's consumer");
                Ok(())
            }
            Some(Err(error)) => {
                open.clear();
                sender.send(Err(error))
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Sends a message if it belongs to an open range, and closes it after its last message.
fn deliver(
    message: &BorrowedMessage<'_>,
    open: &mut Vec<Stretch>,
    sender: &Sender,
) -> Result<(), ReceiverDropped> {
    let (partition, offset) = (message.partition(), message.offset());
    let found = open.iter().find(|stretch| stretch.partition == partition);
    let Some(stretch) = found.copied() else {
        return Ok(());
    };
    let until = stretch.until.unwrap_or(i64::MAX);
    if offset + 1 >= until {
        open.retain(|stretch| stretch.partition != partition);
    }
    if offset < until {
        sender.record(Seen::from(message))?;
    }
    Ok(())
}

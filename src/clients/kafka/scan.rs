//! Reads a topic from given offsets, in no group and without leaving a trace:
//! once up to where it ended, or on and on.

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
use crate::event::Record;

/// Records read ahead of who takes them, in number and in KiB. A larger record
/// is read alone.
const AHEAD: usize = 256;
const AHEAD_KIB: u32 = 32 * 1024;

/// How long a quiet reader waits before it looks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(100);

/// A scan with an end that nothing comes of for so long has stalled; one without
/// waits for the broker for ever.
const STALL: Duration = Duration::from_mins(1);

/// A record with all that the log has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    /// When the broker appended it, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

/// The part of one partition that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    pub partition: i32,
    pub from: i64,
    /// One past the last offset; none goes on for ever.
    pub until: Option<i64>,
}

/// A reading under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Scan {
    records: mpsc::Receiver<Ahead>,
    stop: Arc<AtomicBool>,
}

/// What is read ahead: a record, with its share of the memory for them.
type Ahead = Result<(Seen, OwnedSemaphorePermit), KafkaError>;

/// Hands over what is read.
struct Sender {
    records: mpsc::Sender<Ahead>,
    memory: Arc<Semaphore>,
    runtime: Handle,
}

/// Nobody takes the records any more.
struct Dropped;

impl Sender {
    /// Waits until there is room for the record.
    fn record(&self, seen: Seen) -> Result<(), Dropped> {
        let kib = u32::try_from(seen.size() / 1024).unwrap_or(u32::MAX);
        let share = Arc::clone(&self.memory).acquire_many_owned(kib.clamp(1, AHEAD_KIB));
        let share = self.runtime.block_on(share).map_err(|_| Dropped)?;
        self.send(Ok((seen, share)))
    }

    fn send(&self, ahead: Ahead) -> Result<(), Dropped> {
        self.records.blocking_send(ahead).map_err(|_| Dropped)
    }
}

impl Seen {
    /// The record as the decoder takes it.
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

    /// Bytes of key, value and headers.
    fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self.headers.iter();
        let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
        length(&self.key) + length(&self.value) + headers
    }

    /// The header of this name as text.
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
    /// Begins to read these stretches of a topic. Empty ones are left out. To be
    /// called within the runtime.
    ///
    /// # Errors
    /// When the client cannot be made.
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
        let (sender, records) = mpsc::channel(AHEAD);
        let sender = Sender {
            records: sender,
            memory: Arc::new(Semaphore::new(AHEAD_KIB as usize)),
            runtime: Handle::current(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::Builder::new()
            .name(format!("scan {topic}"))
            .spawn(move || read(&consumer, open, &sender, &stopped))
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { records, stop })
    }

    /// The next record; none when all stretches have been read.
    ///
    /// # Errors
    /// When the broker goes away for good or an offset is no longer there.
    pub async fn next(&mut self) -> Result<Option<Seen>, KafkaError> {
        let ahead = self.records.recv().await.transpose()?;
        Ok(ahead.map(|(seen, _share)| seen))
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.records.close();
    }
}

fn read(consumer: &BaseConsumer, mut open: Vec<Stretch>, sender: &Sender, stop: &AtomicBool) {
    let mut moved = Instant::now();
    while !open.is_empty() && !stop.load(Ordering::Acquire) {
        let polled = consumer.poll(SLICE);
        let stalled = moved.elapsed() > STALL && open.iter().all(|stretch| stretch.until.is_some());
        let sent = match polled {
            Some(Ok(message)) => {
                let taken = take(&message, &mut open, sender);
                // After it was handed over: who takes it may be slow.
                moved = Instant::now();
                taken
            }
            // The end came after it was asked for, so it is past every `until`.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.retain(|stretch| stretch.partition != partition || stretch.until.is_none());
                moved = Instant::now();
                Ok(())
            }
            None if stalled => {
                open.clear();
                let error = RDKafkaErrorCode::OperationTimedOut;
                sender.send(Err(KafkaError::MessageConsumption(error)))
            }
            None => Ok(()),
            Some(Err(error))
                if super::is_transient(&error) && !super::is_out_of_range(&error) && !stalled =>
            {
                tracing::debug!(%error, "a scan's consumer");
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

fn take(
    message: &BorrowedMessage<'_>,
    open: &mut Vec<Stretch>,
    sender: &Sender,
) -> Result<(), Dropped> {
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

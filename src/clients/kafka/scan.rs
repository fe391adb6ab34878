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
use tokio::sync::mpsc;

use super::{ConsumerSettings, consumer_config};
use crate::event::Record;

/// Records read ahead of who takes them; the client's own prefetch bounds the
/// bytes.
const AHEAD: usize = 256;

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
    records: mpsc::Receiver<Result<Seen, KafkaError>>,
    stop: Arc<AtomicBool>,
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

impl Scan {
    /// Begins to read these stretches. Empty ones are left out.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn start(
        settings: &ConsumerSettings,
        group: &str,
        topic: &str,
        stretches: &[Stretch],
    ) -> Result<Self, KafkaError> {
        let open: Vec<Stretch> = stretches
            .iter()
            .filter(|stretch| stretch.until.is_none_or(|until| stretch.from < until))
            .copied()
            .collect();
        let consumer: BaseConsumer = consumer_config(settings, group).create()?;
        let mut list = TopicPartitionList::with_capacity(open.len());
        for stretch in &open {
            list.add_partition_offset(topic, stretch.partition, Offset::Offset(stretch.from))?;
        }
        consumer.assign(&list)?;
        let (sender, records) = mpsc::channel(AHEAD);
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
        self.records.recv().await.transpose()
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.records.close();
    }
}

fn read(
    consumer: &BaseConsumer,
    mut open: Vec<Stretch>,
    sender: &mpsc::Sender<Result<Seen, KafkaError>>,
    stop: &AtomicBool,
) {
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
                sender.blocking_send(Err(KafkaError::MessageConsumption(error)))
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
                sender.blocking_send(Err(error))
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
    sender: &mpsc::Sender<Result<Seen, KafkaError>>,
) -> Result<(), mpsc::error::SendError<Result<Seen, KafkaError>>> {
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
        sender.blocking_send(Ok(Seen::from(message)))?;
    }
    Ok(())
}

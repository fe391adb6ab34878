//! Calls of librdkafka for which rdkafka has no safe interface: `DescribeTopics`, because only
//! a topic's id distinguishes one incarnation of the topic from the next, and adding bootstrap
//! servers to a running client.
//!
//! The only unsafe code of the crate. Each pointer comes from librdkafka, is checked for null,
//! and is used before the event that owns it is destroyed.
#![expect(unsafe_code, reason = "rdkafka has no safe interface for these calls")]

use std::{
    ffi::CString,
    fmt, ptr,
    time::{Duration, Instant},
};

use rdkafka::{
    client::{Client, ClientContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use rdkafka_sys as sys;
use uuid::Uuid;

/// Identity of one incarnation of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicIdentity {
    /// Assigned by the cluster when the topic was created.
    pub id: Uuid,
    pub partitions: i32,
}

impl fmt::Display for TopicIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.id, self.partitions)
    }
}

/// Owns a pointer that came from librdkafka and destroys it on drop.
struct Owned<T> {
    pointer: *mut T,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, KafkaError> {
        if pointer.is_null() {
            return Err(KafkaError::AdminOpCreation(
                "librdkafka could not allocate memory for DescribeTopics".to_owned(),
            ));
        }
        Ok(Self { pointer, destroy })
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from librdkafka, is not null, and is destroyed once.
        unsafe { (self.destroy)(self.pointer) }
    }
}

/// Adds bootstrap servers to a client. Returns the number of servers added.
pub(super) fn add_brokers<C: ClientContext>(
    client: &Client<C>,
    servers: &str,
) -> Result<i32, KafkaError> {
    let list = CString::new(servers).map_err(KafkaError::Nul)?;
    // SAFETY: the handle lives as long as `client`, and the text is copied.
    Ok(unsafe { sys::rd_kafka_brokers_add(client.native_ptr(), list.as_ptr()) })
}

/// Fetches the identity of a topic from the cluster. Blocking.
///
/// Fetches metadata first. For a waiting `DescribeTopics`, librdkafka reconnects immediately
/// whenever a connection fails, without its back-off, which keeps one core busy as long as the
/// broker is down. For metadata it backs off as configured.
pub(super) fn identity<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<TopicIdentity>, KafkaError> {
    let started = Instant::now();
    client.fetch_metadata(Some(topic), timeout)?;
    let remaining = timeout.saturating_sub(started.elapsed());
    let name = CString::new(topic).map_err(KafkaError::Nul)?;
    let mut names = [name.as_ptr()];
    // SAFETY: `names` outlives the collection, which copies the strings.
    let collection = Owned::new(
        unsafe { sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()) },
        sys::rd_kafka_TopicCollection_destroy,
    )?;
    let handle = client.native_ptr();
    let millis = i32::try_from(remaining.as_millis())
        .unwrap_or(i32::MAX)
        .max(1);
    let options = options(handle, millis)?;
    // SAFETY: the handle lives as long as `client`.
    let queue = Owned::new(
        unsafe { sys::rd_kafka_queue_new(handle) },
        sys::rd_kafka_queue_destroy,
    )?;
    // SAFETY: all pointers are live, and the options are copied.
    unsafe {
        sys::rd_kafka_DescribeTopics(handle, collection.pointer, options.pointer, queue.pointer);
    }
    // SAFETY: the queue is live.
    let event = unsafe { sys::rd_kafka_queue_poll(queue.pointer, millis) };
    if event.is_null() {
        return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
    }
    let event = Owned::new(event, sys::rd_kafka_event_destroy)?;
    read(&event)
}

/// Returns options that cancel the request after the caller's timeout. By default librdkafka
/// keeps it for a minute.
fn options(
    handle: *mut sys::rd_kafka_t,
    millis: i32,
) -> Result<Owned<sys::rd_kafka_AdminOptions_t>, KafkaError> {
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: the handle is live.
    let options = Owned::new(
        unsafe { sys::rd_kafka_AdminOptions_new(handle, operation) },
        sys::rd_kafka_AdminOptions_destroy,
    )?;
    // SAFETY: the options are live, and no error text is requested.
    let set = unsafe {
        sys::rd_kafka_AdminOptions_set_request_timeout(options.pointer, millis, ptr::null_mut(), 0)
    };
    match set {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(options),
        error => Err(KafkaError::AdminOp(error.into())),
    }
}

/// Reads the requested topic from the result.
fn read(event: &Owned<sys::rd_kafka_event_t>) -> Result<Option<TopicIdentity>, KafkaError> {
    // SAFETY: the event is live, and everything that it owns is read before it is dropped.
    unsafe {
        let error = sys::rd_kafka_event_error(event.pointer);
        if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(KafkaError::AdminOp(error.into()));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event.pointer);
        if result.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::BadMessage));
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count == 0 {
            return Ok(None);
        }
        let topic = *topics;
        let code = sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic));
        match RDKafkaErrorCode::from(code) {
            RDKafkaErrorCode::NoError => {}
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                return Ok(None);
            }
            other => return Err(KafkaError::AdminOp(other)),
        }
        let mut partitions = 0;
        sys::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        let high = sys::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned();
        let low = sys::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned();
        Ok(Some(TopicIdentity {
            id: Uuid::from_u64_pair(high, low),
            partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
        }))
    }
}

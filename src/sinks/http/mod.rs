//! The external system: sends one POST request per insert. Its idempotency key and
//! body stay the same if the insert is sent again.

pub(crate) mod audit;
mod history;
pub(crate) mod inspect;
pub(crate) mod setup;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::sync::Semaphore;
use uuid::Uuid;

pub use audit::SYSTEM;
pub use history::{History, LegacyState};
pub(crate) use setup::{LIMITS, open};

use crate::{
    config,
    connections::web::{Poster, Reply, WebError, WebServer},
    crash,
    debezium::{Change, FactDecoder, Origin},
    engagement::idempotency,
    kafka::chunk::Chunk,
    runtime::{Committed, Delivery, Fault, Halt, Health, PartitionSink, Rejected, Sink, TopicLife},
    time::{backoff::retry_after, clock},
};

/// State shared by all partitions.
#[derive(Debug)]
struct Common {
    poster: Poster,
    decoder: FactDecoder,
    table: String,
    settings: config::External,
    /// Limits the requests in flight of all partitions.
    permits: Semaphore,
    /// Number of rejections since the last success.
    consecutive_rejects: AtomicU32,
}

/// The HTTP sink.
#[derive(Debug)]
pub struct Http {
    common: Arc<Common>,
    history: Arc<History>,
}

impl Http {
    /// # Errors
    /// If the URL or the settings of the client are invalid.
    pub fn new(
        settings: &config::External,
        external: &WebServer,
        decoder: FactDecoder,
        history: History,
    ) -> Result<Self, WebError> {
        Ok(Self {
            common: Arc::new(Common::new(settings, external, decoder)?),
            history: Arc::new(history),
        })
    }
}

impl Common {
    fn new(
        settings: &config::External,
        external: &WebServer,
        decoder: FactDecoder,
    ) -> Result<Self, WebError> {
        let timeout = Duration::from_millis(settings.request_timeout_ms);
        Ok(Self {
            poster: external.poster(timeout, settings.max_in_flight)?,
            table: decoder.source().qualified(),
            decoder,
            settings: settings.clone(),
            permits: Semaphore::new(settings.max_in_flight),
            consecutive_rejects: AtomicU32::new(0),
        })
    }
}

impl Sink for Http {
    type Partition = HttpPartition;

    async fn open(&self) -> Result<(), Fault> {
        Ok(())
    }

    async fn check(&self) -> Result<Health, Fault> {
        self.history.check_topic().await
    }

    async fn claim(
        &self,
        partition: i32,
        committed: Committed<'_>,
    ) -> Result<HttpPartition, Fault> {
        let (start_offset, incarnation) = self.history.start(partition, committed).await?;
        Ok(HttpPartition {
            start_offset: Some(start_offset),
            incarnation: Some(incarnation),
            ..self.replay(partition, None).await?
        })
    }

    async fn replay(
        &self,
        partition: i32,
        _metadata: Option<&str>,
    ) -> Result<HttpPartition, Fault> {
        Ok(HttpPartition {
            common: Arc::clone(&self.common),
            history: Arc::clone(&self.history),
            partition,
            pending: Vec::new(),
            delivery: Delivery::default(),
            halted: false,
            start_offset: None,
            incarnation: None,
        })
    }
}

/// A request without a final outcome yet.
#[derive(Debug)]
struct Request {
    /// Index of the record in the batch.
    index: usize,
    key: Uuid,
    body: Bytes,
    /// Number of 409 and 425 responses.
    conflicts: u32,
}

/// One partition of the HTTP sink.
#[derive(Debug)]
pub struct HttpPartition {
    common: Arc<Common>,
    history: Arc<History>,
    partition: i32,
    /// Requests of the current batch without a final outcome.
    pending: Vec<Request>,
    /// Outcome of the other records of the current batch.
    delivery: Delivery,
    /// Whether a response halted the sink.
    halted: bool,
    start_offset: Option<i64>,
    /// Incarnation of the topic in the commits. `None` in a replay, which commits nothing.
    incarnation: Option<TopicLife>,
}

impl PartitionSink for HttpPartition {
    async fn deliver(&mut self, batch: &Chunk, attempt: u32) -> Result<Delivery, Fault> {
        if attempt == 0 {
            self.encode(batch);
            crash::point("http", "decoded");
        }
        if self.halted {
            // A single request shows whether the problem is solved.
            let last = self.pending.len().saturating_sub(1);
            let probe = self.pending.split_off(last);
            self.post(probe).await?;
            self.halted = false;
        }
        let requests = std::mem::take(&mut self.pending);
        self.post(requests).await?;
        Ok(std::mem::take(&mut self.delivery))
    }

    async fn reconciled(&self) -> Result<i64, Fault> {
        self.history.reconciled(self.partition).await
    }

    fn begin(&self) -> Option<i64> {
        self.start_offset
    }

    fn metadata(&self, next: i64) -> String {
        let metadata = self.incarnation.map(|topic| topic.text(next, None));
        metadata.unwrap_or_default()
    }
}

impl HttpPartition {
    /// Turns a batch into requests.
    fn encode(&mut self, batch: &Chunk) {
        self.pending.clear();
        self.delivery = Delivery {
            taken: batch.len(),
            ..Delivery::default()
        };
        for (index, record) in batch.records().enumerate() {
            let change = match self.common.decoder.decode(&record) {
                Ok(change) => change,
                Err(reject) => {
                    self.delivery.reject(index, reject);
                    continue;
                }
            };
            let Change::Upsert {
                origin,
                row,
                extra_fields,
                ..
            } = change
            else {
                self.delivery.ignore(match change {
                    Change::Delete { .. } => "delete",
                    Change::Ignored(reason) => reason.code(),
                    _ => "truncate",
                });
                continue;
            };
            self.delivery.understand(index);
            let is_sent = match origin {
                Origin::Insert => true,
                Origin::Snapshot | Origin::IncrementalSnapshot => {
                    self.common.settings.include_snapshots
                }
                Origin::Update => false,
            };
            if !is_sent {
                self.delivery.ignore(origin.code());
                continue;
            }
            self.delivery.extra_fields += u64::from(extra_fields);
            let body = idempotency::body(&row);
            self.pending.push(Request {
                index,
                key: idempotency::idempotency_key(&self.common.table, &body),
                body: body.into(),
                conflicts: 0,
            });
        }
    }

    /// Posts concurrently and sorts the replies. Starts no request after a halt.
    async fn post(&mut self, requests: Vec<Request>) -> Result<(), Fault> {
        let common = &self.common;
        let halted = AtomicBool::new(false);
        let halted = &halted;
        let outcomes: Vec<(Request, Option<Verdict>)> = stream::iter(requests)
            .map(|request| async move {
                if halted.load(Ordering::Relaxed) {
                    return (request, None);
                }
                let verdict = common.post(&request).await;
                if matches!(verdict, Verdict::Fault(Fault::Halt(_))) {
                    halted.store(true, Ordering::Relaxed);
                }
                (request, Some(verdict))
            })
            .buffer_unordered(common.settings.max_in_flight)
            .collect()
            .await;
        self.halted |= halted.load(Ordering::Relaxed);
        let mut sent = Vec::with_capacity(outcomes.len());
        for (request, verdict) in outcomes {
            match verdict {
                Some(verdict) => sent.push((request, verdict)),
                None => self.pending.push(request),
            }
        }
        self.apply_verdicts(sent)
    }

    /// Applies the verdicts to the delivery. Requests to be sent again stay pending.
    fn apply_verdicts(&mut self, sent: Vec<(Request, Verdict)>) -> Result<(), Fault> {
        let mut fault: Option<Fault> = None;
        for (mut request, verdict) in sent {
            match verdict {
                Verdict::Accepted => self.delivery.applied += 1,
                Verdict::Rejected(code, detail) => {
                    let rejected = Rejected::refused(request.index, code, detail);
                    self.delivery.rejected.push(rejected);
                }
                Verdict::Conflict(detail, after) => {
                    request.conflicts += 1;
                    if request.conflicts > self.common.settings.max_conflict_retries {
                        let rejected = Rejected::refused(request.index, CONFLICT, detail);
                        self.delivery.rejected.push(rejected);
                    } else {
                        self.pending.push(request);
                        let retry = Fault::Retry {
                            reason: detail,
                            after,
                        };
                        fault = Some(worse(fault, retry));
                    }
                }
                Verdict::Fault(next) => {
                    self.pending.push(request);
                    fault = Some(worse(fault, next));
                }
            }
        }
        // Dead letters keep the order of the log.
        self.delivery
            .rejected
            .sort_by_key(|rejected| rejected.index);
        fault.map_or(Ok(()), Err)
    }
}

/// Returns the worse fault: a halt is worse than a retry, a longer wait worse than a
/// shorter one.
fn worse(first: Option<Fault>, second: Fault) -> Fault {
    match (first, second) {
        (Some(Fault::Halt(halt)), _) | (_, Fault::Halt(halt)) => Fault::Halt(halt),
        (Some(Fault::Retry { reason, after }), Fault::Retry { after: next, .. }) => Fault::Retry {
            reason,
            after: after.max(next),
        },
        (None, second) => second,
    }
}

/// Codes of dead letters that the external system rejected. They are stored and never change.
pub const REJECT_CODES: [&str; 2] = [REJECTED, CONFLICT];
const REJECTED: &str = "http_rejected";
const CONFLICT: &str = "http_conflict";

/// The consequence of a response for its request.
#[derive(Debug)]
enum Verdict {
    Accepted,
    /// The record is dead-lettered, with this code and detail.
    Rejected(&'static str, String),
    /// 409 or 425: retried a limited number of times. Detail and requested wait.
    Conflict(String, Option<Duration>),
    /// A fault that is not caused by this record.
    Fault(Fault),
}

impl Common {
    async fn post(&self, request: &Request) -> Verdict {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let key = request.key.to_string();
        let verdict = match self.poster.post(&key, request.body.clone()).await {
            Ok(response) => {
                crash::point("http", "sent");
                self.classify(&response)
            }
            Err(error) => Verdict::Fault(Fault::retry(format!(
                "external: {}",
                crate::failure::chain(&error)
            ))),
        };
        match verdict {
            Verdict::Accepted => self.consecutive_rejects.store(0, Ordering::Relaxed),
            Verdict::Rejected(..) => {
                let count = self.consecutive_rejects.fetch_add(1, Ordering::Relaxed) + 1;
                if count >= self.settings.max_rejects_in_a_row {
                    return Verdict::Fault(self.too_many_rejects(count, &verdict));
                }
            }
            Verdict::Conflict(..) | Verdict::Fault(_) => {}
        }
        verdict
    }

    fn classify(&self, response: &Reply) -> Verdict {
        let (status, excerpt) = (response.status, response.excerpt());
        let detail = format!("external responded with {status}: {excerpt}");
        let cap = Duration::from_secs(self.settings.max_retry_after_seconds);
        let after = response
            .retry_after
            .as_deref()
            .and_then(|header| retry_after(header, clock::now(), cap));
        match status {
            200..=299 => Verdict::Accepted,
            409 | 425 => Verdict::Conflict(detail, after),
            300..=399 | 401 | 403 | 404 | 405 | 501 => Verdict::Fault(Fault::halt(
                "http_refused",
                detail,
                format!(
                    "check external.url and external.events_path ({})",
                    self.poster.url()
                ),
            )),
            408 | 429 | 500..=599 => Verdict::Fault(Fault::Retry {
                reason: detail,
                after,
            }),
            _ => Verdict::Rejected(REJECTED, detail),
        }
    }

    /// Returns the halt after too many consecutive rejections. They are caused by the
    /// external system or a wrong URL rather than by the records.
    fn too_many_rejects(&self, count: u32, verdict: &Verdict) -> Fault {
        let last = match verdict {
            Verdict::Rejected(_, detail) => detail.as_str(),
            _ => "",
        };
        Fault::Halt(Halt {
            code: "http_rejects_in_a_row".to_owned(),
            reason: format!("{count} consecutive requests were rejected; the last: {last}"),
            remedy: format!(
                "check which server responds at {}, or raise external.max_rejects_in_a_row",
                self.poster.url()
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common() -> Arc<Common> {
        let facts = crate::debezium::SourceTable {
            prefix: "cdc".to_owned(),
            schema: "public".to_owned(),
            table: "engagement_events".to_owned(),
        };
        let connections = crate::connections::Connections::default();
        let (settings, external) = (connections.settings(), &connections.external);
        let common = Common::new(&settings.external, external, FactDecoder::new(facts));
        Arc::new(common.expect("the default URL is valid"))
    }

    fn classify(common: &Common, status: u16, retry_after: Option<&str>) -> Verdict {
        common.classify(&Reply {
            status,
            retry_after: retry_after.map(str::to_owned),
            body: b"because".to_vec(),
        })
    }

    #[test]
    fn each_status_has_one_verdict() {
        let common = common();
        for status in 200..600 {
            let verdict = classify(&common, status, None);
            let found = match &verdict {
                Verdict::Accepted => "accepted",
                Verdict::Conflict(..) => "conflict",
                Verdict::Rejected(REJECTED, _) => "rejected",
                Verdict::Fault(Fault::Retry { after: None, .. }) => "retry",
                Verdict::Fault(Fault::Halt(halt)) if halt.code == "http_refused" => "halt",
                _ => "?",
            };
            let expected = match status {
                200..=299 => "accepted",
                409 | 425 => "conflict",
                300..=399 | 401 | 403 | 404 | 405 | 501 => "halt",
                408 | 429 | 500.. => "retry",
                _ => "rejected",
            };
            assert_eq!(found, expected, "{status}");
        }
    }

    #[test]
    fn retry_after_is_honoured_up_to_the_cap() {
        let common = common();
        let cap = Duration::from_secs(common.settings.max_retry_after_seconds);
        for (header, expected) in [
            ("7", Some(Duration::from_secs(7))),
            ("100000", Some(cap)),
            ("Fri, 31 Dec 2100 23:59:59 GMT", Some(cap)),
            ("soon", None),
        ] {
            let verdict = classify(&common, 429, Some(header));
            let Verdict::Fault(Fault::Retry { after, .. }) = verdict else {
                panic!("{header}: {verdict:?}");
            };
            assert_eq!(after, expected, "{header}");
        }
    }

    #[test]
    fn a_halt_is_worse_than_a_retry_and_a_longer_wait_worse_than_a_shorter_one() {
        let wait = |seconds| Fault::Retry {
            reason: "busy".to_owned(),
            after: Some(Duration::from_secs(seconds)),
        };
        let halt = || Fault::halt("http_refused", "no", "fix it");
        assert!(matches!(worse(Some(wait(9)), halt()), Fault::Halt(_)));
        assert!(matches!(worse(Some(halt()), wait(9)), Fault::Halt(_)));
        let Fault::Retry { after, .. } = worse(Some(wait(9)), wait(2)) else {
            panic!("expected a retry");
        };
        assert_eq!(after, Some(Duration::from_secs(9)));
    }
}

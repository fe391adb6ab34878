//! The external system: one POST for each insert, under a key and with a body
//! that stay the same however often it is sent.

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
pub use history::{EarlierNotes, History};
pub(crate) use setup::{LIMITS, open};

use crate::{
    config,
    connections::web::{Poster, Reply, WebError, WebServer},
    crash,
    debezium::{Change, FactDecoder, Origin},
    engagement::idempotency,
    kafka::chunk::Chunk,
    runtime::{
        Committed, Delivery, Fault, Halt, PartitionSink, Rejected, Sink, Standing, TopicLife,
    },
    time::{backoff::retry_after, clock},
};

/// What all partitions share.
#[derive(Debug)]
struct Common {
    poster: Poster,
    decoder: FactDecoder,
    table: String,
    settings: config::External,
    /// Requests in flight, over all partitions.
    permits: Semaphore,
    /// Rejections since the last success.
    rejects_in_a_row: AtomicU32,
}

/// The sink.
#[derive(Debug)]
pub struct Http {
    common: Arc<Common>,
    history: Arc<History>,
}

impl Http {
    /// # Errors
    /// When the URL or the client's settings cannot be used.
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
            rejects_in_a_row: AtomicU32::new(0),
        })
    }
}

impl Sink for Http {
    type Partition = HttpPartition;

    async fn open(&self) -> Result<(), Fault> {
        Ok(())
    }

    async fn check(&self) -> Result<Standing, Fault> {
        self.history.standing().await
    }

    async fn claim(
        &self,
        partition: i32,
        committed: Committed<'_>,
    ) -> Result<HttpPartition, Fault> {
        let (begin, life) = self.history.begin(partition, committed).await?;
        Ok(HttpPartition {
            begin: Some(begin),
            life: Some(life),
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
            begin: None,
            life: None,
        })
    }
}

/// One request that is not yet answered for good.
#[derive(Debug)]
struct Request {
    /// Its record's place in the batch.
    index: usize,
    key: Uuid,
    body: Bytes,
    /// Times that 409 or 425 was answered.
    conflicts: u32,
}

/// One partition of it.
#[derive(Debug)]
pub struct HttpPartition {
    common: Arc<Common>,
    history: Arc<History>,
    partition: i32,
    /// Of the batch in hand: what has still to be accepted.
    pending: Vec<Request>,
    /// Of the batch in hand: what has been decided.
    delivery: Delivery,
    /// The last look found that an operator has to mend something.
    halted: bool,
    begin: Option<i64>,
    /// What every commit names; none in a replay, which commits nothing.
    life: Option<TopicLife>,
}

impl PartitionSink for HttpPartition {
    async fn deliver(&mut self, batch: &Chunk, attempt: u32) -> Result<Delivery, Fault> {
        if attempt == 0 {
            self.encode(batch);
            crash::point("http", "decoded");
        }
        if self.halted {
            // One tells whether it has been mended.
            let last = self.pending.len().saturating_sub(1);
            let one = self.pending.split_off(last);
            self.post(one).await?;
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
        self.begin
    }

    fn metadata(&self, next: i64) -> String {
        let life = self.life.map(|life| life.text(next, None));
        life.unwrap_or_default()
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
                    Change::Ignored(why) => why.code(),
                    _ => "truncate",
                });
                continue;
            };
            self.delivery.understand(index);
            let wanted = match origin {
                Origin::Insert => true,
                Origin::Snapshot | Origin::IncrementalSnapshot => {
                    self.common.settings.include_snapshots
                }
                Origin::Update => false,
            };
            if !wanted {
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
        let answered: Vec<(Request, Option<Verdict>)> = stream::iter(requests)
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
        let mut decided = Vec::with_capacity(answered.len());
        for (request, verdict) in answered {
            match verdict {
                Some(verdict) => decided.push((request, verdict)),
                None => self.pending.push(request),
            }
        }
        self.decide(decided)
    }

    /// Sorts the answers; what has to be sent again stays pending.
    fn decide(&mut self, answered: Vec<(Request, Verdict)>) -> Result<(), Fault> {
        let mut fault: Option<Fault> = None;
        for (mut request, verdict) in answered {
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
                        let again = Fault::Retry {
                            reason: detail,
                            after,
                        };
                        fault = Some(worse(fault, again));
                    }
                }
                Verdict::Fault(found) => {
                    self.pending.push(request);
                    fault = Some(worse(fault, found));
                }
            }
        }
        // Dead letters keep the log's order.
        self.delivery
            .rejected
            .sort_by_key(|rejected| rejected.index);
        fault.map_or(Ok(()), Err)
    }
}

/// The fault that decides: a halt before a retry, a longer wait before a
/// shorter one.
fn worse(one: Option<Fault>, other: Fault) -> Fault {
    match (one, other) {
        (Some(Fault::Halt(halt)), _) | (_, Fault::Halt(halt)) => Fault::Halt(halt),
        (Some(Fault::Retry { reason, after: one }), Fault::Retry { after: other, .. }) => {
            Fault::Retry {
                reason,
                after: one.max(other),
            }
        }
        (None, other) => other,
    }
}

/// Codes of the dead letters that are the external system's decision. As any
/// other code, they outlive a run.
pub const REJECT_CODES: [&str; 2] = [REJECTED, CONFLICT];
const REJECTED: &str = "http_rejected";
const CONFLICT: &str = "http_conflict";

/// What an answer means for its request.
#[derive(Debug)]
enum Verdict {
    Accepted,
    /// This record, never: code and detail.
    Rejected(&'static str, String),
    /// 409 or 425: again, a bounded number of times, after so long.
    Conflict(String, Option<Duration>),
    /// Not this record's fault.
    Fault(Fault),
}

impl Common {
    async fn post(&self, request: &Request) -> Verdict {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let key = request.key.to_string();
        let verdict = match self.poster.post(&key, request.body.clone()).await {
            Ok(answer) => {
                crash::point("http", "sent");
                self.classify(&answer)
            }
            Err(error) => Verdict::Fault(Fault::retry(format!(
                "external: {}",
                crate::failure::chain(&error)
            ))),
        };
        match verdict {
            Verdict::Accepted => self.rejects_in_a_row.store(0, Ordering::Relaxed),
            Verdict::Rejected(..) => {
                let row = self.rejects_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
                if row >= self.settings.max_rejects_in_a_row {
                    return Verdict::Fault(self.too_many_rejects(row, &verdict));
                }
            }
            Verdict::Conflict(..) | Verdict::Fault(_) => {}
        }
        verdict
    }

    fn classify(&self, answer: &Reply) -> Verdict {
        let detail = format!("external answered {}: {}", answer.status, answer.excerpt());
        let cap = Duration::from_secs(self.settings.max_retry_after_seconds);
        let after = answer
            .retry_after
            .as_deref()
            .and_then(|header| retry_after(header, clock::now(), cap));
        match answer.status {
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

    /// So many in a row are the system's fault, or the URL's, not the records'.
    fn too_many_rejects(&self, row: u32, verdict: &Verdict) -> Fault {
        let last = match verdict {
            Verdict::Rejected(_, detail) => detail.as_str(),
            _ => "",
        };
        Fault::Halt(Halt {
            code: "http_rejects_in_a_row".to_owned(),
            reason: format!("{row} consecutive requests were rejected; the last: {last}"),
            remedy: format!(
                "check what answers at {}; where it is right, raise external.max_rejects_in_a_row",
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
        Arc::new(common.expect("the default url"))
    }

    fn classify(common: &Common, status: u16, retry_after: Option<&str>) -> Verdict {
        common.classify(&Reply {
            status,
            retry_after: retry_after.map(str::to_owned),
            body: b"because".to_vec(),
        })
    }

    #[test]
    fn each_status_means_one_thing() {
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
    fn a_wish_to_wait_is_obeyed_up_to_the_cap() {
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
    fn a_halt_goes_before_a_retry_and_a_longer_wait_before_a_shorter() {
        let wait = |seconds| Fault::Retry {
            reason: "busy".to_owned(),
            after: Some(Duration::from_secs(seconds)),
        };
        let halt = || Fault::halt("http_refused", "no", "mend it");
        assert!(matches!(worse(Some(wait(9)), halt()), Fault::Halt(_)));
        assert!(matches!(worse(Some(halt()), wait(9)), Fault::Halt(_)));
        let Fault::Retry { after, .. } = worse(Some(wait(9)), wait(2)) else {
            panic!("no halt");
        };
        assert_eq!(after, Some(Duration::from_secs(9)));
    }
}

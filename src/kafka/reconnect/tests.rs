//! Tests against a broker that implements just enough of the protocol to list itself, or no
//! broker.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, atomic::AtomicU32},
    thread,
};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        ConsumerLimits, Kafka, member::MemberContext, partition::serve, polled_consumer_config,
    },
    *,
};
use crate::config::connection::Connection;

const TOPIC: &str = "topic";

/// A broker with one topic.
struct Broker {
    address: String,
    /// Whether the broker lists no brokers, like a fenced cluster.
    is_fenced: Arc<AtomicBool>,
}

impl Broker {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let is_fenced = Arc::new(AtomicBool::new(false));
        let fenced = Arc::clone(&is_fenced);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let fenced = Arc::clone(&fenced);
                thread::spawn(move || while answer(&connection, port, &fenced).is_some() {});
            }
        });
        Self {
            address: format!("127.0.0.1:{port}"),
            is_fenced,
        }
    }

    fn fence(&self, is_fenced: bool) {
        self.is_fenced.store(is_fenced, Ordering::SeqCst);
    }

    fn kafka(&self) -> Kafka {
        let limits = ConsumerLimits {
            prefetch_kbytes: 1024,
            session_timeout_ms: 6000,
        };
        Kafka::new(Connection::new(self.address.as_str().into()), limits)
    }
}

/// Answers one request. Returns `None` when the connection has ended.
fn answer(mut connection: &TcpStream, port: u16, is_fenced: &AtomicBool) -> Option<()> {
    const METADATA: i16 = 3;
    const API_VERSIONS: i16 = 18;
    let mut size = [0; 4];
    connection.read_exact(&mut size).ok()?;
    let mut request = vec![0; usize::try_from(i32::from_be_bytes(size)).ok()?];
    connection.read_exact(&mut request).ok()?;
    let key = i16::from_be_bytes(request[..2].try_into().ok()?);
    let mut reply = request[4..8].to_vec();
    match key {
        // Version 3: no error, two keys in a compact array, no throttling.
        API_VERSIONS => {
            reply.extend([0, 0, 3]);
            for (key, newest) in [(METADATA, 1_i16), (API_VERSIONS, 3)] {
                reply.extend(key.to_be_bytes());
                reply.extend(0_i16.to_be_bytes());
                reply.extend(newest.to_be_bytes());
                reply.push(0);
            }
            reply.extend([0, 0, 0, 0, 0]);
        }
        METADATA => metadata(&mut reply, port, is_fenced.load(Ordering::SeqCst)),
        _ => return None,
    }
    let size = i32::try_from(reply.len()).ok()?;
    connection.write_all(&size.to_be_bytes()).ok()?;
    connection.write_all(&reply).ok()
}

/// Appends version 1 of a metadata response: brokers, controller, topics.
fn metadata(reply: &mut Vec<u8>, port: u16, is_fenced: bool) {
    let text = |reply: &mut Vec<u8>, text: &str| {
        reply.extend(i16::try_from(text.len()).expect("short").to_be_bytes());
        reply.extend(text.as_bytes());
    };
    let number = |reply: &mut Vec<u8>, number: i32| reply.extend(number.to_be_bytes());
    if is_fenced {
        number(reply, 0);
    } else {
        number(reply, 1);
        number(reply, 1);
        text(reply, "127.0.0.1");
        number(reply, i32::from(port));
        reply.extend((-1_i16).to_be_bytes());
    }
    number(reply, if is_fenced { -1 } else { 1 });
    // One topic with one partition, which has no leader if the broker is fenced.
    number(reply, 1);
    reply.extend([0, 0]);
    text(reply, TOPIC);
    reply.push(0);
    number(reply, 1);
    reply.extend(if is_fenced { [0, 5] } else { [0, 0] });
    number(reply, 0);
    number(reply, if is_fenced { -1 } else { 1 });
    for _replicas_and_in_sync in 0..2 {
        number(reply, 1);
        number(reply, 1);
    }
}

/// Waits up to a minute until the condition holds.
fn eventually(description: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "{description}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_polled_consumer_reconnects_to_its_cluster() {
    let broker = Broker::start();
    let context = MemberContext::new(Arc::from(TOPIC), None);
    let config = polled_consumer_config(&broker.kafka(), "group");
    let consumer: BaseConsumer<MemberContext> =
        config.create_with_context(context).expect("a consumer");
    let stop = CancellationToken::new();
    let listed_brokers = || {
        let metadata = consumer.fetch_metadata(Some(TOPIC), Duration::from_secs(1));
        metadata.map(|metadata| metadata.brokers().len())
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            serve(&consumer, &broker.address, || stop.is_cancelled(), |_| ());
        });
        // Also stops the thread if an assertion fails.
        let _stop = stop.clone().drop_guard();
        for _ in 0..5 {
            eventually("the broker lists itself", || listed_brokers() == Ok(1));
            broker.fence(true);
            eventually("the broker lists no broker", || listed_brokers() == Ok(0));
            broker.fence(false);
        }
        eventually("the broker lists itself", || listed_brokers() == Ok(1));
    });
}

#[tokio::test]
async fn a_connection_for_queries_is_replaced() {
    let broker = Broker::start();
    let log = broker.kafka().log("group").expect("a client");
    for is_fenced in [false, true, false, true, false, true, false] {
        broker.fence(is_fenced);
        let started = Instant::now();
        while log.partitions(TOPIC).await != Ok(Some(1)) && !is_fenced {
            assert!(started.elapsed() < Duration::from_secs(120));
        }
    }
}

#[test]
fn a_client_is_replaced_after_it_reached_no_broker_for_a_while() {
    let failure = || Err::<(), _>(KafkaError::MetadataFetch(RDKafkaErrorCode::AllBrokersDown));
    let (created, is_refused) = (AtomicU32::new(0), Arc::new(AtomicBool::new(false)));
    let refused = Arc::clone(&is_refused);
    let client = Replaceable::new(move || {
        if refused.load(Ordering::SeqCst) {
            return Err(KafkaError::Canceled);
        }
        Ok(created.fetch_add(1, Ordering::SeqCst) + 1)
    });
    let client = client.expect("the first client");
    client.record_outcome(&failure());
    assert_eq!(client.get(), 1, "the first failure was too recent");
    let long_ago = Instant::now().checked_sub(REPLACE_AFTER);
    client.current.lock().expect("an unpoisoned lock").1 = long_ago;
    client.record_outcome(&Ok(()));
    client.record_outcome(&failure());
    assert_eq!(client.get(), 1, "a broker responded in between");
    client.current.lock().expect("an unpoisoned lock").1 = long_ago;
    is_refused.store(true, Ordering::SeqCst);
    client.record_outcome(&failure());
    assert_eq!(client.get(), 1, "no client could be created");
    is_refused.store(false, Ordering::SeqCst);
    client.record_outcome(&failure());
    assert_eq!(client.get(), 2);
}

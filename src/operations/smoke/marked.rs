//! The marked rows: one piece of content and its only event, so that every
//! derived column and the score are known in advance.

use uuid::Uuid;

use crate::{
    config::Score,
    connections::postgres::{Client, PostgresError},
    debezium::Engagement,
    engagement::idempotency,
    sinks::inspect::MarkedEvent,
};

const DURATION_MS: i32 = 12_345;
const LENGTH_SECONDS: i32 = 90;
const LENGTH: &str = "90";

/// The derived columns.
const SECONDS: &str = "12.345";
const PCT: &str = "0.14";

const CONTENT_TYPE: &str = "video";
const DEVICE: &str = "fanout-smoke";

/// The inserted event and its content.
#[derive(Debug, Clone)]
pub struct Marked {
    pub event_id: i64,
    pub content_id: Uuid,
    user_id: Uuid,
    /// As stored by Postgres, in microseconds since the epoch.
    event_ts: i64,
    raw_payload: String,
}

impl Marked {
    /// Inserts both in one transaction.
    pub async fn insert(client: &Client) -> Result<Self, PostgresError> {
        let (content_id, user_id) = (Uuid::new_v4(), Uuid::new_v4());
        let slug = format!("fanout-smoke-{content_id}");
        let (names, values) = unread_columns(client).await?;
        let insert = format!(
            "WITH content AS (
                INSERT INTO public.content (id, title, content_type, length_seconds{names})
                VALUES ($1, 'Smoke test of fanout', $3, $4{values}) RETURNING id)
            INSERT INTO public.engagement_events
                (content_id, user_id, event_type, event_ts, duration_ms, device, raw_payload)
            SELECT id, $5, 'play', clock_timestamp(), $6, $7, jsonb_build_object('smoke', $2::text)
            FROM content
            RETURNING id, (extract(epoch FROM event_ts) * 1000000)::bigint, raw_payload::text"
        );
        let row = client
            .query_one(
                &insert,
                &[
                    &content_id,
                    &slug,
                    &CONTENT_TYPE,
                    &LENGTH_SECONDS,
                    &user_id,
                    &DURATION_MS,
                    &DEVICE,
                ],
            )
            .await?;
        Ok(Self {
            event_id: row.try_get(0)?,
            content_id,
            user_id,
            event_ts: row.try_get(1)?,
            raw_payload: row.try_get(2)?,
        })
    }

    /// Deletes both.
    pub async fn delete(&self, client: &Client) -> Result<(), PostgresError> {
        let event = "DELETE FROM public.engagement_events WHERE id = $1";
        client.execute(event, &[&self.event_id]).await?;
        let content = "DELETE FROM public.content WHERE id = $1";
        client.execute(content, &[&self.content_id]).await?;
        Ok(())
    }

    /// Returns what each sink must hold of the event.
    pub fn expected(&self, score: Score) -> MarkedEvent {
        MarkedEvent {
            event_id: self.event_id,
            content_id: self.content_id,
            idempotency_key: self.idempotency_key(),
            score: match score {
                Score::Events => 1,
                Score::Seconds => i64::from(DURATION_MS) / 1_000,
            },
            engagement_seconds: SECONDS,
            engagement_pct: PCT,
            content_type: CONTENT_TYPE,
            length_seconds: LENGTH,
            device: DEVICE,
        }
    }

    fn idempotency_key(&self) -> Uuid {
        let body = idempotency::body(&Engagement {
            id: self.event_id,
            content_id: Some(self.content_id),
            user_id: Some(self.user_id),
            event_type: Some("play".into()),
            event_ts: self.event_ts,
            duration_ms: Some(DURATION_MS),
            device: Some(DEVICE.into()),
            raw_payload: Some(self.raw_payload.as_str().into()),
        });
        idempotency::idempotency_key("public.engagement_events", &body)
    }
}

/// Returns the names and values of columns that fanout does not read but that
/// may exist and then must not be null.
async fn unread_columns(client: &Client) -> Result<(String, String), PostgresError> {
    let sql = "SELECT attname::text FROM pg_attribute
               WHERE attrelid = 'public.content'::regclass AND NOT attisdropped";
    let columns = client.query(sql, &[]).await?;
    let (mut names, mut values) = (String::new(), String::new());
    for column in columns {
        let name: String = column.try_get(0)?;
        let value = match name.as_str() {
            "slug" => "$2::text",
            "publish_ts" => "now()",
            _ => continue,
        };
        names.push_str(&format!(", {name}"));
        values.push_str(&format!(", {value}"));
    }
    Ok((names, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engagement::enrichment::{engagement_pct, engagement_seconds};

    #[test]
    fn the_expected_columns_are_those_of_the_enrichment() {
        let seconds = engagement_seconds(Some(DURATION_MS)).expect("a duration");
        assert_eq!(
            format!("{}.{:03}", seconds / 1_000, seconds % 1_000),
            SECONDS
        );
        let pct = engagement_pct(Some(DURATION_MS), Some(LENGTH_SECONDS)).expect("a length");
        assert_eq!(format!("{}.{:02}", pct / 100, pct % 100), PCT);
        assert_eq!(LENGTH_SECONDS.to_string(), LENGTH);
    }
}

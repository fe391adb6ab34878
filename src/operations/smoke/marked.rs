//! The marked rows: a content of their own and one event of it, so that every
//! derived field and the score are known beforehand.

use uuid::Uuid;

use crate::{
    connections::postgres::{Client, PostgresError},
    debezium::Engagement,
    engagement::idempotency,
    sinks::clickhouse::TextRow,
};

/// What the derived fields come to.
const DURATION_MS: i32 = 12_345;
const LENGTH_SECONDS: i32 = 90;
const SECONDS: &str = "12.345";
const PCT: &str = "0.14";
const CONTENT_TYPE: &str = "video";
const DEVICE: &str = "fanout-smoke";

/// One event and its content.
#[derive(Debug, Clone)]
pub struct Marked {
    pub event_id: i64,
    pub content_id: Uuid,
    user_id: Uuid,
    /// Microseconds since the epoch, as Postgres has it.
    event_ts: i64,
    raw_payload: String,
}

impl Marked {
    /// Writes both in one transaction.
    pub async fn insert(client: &Client) -> Result<Self, PostgresError> {
        let (content_id, user_id) = (Uuid::new_v4(), Uuid::new_v4());
        let slug = format!("fanout-smoke-{content_id}");
        let (names, values) = unread(client).await?;
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

    /// Removes both.
    pub async fn delete(&self, client: &Client) -> Result<(), PostgresError> {
        let event = "DELETE FROM public.engagement_events WHERE id = $1";
        client.execute(event, &[&self.event_id]).await?;
        let content = "DELETE FROM public.content WHERE id = $1";
        client.execute(content, &[&self.content_id]).await?;
        Ok(())
    }

    /// The key that the external system must have been told it under.
    pub fn idempotency_key(&self) -> Uuid {
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

    /// What of the row in the view is not as it has to be.
    pub fn wrong(row: &TextRow) -> Vec<String> {
        let fields = [
            ("engagement_seconds", &row.engagement_seconds, SECONDS),
            ("engagement_pct", &row.engagement_pct, PCT),
            ("content_type", &row.content_type, CONTENT_TYPE),
            ("length_seconds", &row.length_seconds, "90"),
            ("device", &row.device, DEVICE),
        ];
        let wrong = fields
            .iter()
            .filter(|(_, found, expected)| found.as_deref() != Some(*expected));
        wrong
            .map(|(name, found, expected)| {
                let found = found.as_deref().unwrap_or("null");
                format!("{name} is {found} and should be {expected}")
            })
            .collect()
    }

    /// The score of the content: it has this one event.
    pub fn score(by: crate::config::Score) -> i64 {
        match by {
            crate::config::Score::Events => 1,
            crate::config::Score::Seconds => i64::from(DURATION_MS) / 1_000,
        }
    }
}

/// The columns of content that nobody reads, and what to insert into them: they
/// are never null, and need not be there.
async fn unread(client: &Client) -> Result<(String, String), PostgresError> {
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
    fn the_derived_fields_are_the_enrichments() {
        let seconds = engagement_seconds(Some(DURATION_MS)).expect("a duration");
        assert_eq!(
            format!("{}.{:03}", seconds / 1_000, seconds % 1_000),
            SECONDS
        );
        let pct = engagement_pct(Some(DURATION_MS), Some(LENGTH_SECONDS)).expect("a length");
        assert_eq!(format!("{}.{:02}", pct / 100, pct % 100), PCT);
    }

    #[test]
    fn a_wrong_field_is_named_with_both_sides() {
        let row = TextRow {
            event_id: 1,
            content_id: None,
            user_id: None,
            event_type: None,
            event_ts: None,
            duration_ms: None,
            engagement_seconds: Some(SECONDS.to_owned()),
            engagement_pct: Some("0.13".to_owned()),
            device: Some(DEVICE.to_owned()),
            raw_payload: None,
            content_type: None,
            length_seconds: Some("90".to_owned()),
        };
        assert_eq!(
            Marked::wrong(&row),
            [
                "engagement_pct is 0.13 and should be 0.14",
                "content_type is null and should be video"
            ]
        );
    }
}

//! An event in the source, followed into the stores.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use uuid::Uuid;

use super::{Stack, check_equal, eventually};

/// Inserts a new content of this length and returns its id.
pub fn content(stack: &Stack, length_seconds: i32) -> Uuid {
    let id = Uuid::new_v4();
    stack.stores.postgres(&format!(
        "INSERT INTO content VALUES ('{id}', '{id}', 'a test', 'video', {length_seconds}, now())"
    ));
    id
}

/// An event of 65 s. Its content is 100 s long and has no other event.
pub struct Event<'a> {
    stack: &'a Stack,
    pub id: i64,
    pub content: Uuid,
}

impl<'a> Event<'a> {
    pub fn insert(stack: &'a Stack) -> Self {
        let content = content(stack, 100);
        let id = stack.stores.postgres_text(&format!(
            "INSERT INTO engagement_events (content_id, event_type, event_ts, duration_ms, device)
             VALUES ('{content}', 'play', now(), 65000, 'ios') RETURNING id::text"
        ));
        let id = id.parse().expect("the id is a number");
        Self { stack, id, content }
    }

    /// Executes two updates in one transaction.
    pub fn change(&self, first: &str, second: &str) {
        let id = self.id;
        self.stack.stores.postgres(&format!(
            "UPDATE engagement_events SET {first} WHERE id = {id};
             UPDATE engagement_events SET {second} WHERE id = {id}"
        ));
    }

    /// Waits until a column of the event's row has this value.
    pub fn wait_for_column(&self, column: &str, value: &Json) {
        eventually(
            &format!("{column} of event {} becomes {value}", self.id),
            || {
                let row = self.stack.stores.row(self.id).ok_or("there is no row")?;
                match &row[column] {
                    found if found == value => Ok(()),
                    _ => Err(row.to_string()),
                }
            },
        );
    }

    /// Waits until the external system has received the event's insert.
    pub fn wait_for_delivery(&self) {
        eventually(
            &format!("the external system receives event {}", self.id),
            || {
                let calls = self.stack.stores.accepted();
                let is_delivered = calls.iter().any(|call| call["body"]["id"] == self.id);
                is_delivered
                    .then_some(())
                    .ok_or_else(|| "not yet".to_owned())
            },
        );
    }

    /// Waits until a content has this score on the board, or no score.
    pub fn wait_for_score(&self, content: Uuid, score: Option<i64>) {
        eventually(&format!("{content} scores {score:?}"), || {
            let board: BTreeMap<String, i64> = self.stack.stores.board("top10m")?;
            check_equal(&score, board.get(&content.to_string()).copied())
        });
    }
}

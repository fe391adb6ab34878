//! An event in the source, followed into the stores.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use uuid::Uuid;

use super::{Stack, eventually, same};

/// A new content of this length.
pub fn content(stack: &Stack, length_seconds: i32) -> Uuid {
    let id = Uuid::new_v4();
    stack.stores.postgres(&format!(
        "INSERT INTO content VALUES ('{id}', '{id}', 'a test', 'video', {length_seconds}, now())"
    ));
    id
}

/// An event of 65 s, of a content of 100 s that nothing else is of.
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
        let id = id.parse().expect("an id");
        Self { stack, id, content }
    }

    /// Two updates, one transaction.
    pub fn change(&self, first: &str, second: &str) {
        let id = self.id;
        self.stack.stores.postgres(&format!(
            "UPDATE engagement_events SET {first} WHERE id = {id};
             UPDATE engagement_events SET {second} WHERE id = {id}"
        ));
    }

    /// Waits until a column of its row is this.
    pub fn becomes(&self, column: &str, value: &Json) {
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

    /// Waits until the external system has its insert.
    pub fn is_told(&self) {
        eventually("the external system is told", || {
            let told = self.stack.stores.accepted();
            let told = told.iter().any(|call| call["body"]["id"] == self.id);
            told.then_some(()).ok_or_else(|| "not yet".to_owned())
        });
    }

    /// Waits until a content has this score on the board, or none.
    pub fn scores(&self, content: Uuid, score: Option<i64>) {
        eventually(&format!("{content} scores {score:?}"), || {
            let board: BTreeMap<String, i64> = self.stack.stores.board("top10m")?;
            same(&score, board.get(&content.to_string()).copied())
        });
    }
}

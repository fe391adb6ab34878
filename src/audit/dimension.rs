//! Contents whose latest record is a dead letter. Enrichment still uses their previous
//! state, whatever their current state in Postgres is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
};

use uuid::Uuid;

use super::{compare::Pair, context::Context, error::VerifyError, letters::Letters, row::COLUMNS};
use crate::{
    debezium::{Change, DimensionDecoder},
    kafka::{Bounds, Stretch},
    source::tables::reader_group,
};

/// The columns of a row that depend on its content.
const ENRICHED: [&str; 3] = ["engagement_pct", "content_type", "length_seconds"];

/// Topic, partition and offset of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordPosition {
    topic: String,
    partition: i32,
    offset: i64,
}

impl fmt::Display for RecordPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}/{}@{}",
            self.topic, self.partition, self.offset
        )
    }
}

/// Contents whose latest record was dead-lettered, with the position of that record.
/// Restricted to the contents of given pairs, which are few.
#[derive(Debug, Default)]
pub(super) struct Unchanged(BTreeMap<Uuid, RecordPosition>);

impl Unchanged {
    /// Reads the content topic from its first dead letter on, and finds the contents that
    /// can explain one of these pairs.
    pub(super) async fn find(
        context: &Context<'_>,
        dead_letters: &Letters,
        pairs: &[Pair],
    ) -> Result<Self, VerifyError> {
        let mut unchanged = Self::default();
        let contents: BTreeSet<Uuid> = pairs.iter().filter_map(content_to_explain).collect();
        if contents.is_empty() {
            return Ok(unchanged);
        }
        let kafka = &context.connections.kafka;
        let (reader, topic) = (
            reader_group(context.settings, "verify"),
            context.tables.content.topic(),
        );
        let log = kafka.log(&reader)?;
        let bounds = log.bounds(&topic).await?;
        let offset_ranges = offset_ranges(&bounds, dead_letters)?;
        if offset_ranges.is_empty() {
            return Ok(unchanged);
        }
        let decoder = DimensionDecoder::with_placeholders(
            context.tables.content.clone(),
            context.placeholders.content(),
        );
        let mut scan = kafka.scan(&reader, &topic, &offset_ranges)?;
        while let Some(record) = scan.next().await? {
            match decoder.decode(&record.record(&topic)) {
                Ok(Change::Upsert { row, .. }) => drop(unchanged.0.remove(&row.id)),
                Ok(Change::Delete { id }) => drop(unchanged.0.remove(&id)),
                Ok(Change::Truncate { .. }) => unchanged.0.clear(),
                Ok(Change::Ignored(_)) => {}
                Err(_) => {
                    let (partition, offset) = (record.partition, record.offset);
                    let id = dead_letters.content(partition, offset)?;
                    if let Some(id) = id.filter(|id| contents.contains(id)) {
                        let topic = topic.clone();
                        let position = RecordPosition {
                            topic,
                            partition,
                            offset,
                        };
                        unchanged.0.insert(id, position);
                    }
                }
            }
        }
        Ok(unchanged)
    }

    /// Returns the content and the position of the dead-lettered record that explain a
    /// difference. They explain only differences in columns that depend on the content.
    pub(super) fn explain(&self, pair: &Pair) -> Option<(Uuid, &RecordPosition)> {
        let id = content_to_explain(pair)?;
        Some((id, self.0.get(&id)?))
    }
}

/// Returns the content of a row that differs only in columns that depend on the content.
fn content_to_explain(pair: &Pair) -> Option<Uuid> {
    let Pair::Both { expected, found } = pair else {
        return None;
    };
    let cells = COLUMNS.iter().zip(expected.cells.iter().zip(&found.cells));
    let mut content = None;
    for (column, (expected, found)) in cells {
        if *column == "content_id" {
            content = expected.as_deref();
        }
        if expected != found && !ENRICHED.contains(column) {
            return None;
        }
    }
    Uuid::parse_str(content?).ok()
}

/// Returns the offset range of each content partition from its first dead letter on.
fn offset_ranges(bounds: &[Bounds], dead_letters: &Letters) -> io::Result<Vec<Stretch>> {
    let mut ranges = Vec::new();
    for (partition, bounds) in (0..).zip(bounds) {
        let first = dead_letters.first_content(partition)?;
        ranges.extend(first.map(|first| Stretch {
            partition,
            from: first.max(bounds.start),
            until: Some(bounds.end),
        }));
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::{super::row::TextRow, *};

    const CONTENT: Uuid = Uuid::from_u128(1);

    fn column_index(column: &str) -> usize {
        let index = COLUMNS.iter().position(|name| *name == column);
        index.expect("a known column")
    }

    fn pair(column: &str) -> Pair {
        let mut expected = TextRow {
            id: 7,
            cells: Default::default(),
        };
        expected.cells[column_index("content_id")] = Some(CONTENT.to_string());
        let mut found = expected.clone();
        found.cells[column_index(column)] = Some("other".to_owned());
        Pair::Both {
            expected: Box::new(expected),
            found: Box::new(found),
        }
    }

    #[test]
    fn a_content_explains_only_differences_in_the_columns_that_depend_on_it() {
        let record = RecordPosition {
            topic: "cdc.public.content".to_owned(),
            partition: 0,
            offset: 4,
        };
        let unchanged = Unchanged([(CONTENT, record.clone())].into());
        for column in ENRICHED {
            let explained = unchanged.explain(&pair(column));
            assert_eq!(explained, Some((CONTENT, &record)), "{column}");
        }
        for column in ["device", "content_id", "engagement_seconds"] {
            assert_eq!(unchanged.explain(&pair(column)), None, "{column}");
        }
        assert_eq!(Unchanged::default().explain(&pair("content_type")), None);
        assert_eq!(record.to_string(), "cdc.public.content/0@4");
    }
}

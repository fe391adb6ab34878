//! Contents whose latest record is a dead letter: to enrichment they are what
//! they were before it, whatever Postgres has by now.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
};

use uuid::Uuid;

use super::compare::{COLUMNS, Pair};
use crate::{
    audit::{context::Context, error::VerifyError, letters::Letters},
    debezium::{Change, DimensionDecoder},
    kafka::{Bounds, Stretch},
    source::tables::reader_group,
};

/// The columns of a row that come from its content.
const ENRICHED: [&str; 3] = ["engagement_pct", "content_type", "length_seconds"];

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    topic: String,
    partition: i32,
    offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}/{}@{}",
            self.topic, self.partition, self.offset
        )
    }
}

/// The contents that stay what they were, with the record that did not change
/// them. Only those of given pairs, which are few.
#[derive(Debug, Default)]
pub(super) struct Unchanged(BTreeMap<Uuid, Place>);

impl Unchanged {
    /// Reads the content topic on from its first dead letter, for the contents
    /// that could explain one of these pairs.
    pub(super) async fn find(
        context: &Context<'_>,
        letters: &Letters,
        pairs: &[Pair],
    ) -> Result<Self, VerifyError> {
        let mut found = Self::default();
        let wanted: BTreeSet<Uuid> = pairs.iter().filter_map(content_of).collect();
        if wanted.is_empty() {
            return Ok(found);
        }
        let kafka = &context.connections.kafka;
        let (reader, topic) = (
            reader_group(context.settings, "verify"),
            context.tables.content.topic(),
        );
        let log = kafka.log(&reader)?;
        let stretches = stretches(&log.bounds(&topic).await?, letters)?;
        if stretches.is_empty() {
            return Ok(found);
        }
        let decoder = DimensionDecoder::with_placeholders(
            context.tables.content.clone(),
            context.placeholders.content(),
        );
        let mut scan = kafka.scan(&reader, &topic, &stretches)?;
        while let Some(seen) = scan.next().await? {
            match decoder.decode(&seen.record(&topic)) {
                Ok(Change::Upsert { row, .. }) => drop(found.0.remove(&row.id)),
                Ok(Change::Delete { id }) => drop(found.0.remove(&id)),
                Ok(Change::Truncate { .. }) => found.0.clear(),
                Ok(Change::Ignored(_)) => {}
                Err(_) => {
                    let (partition, offset) = (seen.partition, seen.offset);
                    let id = letters.content(partition, offset)?;
                    if let Some(id) = id.filter(|id| wanted.contains(id)) {
                        let topic = topic.clone();
                        let place = Place {
                            topic,
                            partition,
                            offset,
                        };
                        found.0.insert(id, place);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The content and the record that explain a difference: it is in nothing
    /// but what comes from the content.
    pub(super) fn explain(&self, pair: &Pair) -> Option<(Uuid, &Place)> {
        let id = content_of(pair)?;
        Some((id, self.0.get(&id)?))
    }
}

/// The content of a row that differs in nothing but what comes from it.
fn content_of(pair: &Pair) -> Option<Uuid> {
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

/// Of each partition of content, what follows its first dead letter.
fn stretches(bounds: &[Bounds], letters: &Letters) -> io::Result<Vec<Stretch>> {
    let mut stretches = Vec::new();
    for (partition, bounds) in (0..).zip(bounds) {
        let first = letters.first_content(partition)?;
        stretches.extend(first.map(|first| Stretch {
            partition,
            from: first.max(bounds.start),
            until: Some(bounds.end),
        }));
    }
    Ok(stretches)
}

#[cfg(test)]
mod tests {
    use super::{super::compare::Row, *};

    const CONTENT: Uuid = Uuid::from_u128(1);

    fn place(column: &str) -> usize {
        let place = COLUMNS.iter().position(|name| *name == column);
        place.expect("a column")
    }

    fn pair(column: &str) -> Pair {
        let mut expected = Row {
            id: 7,
            cells: Default::default(),
        };
        expected.cells[place("content_id")] = Some(CONTENT.to_string());
        let mut found = expected.clone();
        found.cells[place(column)] = Some("other".to_owned());
        Pair::Both {
            expected: Box::new(expected),
            found: Box::new(found),
        }
    }

    #[test]
    fn only_what_comes_from_the_content_is_explained_by_it() {
        let record = Place {
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

//! Contents whose latest record is a dead letter: to enrichment they are what
//! they were before it, whatever Postgres has by now.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use uuid::Uuid;

use super::{
    Context, VerifyError,
    compare::{COLUMNS, Pair},
    letters::Letters,
};
use crate::{
    clients::kafka::{Log, Scan, Stretch},
    event::{Change, DimensionDecoder},
    operations::fence::{consumer, group},
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
/// them.
#[derive(Debug, Default)]
pub(super) struct Unchanged(BTreeMap<Uuid, Place>);

impl Unchanged {
    /// Reads the content topic on from its first dead letter.
    pub(super) async fn find(
        context: &Context<'_>,
        letters: &Letters,
    ) -> Result<Self, VerifyError> {
        let mut found = Self::default();
        let mut firsts: BTreeMap<i32, i64> = BTreeMap::new();
        for (partition, offset) in letters.contents().keys() {
            firsts.entry(*partition).or_insert(*offset);
        }
        if firsts.is_empty() {
            return Ok(found);
        }
        let settings = context.settings;
        let (reader, topic) = (group(settings, "verify"), context.tables.content.topic());
        let log = Log::new(&consumer(settings), &reader)?;
        let bounds = log.bounds(&topic).await?;
        let stretches: Vec<Stretch> = (0..)
            .zip(&bounds)
            .filter_map(|(partition, bounds)| {
                Some(Stretch {
                    partition,
                    from: (*firsts.get(&partition)?).max(bounds.start),
                    until: Some(bounds.end),
                })
            })
            .collect();
        let decoder = DimensionDecoder::with_placeholders(
            context.tables.content.clone(),
            context.placeholders.content(),
        );
        let mut scan = Scan::start(&consumer(settings), &reader, &topic, &stretches)?;
        while let Some(seen) = scan.next().await? {
            let place = (seen.partition, seen.offset);
            match decoder.decode(&seen.record(&topic)) {
                Ok(Change::Upsert { row, .. }) => drop(found.0.remove(&row.id)),
                Ok(Change::Delete { id }) => drop(found.0.remove(&id)),
                Ok(Change::Truncate { .. }) => found.0.clear(),
                Ok(Change::Ignored(_)) => {}
                Err(_) => {
                    if let Some(id) = letters.contents().get(&place) {
                        let (topic, (partition, offset)) = (topic.clone(), place);
                        let place = Place {
                            topic,
                            partition,
                            offset,
                        };
                        found.0.insert(*id, place);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The content and the record that explain a difference: it is in nothing
    /// but what comes from the content.
    pub(super) fn explain(&self, pair: &Pair) -> Option<(Uuid, &Place)> {
        let Pair::Both { expected, found } = pair else {
            return None;
        };
        let cells = COLUMNS.iter().zip(expected.cells.iter().zip(&found.cells));
        let mut content = None;
        let mut others = BTreeSet::new();
        for (column, (expected, found)) in cells {
            if *column == "content_id" {
                content.clone_from(expected);
            }
            if expected != found {
                others.insert(*column);
            }
        }
        let id = Uuid::parse_str(content.as_deref()?).ok()?;
        let only_enriched = others.iter().all(|column| ENRICHED.contains(column));
        let place = self.0.get(&id).filter(|_| only_enriched)?;
        Some((id, place))
    }
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

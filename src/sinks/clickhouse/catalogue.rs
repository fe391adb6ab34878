//! The catalogue: the latest of each content that enrichment needs, in memory,
//! kept at the end of its topic. Pure bookkeeping; what feeds it is
//! [`super::follower`].

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use hashbrown::HashMap;
use tokio::sync::watch;
use uuid::Uuid;

/// What is known of one content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub content_type: Option<Arc<str>>,
    pub length_seconds: Option<i32>,
    /// Where its type or length last changed, as far as the log still tells.
    pub offset: i64,
}

/// What a record of the content topic changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogueChange {
    Content(ContentUpdate),
    /// Every content is gone as of here.
    Truncate {
        partition: i32,
        offset: i64,
    },
}

/// A change of one content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentUpdate {
    pub id: Uuid,
    pub partition: i32,
    pub offset: i64,
    /// Type and length; none where the content was deleted.
    pub fields: Option<(Option<Arc<str>>, Option<i32>)>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Uuid, Known>,
    /// The last change that matters of each content, by where it is. A truncate
    /// is one of many.
    changes: BTreeSet<(i32, i64, Uuid)>,
    /// Interned content types: there are few.
    types: HashMap<Arc<str>, ()>,
}

/// Next offset of each content partition, by number.
pub type Reached = Vec<i64>;

/// The catalogue, shared by all partitions of the facts.
#[derive(Debug)]
pub struct Catalogue {
    inner: RwLock<Inner>,
    reached: watch::Sender<Reached>,
    /// How often it has come further.
    advanced: watch::Sender<u64>,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self {
            inner: RwLock::default(),
            reached: watch::channel(Reached::new()).0,
            advanced: watch::channel(0).0,
        }
    }
}

impl Catalogue {
    /// What is known of a content. A deleted one is known, with nothing.
    pub fn get(&self, id: &Uuid) -> Option<Known> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.entries.get(id).cloned()
    }

    /// Forgets everything, for reading another life of the topic, or the same
    /// from its start.
    /// `starts` is where reading begins, by partition.
    pub fn restart(&self, starts: Reached) {
        *self.inner.write().unwrap_or_else(PoisonError::into_inner) = Inner::default();
        self.reached.send_replace(starts);
    }

    /// Takes changes in the log's order, then says how far the partition is.
    pub fn apply(&self, changes: &[CatalogueChange], partition: i32, next: i64) {
        {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                match change {
                    CatalogueChange::Content(update) => inner.apply(update),
                    CatalogueChange::Truncate { partition, offset } => {
                        inner.truncate(*partition, *offset);
                    }
                }
            }
        }
        let came_further = self.reached.send_if_modified(|reached| {
            let at = usize::try_from(partition)
                .ok()
                .and_then(|partition| reached.get_mut(partition));
            at.is_some_and(|at| {
                let before = std::mem::replace(at, next.max(*at));
                before < *at
            })
        });
        if came_further {
            self.advanced.send_modify(|count| *count += 1);
        }
    }

    /// How far it is.
    pub fn reached(&self) -> Reached {
        self.reached.borrow().clone()
    }

    /// Waits until it has reached these ends.
    pub async fn wait_for(&self, ends: &[i64]) {
        let mut reached = self.reached.subscribe();
        let all = |reached: &Reached| {
            reached.len() >= ends.len() && reached.iter().zip(ends).all(|(at, end)| at >= end)
        };
        // The sender lives as long as `self`.
        let _ = reached.wait_for(all).await;
    }

    /// Tells when it has come further: also past what no row has to know of,
    /// so that whoever waits for a commit that says so does not wait for ever.
    pub fn advances(&self) -> watch::Receiver<u64> {
        self.advanced.subscribe()
    }

    /// The contents whose type or length changed in `from..to`, by partition.
    pub fn changed_between(&self, from: &[i64], to: &[i64]) -> Vec<Uuid> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for (partition, (to, index)) in (0..).zip(to.iter().zip(0_usize..)) {
            let from = from.get(index).copied().unwrap_or(0);
            if from >= *to {
                continue;
            }
            let changes = inner
                .changes
                .range((partition, from, Uuid::nil())..(partition, *to, Uuid::nil()));
            found.extend(changes.map(|(_, _, id)| *id));
        }
        found
    }
}

impl Inner {
    /// Keeps what matters to enrichment.
    fn apply(&mut self, update: &ContentUpdate) {
        let (content_type, length_seconds) = update.fields.clone().unwrap_or((None, None));
        let content_type = content_type.map(|text| self.intern(text));
        if let Some(known) = self.entries.get(&update.id) {
            let same = known.content_type == content_type && known.length_seconds == length_seconds;
            if same || known.offset >= update.offset {
                return;
            }
            self.changes
                .remove(&(update.partition, known.offset, update.id));
        }
        self.changes
            .insert((update.partition, update.offset, update.id));
        self.entries.insert(
            update.id,
            Known {
                content_type,
                length_seconds,
                offset: update.offset,
            },
        );
    }

    /// Every content that is known is deleted from here on.
    fn truncate(&mut self, partition: i32, offset: i64) {
        let ids: Vec<Uuid> = self.entries.keys().copied().collect();
        for id in ids {
            self.apply(&ContentUpdate {
                id,
                partition,
                offset,
                fields: None,
            });
        }
    }

    fn intern(&mut self, text: Arc<str>) -> Arc<str> {
        if let Some((known, ())) = self.types.get_key_value(&text) {
            return Arc::clone(known);
        }
        self.types.insert(Arc::clone(&text), ());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(id: u128, offset: i64, fields: Option<(&str, i32)>) -> CatalogueChange {
        CatalogueChange::Content(ContentUpdate {
            id: Uuid::from_u128(id),
            partition: 0,
            offset,
            fields: fields.map(|(kind, length)| (Some(Arc::from(kind)), Some(length))),
        })
    }

    fn changed(catalogue: &Catalogue, from: i64, to: i64) -> Vec<u128> {
        catalogue
            .changed_between(&[from], &[to])
            .into_iter()
            .map(|id| id.as_u128())
            .collect()
    }

    #[test]
    fn only_changes_of_type_or_length_matter() {
        let catalogue = Catalogue::default();
        catalogue.restart(vec![0]);
        catalogue.apply(&[update(1, 0, Some(("video", 10)))], 0, 1);
        catalogue.apply(&[update(1, 1, Some(("video", 10)))], 0, 2);
        assert_eq!(changed(&catalogue, 0, 2), [1]);
        assert_eq!(changed(&catalogue, 1, 2), [0_u128; 0]);
        catalogue.apply(&[update(1, 2, Some(("video", 11)))], 0, 3);
        assert_eq!(changed(&catalogue, 1, 3), [1]);
        assert_eq!(
            catalogue.get(&Uuid::from_u128(1)).map(|known| known.offset),
            Some(2)
        );
    }

    #[test]
    fn a_deleted_content_is_known_with_nothing() {
        let catalogue = Catalogue::default();
        catalogue.restart(vec![0]);
        catalogue.apply(
            &[update(1, 0, Some(("video", 10))), update(1, 4, None)],
            0,
            5,
        );
        let known = catalogue.get(&Uuid::from_u128(1)).expect("known");
        assert_eq!(
            (known.content_type, known.length_seconds, known.offset),
            (None, None, 4)
        );
        assert_eq!(changed(&catalogue, 1, 5), [1]);
        assert_eq!(catalogue.get(&Uuid::from_u128(2)), None);
    }

    #[test]
    fn coming_further_is_told_whether_it_matters_or_not() {
        let catalogue = Catalogue::default();
        catalogue.restart(vec![0]);
        let mut advances = catalogue.advances();
        let mut told = |updates: &[CatalogueChange], next| {
            catalogue.apply(updates, 0, next);
            let told = advances.has_changed().expect("it is there");
            advances.mark_unchanged();
            told
        };
        assert!(told(&[update(1, 0, Some(("video", 10)))], 1));
        assert!(told(&[update(1, 1, Some(("video", 10)))], 2));
        // A transaction's marker.
        assert!(told(&[], 3));
        assert!(!told(&[], 3));
    }

    #[test]
    fn a_truncate_deletes_what_was_there_and_nothing_that_comes() {
        let catalogue = Catalogue::default();
        catalogue.restart(vec![0]);
        let truncate = CatalogueChange::Truncate {
            partition: 0,
            offset: 2,
        };
        let changes = [
            update(1, 0, Some(("video", 10))),
            update(2, 1, Some(("video", 10))),
            truncate,
            update(2, 3, Some(("podcast", 5))),
        ];
        catalogue.apply(&changes, 0, 4);
        let known = |id| catalogue.get(&Uuid::from_u128(id)).expect("known");
        assert_eq!((known(1).length_seconds, known(1).offset), (None, 2));
        assert_eq!((known(2).length_seconds, known(2).offset), (Some(5), 3));
        assert_eq!(changed(&catalogue, 2, 4), [1, 2]);
        assert_eq!(changed(&catalogue, 3, 4), [2]);
    }

    #[tokio::test]
    async fn waiting_ends_when_all_partitions_are_there() {
        let catalogue = Catalogue::default();
        catalogue.restart(vec![0, 0]);
        catalogue.apply(&[], 0, 7);
        let late = tokio::time::timeout(
            std::time::Duration::from_millis(20),
            catalogue.wait_for(&[7, 1]),
        );
        assert!(late.await.is_err());
        catalogue.apply(&[], 1, 1);
        catalogue.wait_for(&[7, 1]).await;
    }
}

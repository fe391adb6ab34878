//! The catalogue: the current state of each content, as far as enrichment needs it, in
//! memory. Performs no I/O; [`super::follower`] keeps it at the end of its topic.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use hashbrown::HashMap;
use tokio::sync::watch;
use uuid::Uuid;

/// The current state of one content. Type and length are `None` if it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownContent {
    pub content_type: Option<Arc<str>>,
    pub length_seconds: Option<i32>,
    /// Offset of the last record in the log that changed the type or the length.
    pub offset: i64,
}

/// A change of the catalogue by a record of the content topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogueChange {
    Content(ContentUpdate),
    /// Deletes every content.
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
    /// Type and length. `None` if the content was deleted.
    pub fields: Option<(Option<Arc<str>>, Option<i32>)>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Uuid, KnownContent>,
    /// Partition and offset of each content's last change of type or length. A truncate
    /// counts as a change of every content.
    changes: BTreeSet<(i32, i64, Uuid)>,
    /// Interned content types, of which there are few.
    types: HashMap<Arc<str>, ()>,
}

/// Next offset of each content partition, indexed by partition.
pub type ContentOffsets = Vec<i64>;

/// The catalogue, shared by all partitions of the events topic.
#[derive(Debug)]
pub struct Catalogue {
    inner: RwLock<Inner>,
    offsets: watch::Sender<ContentOffsets>,
    /// Number of times that an offset has advanced.
    advances: watch::Sender<u64>,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self {
            inner: RwLock::default(),
            offsets: watch::channel(ContentOffsets::new()).0,
            advances: watch::channel(0).0,
        }
    }
}

impl Catalogue {
    /// Returns the state of a content, also if it was deleted. Returns `None` if the
    /// topic has no record of it.
    pub fn get(&self, id: &Uuid) -> Option<KnownContent> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.entries.get(id).cloned()
    }

    /// Clears the catalogue, so that an incarnation of the topic can be read from its
    /// start. `starts` has the start offset of each partition.
    pub fn restart(&self, starts: ContentOffsets) {
        *self.inner.write().unwrap_or_else(PoisonError::into_inner) = Inner::default();
        self.offsets.send_replace(starts);
    }

    /// Applies changes in the order of the log, then advances the partition to `next`.
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
        let has_advanced = self.offsets.send_if_modified(|offsets| {
            let offset = usize::try_from(partition)
                .ok()
                .and_then(|partition| offsets.get_mut(partition));
            offset.is_some_and(|offset| {
                let previous = std::mem::replace(offset, next.max(*offset));
                previous < *offset
            })
        });
        if has_advanced {
            self.advances.send_modify(|count| *count += 1);
        }
    }

    /// Returns the next offset of each partition.
    pub fn offsets(&self) -> ContentOffsets {
        self.offsets.borrow().clone()
    }

    /// Waits until the catalogue has reached these end offsets.
    pub async fn wait_for(&self, ends: &[i64]) {
        let mut offsets = self.offsets.subscribe();
        let has_reached_ends = |offsets: &ContentOffsets| {
            let mut pairs = offsets.iter().zip(ends);
            offsets.len() >= ends.len() && pairs.all(|(offset, end)| offset >= end)
        };
        // The sender lives as long as `self`.
        let _ = offsets.wait_for(has_reached_ends).await;
    }

    /// Returns a receiver that is notified when an offset advances. It is also notified of
    /// records that change no row, because waiters may expect a commit with the advanced
    /// offsets.
    pub fn advances(&self) -> watch::Receiver<u64> {
        self.advances.subscribe()
    }

    /// Returns the contents whose type or length changed in `from..to`. Both are indexed by
    /// partition.
    pub fn changed_between(&self, from: &[i64], to: &[i64]) -> Vec<Uuid> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut contents = Vec::new();
        for (partition, (to, index)) in (0..).zip(to.iter().zip(0_usize..)) {
            let from = from.get(index).copied().unwrap_or(0);
            if from >= *to {
                continue;
            }
            let changes = inner
                .changes
                .range((partition, from, Uuid::nil())..(partition, *to, Uuid::nil()));
            contents.extend(changes.map(|(_, _, id)| *id));
        }
        contents
    }
}

impl Inner {
    /// Applies an update if it changes the type or the length.
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
            KnownContent {
                content_type,
                length_seconds,
                offset: update.offset,
            },
        );
    }

    /// Deletes every known content at this offset.
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
    fn only_a_new_type_or_length_counts_as_a_change() {
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
    fn a_deleted_content_is_known_without_type_and_length() {
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
    fn every_advance_notifies_the_receivers() {
        let catalogue = Catalogue::default();
        catalogue.restart(vec![0]);
        let mut advances = catalogue.advances();
        let mut notifies = |updates: &[CatalogueChange], next| {
            catalogue.apply(updates, 0, next);
            let has_changed = advances.has_changed().expect("the catalogue exists");
            advances.mark_unchanged();
            has_changed
        };
        assert!(notifies(&[update(1, 0, Some(("video", 10)))], 1));
        assert!(notifies(&[update(1, 1, Some(("video", 10)))], 2));
        // A transaction marker.
        assert!(notifies(&[], 3));
        assert!(!notifies(&[], 3));
    }

    #[test]
    fn a_truncate_deletes_earlier_contents_but_no_later_ones() {
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
    async fn waiting_ends_when_all_partitions_have_reached_their_ends() {
        let catalogue = Catalogue::default();
        catalogue.restart(vec![0, 0]);
        catalogue.apply(&[], 0, 7);
        let waiting = tokio::time::timeout(
            std::time::Duration::from_millis(20),
            catalogue.wait_for(&[7, 1]),
        );
        assert!(waiting.await.is_err());
        catalogue.apply(&[], 1, 1);
        catalogue.wait_for(&[7, 1]).await;
    }
}

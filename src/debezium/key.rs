//! The `id` in a record's key: `{"id": …}`, bare or as the `payload` next to its `schema`.

use serde::de::{IgnoredAny, MapAccess};
use serde_json::value::RawValue;

use super::cell::{Cell, NameIn, Part, ReadObject};
use super::document;
use super::reject::{Reject, RejectCode};
use crate::text::escape::excerpt;

const MEMBERS: [&str; 3] = ["id", "payload", "schema"];

/// Returns the key's `id` with any type, or [`Cell::Missing`] if the object has none.
pub(super) fn id(key: Option<&[u8]>) -> Result<Cell<'_>, Reject> {
    let key = key.ok_or_else(|| Reject::new(RejectCode::MissingKey, "key is null"))?;
    let text = simdutf8::basic::from_utf8(key).map_err(|_| bad("key is not UTF-8"))?;
    let wrapper = read(text)?;
    let found = match wrapper
        .payload
        .filter(|_| matches!(wrapper.id, Cell::Missing))
    {
        Some(payload) => read(payload.get())?,
        None => wrapper,
    };
    if found.has_duplicate {
        return Err(bad(format!(
            "id appears twice in the key: {}",
            excerpt(text)
        )));
    }
    Ok(found.id)
}

/// Returns the reject of a key that exists but cannot be used.
pub(super) fn bad(detail: impl Into<String>) -> Reject {
    Reject::new(RejectCode::BadKey, detail)
}

fn read(text: &str) -> Result<Key<'_>, Reject> {
    match document::read(text, ReadKey) {
        Ok(Part::Object(key)) => Ok(key),
        Ok(_) => Err(bad(format!("key is not an object: {}", excerpt(text)))),
        Err(error) => Err(bad(format!("key is not JSON: {error}: {}", excerpt(text)))),
    }
}

#[derive(Default)]
struct Key<'a> {
    id: Cell<'a>,
    payload: Option<&'a RawValue>,
    has_duplicate: bool,
}

struct ReadKey;

impl<'de> ReadObject<'de> for ReadKey {
    type Value = Key<'de>;

    fn read<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut key = Key::default();
        while let Some(found) = map.next_key_seed(NameIn {
            names: &MEMBERS,
            expected: 0,
        })? {
            match found {
                Some(0) => {
                    key.has_duplicate |= !matches!(key.id, Cell::Missing);
                    key.id = map.next_value()?;
                }
                Some(1) => {
                    key.has_duplicate |= key.payload.is_some();
                    key.payload = Some(map.next_value()?);
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(key)
    }
}

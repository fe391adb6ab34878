//! Parses a JSON document with serde, without building a tree.

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess};
use serde_json::value::RawValue;

use super::cell::{NameIn, Part, ReadObject, ReadPart};

/// Parses all of `text` as one document with this reader. Nesting uses no stack, because
/// members that the reader does not need are skipped without recursion.
pub(super) fn read<'a, R: ReadObject<'a>>(
    text: &'a str,
    reader: R,
) -> Result<Part<R::Value>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let part = ReadPart(reader).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(part)
}

/// Returns the exact text of one member of the object in `text`.
pub(super) fn member<'a>(text: &'a str, name: &'static str) -> Option<&'a str> {
    match read(text, ReadMember(name)) {
        Ok(Part::Object(found)) => found.map(RawValue::get),
        _ => None,
    }
}

struct ReadMember(&'static str);

impl<'de> ReadObject<'de> for ReadMember {
    type Value = Option<&'de RawValue>;

    fn read<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let names = [self.0];
        let mut found = None;
        while let Some(index) = map.next_key_seed(NameIn {
            names: &names,
            expected: 0,
        })? {
            if index.is_some() {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

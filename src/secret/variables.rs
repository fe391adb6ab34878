//! Named texts defined by the operator, some of which are secrets by their names.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
    ops::{Deref, DerefMut},
};

use serde::{Deserialize, Serialize};

use super::{mask::MASK, name::is_secret, text::masked_text};

/// Environment variables or properties. `Debug` masks the secrets among them. They serialise
/// unmasked, because settings are read back.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Variables(BTreeMap<String, String>);

impl Deref for Variables {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Variables {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<'a> IntoIterator for &'a Variables {
    type Item = (&'a String, &'a String);
    type IntoIter = btree_map::Iter<'a, String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl IntoIterator for Variables {
    type Item = (String, String);
    type IntoIter = btree_map::IntoIter<String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): (&String, &String)| {
            let value = if is_secret(name) {
                MASK.to_owned()
            } else {
                masked_text(value)
            };
            (name.clone(), value)
        };
        formatter
            .debug_map()
            .entries(self.0.iter().map(shown))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_variables_are_masked_in_debug_output() {
        let variables: Variables = [("API_KEY", "canary"), ("URL", "http://u:canary@h")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        let shown = format!("{variables:?}");
        assert_eq!(shown, r#"{"API_KEY": "****", "URL": "http://u:****@h"}"#);
    }
}

//! A JSON object read the strict way, so that pullgate and containerd cannot read one document differently.
//!
//! containerd's decoder (Go's `encoding/json`) matches keys without regard to case and lets the last duplicate
//! win. Documents in which that makes a difference are refused instead of interpreted.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The members of an object, each still as text. No key occurs twice.
pub(crate) struct Object<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Object<'a> {
    /// Reads `bytes` as one object whose members include `known` ones.
    pub(crate) fn read(bytes: &'a [u8], known: &[&str]) -> Result<Self, String> {
        let object: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        object.check_spelling(known)?;
        Ok(object)
    }

    fn check_spelling(&self, known: &[&str]) -> Result<(), String> {
        for key in self.0.keys() {
            if let Some(expected) = known.iter().find(|known| **known != key && fold(known) == fold(key)) {
                return Err(format!("key {key:?} differs from {expected:?} only in case"));
            }
        }
        Ok(())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| value.get() != "null")
    }

    /// Every member, as text.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.get()))
    }

    /// The member `key` as a `T`; `null` is absence, as it is for containerd.
    pub(crate) fn optional<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, String> {
        match self.0.get(key) {
            None => Ok(None),
            Some(value) => serde_json::from_str(value.get()).map_err(|e| format!("{key}: {e}")),
        }
    }

    pub(crate) fn required<T: DeserializeOwned>(&self, key: &str) -> Result<T, String> {
        self.optional(key)?.ok_or_else(|| format!("{key} is missing"))
    }

    /// The member `key` as an object with `known` members.
    pub(crate) fn object(&self, key: &str, known: &[&str]) -> Result<Option<Object<'a>>, String> {
        match self.0.get(key) {
            Some(value) if value.get() != "null" => {
                Object::read(value.get().as_bytes(), known).map(Some).map_err(|e| format!("{key}: {e}"))
            }
            _ => Ok(None),
        }
    }

    /// The member `key` as a list of at most `limit` objects with `known` members.
    pub(super) fn objects(&self, key: &str, known: &[&str], limit: usize) -> Result<Option<Vec<Object<'a>>>, String> {
        let Some(value) = self.0.get(key).filter(|value| value.get() != "null") else {
            return Ok(None);
        };
        let items: Vec<&'a RawValue> = serde_json::from_str(value.get()).map_err(|e| format!("{key}: {e}"))?;
        if items.len() > limit {
            return Err(format!("{key} has {} entries, more than {limit}", items.len()));
        }
        let read = |(i, item): (usize, &&'a RawValue)| {
            Object::read(item.get().as_bytes(), known).map_err(|e| format!("{key}[{i}]: {e}"))
        };
        items.iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
    }
}

/// `key` under the folding of Go's `encoding/json`: Unicode simple folding, of which only two letters outside
/// ASCII fold to an ASCII letter.
fn fold(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            c => c.to_ascii_lowercase(),
        })
        .collect()
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = BTreeMap<String, &'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if members.contains_key(&key) {
                        return Err(serde::de::Error::custom(format_args!("key {key:?} occurs twice")));
                    }
                    members.insert(key, map.next_value()?);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Members).map(Object)
    }
}

/// A string map without duplicate keys, such as annotations.
#[derive(Default)]
pub(super) struct StringMap(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for StringMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = StringMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringMap, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if members.insert(key, value).is_some() {
                        return Err(serde::de::Error::custom("an annotation occurs twice"));
                    }
                }
                Ok(StringMap(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

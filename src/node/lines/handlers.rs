//! The base specs of runtime handlers in containerd's files: put in, and taken out again. Pure.

#![deny(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, TableLike, Value, value};

use super::super::{
    base_spec,
    dump::StandFor,
    runtimes::{BASE_SPEC, CRI_1, CRI_2, Handler},
};
use super::{parse, section, section_mut, set, table};

/// Where handlers are configured, below `containerd` of the CRI plugin, apart from `runtimes`.
const APART: [&str; 2] = ["default_runtime", "untrusted_workload_runtime"];

/// Names the base spec of `handler`. `whole`: a handler that has no section yet gets one that repeats all that is in force
/// for it, for there a section replaces what containerd has itself.
pub(super) fn put(document: &mut DocumentMut, handler: &Handler, whole: bool) -> Result<(), String> {
    let Some(path) = &handler.base_spec else { return Ok(()) };
    let keys: Vec<&str> = std::iter::once("plugins").chain(handler.section.iter().map(String::as_str)).collect();
    let there = keys.iter().try_fold(document.as_item(), |item, key| item.get(key)).is_some();
    let section = table(document, &keys)?;
    if whole && !there {
        for (key, item) in repeated(&handler.keys)?.iter() {
            section.insert(key, item.clone());
        }
    }
    set(section, BASE_SPEC, path.display().to_string().into());
    Ok(())
}

/// The keys of a handler. containerd fills in its own keys where they say nothing, and those of the runtime's options not.
fn repeated(keys: &toml::Table) -> Result<Table, String> {
    let nothing = |value: &toml::Value| match value {
        toml::Value::String(text) => text.is_empty(),
        toml::Value::Array(list) => list.is_empty(),
        toml::Value::Integer(number) => *number == 0,
        toml::Value::Boolean(yes) => !yes,
        _ => false,
    };
    fresh(keys.iter().filter(|(key, value)| *key != BASE_SPEC && !nothing(value)))
}

fn fresh<'a>(keys: impl Iterator<Item = (&'a String, &'a toml::Value)>) -> Result<Table, String> {
    let mut table = Table::new();
    for (key, found) in keys {
        let item = match found {
            toml::Value::Table(keys) => Item::Table(fresh(keys.iter())?),
            found => value(found.to_string().parse::<Value>().map_err(|error| error.message().to_owned())?),
        };
        table.insert(key, item);
    }
    Ok(table)
}

/// Takes pullgate's base specs out. A section that pullgate added goes with them, unless somebody changed it since, or
/// others stand beside it now: a file that has some handlers has no others.
pub(super) fn take_out(
    document: &mut DocumentMut,
    original: &DocumentMut,
    written: &DocumentMut,
    base_specs: &StandFor,
) {
    for plugin in [CRI_1, CRI_2] {
        if section(document, plugin).is_none() {
            continue;
        }
        for place in places(document, plugin) {
            let before = at(original, plugin, &place);
            let added = before.is_none() && at(written, plugin, &place).is_some();
            let before = before.and_then(|keys| keys.get(BASE_SPEC)?.as_value()).cloned();
            if let Some(keys) = at_mut(document, plugin, &place) {
                restore(keys, (before, added), base_specs);
            }
        }
        let places = places(document, plugin);
        let old = |place: &Vec<String>| at(original, plugin, place).is_some();
        let as_written = |place: &Vec<String>| {
            let ours = at(written, plugin, place).map(|keys| told(keys, true));
            at(document, plugin, place).map(|keys| told(keys, false)) == ours
        };
        let empty = |place: &Vec<String>| at(document, plugin, place).is_some_and(TableLike::is_empty);
        let fresh: Vec<Vec<String>> = places.into_iter().filter(|place| !old(place)).collect();
        let all = fresh.iter().all(as_written);
        let gone: Vec<Vec<String>> =
            fresh.into_iter().filter(|place| as_written(place) && (all || empty(place))).collect();
        for place in gone {
            remove(document, original, plugin, &place);
        }
    }
}

/// `text` with what pullgate's base specs stand for in their place: for a file that pullgate never wrote.
///
/// # Errors
/// Where it is not TOML.
pub fn without_base_specs(text: &str, base_specs: &StandFor) -> Result<String, String> {
    let mut document = parse(text)?;
    for plugin in [CRI_1, CRI_2] {
        for place in places(&document, plugin) {
            if let Some(keys) = at_mut(&mut document, plugin, &place) {
                restore(keys, (None, false), base_specs);
            }
        }
    }
    Ok(document.to_string())
}

/// The base spec that `text` names for the handler `name`.
pub fn base_spec_of(text: &str, name: &str) -> Option<PathBuf> {
    let document = parse(text).ok()?;
    let place = ["runtimes".to_owned(), name.to_owned()];
    let of = |plugin: &str| at(&document, plugin, &place)?.get(BASE_SPEC)?.as_str().map(str::to_owned);
    [CRI_2, CRI_1].into_iter().find_map(of).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Every base spec that `text` names; none where it is not TOML.
pub fn base_specs_of(text: &str) -> Vec<PathBuf> {
    let Ok(document) = parse(text) else { return Vec::new() };
    let of = |plugin: &'static str| {
        let document = &document;
        let said = move |place: Vec<String>| at(document, plugin, &place)?.get(BASE_SPEC)?.as_str().map(PathBuf::from);
        places(document, plugin).into_iter().filter_map(said)
    };
    [CRI_1, CRI_2].into_iter().flat_map(of).collect()
}

/// Puts what was there before in the place of a base spec of pullgate's, or what that stands for; nothing in a section that
/// pullgate `added`.
fn restore(keys: &mut dyn TableLike, (before, added): (Option<Value>, bool), base_specs: &StandFor) {
    let Some(path) = keys.get(BASE_SPEC).and_then(Item::as_str).map(Path::new) else { return };
    let own = base_specs.get(path);
    if own.is_none() && !base_spec::is_ours(path) {
        return;
    }
    let own = own.cloned().flatten().filter(|_| !added).map(|own| own.display().to_string().into());
    match before.or(own) {
        Some(value) => set(keys, BASE_SPEC, value),
        None => drop(keys.remove(BASE_SPEC)),
    }
}

/// Where the document configures handlers, below `containerd` of the plugin.
fn places(document: &DocumentMut, plugin: &str) -> Vec<Vec<String>> {
    let Some(below) = section(document, plugin).and_then(|keys| keys.get("containerd")?.as_table_like()) else {
        return Vec::new();
    };
    let apart = APART.into_iter().filter(|key| below.contains_key(key)).map(|key| vec![key.to_owned()]);
    let runtimes = below.get("runtimes").and_then(Item::as_table_like);
    let names = runtimes.into_iter().flat_map(TableLike::iter);
    apart.chain(names.map(|(name, _)| vec!["runtimes".to_owned(), name.to_owned()])).collect()
}

fn at<'a>(document: &'a DocumentMut, plugin: &str, place: &[String]) -> Option<&'a dyn TableLike> {
    let below = section(document, plugin)?.get("containerd")?;
    place.iter().try_fold(below, |item, key| item.get(key.as_str()))?.as_table_like()
}

fn at_mut<'a>(document: &'a mut DocumentMut, plugin: &str, place: &[String]) -> Option<&'a mut dyn TableLike> {
    let below = section_mut(document, plugin)?.get_mut("containerd")?;
    place.iter().try_fold(below, |item, key| item.get_mut(key.as_str()))?.as_table_like_mut()
}

/// What a section says, however it is spelled.
fn told(keys: &dyn TableLike, without_base_spec: bool) -> Vec<(String, String)> {
    let plain = |item: &Item| -> String {
        match item {
            Item::Value(found) => {
                let mut found = found.clone();
                found.decor_mut().clear();
                found.to_string()
            }
            Item::Table(keys) => format!("{:?}", told(keys, false)),
            other => other.to_string(),
        }
    };
    let mut told: Vec<(String, String)> = keys
        .iter()
        .filter(|(key, item)| !(item.is_none() || without_base_spec && *key == BASE_SPEC))
        .map(|(key, item)| (key.to_owned(), plain(item)))
        .collect();
    told.sort();
    told
}

/// Takes a section away, and those above it that are empty then and were not there before.
fn remove(document: &mut DocumentMut, original: &DocumentMut, plugin: &str, place: &[String]) {
    let keys: Vec<&str> =
        ["plugins", plugin, "containerd"].into_iter().chain(place.iter().map(String::as_str)).collect();
    for depth in (1..keys.len()).rev() {
        let (above, key) = (&keys[..depth], keys[depth]);
        let was = keys[..=depth].iter().try_fold(original.as_item(), |item, key| item.get(*key)).is_some();
        let parent = above.iter().try_fold(document.as_item_mut(), |item, key| item.get_mut(*key));
        let Some(parent) = parent.and_then(Item::as_table_like_mut) else { return };
        let empty = parent.get(key).and_then(Item::as_table_like).is_some_and(TableLike::is_empty);
        if depth + 1 < keys.len() && (was || !empty) {
            return;
        }
        parent.remove(key);
    }
}

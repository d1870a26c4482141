//! pullgate's lines taken out of a file, and what they replaced put back. Pure.

#![deny(clippy::disallowed_methods)]

use toml_edit::{Array, InlineTable, Item, TableLike, Value};

use super::super::dump::{DIFF, DIFF_PROXY, StandFor, TRANSFER, TRANSFER_PROXY, VERIFIERS, VERIFIERS_DIRECTORY};
use super::{handlers, parse, place, section, section_mut};

/// What pullgate did to a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Since<'a> {
    /// The text before; none where there was no file.
    pub original: Option<&'a str>,
    /// The text that pullgate wrote.
    pub written: Option<&'a str>,
    /// The import that was added.
    pub pattern: Option<&'a str>,
}

/// `text` without pullgate's lines. What they replaced comes back from the text before them, or is what they stand for.
/// None when nothing else is left.
///
/// # Errors
/// Where `text` is not TOML.
pub fn take_out(text: &str, since: Since<'_>, base_specs: &StandFor) -> Result<Option<String>, String> {
    let mut document = parse(text)?;
    let existed = since.original.is_some();
    let original = since.original.map(parse).transpose()?.unwrap_or_default();
    let written = since.written.map(parse).transpose()?.unwrap_or_default();
    handlers::take_out(&mut document, &original, &written, base_specs);
    if let Some(proxies) = document.get_mut("proxy_plugins").and_then(Item::as_table_like_mut) {
        proxies.remove(DIFF_PROXY.0);
        proxies.remove(TRANSFER_PROXY.0);
    }
    if let Some(keys) = section_mut(&mut document, DIFF) {
        let before = section(&original, DIFF).and_then(|section| section.get("default"));
        let ours = [DIFF_PROXY.0, TRANSFER_PROXY.0];
        if let Some(list) = keys.get_mut("default").and_then(Item::as_array_mut) {
            list.retain(|name| !name.as_str().is_some_and(|name| ours.contains(&name)));
            if let Some(first) = list.get_mut(0)
                && first.decor().prefix().and_then(|prefix| prefix.as_str()) == Some(" ")
            {
                first.decor_mut().set_prefix("");
            }
            let left = names(list);
            // What is left is what containerd does anyway.
            let default = before.is_none() && (left == ["walking"] || left == ["erofs", "walking"] || left.is_empty());
            if default {
                keys.remove("default");
            }
        }
    }
    if let Some(keys) = section_mut(&mut document, TRANSFER) {
        let before = section(&original, TRANSFER).and_then(|section| section.get("unpack_config"));
        take_out_unpack(keys, before);
    }
    if let Some(keys) = section_mut(&mut document, VERIFIERS)
        && keys.get("bin_dir").and_then(Item::as_str) == Some(VERIFIERS_DIRECTORY)
    {
        match section(&original, VERIFIERS).and_then(|section| section.get("bin_dir")) {
            Some(before) => keys.insert("bin_dir", before.clone()),
            None => keys.remove("bin_dir"),
        };
    }
    for name in [DIFF, TRANSFER, VERIFIERS] {
        if section(&original, name).is_none() && section(&document, name).is_some_and(|section| section.is_empty()) {
            document.get_mut("plugins").and_then(Item::as_table_like_mut).and_then(|plugins| plugins.remove(name));
        }
    }
    if let Some(pattern) = since.pattern
        && let Some(list) = document.get_mut("imports").and_then(Item::as_array_mut)
    {
        list.retain(|known| known.as_str() != Some(pattern));
        if list.is_empty() && !original.contains_key("imports") {
            document.remove("imports");
        }
    }
    for key in ["proxy_plugins", "plugins"] {
        let empty = document.get(key).and_then(Item::as_table_like).is_some_and(|table| table.is_empty());
        if empty && !original.contains_key(key) {
            document.remove(key);
        }
    }
    let nothing = document.iter().all(|(key, _)| key == "version");
    Ok((!nothing || existed).then(|| document.to_string()))
}

/// Entries that were there get their differ back; those that were added go.
fn take_out_unpack(section: &mut dyn TableLike, before: Option<&Item>) {
    let ours = |entry: &dyn TableLike| entry.get("differ").and_then(Item::as_str) == Some(TRANSFER_PROXY.0);
    let find = |entry: &dyn TableLike| {
        before.and_then(|before| entries(before).into_iter().find(|old| place(*old) == place(entry)))
    };
    let mend = |entry: &mut dyn TableLike| -> bool {
        if !ours(entry) {
            return true;
        }
        let Some(old) = find(entry) else { return false };
        match old.get("differ") {
            Some(differ) => entry.insert("differ", differ.clone()),
            None => entry.remove("differ"),
        };
        true
    };
    let left = match section.get_mut("unpack_config") {
        Some(Item::ArrayOfTables(list)) => {
            let kept: Vec<bool> = list.iter_mut().map(|entry| mend(entry)).collect();
            let mut kept = kept.into_iter();
            list.retain(|_| kept.next().unwrap_or(true));
            list.len()
        }
        Some(Item::Value(Value::Array(list))) => {
            let kept: Vec<bool> =
                list.iter_mut().map(|entry| entry.as_inline_table_mut().is_none_or(|entry| mend(entry))).collect();
            let mut kept = kept.into_iter();
            list.retain(|_| kept.next().unwrap_or(true));
            list.len()
        }
        _ => return,
    };
    match before {
        _ if left > 0 => {}
        None => {
            section.remove("unpack_config");
        }
        // An empty list is not the same as none.
        Some(before) => {
            section.insert("unpack_config", before.clone());
        }
    }
}

fn entries(item: &Item) -> Vec<&dyn TableLike> {
    match item {
        Item::ArrayOfTables(list) => list.iter().map(|entry| entry as &dyn TableLike).collect(),
        Item::Value(Value::Array(list)) => list
            .iter()
            .filter_map(|entry| entry.as_inline_table().map(|entry: &InlineTable| entry as &dyn TableLike))
            .collect(),
        _ => Vec::new(),
    }
}

fn names(list: &Array) -> Vec<&str> {
    list.iter().filter_map(Value::as_str).collect()
}

//! pullgate's lines in containerd's files: put in, and taken out again. Comments, order and spelling of everything else
//! stay. Pure.

#![deny(clippy::disallowed_methods)]

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, TableLike, Value, value};

use super::{
    dump::{DIFF, DIFF_PROXY, TRANSFER, TRANSFER_PROXY, VERIFIERS},
    runtimes::CRI_1,
    wanted::Wanted,
};

/// The parts of [`Wanted`], each of which may have to go into another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The two proxies.
    Proxies,
    /// `default` of the diff service.
    Differs,
    /// `unpack_config` of the transfer service.
    Unpack,
    /// The base specs of CRI's runtime handlers.
    Handlers,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Proxies, Self::Differs, Self::Unpack, Self::Handlers];
}

/// Whether `text` has a section of its own for `part`: up to containerd 1.7 the last file that has one wins.
pub fn has_section(text: &str, part: Part) -> bool {
    let Ok(document) = text.parse::<DocumentMut>() else { return false };
    match part {
        Part::Proxies => false,
        Part::Differs => section(&document, DIFF).is_some(),
        Part::Unpack => section(&document, TRANSFER).is_some(),
        Part::Handlers => section(&document, CRI_1).is_some(),
    }
}

/// `text` with `parts` of `wanted`.
///
/// # Errors
/// Where it is not TOML, or has something else than a table where a section belongs.
pub fn put(text: &str, wanted: &Wanted, parts: &[Part]) -> Result<String, String> {
    let mut document = parse(text)?;
    for part in parts {
        match part {
            Part::Proxies => {
                for (name, socket) in [DIFF_PROXY, TRANSFER_PROXY] {
                    let proxy = table(&mut document, &["proxy_plugins", name])?;
                    proxy.insert("type", value("diff"));
                    proxy.insert("address", value(socket));
                }
            }
            Part::Differs => put_differs(table(&mut document, &["plugins", DIFF])?, &wanted.differs),
            Part::Unpack => {
                let there = section(&document, TRANSFER).is_some();
                let section = table(&mut document, &["plugins", TRANSFER])?;
                put_unpack(section, &wanted.unpack)?;
                if !there {
                    // Its heading would say nothing.
                    implicit(&mut document, TRANSFER);
                }
            }
            Part::Handlers => {
                for handler in &wanted.handlers {
                    handlers::put(&mut document, handler, true)?;
                }
            }
        }
    }
    Ok(document.to_string())
}

/// A list that only lacks the gate gets it, and keeps its comments.
fn put_differs(section: &mut dyn TableLike, wanted: &[String]) {
    let is = |list: &Array, names: &[String]| list.iter().map(|name| name.as_str().unwrap_or_default()).eq(names);
    match (section.get_mut("default").and_then(Item::as_array_mut), wanted.split_first()) {
        (Some(list), _) if is(list, wanted) => {}
        (Some(list), Some((gate, others))) if is(list, others) => {
            if let Some(first) = list.get_mut(0)
                && first.decor().prefix().and_then(|prefix| prefix.as_str()).is_none_or(str::is_empty)
            {
                first.decor_mut().set_prefix(" ");
            }
            list.insert(0, gate.as_str());
        }
        _ => set(section, "default", wanted.iter().map(String::as_str).collect::<Array>().into()),
    }
}

/// Entries that are there get another differ, and those that are missing are added.
fn put_unpack(section: &mut dyn TableLike, wanted: &[toml::Table]) -> Result<(), String> {
    let item = section.entry("unpack_config").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    if item.as_array().is_some_and(Array::is_empty) {
        *item = Item::ArrayOfTables(ArrayOfTables::new());
    }
    let name = TRANSFER_PROXY.0;
    let mut there = Vec::new();
    match item {
        Item::ArrayOfTables(list) => {
            for entry in list.iter_mut() {
                there.push(place(entry));
                set(entry, "differ", name.into());
            }
        }
        Item::Value(Value::Array(list)) => {
            for entry in list.iter_mut().filter_map(Value::as_inline_table_mut) {
                there.push(place(entry));
                entry.insert("differ", name.into());
            }
        }
        _ => return Err(format!("unpack_config of {TRANSFER} is no list")),
    }
    for entry in wanted.iter().filter(|entry| !there.contains(&place_of(entry))) {
        let fresh = entry.to_string().parse::<DocumentMut>().map_err(|error| error.message().to_owned())?;
        match item {
            Item::ArrayOfTables(list) => list.push(ordered(fresh.as_table())),
            Item::Value(Value::Array(list)) => list.push(ordered(fresh.as_table()).into_inline_table()),
            _ => {}
        }
    }
    Ok(())
}

/// What the entry is for, then how.
fn ordered(entry: &Table) -> Table {
    let mut table = Table::new();
    for key in ["platform", "snapshotter", "differ"] {
        if let Some(item) = entry.get(key) {
            table.insert(key, item.clone());
        }
    }
    for (key, item) in entry.iter().filter(|(_, item)| !item.is_none()) {
        if !table.contains_key(key) {
            table.insert(key, item.clone());
        }
    }
    table
}

/// The whole of a file of pullgate's own: what containerd 2.x imports last. `version` is that of the files around it: a
/// newer one would keep containerd from migrating them.
pub fn drop_in(wanted: &Wanted, version: i64) -> Result<String, String> {
    let mut head = format!(
        "# pullgate stands in the way of every layer. Written by `pullgate enable`; taken out by\n# `pullgate disable`. Lists replace those of other files: they repeat what was there.\nversion = {version}\n"
    );
    if let Some(directory) = &wanted.verifiers {
        let directory = Value::from(directory.display().to_string());
        head += &format!("\n[plugins.\"{VERIFIERS}\"]\nbin_dir ={directory}\n", directory = spaced(directory));
    }
    let mut document = parse(&put(&head, wanted, &[Part::Proxies, Part::Differs, Part::Unpack])?)?;
    for handler in &wanted.handlers {
        let mut handler = handler.clone();
        if version < 3
            && let Some(plugin) = handler.section.first_mut()
        {
            CRI_1.clone_into(plugin);
        }
        handlers::put(&mut document, &handler, false)?;
    }
    Ok(document.to_string())
}

fn spaced(value: Value) -> String {
    format!(" {}", value.to_string().trim())
}

/// `text` with `pattern` at the end of its `imports`.
///
/// # Errors
/// Where it is not TOML, or `imports` is no list.
pub fn import(text: &str, pattern: &str) -> Result<String, String> {
    let mut document = parse(text)?;
    let imports = document.entry("imports").or_insert_with(|| value(Array::new()));
    let list = imports.as_array_mut().ok_or("imports is no list")?;
    if !list.iter().any(|known| known.as_str() == Some(pattern)) {
        list.push(pattern);
    }
    Ok(document.to_string())
}

/// `text` with exactly these `imports`.
///
/// # Errors
/// Where it is not TOML.
pub fn with_imports(text: &str, imports: &[String]) -> Result<String, String> {
    let mut document = parse(text)?;
    document.insert("imports", value(imports.iter().map(String::as_str).collect::<Array>()));
    Ok(document.to_string())
}

/// The `imports` and the `version` of a file.
///
/// # Errors
/// Where it is not TOML.
pub fn head(text: &str) -> Result<(Vec<String>, Option<i64>), String> {
    let document = parse(text)?;
    let imports = document
        .get("imports")
        .and_then(Item::as_array)
        .map(|list| list.iter().filter_map(|import| import.as_str().map(str::to_owned)).collect());
    Ok((imports.unwrap_or_default(), document.get("version").and_then(Item::as_integer)))
}

/// `text` with a version, where it has none and needs one.
///
/// # Errors
/// For a configuration of version 1, which names plugins another way.
pub fn versioned(text: &str) -> Result<String, String> {
    let mut document = parse(text)?;
    let short = |name: &str| !name.contains('.');
    let old_names = document
        .get("plugins")
        .and_then(Item::as_table_like)
        .is_some_and(|plugins| plugins.iter().any(|(name, _)| short(name)));
    match document.get("version").and_then(Item::as_integer) {
        Some(2..) => {}
        None | Some(0) if !old_names => {
            document.insert("version", value(2));
        }
        _ => return Err("it is of version 1".to_owned()),
    }
    Ok(document.to_string())
}

/// What an entry is for.
fn place(entry: &dyn TableLike) -> (String, String) {
    let text = |key: &str| entry.get(key).and_then(Item::as_str).unwrap_or_default().to_owned();
    (text("platform"), text("snapshotter"))
}

fn place_of(entry: &toml::Table) -> (String, String) {
    let text = |key: &str| entry.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    (text("platform"), text("snapshotter"))
}

fn parse(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|error: toml_edit::TomlError| {
        let line = error.span().map_or(1, |span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
        format!("line {line}: {}", error.message().lines().next().unwrap_or_default())
    })
}

fn section<'a>(document: &'a DocumentMut, name: &str) -> Option<&'a dyn TableLike> {
    document.get("plugins")?.as_table_like()?.get(name)?.as_table_like()
}

fn section_mut<'a>(document: &'a mut DocumentMut, name: &str) -> Option<&'a mut dyn TableLike> {
    document.get_mut("plugins")?.as_table_like_mut()?.get_mut(name)?.as_table_like_mut()
}

/// The table at `path`, made where it is missing.
fn table<'a>(document: &'a mut DocumentMut, path: &[&str]) -> Result<&'a mut dyn TableLike, String> {
    let mut here: &mut dyn TableLike = document.as_table_mut();
    for (depth, key) in path.iter().enumerate() {
        let last = depth + 1 == path.len();
        let fresh = || {
            let mut table = Table::new();
            table.set_implicit(!last);
            Item::Table(table)
        };
        here =
            here.entry(key).or_insert_with(fresh).as_table_like_mut().ok_or_else(|| format!("{key} is no section"))?;
    }
    Ok(here)
}

fn implicit(document: &mut DocumentMut, name: &str) {
    let plugins = document.get_mut("plugins").and_then(Item::as_table_like_mut);
    if let Some(Item::Table(section)) = plugins.and_then(|plugins| plugins.get_mut(name)) {
        section.set_implicit(true);
    }
}

/// Sets a key and keeps the comment behind the value that was there.
fn set(table: &mut dyn TableLike, key: &str, mut fresh: Value) {
    match table.get_mut(key) {
        Some(Item::Value(old)) => {
            *fresh.decor_mut() = old.decor().clone();
            *old = fresh;
        }
        _ => {
            table.insert(key, Item::Value(fresh));
        }
    }
}

mod handlers;
mod take_out;
#[cfg(test)]
mod tests;

pub use handlers::{base_spec_of, base_specs_of, without_base_specs};
pub use take_out::{Since, take_out};

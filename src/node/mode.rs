//! `mode` in pullgate's own configuration. Pure.

#![deny(clippy::disallowed_methods)]

use toml_edit::{DocumentMut, Item, Value, value};

use crate::config::NodeMode;

/// `text` with this mode, and every comment where it was.
///
/// # Errors
/// Where it is not TOML.
pub fn set(text: &str, mode: NodeMode) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
    match document.get_mut("mode") {
        Some(Item::Value(old)) => {
            let mut fresh = Value::from(mode.to_string());
            *fresh.decor_mut() = old.decor().clone();
            *old = fresh;
        }
        _ => {
            document.insert("mode", value(mode.to_string()));
        }
    }
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mode_changes() {
        let shipped = include_str!("../../config/config.toml");
        let after = set(shipped, NodeMode::Enforce).unwrap();
        assert_eq!(after, shipped.replace("\nmode = \"audit\"", "\nmode = \"enforce\""));
        assert_eq!(set(&after, NodeMode::Audit).unwrap(), shipped);
        assert_eq!(
            set("mode = 'audit' # for now\n[node]\n", NodeMode::Enforce).unwrap(),
            "mode = \"enforce\" # for now\n[node]\n"
        );
        assert_eq!(set("", NodeMode::Audit).unwrap(), "mode = \"audit\"\n");
        assert!(set("mode = ", NodeMode::Audit).is_err());
    }
}

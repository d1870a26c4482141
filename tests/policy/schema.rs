//! As much of JSON Schema (draft 2020-12) as the published schema uses. A keyword that is not known here is a failure.

use serde_json::Value;

/// What `schema` finds wrong with `value`.
pub(crate) fn mistakes(schema: &Value, value: &Value) -> Vec<String> {
    let mut mistakes = Vec::new();
    check(schema, schema, value, "", &mut mistakes);
    mistakes
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, mistakes: &mut Vec<String>) {
    for (keyword, wanted) in schema.as_object().unwrap() {
        let holds = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let target = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                check(root, root.pointer(target).unwrap(), value, at, mistakes);
                true
            }
            "type" => match wanted.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                other => panic!("type {other}"),
            },
            "allOf" => {
                wanted.as_array().unwrap().iter().for_each(|schema| check(root, schema, value, at, mistakes));
                true
            }
            "const" => value == wanted,
            "enum" => wanted.as_array().unwrap().contains(value),
            "oneOf" => {
                let fits = |schema: &&Value| {
                    let mut mistakes = Vec::new();
                    check(root, schema, value, at, &mut mistakes);
                    mistakes.is_empty()
                };
                wanted.as_array().unwrap().iter().filter(fits).count() == 1
            }
            "properties" => {
                for (key, schema) in wanted.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        check(root, schema, value, &format!("{at}/{key}"), mistakes);
                    }
                }
                true
            }
            "propertyNames" => {
                for key in value.as_object().into_iter().flat_map(|table| table.keys()) {
                    check(root, wanted, &Value::from(key.as_str()), at, mistakes);
                }
                true
            }
            "additionalProperties" => additional(root, schema, wanted, value, at, mistakes),
            "required" => wanted.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, wanted, item, &format!("{at}/{number}"), mistakes);
                }
                true
            }
            "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= wanted.as_u64().unwrap()),
            "minProperties" => value.as_object().is_none_or(|table| table.len() as u64 >= wanted.as_u64().unwrap()),
            "maxProperties" => value.as_object().is_none_or(|table| table.len() as u64 <= wanted.as_u64().unwrap()),
            "minimum" => value.as_i64().is_none_or(|number| number >= wanted.as_i64().unwrap()),
            "maximum" => value.as_i64().is_none_or(|number| number <= wanted.as_i64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= wanted.as_u64().unwrap()),
            "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 <= wanted.as_u64().unwrap()),
            "pattern" => value.as_str().is_none_or(|text| matches(wanted.as_str().unwrap(), text)),
            other => panic!("{other} is not known to this test"),
        };
        if !holds {
            mistakes.push(format!("{at}: {keyword} {wanted}, found {value}"));
        }
    }
}

fn additional(
    root: &Value,
    schema: &Value,
    wanted: &Value,
    value: &Value,
    at: &str,
    mistakes: &mut Vec<String>,
) -> bool {
    let named = |key: &str| schema["properties"].get(key).is_some();
    let others = value.as_object().into_iter().flatten().filter(|(key, _)| !named(key));
    match wanted {
        Value::Bool(false) => others.count() == 0,
        wanted => {
            others.for_each(|(key, value)| check(root, wanted, value, &format!("{at}/{key}"), mistakes));
            true
        }
    }
}

/// Whether `text` has a part that `pattern` describes.
fn matches(pattern: &str, text: &str) -> bool {
    regex::Regex::new(pattern).unwrap().is_match(text)
}

//! Checks a command's JSON document against its schema in `tests/schemas`: it
//! must have the same keys in the same order on success and on failure, and
//! values of the right types.

use std::path::Path;

use serde_json::Value as Json;

/// Returns the first violation of the schema, or `None` if the document
/// matches.
pub fn violation(document: &Json) -> Option<String> {
    let name = document["schema"].as_str()?;
    let command = name.strip_prefix("fanout.")?.strip_suffix("/v1")?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/schemas/{command}.json"));
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Some(format!("{name} has no {}", path.display()));
    };
    let schema: Json = serde_json::from_str(&text).expect("a schema");
    let required = schema["required"].as_array().expect("keys");
    let expected: Vec<&str> = required.iter().filter_map(Json::as_str).collect();
    let fields = document.as_object().expect("an object");
    let found: Vec<&str> = fields.keys().map(String::as_str).collect();
    if found != expected {
        return Some(format!("{name} has {found:?}, not {expected:?}"));
    }
    fields.iter().find_map(|(key, value)| {
        let property = &schema["properties"][key];
        let is_wrong = !has_type(value, property) || !has_required_keys(value, property);
        is_wrong.then(|| format!("{name}: {key} is {value}"))
    })
}

fn has_type(value: &Json, property: &Json) -> bool {
    if let Some(constant) = property.get("const") {
        return value == constant;
    }
    let types = match &property["type"] {
        Json::Array(types) => types.iter().filter_map(Json::as_str).collect(),
        single => vec![single.as_str().expect("a type")],
    };
    types.iter().any(|name| match *name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    })
}

fn has_required_keys(value: &Json, property: &Json) -> bool {
    let required = property["required"].as_array().into_iter().flatten();
    let mut names = required.filter_map(Json::as_str);
    value.is_null() || names.all(|name| value.get(name).is_some())
}

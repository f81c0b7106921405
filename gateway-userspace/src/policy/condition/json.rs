//! JSON as CEL values: integers become integers, and nothing is too long to go through.

use std::collections::HashMap;

use cel::{Value, objects::Key};
use serde_json::Value as Json;

use super::{ENTRIES_MAX, Sized, Trouble};

/// Converts a document.
pub(super) fn convert(json: &Json) -> Result<Sized, Trouble> {
    let mut longest = (0, 0);
    let value = value(json, &mut longest)?;
    let (entries, text) = longest;
    Ok(Sized {
        value,
        entries,
        text,
    })
}

/// Converts an object.
pub(super) fn convert_object(object: &serde_json::Map<String, Json>) -> Result<Sized, Trouble> {
    let mut longest = (0, 0);
    let value = fields(object, &mut longest)?;
    let (entries, text) = longest;
    Ok(Sized {
        value,
        entries,
        text,
    })
}

fn fields(
    object: &serde_json::Map<String, Json>,
    longest: &mut (usize, usize),
) -> Result<Value, Trouble> {
    longest.0 = fits(object.len())?.max(longest.0);
    let fields = object.iter().map(|(name, it)| {
        longest.1 = name.len().max(longest.1);
        Ok((Key::from(name.as_str()), value(it, longest)?))
    });
    Ok(fields.collect::<Result<HashMap<_, _>, _>>()?.into())
}

fn value(json: &Json, longest: &mut (usize, usize)) -> Result<Value, Trouble> {
    let (entries, text) = longest;
    match json {
        Json::Null => Ok(Value::Null),
        Json::Bool(it) => Ok(Value::Bool(*it)),
        Json::Number(number) => Ok(match (number.as_i64(), number.as_u64()) {
            (Some(it), _) => Value::Int(it),
            (None, Some(it)) => Value::UInt(it),
            (None, None) => Value::Float(number.as_f64().ok_or(Trouble::Failed)?),
        }),
        Json::String(it) => {
            *text = it.len().max(*text);
            Ok(it.as_str().into())
        }
        Json::Array(list) => {
            *entries = fits(list.len())?.max(*entries);
            let list = list.iter().map(|it| value(it, longest));
            Ok(Value::List(list.collect::<Result<Vec<_>, _>>()?.into()))
        }
        Json::Object(object) => fields(object, longest),
    }
}

const fn fits(entries: usize) -> Result<usize, Trouble> {
    if entries > ENTRIES_MAX {
        return Err(Trouble::Large);
    }
    Ok(entries)
}

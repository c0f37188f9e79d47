//! One object, or a table of its fields.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use serde_json::{Map, Value, json};

/// Prints what `command` found.
pub(super) fn print(command: &str, json: bool, report: &Map<String, Value>, out: &mut impl Write) -> io::Result<()> {
    if json {
        let mut object = Map::new();
        object.insert("command".to_owned(), json!(command));
        object.extend(report.clone());
        return writeln!(out, "{}", Value::Object(object));
    }
    writeln!(out, "{command}")?;
    rows(report, 2, out)
}

fn rows(fields: &Map<String, Value>, indent: usize, out: &mut impl Write) -> io::Result<()> {
    for (name, value) in fields {
        match value {
            Value::Object(fields) if name == "far" => {
                writeln!(out, "{:indent$}far end", "")?;
                rows(fields, indent + 2, out)?;
            }
            Value::Object(fields) => {
                let cells = fields.iter().map(|(name, value)| format!("{name} {}", text(value)));
                writeln!(out, "{:indent$}{name:<18} {}", "", cells.collect::<Vec<_>>().join(", "))?;
            }
            value => writeln!(out, "{:indent$}{name:<18} {}", "", text(value))?,
        }
    }
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Number(number) if number.is_f64() => format!("{:.3}", number.as_f64().unwrap_or(0.0)),
        value => value.to_string(),
    }
}

//! TOML text and `KEY=VALUE` overrides to a [`Config`], with errors that say where.

use toml::{Table, Value, de::DeTable};

use super::Config;
use crate::failure::{Code, Failure};

/// No configuration is larger; what is, is some other file.
const MAX_BYTES: usize = 1 << 20;

pub(super) fn read(text: &str, origin: &str, overrides: &[String]) -> Result<Config, Failure> {
    let fail = |message: String| Failure::new(Code::Config, message);
    if text.len() > MAX_BYTES {
        let message = format!("{origin}: {} bytes, expected at most {MAX_BYTES}", text.len());
        return Err(fail(message));
    }
    let at = |start: Option<usize>| match start {
        Some(start) => format!("{origin}:{}", 1 + text[..start].matches('\n').count()),
        None => origin.to_owned(),
    };
    let describe = |error: toml::de::Error| {
        fail(format!("{}: {}", at(error.span().map(|span| span.start)), one_line(&error)))
    };
    for (key, start) in keys(text).map_err(describe)? {
        known(&key).map_err(|message| fail(format!("{}: {message}", at(Some(start)))))?;
    }
    let mut config: Config = toml::from_str(text).map_err(describe)?;
    for set in overrides {
        config = with_override(&config, set)
            .map_err(|message| fail(format!("--set {set}: {message}")))?;
    }
    Ok(config)
}

/// The dotted keys of a text, each with where it begins.
fn keys(text: &str) -> Result<Vec<(String, usize)>, toml::de::Error> {
    let mut keys = Vec::new();
    collect_keys("", DeTable::parse(text)?.get_ref(), &mut keys);
    Ok(keys)
}

fn collect_keys(section: &str, table: &DeTable<'_>, keys: &mut Vec<(String, usize)>) {
    for (name, value) in table {
        let key = format!("{section}{}", name.get_ref());
        match value.get_ref().as_table() {
            Some(table) => collect_keys(&format!("{key}."), table, keys),
            None => keys.push((key, name.span().start)),
        }
    }
}

/// Fails unless there is such a key.
fn known(key: &str) -> Result<(), String> {
    let fields = Config::fields();
    if fields.iter().any(|field| field.key == key) {
        return Ok(());
    }
    // A key without its section is near to the field of that name.
    let distance = |known: &str| {
        let name = known.rsplit('.').next().unwrap_or(known);
        strsim::damerau_levenshtein(key, known).min(strsim::damerau_levenshtein(key, name))
    };
    let nearest = fields.iter().map(|field| &field.key).min_by_key(|known| distance(known));
    let nearest = nearest.expect("there are fields");
    Err(format!("unknown key `{key}`, nearest is `{nearest}`"))
}

/// The configuration with one `KEY=VALUE` applied. A value that is no TOML is a string.
fn with_override(config: &Config, set: &str) -> Result<Config, String> {
    let (key, value) = set.split_once('=').ok_or("expected KEY=VALUE")?;
    let (key, value) = (key.trim(), value.trim());
    known(key)?;
    let value = match toml::from_str::<Table>(&format!("value = {value}")) {
        Ok(table) if table.len() == 1 => table["value"].clone(),
        _ => Value::String(value.to_owned()),
    };
    let (section, name) = key.rsplit_once('.').expect("every known key has a section");
    let mut table = Table::try_from(config).map_err(|error| error.to_string())?;
    let section = section.split('.').fold(&mut table, |table, name| {
        let section = table.get_mut(name).and_then(Value::as_table_mut);
        section.expect("every section is a table")
    });
    section.insert(name.to_owned(), value);
    table.try_into().map_err(|error: toml::de::Error| one_line(&error))
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().lines().collect::<Vec<_>>().join(" ")
}

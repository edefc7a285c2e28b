//! `${env:NAME}` and `${file:PATH}` in any string of a configuration; `$${` is a literal `${`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::config::context::Context;
use crate::config::environment::Environment;
use crate::config::limits::INTERPOLATED_FILE_BYTES;
use crate::config::schema::below;
use crate::config::tree::{Node, Table, Value};

/// Puts variables and files into every string of the tree. What cannot be had is a mistake.
pub(super) fn fill(table: &mut Table, path: &str, environment: &Environment, context: &Context) {
    for (name, node) in table {
        fill_node(node, &below(path, name), environment, context);
    }
}

fn fill_node(node: &mut Node, path: &str, environment: &Environment, context: &Context) {
    match &mut node.value {
        Value::Table(table) => fill(table, path, environment, context),
        Value::List(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                fill_node(item, &format!("{path}[{i}]"), environment, context);
            }
        }
        Value::Text(text) => {
            let source = Source { environment, folder: &context.folder_of(&node.place), context };
            match source.expand(&text.written) {
                Ok(value) => text.value = value,
                Err(wrong) => {
                    context.mistake(&node.place, path, wrong);
                    node.value = Value::Broken;
                }
            }
        }
        Value::Flag(_) | Value::Number(_) | Value::Foreign(_) | Value::Broken => {}
    }
}

struct Source<'a> {
    environment: &'a Environment,
    folder: &'a Path,
    /// Hears of the files that were put in.
    context: &'a Context,
}

impl Source<'_> {
    fn expand(&self, written: &str) -> Result<String, String> {
        let mut value = String::with_capacity(written.len());
        let mut rest = written;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                value.push_str(before);
                value.push_str("${");
                rest = after;
                continue;
            }
            let (reference, after) =
                after.split_once('}').ok_or("`${` without `}`; write `$${` for the characters themselves")?;
            value.push_str(before);
            value.push_str(&self.look_up(reference)?);
            rest = after;
        }
        value.push_str(rest);
        Ok(value)
    }

    fn look_up(&self, reference: &str) -> Result<String, String> {
        match reference.split_once(':') {
            Some(("env", name)) => self.variable(name),
            Some(("file", path)) => self.file(&self.folder.join(path)),
            _ => Err(format!("${{{reference}}} is unknown; write ${{env:NAME}} or ${{file:PATH}}")),
        }
    }

    fn file(&self, path: &Path) -> Result<String, String> {
        self.context.put_in(path.to_path_buf());
        read(path)
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        let value = self.environment.get(name).map(ToOwned::to_owned);
        value.ok_or_else(|| format!("the variable {name} is not set"))
    }
}

/// Returns a file's content without the newline that editors and `echo` end it with.
fn read(path: &Path) -> Result<String, String> {
    let mut content = String::new();
    File::open(path)
        .and_then(|file| file.take(INTERPOLATED_FILE_BYTES + 1).read_to_string(&mut content))
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if content.len() as u64 > INTERPOLATED_FILE_BYTES {
        return Err(format!("{} is longer than {INTERPOLATED_FILE_BYTES} bytes", path.display()));
    }
    let end = content.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).len());
    content.truncate(end.unwrap_or(content.len()));
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(written: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "s3cret\n\n").unwrap();
        let environment = Environment::from([("WHO", "alice"), ("TRICK", "${env:WHO}")]);
        let context = Context::new(None, Default::default());
        Source { environment: &environment, folder: folder.path(), context: &context }.expand(written)
    }

    #[test]
    fn variables_and_files_are_put_in() {
        assert_eq!(expand("a ${env:WHO} b ${env:WHO}"), Ok("a alice b alice".to_owned()));
        assert_eq!(expand("${file:secret}!"), Ok("s3cret\n!".to_owned()));
    }

    #[test]
    fn what_was_put_in_is_not_read_again() {
        assert_eq!(expand("${env:TRICK}"), Ok("${env:WHO}".to_owned()));
    }

    #[test]
    fn a_doubled_dollar_is_a_literal_one() {
        assert_eq!(expand("$${env:WHO} $1 $$"), Ok("${env:WHO} $1 $$".to_owned()));
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        assert_eq!(expand("${env:NOBODY}"), Err("the variable NOBODY is not set".to_owned()));
        assert!(expand("${file:none}").unwrap_err().contains("none cannot be read: "));
        assert!(expand("${user}").unwrap_err().contains("write ${env:NAME} or ${file:PATH}"));
        assert!(expand("${env:WHO").unwrap_err().contains("without `}`"));
    }
}

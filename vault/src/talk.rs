//! The conversation with the caller: a secret and lines in, JSON lines out.

use std::fmt::Write as _;
use std::io::{self, BufRead, Read, Write};

use crate::fault::{Code, Fault, Step};
use crate::image::KEY_BYTES;

/// Of a line that is understood here; longer ones are refused.
const MAX_LINE_BYTES: u64 = 256;
const MAX_DETAIL_CHARS: usize = 500;

/// The first bytes of standard input, which are the secret.
pub fn secret() -> Result<[u8; KEY_BYTES], Fault> {
    let mut secret = [0; KEY_BYTES];
    io::stdin()
        .lock()
        .read_exact(&mut secret)
        .step("read the secret")?;
    Ok(secret)
}

/// The next line, without its end. A caller that has gone is a fault: nobody wants the rest done.
pub fn line() -> Result<String, Fault> {
    let mut line = String::new();
    let mut input = io::stdin().lock().take(MAX_LINE_BYTES);
    input.read_line(&mut line).step("read a line")?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => Err(Fault::new(Code::Failed, "the caller has gone")),
    }
}

/// Says one event. Each value is a number or a string.
pub fn say(event: &str, fields: &[(&str, Value)]) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    out.write_all(format(event, fields).as_bytes())
        .and_then(|()| out.flush())
        .step("answer the caller")
}

/// Ends the process with a fault. Of several threads' faults the first is told.
pub fn end(fault: &Fault) -> ! {
    let detail: String = fault.detail.chars().take(MAX_DETAIL_CHARS).collect();
    let fields = [
        ("code", fault.code.name().into()),
        ("detail", detail.as_str().into()),
    ];
    // Held to the end, so that no other thread can say anything after this.
    let mut out = io::stdout().lock();
    // If the caller is gone too, nobody is left to tell.
    let _ = out.write_all(format("error", &fields).as_bytes());
    let _ = out.flush();
    std::process::exit(1)
}

pub enum Value<'a> {
    Number(u64),
    Text(&'a str),
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

fn format(event: &str, fields: &[(&str, Value)]) -> String {
    let mut line = format!("{{\"event\":\"{event}\"");
    for (name, value) in fields {
        // Writing to a string cannot fail.
        let _ = match value {
            Value::Number(number) => write!(line, ",\"{name}\":{number}"),
            Value::Text(text) => write!(line, ",\"{name}\":\"{}\"", escape(text)),
        };
    }
    line.push_str("}\n");
    line
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            '\0'..='\x1f' => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event is one line of JSON whatever its text holds.
    #[test]
    fn one_line() {
        assert_eq!(
            format("error", &[("detail", "a\"b\\c\nd".into()), ("n", 3.into())]),
            "{\"event\":\"error\",\"detail\":\"a\\\"b\\\\c d\",\"n\":3}\n"
        );
    }
}

//! The command line, parsed strictly: what is not understood is refused.
//!
//! ```text
//! terp-vault save --pid PID --base FD --out FD --context TEXT --buffer-mib N
//! terp-vault load --in FD --base FD --context TEXT
//! terp-vault overlay --from EMPTY --to PATH
//! ```

use std::collections::HashMap;
use std::path::PathBuf;

/// 4 GiB: more memory than any buffer is worth.
const MAX_BUFFER_MIB: usize = 4096;

#[derive(Debug, PartialEq)]
pub struct Save {
    pub pid: i32,
    pub base: i32,
    pub out: i32,
    pub context: String,
    pub buffer_mib: usize,
}

#[derive(Debug, PartialEq)]
pub struct Load {
    pub image: i32,
    pub base: i32,
    pub context: String,
}

#[derive(Debug, PartialEq)]
pub struct Overlay {
    pub from: PathBuf,
    pub to: PathBuf,
}

#[derive(Debug, PartialEq)]
pub enum Command {
    Save(Save),
    Load(Load),
    Overlay(Overlay),
}

/// # Errors
/// A sentence that names the argument that is wrong.
pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
    let command = words
        .next()
        .ok_or("what to do is missing: save, load or overlay")?;
    let mut options = Options::read(words)?;
    let parsed = match command.as_str() {
        "save" => Command::Save(Save {
            pid: options.number("--pid", 1, i32::MAX)?,
            base: options.descriptor("--base")?,
            out: options.descriptor("--out")?,
            context: options.take("--context")?,
            buffer_mib: options.number("--buffer-mib", 0, MAX_BUFFER_MIB)?,
        }),
        "load" => Command::Load(Load {
            image: options.descriptor("--in")?,
            base: options.descriptor("--base")?,
            context: options.take("--context")?,
        }),
        "overlay" => Command::Overlay(Overlay {
            from: options.take("--from")?.into(),
            to: options.take("--to")?.into(),
        }),
        _ => return Err(format!("unknown: {command}; save, load or overlay")),
    };
    options.none_left()?;
    Ok(parsed)
}

struct Options(HashMap<String, String>);

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = HashMap::new();
        while let Some(name) = words.next() {
            let value = words.next().ok_or(format!("{name} needs a value"))?;
            if options.insert(name.clone(), value).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        Ok(Self(options))
    }

    fn take(&mut self, name: &str) -> Result<String, String> {
        self.0.remove(name).ok_or(format!("{name} is needed"))
    }

    fn number<T>(&mut self, name: &str, least: T, most: T) -> Result<T, String>
    where
        T: std::str::FromStr + PartialOrd + Copy + std::fmt::Display,
    {
        let value = self.take(name)?;
        match value.parse() {
            Ok(number) if number >= least && number <= most => Ok(number),
            _ => Err(format!("{name} must be from {least} to {most}: {value}")),
        }
    }

    /// Above the standard streams.
    fn descriptor(&mut self, name: &str) -> Result<i32, String> {
        self.number(name, 3, i32::MAX)
    }

    fn none_left(&self) -> Result<(), String> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("unknown option: {name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(String::from))
    }

    /// Each command is understood whole.
    #[test]
    fn commands() {
        assert_eq!(
            parsed("save --pid 7 --base 3 --out 4 --context a/b --buffer-mib 0"),
            Ok(Command::Save(Save {
                pid: 7,
                base: 3,
                out: 4,
                context: "a/b".into(),
                buffer_mib: 0
            }))
        );
        assert_eq!(
            parsed("load --context c --in 3 --base 5"),
            Ok(Command::Load(Load {
                image: 3,
                base: 5,
                context: "c".into()
            }))
        );
        assert!(parsed("overlay --from /a --to /b").is_ok());
    }

    /// A standard stream, a process group, a second value or anything unknown is refused.
    #[test]
    fn refused() {
        for line in [
            "",
            "burn",
            "overlay --from /a",
            "overlay --from /a --to",
            "overlay --from /a --to /b --to /c",
            "overlay --from /a --to /b --mode 1",
            "load --context c --in 0 --base 5",
            "load --context c --in x --base 5",
            "save --pid -1 --base 3 --out 4 --context a --buffer-mib 0",
            "save --pid 0 --base 3 --out 4 --context a --buffer-mib 0",
            "save --pid 1 --base 3 --out 4 --context a --buffer-mib 99999",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}

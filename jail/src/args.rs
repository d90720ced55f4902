//! The command line, parsed strictly: what is not understood is refused.
//!
//! ```text
//! terp-jail --name NAME --root DIR [--uid N --gid N] [--stderr FD] [--fd FD]… [--ro FILE NAME]…
//!           [--rw FILE NAME]… -- /program [argument]…
//! ```

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;

/// Host names hold 64 bytes with their end (`__NEW_UTS_LEN` in Linux).
const MAX_NAME_BYTES: usize = 63;

/// A file that appears in the room as `/m/<name>`.
#[derive(Debug)]
pub struct Bind {
    pub source: CString,
    pub name: CString,
    pub writable: bool,
}

/// All that makes one jail. `ids` is the (uid, gid) to become, and None when started without root.
#[derive(Debug, Default)]
pub struct Spec {
    pub name: String,
    pub root: CString,
    pub ids: Option<(u32, u32)>,
    pub binds: Vec<Bind>,
    pub fds: Vec<i32>,
    pub stderr: Option<i32>,
    pub argv: Vec<CString>,
}

/// # Errors
/// A sentence that names the argument that is wrong.
pub fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Spec, String> {
    let mut spec = Spec::default();
    let (mut uid, mut gid) = (None, None);
    loop {
        let flag = words.next().ok_or("the program is missing: -- /program")?;
        let flag = flag.to_str().ok_or("an option is not UTF-8")?.to_owned();
        let mut value = || words.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--name" => spec.name = host_name(value()?)?,
            "--root" => spec.root = c_string(value()?)?,
            "--uid" => uid = Some(id(&flag, value()?)?),
            "--gid" => gid = Some(id(&flag, value()?)?),
            "--fd" => spec.fds.push(descriptor(&flag, value()?)?),
            "--stderr" => spec.stderr = Some(descriptor(&flag, value()?)?),
            "--ro" | "--rw" => spec.binds.push(Bind {
                source: c_string(value()?)?,
                name: file_name(value()?)?,
                writable: flag == "--rw",
            }),
            "--" => break,
            _ => return Err(format!("unknown option: {flag}")),
        }
    }
    spec.argv = words.map(c_string).collect::<Result<_, _>>()?;
    spec.ids = match (uid, gid) {
        (None, None) => None,
        (Some(uid), Some(gid)) => Some((uid, gid)),
        _ => return Err("--uid and --gid go together".into()),
    };
    if spec.name.is_empty() || spec.root.is_empty() {
        return Err("--name and --root are needed".into());
    }
    if !spec
        .argv
        .first()
        .is_some_and(|program| program.as_bytes().starts_with(b"/"))
    {
        return Err("the program must be an absolute path".into());
    }
    Ok(spec)
}

fn c_string(word: OsString) -> Result<CString, String> {
    CString::new(word.into_vec()).map_err(|_| "an argument holds a zero byte".into())
}

fn host_name(word: OsString) -> Result<String, String> {
    let name = word.into_string().map_err(|_| "--name is not UTF-8")?;
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(sound) {
        return Err(format!(
            "--name must be 1 to {MAX_NAME_BYTES} of [A-Za-z0-9._-]: {name}"
        ));
    }
    Ok(name)
}

/// A name without a slash, so that no mount point can be made anywhere but in `/m`.
fn file_name(word: OsString) -> Result<CString, String> {
    let name = word
        .into_string()
        .map_err(|_| "a name in the room is not UTF-8")?;
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(sound) {
        return Err(format!(
            "a name in the room must be of [A-Za-z0-9._-] and not begin with a dot: {name}"
        ));
    }
    c_string(name.into())
}

/// Never 0, which would be root, nor the last, which means "unchanged" to setresuid(2).
fn id(flag: &str, word: OsString) -> Result<u32, String> {
    let word = word.into_string().unwrap_or_default();
    match word.parse() {
        Ok(id) if id != 0 && id != u32::MAX => Ok(id),
        _ => Err(format!("{flag} must be from 1 to {}: {word}", u32::MAX - 1)),
    }
}

fn descriptor(flag: &str, word: OsString) -> Result<i32, String> {
    let word = word.into_string().unwrap_or_default();
    match word.parse() {
        Ok(fd) if fd > 2 => Ok(fd),
        _ => Err(format!("{flag} must be a descriptor above 2: {word}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Spec, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    /// A whole command line is understood.
    #[test]
    fn all_options() {
        let spec = parsed(
            "--name m_1 --root /r --uid 7 --gid 8 --fd 5 --stderr 6 --ro /a x --rw /b y.z -- /p -q",
        )
        .unwrap();

        assert_eq!(spec.ids, Some((7, 8)));
        assert_eq!(
            (spec.fds.as_slice(), spec.stderr),
            ([5].as_slice(), Some(6))
        );
        assert_eq!(
            spec.binds
                .iter()
                .map(|bind| bind.writable)
                .collect::<Vec<_>>(),
            [false, true]
        );
        assert_eq!(spec.argv.len(), 2);
    }

    /// Whatever could become root, leave `/m` or name a standard stream is refused.
    #[test]
    fn refused() {
        for options in [
            "--uid 0 --gid 1",
            "--uid 4294967295 --gid 1",
            "--uid 1",
            "--ro /a ../x",
            "--ro /a .",
            "--ro /a b/c",
            "--fd 2",
            "--fd x",
            "--surprise",
            "--name a/b",
        ] {
            assert!(
                parsed(&format!("--name m --root /r {options} -- /p")).is_err(),
                "{options}"
            );
        }
        for line in [
            "--root /r -- /p",
            "--name m -- /p",
            "--name m --root /r",
            "--name m --root /r --",
            "--name m --root /r -- p",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}

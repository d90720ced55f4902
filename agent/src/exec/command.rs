//! From a request to what the kernel is given: program, arguments, environment, working directory.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{Access, AtFlags, Mode, OFlags, CWD};

use crate::exec::spawn::Program;
use crate::fault::{Code, Fault};

/// Of a command, and of all arguments and of the whole environment; the kernel's own bounds are near.
const MAX_TEXT_BYTES: usize = 1 << 20;
const MAX_ARGUMENTS: usize = 4096;

/// Where every command starts from; the template, the sandbox and the request come over it, in this order.
const BASE_ENV: [(&str, &str); 7] = [
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
    ("LOGNAME", "root"),
    ("PATH", DEFAULT_PATH),
    ("SHELL", "/bin/bash"),
    ("TERM", "xterm"),
    ("USER", "root"),
];
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The shells tried for a command line, with their argv[0].
const SHELLS: [(&str, &str); 2] = [("/bin/bash", "bash"), ("/bin/sh", "sh")];

/// Later layers win.
///
/// # Errors
/// INVALID for a name that is empty or holds '=' or NUL, a value that holds NUL, or too much in all.
pub(crate) fn merge_env(layers: &[&BTreeMap<String, String>]) -> Result<BTreeMap<String, String>, Fault> {
    let mut merged: BTreeMap<_, _> =
        BASE_ENV.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    for layer in layers {
        check_env(layer)?;
        merged.extend(layer.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    Ok(merged)
}

pub(crate) fn check_env(env: &BTreeMap<String, String>) -> Result<(), Fault> {
    let mut total = 0usize;
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Fault::invalid("env: a name is empty or holds '=', or there is a NUL"));
        }
        total += name.len() + value.len() + 2;
    }
    if total > MAX_TEXT_BYTES {
        return Err(Fault::invalid(format!("env: more than {MAX_TEXT_BYTES} bytes: {total}")));
    }
    Ok(())
}

/// # Errors
/// INVALID when neither or both of *command* and *argv* are given, out of bounds, or nothing of argv[0]'s name is in PATH.
pub(crate) fn program(command: &str, argv: &[String], env: &BTreeMap<String, String>) -> Result<Program, Fault> {
    let candidates = match (command.is_empty(), argv) {
        (false, []) => {
            if command.len() > MAX_TEXT_BYTES {
                return Err(Fault::invalid(format!("command: longer than {MAX_TEXT_BYTES} bytes")));
            }
            let line = c_string(command, "command")?;
            SHELLS
                .iter()
                .map(|(path, name)| {
                    Ok((c_string(path, "shell")?, vec![c_string(name, "shell")?, c"-c".to_owned(), line.clone()]))
                })
                .collect::<Result<_, Fault>>()?
        }
        (true, [name, ..]) => {
            if argv.len() > MAX_ARGUMENTS {
                return Err(Fault::invalid(format!("argv: more than {MAX_ARGUMENTS} arguments")));
            }
            let strings = argv.iter().map(|argument| c_string(argument, "argv")).collect::<Result<_, _>>()?;
            vec![(look_up(name, env.get("PATH").map_or(DEFAULT_PATH, String::as_str))?, strings)]
        }
        _ => return Err(Fault::invalid("exactly one of command and argv must be given")),
    };
    let env = env.iter().map(|(name, value)| c_string(&format!("{name}={value}"), "env")).collect::<Result<_, _>>()?;
    Ok(Program { candidates, env })
}

fn look_up(name: &str, path: &str) -> Result<CString, Fault> {
    if name.contains('/') {
        return c_string(name, "argv");
    }
    for directory in path.split(':').filter(|directory| directory.starts_with('/')) {
        let candidate = c_string(&format!("{directory}/{name}"), "argv")?;
        let is_file = rustix::fs::stat(candidate.as_c_str())
            .is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode).is_file());
        if is_file && rustix::fs::accessat(CWD, candidate.as_c_str(), Access::EXEC_OK, AtFlags::empty()).is_ok() {
            return Ok(candidate);
        }
    }
    Err(Fault::invalid(format!("argv: program not found in PATH: {name}")))
}

fn c_string(text: &str, field: &str) -> Result<CString, Fault> {
    CString::new(text).map_err(|_| Fault::invalid(format!("{field}: must not hold NUL")))
}

/// The working directory, opened: it stays the same directory whatever happens to its path.
///
/// # Errors
/// INVALID when it is not absolute, does not exist or is no directory.
pub(crate) fn working_directory(cwd: &str) -> Result<OwnedFd, Fault> {
    if !cwd.starts_with('/') || cwd.len() > 4096 {
        return Err(Fault::invalid(format!("cwd: must be an absolute path of at most 4096 bytes: {cwd}")));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(cwd, flags, Mode::empty()).map_err(|errno| {
        let fault = Fault::os(errno, &format!("cwd: {cwd}"));
        match fault.code {
            Code::Exhausted | Code::Internal => fault,
            _ => Fault::invalid(fault.message),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// The request wins over the sandbox, the sandbox over the template, the template over the base.
    #[test]
    fn later_layers_win() {
        let merged = merge_env(&[
            &env(&[("HOME", "/image"), ("A", "image"), ("B", "image")]),
            &env(&[("A", "sandbox"), ("B", "sandbox")]),
            &env(&[("B", "request")]),
        ])
        .unwrap();
        assert_eq!(merged["HOME"], "/image");
        assert_eq!(merged["A"], "sandbox");
        assert_eq!(merged["B"], "request");
        assert_eq!(merged["PATH"], DEFAULT_PATH);
    }

    /// What execve could not express is refused.
    #[test]
    fn unusable_names_are_refused() {
        let none = env(&[]);
        for bad in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
            assert!(merge_env(&[&none, &env(&[bad])]).is_err(), "{bad:?}");
        }
    }

    /// A program is named by exactly one of command line and arguments, and must be there.
    #[test]
    fn programs_are_checked() {
        let none = env(&[]);
        let argv = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert!(program("", &[], &none).is_err());
        assert!(program("true", &argv(&["true"]), &none).is_err());
        assert!(program("a\0b", &[], &none).is_err());
        assert!(program("", &argv(&["no-such-program"]), &none).is_err());
        assert!(program("", &argv(&["sh", "-c", "true"]), &none).is_ok());
        assert_eq!(program("true", &[], &none).unwrap().candidates.len(), 2);
    }
}

//! The agent off PID 1: on a development machine, for the host's tests. It boots nothing and changes neither
//! clock nor names.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::agent::Agent;
use crate::cgroup::Cgroups;
use crate::exec::watch;
use crate::files::WriteRoots;
use crate::wire::channel::Channel;

const USAGE: &str = "usage: terp-agent --channel PATH [--cgroup DIR] [--write-root DIR]... [--services DIR]

  --channel PATH      character device to serve on, or unix socket to listen on
  --cgroup DIR        cgroup2 directory for commands, made if absent; without it process trees are killed
  --write-root DIR    in place of /workspace, /tmp and /persist; the first is the default working directory
  --services DIR      in place of /run/terp

example: terp-agent --channel /tmp/agent.sock --write-root /tmp/work";

pub(crate) struct Args {
    channel: PathBuf,
    cgroup: Option<PathBuf>,
    write_roots: Vec<PathBuf>,
    services: Option<PathBuf>,
}

impl Args {
    /// # Errors
    /// The usage text, with what was wrong in front.
    pub(crate) fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let (mut channel, mut cgroup, mut write_roots, mut services) = (None, None, Vec::new(), None);
        while let Some(flag) = args.next() {
            let mut value =
                || args.next().map(PathBuf::from).ok_or(format!("{} needs a value\n{USAGE}", flag.display()));
            match flag.to_str() {
                Some("--channel") => channel = Some(value()?),
                Some("--cgroup") => cgroup = Some(value()?),
                Some("--write-root") => write_roots.push(value()?),
                Some("--services") => services = Some(value()?),
                _ => return Err(format!("unknown argument: {}\n{USAGE}", flag.display())),
            }
        }
        let channel = channel.ok_or(format!("--channel is missing\n{USAGE}"))?;
        Ok(Self { channel, cgroup, write_roots, services })
    }

    /// # Errors
    /// The channel cannot be opened, or the cgroup or a write root cannot be used.
    pub(crate) fn start(self) -> std::io::Result<(Channel, Agent)> {
        watch::prepare_process()?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let cgroups = self.cgroup.map(|base| Cgroups::open(&base)).transpose()?;
        let roots = match self.write_roots.as_slice() {
            [] => WriteRoots::standard(),
            roots => WriteRoots::new(roots)?,
        };
        let mut agent = Agent::new(false, cgroups, roots, BTreeMap::new(), &std::env::temp_dir())?;
        if let Some(services) = self.services {
            agent.services = services;
        }
        Ok((Channel::open(&self.channel)?, agent))
    }
}

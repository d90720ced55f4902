//! The room: the prepared root, read-only, and in it `/m` with the machine's own files. Nothing else.
//!
//! Mount points are made in a small tmpfs, since the prepared root is shared by all machines. No /proc, /sys or /dev.

use std::ffi::CStr;

use crate::args::Spec;
use crate::sys::{self, Attributes};
use crate::{Fault, Step};

const FILES: &CStr = c"m";
/// Room for the mount points and for nothing else: one page, and inodes for more files than a machine has.
const FILES_OPTIONS: &CStr = c"size=4k,nr_inodes=64,mode=0555";

/// Makes the room the root of this process, whose mount namespace is already its own.
///
/// # Errors
/// The step that failed. The host's mounts are untouched.
pub fn enter(spec: &Spec) -> Result<(), Fault> {
    let shown = |path: &CStr| path.to_string_lossy().into_owned();
    sys::make_private(c"/").step("make the mounts private")?;

    // Everything is taken hold of by path before the paths change their meaning.
    let root = sys::clone_mount(&spec.root).step(format!("open root {}", shown(&spec.root)))?;
    sys::restrict(
        &root,
        Attributes::READ_ONLY.and(Attributes::NO_SUID_NO_DEVICES),
    )
    .step("restrict the root")?;
    let mut files = Vec::with_capacity(spec.binds.len());
    for bind in &spec.binds {
        let file = sys::clone_mount(&bind.source).step(format!("open {}", shown(&bind.source)))?;
        sys::require_regular(&file).step(format!("open {}", shown(&bind.source)))?;
        let mut attributes = Attributes::NO_SUID_NO_DEVICES.and(Attributes::NO_EXEC);
        if !bind.writable {
            attributes = attributes.and(Attributes::READ_ONLY);
        }
        sys::restrict(&file, attributes).step(format!("restrict {}", shown(&bind.source)))?;
        files.push((file, bind.name.as_c_str()));
    }

    sys::attach(&root, &spec.root).step("attach the root")?;
    sys::chdir(&spec.root).step("enter the root")?;
    sys::mount_tmpfs(FILES, FILES_OPTIONS).step("mount /m")?;
    sys::chdir(FILES).step("enter /m")?;
    for (file, name) in files {
        sys::make_file(name).step(format!("make mount point /m/{}", shown(name)))?;
        sys::attach(&file, name).step(format!("attach /m/{}", shown(name)))?;
    }
    let here = sys::open_path(c".").step("open /m")?;
    sys::restrict(&here, Attributes::READ_ONLY).step("restrict /m")?;

    sys::chdir(c"..").step("enter the root")?;
    // The old root ends on top of the new one and is taken off from there (pivot_root(2), "pivot_root(".", ".")").
    sys::pivot_root(c".", c".").step("change the root")?;
    sys::detach(c".").step("detach the old root")?;
    sys::chdir(c"/").step("enter the new root")
}

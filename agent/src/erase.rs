//! Memory that is given back is zeroed first, whatever was in it.
//!
//! Secrets pass through frames, messages, maps and argument vectors, each of which grows by moving. To zero the last of
//! these places would leave the others; the allocator sees them all. What is not given back, buffers that are used again,
//! is erased where it is used.

use std::alloc::{GlobalAlloc, Layout, System};

struct Erasing;

#[global_allocator]
static ALLOCATOR: Erasing = Erasing;

// SAFETY: everything is the system allocator's, with the layouts it was asked with. `realloc` is the trait's own: it makes
// a new block, copies, and gives the old one to `dealloc`.
unsafe impl GlobalAlloc for Erasing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is of that size and nobody else's any more.
        unsafe {
            libc::explicit_bzero(block.cast(), layout.size());
            System.dealloc(block, layout);
        }
    }
}

/// Zeroes what is going to be written over, in a way the compiler does not leave out.
pub(crate) fn erase(bytes: &mut [u8]) {
    // SAFETY: the slice is writable over its whole length.
    unsafe { libc::explicit_bzero(bytes.as_mut_ptr().cast(), bytes.len()) };
}

//! Programmatic dependent launch: the next kernel's prologue overlaps this kernel's tail.

use crate::ptx;

/// `griddepcontrol.wait`: until the kernels that this one depends on have finished and their memory is visible.
///
/// Called before the first access to what they write; returns at once when the launch has no such attribute. sm_90.
#[inline(always)]
pub fn wait() {
    ptx!("griddepcontrol.wait;", options(nostack));
}

/// `griddepcontrol.launch_dependents`: the dependent kernel may start once every block has called this or exited. sm_90.
///
/// It says nothing about memory: the dependent still calls [`wait`] before it reads results.
#[inline(always)]
pub fn launch_dependents() {
    ptx!("griddepcontrol.launch_dependents;", options(nostack));
}

//! What the kernels are tested against and with.
//!
//! | module | idea |
//! |---|---|
//! | [`precision`], [`dense`] | the two 16-bit formats, and tensors of values rounded to them |
//! | [`oracle`] | softmax attention in f64 on the CPU, and the same done naively in 16 bits |
//! | [`compare`] | when an output is right |
//! | [`case`](mod@case), [`lists`] | one problem as a line of text, and the lists of them |
//! | [`input`], [`layout`] | what the tensors hold, and where they lie in memory |
//! | [`sampled`] | some rows of an answer that is too large to check whole |
//! | [`gpu`] | a case on the device |
//! | [`companion`] | the kernels beside attention by themselves |
//! | [`suite`], [`bench`](mod@bench) | all cases checked, all shapes timed |
//! | [`pipeline`](mod@pipeline) | batches in host memory, and how well their copies and kernels overlap |
//! | [`pool`](mod@pool) | buffers that many timed problems share |
//! | [`tune`](mod@tune) | kernels of other plans, checked and timed beside the present ones |
//! | [`launch_path`], [`counting`] | what a launch costs the CPU, and how soon a process has its first answer |
//! | [`stand_in`] | the simulator in the place of the driver's library |
//! | [`probe`] | single instructions, recorded on hardware |
//! | [`recorded`] | what a GPU answered, for the simulator to agree with |
//! | [`serve`] | problems of serving engines, in all of these respects |
//! | [`sample`], [`demo`] | inputs and expected outputs in a safetensors file, and the main job on them |

pub mod bench;
pub mod case;
pub mod companion;
pub mod compare;
// Beside the tests of attn-host, which need it too.
#[path = "../../attn-host/src/tests/counting.rs"]
pub mod counting;
pub mod demo;
pub mod dense;
pub mod gpu;
#[cfg(doctest)]
pub mod guide;
pub mod input;
pub mod launch_path;
pub mod layout;
pub mod lists;
mod names;
pub mod oracle;
pub mod pipeline;
pub mod pool;
pub mod precision;
pub mod probe;
pub mod recorded;
pub mod sample;
pub mod sampled;
pub mod serve;
pub mod stand_in;
pub mod suite;
pub mod tune;

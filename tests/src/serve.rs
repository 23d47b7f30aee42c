//! What a serving engine asks for: sequences of different lengths, pages, windows, modified scores, splits.
//!
//! | module | idea |
//! |---|---|
//! | [`case`](mod@case), [`line`](mod@line), [`lengths`] | one problem as a line of text |
//! | [`inputs`] | what its sequences hold, and what is right |
//! | [`relations`] | other problems that have the same answer |
//! | [`gpu`](mod@gpu) | a problem on the device |
//! | [`random`] | combinations that nobody thought of |
//! | [`lists`] | lists of cases |
//! | [`pages`], [`layout`] | where their rows lie in memory |

pub mod case;
pub mod gpu;
pub mod inputs;
pub mod layout;
pub mod lengths;
pub mod line;
pub mod lists;
pub mod pages;
pub mod random;
pub mod relations;

//! What a serving engine asks for: sequences of different lengths, pages, windows, modified scores, splits.
//!
//! | module | idea |
//! |---|---|
//! | [`case`](mod@case), [`line`](mod@line), [`lengths`] | one problem as a line of text |
//! | [`inputs`] | what its sequences hold, and what is right |
//! | [`pages`], [`layout`] | where their rows lie in memory |

pub mod case;
pub mod inputs;
pub mod layout;
pub mod lengths;
pub mod line;
pub mod pages;

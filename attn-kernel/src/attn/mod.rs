//! Placeholder docs, written with the module.

//! The configuration: the file as written ([`raw`]), checked and cross-referenced ([`compile`]) into an immutable
//! [`snapshot`] that needs no further checking. Every [`problem`] is reported at once, each with its place in the file.

pub mod snapshot;

//! Client keys: how they are kept and found.

pub mod key;

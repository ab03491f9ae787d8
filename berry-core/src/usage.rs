//! What a request consumed.

//! Bytes that many finished requests have alike: made once, then copied.
//!
//! Most of a line or a span is the same for every request of one model that one backend answered. The rest of the program hands such
//! things out as shared pointers, so two requests that have the same pointers have the same names.

use std::hash::Hash;
use std::sync::Arc;

use berry_core::config::snapshot::{Backend, Model};
use rustc_hash::FxHashMap;

/// Most that are kept; then they are made anew. Bounds what is kept of configurations that are no longer in force.
const KEPT_MAX: usize = 1024;

/// Bytes by model, backend and whatever small words `W` they depend on beside these.
pub(super) struct Alike<W>(FxHashMap<(W, usize, usize), Kept>);

/// Holds what its key is the address of, so that nothing else can come to have that address.
struct Kept {
    bytes: Box<[u8]>,
    _of: (Arc<Model>, Arc<Backend>),
}

impl<W> Default for Alike<W> {
    fn default() -> Self {
        Self(FxHashMap::default())
    }
}

impl<W: Copy + Eq + Hash> Alike<W> {
    /// Appends the bytes of `words`, `model` and `backend` to `out`; `make` appends them when they are not known.
    pub(super) fn write(
        &mut self,
        (words, model, backend): (W, &Arc<Model>, &Arc<Backend>),
        out: &mut Vec<u8>,
        make: impl FnOnce(&mut Vec<u8>),
    ) {
        let key = (words, Arc::as_ptr(model).addr(), Arc::as_ptr(backend).addr());
        if let Some(kept) = self.0.get(&key) {
            return out.extend_from_slice(&kept.bytes);
        }
        let start = out.len();
        make(out);
        if self.0.len() == KEPT_MAX {
            self.0.clear();
        }
        self.0.insert(key, Kept { bytes: out[start..].into(), _of: (Arc::clone(model), Arc::clone(backend)) });
    }
}

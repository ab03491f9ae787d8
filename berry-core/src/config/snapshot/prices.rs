//! Prices by upstream model, for backends that state none.

use std::collections::HashMap;
use std::sync::Arc;

use super::Upstream;
use crate::id::UpstreamModel;
use crate::price_book::PriceBook;
use crate::tariff::Tariff;

/// The tariffs that do not stand on a backend.
#[derive(Debug)]
pub struct PriceTable {
    configured: HashMap<UpstreamModel, Arc<Tariff>>,
    unknown: Arc<Tariff>,
    free: Arc<Tariff>,
    book: Arc<PriceBook>,
}

impl Default for PriceTable {
    fn default() -> Self {
        Self::new(HashMap::new(), PriceBook::bundled())
    }
}

impl PriceTable {
    /// Those of `[pricing]`, then those of the book.
    pub(crate) fn new(configured: HashMap<UpstreamModel, Arc<Tariff>>, book: Arc<PriceBook>) -> Self {
        Self { book, configured, unknown: Arc::new(Tariff::unknown()), free: Arc::new(Tariff::free()) }
    }

    /// What `model` costs at `upstream`.
    pub fn find(&self, upstream: &Upstream, model: &str) -> &Arc<Tariff> {
        match (self.configured.get(model), upstream) {
            (Some(tariff), _) => tariff,
            (None, Upstream::Demo(_)) => &self.free,
            (None, _) => self.book.find(upstream, model).unwrap_or(&self.unknown),
        }
    }

    /// The price book.
    pub fn book(&self) -> &PriceBook {
        &self.book
    }

    /// What `[pricing]` states of `model`.
    pub fn configured(&self, model: &str) -> Option<&Arc<Tariff>> {
        self.configured.get(model)
    }
}

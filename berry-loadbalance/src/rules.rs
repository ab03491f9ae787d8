//! What of `[settings]` the balancing rules use.

use berry_core::config::snapshot::{Circuit, Probing, Settings, SmartAi};

/// The configured figures behind health and confidence. The same for every pool of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// When circuits open and for how long.
    pub circuit: Circuit,
    /// When backends are probed.
    pub probing: Probing,
    /// Confidence and the `smart_ai` strategy.
    pub smart_ai: SmartAi,
    /// Whether backends without a price take no requests.
    pub refuse_unpriced: bool,
}

impl From<&Settings> for Rules {
    fn from(settings: &Settings) -> Self {
        let Settings { circuit, probing, smart_ai, refuse_unpriced, .. } = *settings;
        Self { circuit, probing, smart_ai, refuse_unpriced }
    }
}

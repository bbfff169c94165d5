//! What is counted of the API.

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// What connections to the API are refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiLimit {
    /// The number of connections of one caller.
    Caller,
    /// The number of connections of all callers of its kind.
    All,
    /// The number of open files.
    Files,
}

/// Counts of refused connections to the API, by the limit. Clones share them.
#[derive(Clone, Debug)]
pub struct ApiRefusals(Family<[(&'static str, &'static str); 1], Counter>);

impl ApiRefusals {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "api_refused_connections",
            "Connections to the API, and for metrics, that were refused because of a limit",
            self.0.clone(),
        );
    }

    /// Counts one.
    pub fn count(&self, limit: ApiLimit) {
        self.of(limit).inc();
    }

    fn of(&self, limit: ApiLimit) -> Counter {
        let name = match limit {
            ApiLimit::Caller => "caller",
            ApiLimit::All => "all",
            ApiLimit::Files => "files",
        };
        self.0.get_or_create_owned(&[("limit", name)])
    }
}

/// All begin at 0.
impl Default for ApiRefusals {
    fn default() -> Self {
        let counters = Self(Family::default());
        for limit in [ApiLimit::Caller, ApiLimit::All, ApiLimit::Files] {
            drop(counters.of(limit));
        }
        counters
    }
}

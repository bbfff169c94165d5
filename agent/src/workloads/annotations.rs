//! The annotations of pods that are meant for truepeer.

use std::collections::BTreeMap;

/// Beginning of their keys.
pub const PREFIX: &str = "truepeer.io/";

/// Annotations of a pod by their keys.
pub type Annotations = BTreeMap<String, String>;

/// Those of a pod's annotations that are meant for truepeer.
pub(super) fn for_truepeer(mut annotations: Annotations) -> Annotations {
    annotations.retain(|key, _| key.starts_with(PREFIX));
    annotations
}

//! What is handed out: the image, the manifests and the chart, alerts and dashboard.

mod deploy;
mod dist;
mod monitoring;

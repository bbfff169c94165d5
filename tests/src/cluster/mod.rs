//! What Kubernetes, Istio and container runtimes bring to a node.

pub mod cni;
pub mod containerd;
pub mod daemonset;
pub mod kube_proxy;
pub mod manifests;
pub mod nodes;

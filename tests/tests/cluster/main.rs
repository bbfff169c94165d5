//! Kubernetes: pods of container runtimes, the CNI plugin, the DaemonSet, Istio.

mod cni;
mod cni_state;
mod daemonset;
mod istio;
mod runtime;

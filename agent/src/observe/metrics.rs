//! Prometheus metrics, in the OpenMetrics format.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use agent_common::{guard::Verdict, names::map};
use anyhow::{Context as _, Result};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        gauge::ConstGauge,
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::{api::ApiRefusals, statistics::Statistics, upkeep::Upkeep};
use crate::{
    connections::{
        names::Names,
        origins::{Origins, Status},
    },
    relay,
    workloads::containers::Containers,
};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every metric's name begins with.
const PREFIX: &str = "truepeer";

/// The agent's metrics.
pub struct Metrics {
    registry: Registry,
    origins: Arc<dyn Origins>,
    names: Names,
    /// Whether the agent serves: it is neither starting nor draining.
    pub ready: AtomicBool,
    /// Connections whose line the access log could not write.
    pub access_log_failures: Counter,
    /// Refused connections whose line the access log left out, because there were too many.
    pub access_log_omissions: Counter,
    /// Connections to the API that were refused.
    pub api_refusals: ApiRefusals,
    /// What the agent waits for, and what it puts back.
    pub upkeep: Upkeep,
    /// Counters of the relays.
    pub relay: relay::metrics::Metrics,
    /// Statistics of connections.
    pub statistics: Statistics,
}

impl Metrics {
    /// Creates metrics that read the data path at each scrape.
    pub fn new(
        origins: Arc<dyn Origins>,
        names: Names,
        statistics: Statistics,
        containers: Containers,
    ) -> Self {
        let access_log_failures = Counter::default();
        let access_log_omissions = Counter::default();
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register(
            "build",
            "What is running",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "access_log_failures",
            "Connections that the access log could not write down",
            access_log_failures.clone(),
        );
        registry.register(
            "access_log_omissions",
            "Refused connections that the access log left out because there were too many",
            access_log_omissions.clone(),
        );
        let api_refusals = ApiRefusals::default();
        api_refusals.register(&mut registry);
        let upkeep = Upkeep::default();
        upkeep.register(&mut registry);
        let relay = relay::metrics::Metrics::default();
        relay.register(&mut registry);
        statistics.register(&mut registry);
        registry.register_with_unit(
            "start_time",
            "When the agent started, since the Unix epoch",
            Unit::Seconds,
            ConstGauge::new(unix_seconds(SystemTime::now())),
        );
        registry.register_collector(Box::new(containers));
        Self {
            registry,
            origins,
            names,
            ready: AtomicBool::new(false),
            access_log_failures,
            access_log_omissions,
            api_refusals,
            upkeep,
            relay,
            statistics,
        }
    }

    /// All metrics as text. It blocks to read maps, so it must not run on an async thread.
    ///
    /// # Errors
    ///
    /// When the data path cannot be read.
    pub fn encode(&self) -> Result<String> {
        let status = self.origins.status();
        // Read here, because a collector cannot say why it fails.
        let mut datapath = Registry::with_prefix(PREFIX);
        datapath.register_collector(Box::new(Datapath {
            status: status.context("cannot read the data path's counters")?,
            names: self.names.clone(),
            ready: self.ready.load(Ordering::Relaxed),
        }));
        let mut out = String::new();
        text::encode_registry(&mut out, &self.registry)?;
        text::encode(&mut out, &datapath)?;
        Ok(out)
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// The metrics of the data path at this moment.
struct Datapath {
    status: Status,
    names: Names,
    ready: bool,
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Datapath")
    }
}

impl Collector for Datapath {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = |name: &str, help: &str, metric: &dyn Encode| {
            metric.encode_as(name, help, &mut encoder)
        };
        let ready = ConstGauge::new(u64::from(self.ready));
        metric("ready", "1 while the agent serves", &ready)?;
        let Status {
            maps,
            counters,
            tallies,
            ..
        } = &self.status;
        for (counter, n) in counters {
            metric(counter.name(), counter.help(), &ConstCounter::new(*n))?;
        }
        if let Some(origins) = maps.iter().find(|fill| fill.name == map::ORIGINS) {
            metric(
                "origins",
                "Connections that have an origin",
                &ConstGauge::new(origins.entries),
            )?;
            metric(
                "origins_max",
                "How many connections can have an origin",
                &ConstGauge::new(origins.max_entries),
            )?;
        }
        for (verdict, name, help) in [
            (
                Verdict::Allow,
                "policy_allowed",
                "Connections that a policy let in",
            ),
            (
                Verdict::Deny,
                "policy_denied",
                "Connections that a policy refused",
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (rule, tally) in tallies {
                let Some(policy) = self.names.policy(*rule) else {
                    continue;
                };
                let counter = ConstCounter::new(tally[verdict as usize]);
                counter.encode(family.encode_family(&[("policy", policy)])?)?;
            }
        }
        Ok(())
    }
}

/// An [`EncodeMetric`] as a trait object.
trait Encode {
    fn encode_as(&self, name: &str, help: &str, encoder: &mut DescriptorEncoder<'_>)
    -> fmt::Result;
}

impl<M: EncodeMetric> Encode for M {
    fn encode_as(
        &self,
        name: &str,
        help: &str,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> fmt::Result {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connections::fixtures::{FakeOrigins, names, origin},
        workloads::Workload,
    };

    #[test]
    fn every_counter_and_the_fill_of_the_map_are_there() {
        let origins = FakeOrigins(vec![(1, origin("203.0.113.7:1"))]);
        let containers = Containers::default();
        let workload = Workload {
            namespace: "shop".into(),
            pod: "web-0".into(),
            container: None,
        };
        containers.count(&workload.into(), true);
        let metrics = Metrics::new(
            Arc::new(origins),
            names(),
            Statistics::default(),
            containers,
        );
        metrics.ready.store(true, Ordering::Relaxed);
        metrics.access_log_failures.inc();
        let text = metrics.encode().unwrap();
        for counter in agent_common::Counter::ALL {
            let line = format!(
                "truepeer_{}_total {}\n",
                counter.name(),
                10 + counter as u32
            );
            assert!(text.contains(&line), "no {line} in {text}");
        }
        for line in [
            "truepeer_origins 1\n",
            "truepeer_origins_max 1024\n",
            "truepeer_ready 1\n",
            "truepeer_policy_allowed_total{policy=\"guests\"} 3\n",
            "truepeer_policy_denied_total{policy=\"guests\"} 4\n",
            "truepeer_access_log_failures_total 1\n",
            "truepeer_api_refused_connections_total{limit=\"caller\"} 0\n",
            "truepeer_pod_refused_connections_total{namespace=\"shop\",pod=\"web-0\",container=\"\"} 1\n",
            "truepeer_waiting 0\n",
            "truepeer_put_back_total{kind=\"rule\"} 0\n",
            "truepeer_build_info{version=\"0.1.0\"} 1\n",
            "# TYPE truepeer_steered_connections counter\n",
            "\ntruepeer_start_time_seconds ",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(!text.contains("203.0.113.7"));
    }

    #[test]
    fn a_data_path_that_cannot_be_read_fails_the_scrape() {
        struct Broken;
        impl Origins for Broken {
            fn get(&self, _: u64) -> Result<Option<agent_common::Origin>> {
                anyhow::bail!("gone")
            }
            fn all(&self) -> Result<Vec<(u64, agent_common::Origin)>> {
                anyhow::bail!("gone")
            }
            fn status(&self) -> Result<Status> {
                anyhow::bail!("gone")
            }
        }
        let metrics = Metrics::new(
            Arc::new(Broken),
            names(),
            Statistics::default(),
            Containers::default(),
        );
        let error = format!("{:#}", metrics.encode().unwrap_err());
        assert_eq!(error, "cannot read the data path's counters: gone");
    }
}

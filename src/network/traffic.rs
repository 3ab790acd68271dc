//! How many bytes went over the wire.
//!
//! libp2p counts them per transport in a Prometheus family that only its registry can read. The family therefore lives
//! in a registry of its own, which is read when somebody asks; the caller's registry gets the totals.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;

/// Bytes carried by the streams of all connections since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Bytes from peers.
    pub received: u64,
    /// Bytes to peers.
    pub sent: u64,
}

/// Reads the counters of one swarm.
#[derive(Debug, Clone)]
pub(super) struct TrafficMeter(Arc<Registry>);

impl TrafficMeter {
    /// Reads from the registry that libp2p's bandwidth transport was given.
    pub(super) fn new(bandwidth: Registry) -> Self {
        Self(Arc::new(bandwidth))
    }

    /// The totals now.
    pub(super) fn read(&self) -> Traffic {
        let mut lines = String::new();
        if text::encode(&mut lines, &self.0).is_err() {
            return Traffic::default();
        }
        let total = |direction: &str| {
            let samples = lines.lines().filter(|line| !line.starts_with('#') && line.contains(direction));
            samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        Traffic { received: total("direction=\"Inbound\""), sent: total("direction=\"Outbound\"") }
    }
}

impl Collector for TrafficMeter {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Traffic { received, sent } = self.read();
        for (name, help, bytes) in
            [("network_received", "Bytes received from peers", received), ("network_sent", "Bytes sent to peers", sent)]
        {
            let counter = ConstCounter::new(bytes);
            counter.encode(encoder.encode_descriptor(name, help, Some(&Unit::Bytes), counter.metric_type())?)?;
        }
        Ok(())
    }
}

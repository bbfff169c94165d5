//! What is compared with what, in which figures, and what is hoped for.

use crate::figure::{CONNECTIONS_PER_CPU_SECOND, DOWNLOAD, Figure, GETPEERNAME, UPLOAD};
use crate::variant::Variant::{
    self, Bind, Direct, EnvoyBinding, EnvoyPlain, EnvoyTold, HaproxyTold, Idle, Iptables,
    NginxTold, Node, NodeToa, Relay, Toa, Truepeer, TruepeerLogging, Unwrap,
};
use crate::work::Work;

/// Variants that are measured by the same work.
pub(crate) struct Comparison {
    /// Its name for `--only`.
    pub(crate) name: &'static str,
    /// What it tells.
    pub(crate) title: &'static str,
    pub(crate) variants: &'static [Variant],
    pub(crate) works: &'static [Work],
    /// The first of each pair is told in proportion to the second.
    pub(crate) pairs: &'static [(Variant, Variant)],
    pub(crate) goals: &'static [Goal],
}

/// What a figure of a pair of variants should be.
pub(crate) struct Goal {
    pub(crate) pair: (Variant, Variant),
    pub(crate) figure: Figure,
    pub(crate) bound: Bound,
}

/// The first of the pair should have this share of the second's figure.
const fn at_least(pair: (Variant, Variant), figure: Figure, share: f64) -> Goal {
    let bound = Bound::AtLeast(share);
    Goal {
        pair,
        figure,
        bound,
    }
}

/// In the figure's own units.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    Below(f64),
}

impl Bound {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::Below(bound) => value < bound,
        }
    }
}

/// All, in the order of the report.
pub(crate) static COMPARISONS: [Comparison; 6] = [
    Comparison {
        name: "steering",
        title: "Envoy that spoofs its clients, brought in by truepeer or by Istio's iptables rules",
        variants: &[Direct, Iptables, Truepeer, TruepeerLogging],
        works: &[Work::Connections, Work::Upload, Work::Download],
        pairs: &[
            (Iptables, Direct),
            (Truepeer, Direct),
            (Truepeer, Iptables),
            (TruepeerLogging, Truepeer),
        ],
        goals: &[],
    },
    Comparison {
        name: "accept",
        title: "An application without a proxy",
        variants: &[Direct, Idle, Bind, Toa],
        works: &[Work::Connections],
        pairs: &[(Idle, Direct), (Bind, Direct), (Toa, Direct)],
        goals: &[],
    },
    Comparison {
        name: "bind",
        title: "Envoy that binds to its clients' addresses, that spoofs them, and that does neither",
        variants: &[EnvoyPlain, EnvoyBinding, Truepeer],
        works: &[Work::Connections],
        pairs: &[
            (EnvoyBinding, EnvoyPlain),
            (Truepeer, EnvoyPlain),
            (Truepeer, EnvoyBinding),
        ],
        goals: &[at_least(
            (EnvoyBinding, EnvoyPlain),
            CONNECTIONS_PER_CPU_SECOND,
            0.95,
        )],
    },
    Comparison {
        name: "proxy",
        title: "Connections with a PROXY header, and a server without any",
        variants: &[Direct, Unwrap, Relay, HaproxyTold, NginxTold, EnvoyTold],
        works: &[
            Work::Idle,
            Work::Connections,
            Work::Upload,
            Work::Download,
            Work::Crowd,
            Work::Paced,
        ],
        pairs: &[
            (Unwrap, Direct),
            (Relay, Direct),
            (HaproxyTold, Direct),
            (NginxTold, Direct),
            (EnvoyTold, Direct),
        ],
        goals: &[
            at_least((Unwrap, Direct), CONNECTIONS_PER_CPU_SECOND, 0.95),
            at_least((Unwrap, Direct), UPLOAD, 0.95),
            at_least((Unwrap, Direct), DOWNLOAD, 0.95),
        ],
    },
    Comparison {
        name: "node",
        title: "Connections to a node's port, through kube-proxy's iptables rules",
        variants: &[Node, NodeToa],
        works: &[Work::Connections, Work::Upload, Work::Download, Work::Syns],
        pairs: &[(NodeToa, Node)],
        goals: &[
            at_least((NodeToa, Node), CONNECTIONS_PER_CPU_SECOND, 0.98),
            at_least((NodeToa, Node), UPLOAD, 0.98),
            at_least((NodeToa, Node), DOWNLOAD, 0.98),
        ],
    },
    Comparison {
        name: "getpeername",
        title: "getpeername()",
        variants: &[Direct, Idle, Bind],
        works: &[Work::Getpeername],
        pairs: &[(Idle, Direct), (Bind, Direct)],
        goals: &[
            Goal {
                pair: (Idle, Direct),
                figure: GETPEERNAME,
                bound: Bound::Below(100.0),
            },
            Goal {
                pair: (Bind, Direct),
                figure: GETPEERNAME,
                bound: Bound::Below(100.0),
            },
        ],
    },
];

/// What must be measured of a variant for these comparisons. What several need is measured once.
pub(crate) fn works(comparisons: &[&Comparison], variant: Variant) -> Vec<Work> {
    let needs = |comparison: &Comparison, work| {
        comparison.variants.contains(&variant) && comparison.works.contains(&work)
    };
    Work::ALL
        .into_iter()
        .filter(|work| comparisons.iter().any(|c| needs(c, *work)))
        .collect()
}

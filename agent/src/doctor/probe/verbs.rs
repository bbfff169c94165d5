//! What is tried of each verb.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use agent_common::{
    Evidence, Namespace, Range,
    guard::Verdict,
    origin::rule_id,
    proxy::{Endpoints, write},
    toa::Kinds,
    trust::{Reach, Statement},
    unwrap::{Page, PageVersions, Versions},
};
use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::{
    speak::{PORT, SPEAKER, client, speak},
    stage::{Family, INTERFACE, Stage, TIMEOUT, accept, is_told},
};
use crate::{
    config::{CarryToa, Policy, Proxy, Reveal, Speakers, Toa, Trust},
    datapath::{Datapath, HostRules, Job, Section, Unwrapped},
};

/// The proxy's port.
const PROXY: u16 = 15006;
/// How long a SYN is waited for that is to be dropped: between two namespaces, an answer takes microseconds.
const DROPPED: Duration = Duration::from_millis(300);

/// A verb, and how it is tried.
pub(super) struct Attempt {
    pub(super) verb: &'static str,
    /// What of the configuration needs it.
    pub(super) section: Section,
    /// What has been shown when it went well.
    pub(super) shown: &'static str,
    /// What does not work otherwise.
    pub(super) consequence: &'static str,
    pub(super) run: fn(&Stage<'_>) -> Result<()>,
}

/// The verbs. A node's own NAT is missing, as it would need its rules: that `[[carry.node]]` loads is all that is tried.
pub(super) const VERBS: [Attempt; 6] = [
    Attempt {
        verb: "steer",
        section: Section::Steer,
        shown: "a connection was steered",
        consequence: "connections are not brought to the proxy",
        run: steer,
    },
    Attempt {
        verb: "learn",
        section: Section::Bind,
        shown: "what was said about the client of a connection was believed",
        consequence: "proxies that bind to a client's address are not believed",
        run: learn,
    },
    Attempt {
        verb: "reveal",
        section: Section::Reveal,
        shown: "`accept()` and `getpeername()` told the client",
        consequence: "applications are told the last hop instead of the client",
        run: reveal,
    },
    Attempt {
        verb: "carry",
        section: Section::Toa,
        shown: "TOA was written on a SYN, and read on its way to a listener that is older than the agent",
        consequence: "the next hop is not told the client by TOA, or does not read it",
        run: carry,
    },
    Attempt {
        verb: "guard",
        section: Section::Policy,
        shown: "a client was admitted and another refused",
        consequence: "nobody is refused but by the relay",
        run: guard,
    },
    Attempt {
        verb: "unwrap",
        section: Section::Unwrap,
        shown: "a PROXY header was taken off",
        consequence: "PROXY headers are not taken off: use a [[relay]]",
        run: unwrap,
    },
];

/// Rules of which every probe changes some.
struct Rules {
    trust: Vec<Trust>,
    toa: Kinds,
    reveal: Reveal,
    carry: CarryToa,
    policies: Vec<Policy>,
}

impl Rules {
    /// Nobody is told anything, and the [`SPEAKER`] is believed.
    fn new() -> Self {
        Self {
            trust: vec![Trust {
                name: None,
                speakers: Speakers::Proxies {
                    proxies: vec![Proxy::Uid(SPEAKER)],
                    reach: Reach::Carry,
                    local_source: Vec::new(),
                },
                ports: Vec::new(),
            }],
            toa: Kinds::NONE,
            reveal: Reveal {
                enabled: false,
                ..Reveal::default()
            },
            carry: CarryToa::default(),
            policies: Vec::new(),
        }
    }

    /// Believes a statement of these prefixes, too.
    fn believe(&mut self, prefixes: Vec<IpNet>, statement: Statement) {
        self.trust.push(Trust {
            name: None,
            speakers: Speakers::Sources {
                prefixes,
                says: vec![statement],
                signed: false,
            },
            ports: Vec::new(),
        });
    }

    fn apply(&self, datapath: &mut Datapath) -> Result<()> {
        datapath.govern(&HostRules {
            trust: &self.trust,
            toa: self.toa,
            keys: None,
            reveal: &self.reveal,
            carry: &self.carry,
            relays: false,
            policies: &self.policies,
        })
    }
}

fn steer(stage: &Stage<'_>) -> Result<()> {
    let mut datapath = stage.load()?;
    let mut settings = Namespace::default();
    settings.ranges[0] = Range {
        ifindex: stage.node.interface_index(INTERFACE)?,
        rule: rule_id("probe"),
        first: PORT,
        last: PORT,
        to: PROXY,
        ..Range::default()
    };
    datapath.steer(&stage.node, &settings)?;
    let packets = datapath.load_packets(&stage.node, &[(INTERFACE, Job::Steer)], true)?;
    datapath.attach(packets)?;
    stage.over_each(|family| {
        let target = SocketAddr::new(family.node, PORT);
        let listener = stage.listen(family, PROXY)?;
        let outgoing = stage
            .connect(family.client, target, TIMEOUT)
            .context("the connection was not steered to the listener")?;
        let (accepted, remote) = accept(&listener)?;
        let local = accepted.local_addr()?;
        ensure!(
            local == target,
            "the listener's socket has the address {local} instead of {target}"
        );
        let origin = stage.origin(&accepted, remote)?;
        let learnt = (
            origin.client.socket_addr(),
            origin.original_dst.socket_addr(),
        );
        let wanted = (outgoing.local_addr()?, target);
        ensure!(
            learnt == wanted,
            "the wrong origin was learnt: {learnt:?} instead of {wanted:?}"
        );
        Ok(())
    })
}

fn learn(stage: &Stage<'_>) -> Result<()> {
    let mut datapath = stage.load()?;
    Rules::new().apply(&mut datapath)?;
    stage.over_each(|family| {
        let listener = stage.listen(family, PORT)?;
        let (_, accepted, sender) = speak(stage, &datapath, family, &listener)?;
        names_client(stage, family, &accepted, sender, Evidence::Bind)
    })
}

fn reveal(stage: &Stage<'_>) -> Result<()> {
    let mut rules = Rules::new();
    rules.reveal.enabled = true;
    let mut datapath = stage.load()?;
    rules.apply(&mut datapath)?;
    stage.over_each(|family| {
        let listener = stage.listen(family, PORT)?;
        let (told, accepted, _) = speak(stage, &datapath, family, &listener)?;
        is_told(&accepted, told, client(family))
    })
}

fn carry(stage: &Stage<'_>) -> Result<()> {
    stage.over_each(|family| {
        let listener = stage.listen(family, PORT)?;
        let mut datapath = stage.load()?;
        let mut rules = Rules::new();
        rules.toa = Toa::default().kinds;
        // The kernel chooses one of them.
        rules.believe(
            vec![family.client.into(), family.stranger.into()],
            Statement::Toa,
        );
        rules.carry.to = vec![family.node.into()];
        rules.apply(&mut datapath)?;
        datapath.adopt(&stage.node, 0)?;
        let (_, accepted, sender) = speak(stage, &datapath, family, &listener)?;
        names_client(stage, family, &accepted, sender, Evidence::Toa)
    })
}

fn guard(stage: &Stage<'_>) -> Result<()> {
    let mut rules = Rules::new();
    let prefixes = stage.strangers().into_iter();
    let prefixes = prefixes.map(|stranger| (stranger, Verdict::Deny)).collect();
    rules.policies = vec![Policy {
        name: "probe".into(),
        ports: vec![PORT..=PORT],
        prefixes,
        otherwise: Verdict::Allow,
    }];
    rules.apply(&mut stage.load()?)?;
    stage.over_each(|family| {
        let target = SocketAddr::new(family.node, PORT);
        let listener = stage.listen(family, PORT)?;
        stage
            .connect(family.client, target, TIMEOUT)
            .context("who is allowed was not admitted")?;
        accept(&listener)?;
        let denied = stage.connect(family.stranger, target, DROPPED).err();
        let error = denied.context("who is denied was admitted")?;
        let is_silent = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == ErrorKind::TimedOut);
        ensure!(is_silent, "who is denied was not ignored: {error:#}");
        Ok(())
    })
}

fn unwrap(stage: &Stage<'_>) -> Result<()> {
    let mut datapath = stage.load()?;
    let mut rules = Rules::new();
    rules.believe(stage.clients(), Statement::Proxy);
    rules.apply(&mut datapath)?;
    let ifindex = stage.node.interface_index(INTERFACE)?;
    let page = Page::of(stage.node.cookie(), ifindex, PORT);
    let mut versions = PageVersions::NONE;
    versions.set(PORT, Versions(Versions::V1.0 | Versions::V2.0));
    datapath.unwrap(&Unwrapped::new(), &[(page, versions)].into())?;
    let packets = datapath.load_packets(&stage.node, &[(INTERFACE, Job::Unwrap)], false)?;
    datapath.attach(packets)?;
    stage.over_each(|family| {
        const TEXT: &[u8] = b"ping";
        let target = SocketAddr::new(family.node, PORT);
        let listener = stage.listen(family, PORT)?;
        let mut outgoing = stage.connect(family.client, target, TIMEOUT)?;
        let sender = outgoing.local_addr()?;
        let mut header = Vec::new();
        let endpoints = Endpoints {
            source: client(family).into(),
            destination: target.into(),
        };
        write::v1(Some(&endpoints), &mut header);
        outgoing.write_all(&[&header, TEXT].concat())?;
        let (mut accepted, _) = accept(&listener)?;
        accepted.set_read_timeout(Some(TIMEOUT))?;
        let mut text = [0; TEXT.len()];
        accepted.read_exact(&mut text)?;
        ensure!(text == TEXT, "the application got {text:?}");
        names_client(stage, family, &accepted, sender, Evidence::Proxy)
    })
}

/// Fails unless the origin of a connection is [`client`], by this evidence.
fn names_client(
    stage: &Stage<'_>,
    family: Family,
    accepted: &TcpStream,
    sender: SocketAddr,
    evidence: Evidence,
) -> Result<()> {
    let origin = stage.origin(accepted, sender)?;
    let learnt = origin.client.socket_addr();
    ensure!(
        learnt == client(family) && origin.evidence == evidence as u8,
        "the wrong origin was learnt: {learnt}, evidence {}, instead of {}, evidence {}",
        origin.evidence,
        client(family),
        evidence as u8
    );
    Ok(())
}

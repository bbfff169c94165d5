//! What truepeer tells about a connection: its origin, joined with the process that holds it.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, RwLock},
    time::{Duration, SystemTime},
};

use agent_common::{Evidence, Origin, origin::rule_id};
use anyhow::{Context as _, Result, bail};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, Policy, Relay, Steer},
    connections::{details::Details, origins::Origins},
    host::processes::{Owner, Owners},
    workloads::{Workload, containers::Containers},
};

/// A live connection with its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The socket's cookie.
    pub cookie: u64,
    /// Always `tcp`.
    pub protocol: String,
    /// The client before any hop changed it.
    pub client: SocketAddr,
    /// Where the client wanted to go.
    pub original_dst: SocketAddr,
    /// The socket's own end, as on the wire.
    pub local: SocketAddr,
    /// The socket's other end, as on the wire.
    pub remote: SocketAddr,
    /// How the origin became known ([`Evidence::name`]).
    pub evidence: String,
    /// Who vouches for it.
    pub trusted_by: String,
    /// cgroup v2 path of the process.
    pub cgroup: Option<String>,
    /// Inode of the socket's network namespace.
    pub netns: Option<u64>,
    /// Process id; none before the connection is accepted.
    pub pid: Option<u32>,
    /// Command name of the process.
    pub comm: Option<String>,
    /// Kubernetes' names of pod and container, where they are known.
    #[serde(flatten)]
    pub workload: Option<Workload>,
    /// When the origin was learnt (RFC 3339).
    pub since: String,
    /// Number of its PROXY header, if that says more than addresses.
    #[serde(skip)]
    pub header: u64,
    /// What its PROXY header said besides addresses; known to the agent only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Details>,
}

/// Whose connections a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Everybody's.
    All,
    /// Those of one user.
    Of(u32),
}

impl View {
    /// What the user with this id may see.
    pub fn of(uid: u32) -> Self {
        if uid == 0 { Self::All } else { Self::Of(uid) }
    }

    fn shows(self, owner: Option<&Owner>) -> bool {
        match self {
            Self::All => true,
            Self::Of(uid) => owner.is_some_and(|owner| owner.uid == uid),
        }
    }
}

/// Every connection that has an origin, the newest first.
pub fn all(
    origins: &dyn Origins,
    names: &Names,
    containers: &Containers,
    view: View,
) -> Result<Vec<Peer>> {
    let mut entries = origins.all()?;
    entries.sort_unstable_by_key(|(cookie, origin)| Reverse((origin.since, *cookie)));
    let owners = Owners::snapshot()?;
    containers.refresh();
    let clock = Clock::read()?;
    Ok(entries
        .iter()
        .filter(|(cookie, _)| view.shows(owners.get(*cookie)))
        .filter_map(|(cookie, origin)| {
            Peer::new(*cookie, origin, &owners, names, containers, &clock)
        })
        .collect())
}

/// The connection whose socket has this cookie, if it has an origin.
pub fn one(
    origins: &dyn Origins,
    names: &Names,
    containers: &Containers,
    view: View,
    cookie: u64,
) -> Result<Option<Peer>> {
    let Some(origin) = origins.get(cookie)? else {
        return Ok(None);
    };
    let owners = Owners::snapshot()?;
    containers.refresh();
    if !view.shows(owners.get(cookie)) {
        return Ok(None);
    }
    Ok(Peer::new(
        cookie,
        &origin,
        &owners,
        names,
        containers,
        &Clock::read()?,
    ))
}

impl Peer {
    /// `None` for evidence that this version does not know: better unknown than wrong.
    fn new(
        cookie: u64,
        origin: &Origin,
        owners: &Owners,
        names: &Names,
        containers: &Containers,
        clock: &Clock,
    ) -> Option<Self> {
        let evidence = Evidence::from_u8(origin.evidence)?;
        let owner = owners.get(cookie);
        Some(Self {
            cookie,
            protocol: "tcp".into(),
            client: origin.client.socket_addr(),
            original_dst: origin.original_dst.socket_addr(),
            local: origin.local.socket_addr(),
            remote: origin.remote.socket_addr(),
            evidence: evidence.name().into(),
            trusted_by: names.trusted_by(origin.rule),
            cgroup: owner
                .map(|owner| owner.cgroup.clone())
                .filter(|path| !path.is_empty()),
            netns: owner
                .map(|owner| owner.netns)
                .or_else(|| owners.netns_inode(origin.netns)),
            pid: owner.map(|owner| owner.pid),
            comm: owner.map(|owner| owner.comm.clone()),
            workload: containers
                .find(origin.netns, owner.map(|owner| owner.cgroup.as_str()))
                .map(Arc::unwrap_or_clone),
            since: humantime::format_rfc3339_seconds(clock.wall(origin.since)).to_string(),
            header: origin.header,
            proxy: None,
        })
    }
}

/// Who the configuration lets vouch, by the numbers in the records. Clones share it, so that a reload
/// reaches every reader.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<RwLock<HashMap<u32, String>>>);

impl Names {
    /// The names of this configuration's rules.
    pub fn new(config: &Config) -> Self {
        let names = Self::default();
        names.set(config);
        names
    }

    /// Replaces the names by those of this configuration's rules.
    pub fn set(&self, config: &Config) {
        let steers = config.steer.iter();
        let steers = steers.map(|s| (rule_id(&s.name), format!("steer {}", s.name)));
        let trust = config.trust.rules().map(|rule| (rule_id(&rule), rule));
        let relays = config.relay.iter().map(Relay::name);
        let relays = relays.map(|name| (rule_id(&name), name));
        let policies = config.policy.iter();
        let policies = policies.map(|policy| (rule_id(&policy.rule()), policy.rule()));
        let nodes = config.carry_node.iter();
        let nodes = nodes.map(|node| (rule_id(&node.rule()), node.rule()));
        let all = steers
            .chain(trust)
            .chain(nodes)
            .chain(relays)
            .chain(policies);
        *self.0.write().expect("no writer panics") = all.collect();
    }

    /// Adds those of steers that pods ask for.
    ///
    /// # Errors
    ///
    /// When a name has the same number in the records as another one: origins could not be told apart.
    pub fn add(&self, steers: &[Steer]) -> Result<()> {
        let mut names = self.0.write().expect("no writer panics");
        for steer in steers {
            let name = format!("steer {}", steer.name);
            let known = names.entry(rule_id(&steer.name)).or_insert(name.clone());
            if *known != name {
                bail!("{known} and {name} have the same number in the records: rename the steer");
            }
        }
        Ok(())
    }

    /// The policy with this rule, as the configuration calls it.
    pub fn policy(&self, rule: u32) -> Option<String> {
        let names = self.0.read().expect("no writer panics");
        let name = names.get(&rule)?.strip_prefix(Policy::PREFIX)?;
        Some(name.into())
    }

    /// Who vouches for an origin with this rule.
    pub fn trusted_by(&self, rule: u32) -> String {
        let names = self.0.read().expect("no writer panics");
        let name = names.get(&rule).map(String::as_str);
        name.unwrap_or("a rule that is no longer configured").into()
    }
}

/// Turns the kernel's time since boot into the time of day.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    booted: SystemTime,
}

impl Clock {
    /// Reads how the two stand to each other now.
    pub fn read() -> Result<Self> {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).context("cannot read the clock")?;
        let booted = SystemTime::now() - Duration::from(since_boot);
        Ok(Self { booted })
    }

    /// The time of day at `boottime` nanoseconds of `CLOCK_BOOTTIME`.
    pub fn wall(&self, boottime: u64) -> SystemTime {
        self.booted + Duration::from_nanos(boottime)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{TcpListener, TcpStream};

    use agent_common::Counter;
    use serde_json::{Value::Null, json};

    use super::*;
    use crate::{
        config::Config,
        connections::origins::{Link, MapFill, Status},
        host::{netns::Netns, sockets},
        workloads::containers,
    };

    /// Origins without a kernel behind them.
    #[derive(Default)]
    pub(crate) struct Fake(pub(crate) Vec<(u64, Origin)>);

    impl Origins for Fake {
        fn get(&self, cookie: u64) -> Result<Option<Origin>> {
            let found = self.0.iter().find(|(known, _)| *known == cookie);
            Ok(found.map(|(_, origin)| *origin))
        }

        fn all(&self) -> Result<Vec<(u64, Origin)>> {
            Ok(self.0.clone())
        }

        fn status(&self) -> Result<Status> {
            Ok(Status {
                links: vec![Link {
                    program: "truepeer_steer".into(),
                    program_id: 7,
                    target: "eth0".into(),
                    pin: "/sys/fs/bpf/truepeer/links/x".into(),
                }],
                maps: vec![MapFill {
                    name: agent_common::names::map::ORIGINS.into(),
                    entries: self.0.len() as u64,
                    max_entries: 1024,
                }],
                counters: Counter::ALL.into_iter().zip(10..).collect(),
                tallies: [(rule_id("policy guests"), [3, 4])].into(),
            })
        }
    }

    /// The names of one steer, `inbound`, and one policy, `guests`.
    pub(crate) fn names() -> Names {
        let text = r#"
            [[steer]]
            name = "inbound"
            ports = ["80"]
            to = 15006
            [[policy]]
            name = "guests"
            ports = ["80"]
            deny = ["192.0.2.0/24"]
        "#;
        Names::new(&Config::parse(text, "test").unwrap())
    }

    /// An origin of the steer `inbound`, one second after boot.
    pub(crate) fn origin(client: &str) -> Origin {
        let end = |text: &str| text.parse::<SocketAddr>().unwrap().into();
        Origin {
            since: 1_000_000_000,
            client: end(client),
            original_dst: end("10.0.0.3:8080"),
            local: end("10.0.0.3:8080"),
            remote: end(client),
            rule: rule_id("inbound"),
            evidence: Evidence::Wire as u8,
            ..Origin::default()
        }
    }

    /// Two ends of a connection of this process, and the cookie of the first.
    pub(crate) fn connection() -> (TcpStream, TcpStream, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let cookie = sockets::cookie(&Netns::current().unwrap(), ends.0, ends.1);
        (client, server, cookie.unwrap().unwrap())
    }

    #[test]
    fn a_peer_is_its_origin_and_its_process() {
        let (_client, _server, cookie) = connection();
        let origins = Fake(vec![(cookie, origin("203.0.113.7:51812"))]);
        let peer = one(
            &origins,
            &names(),
            &Containers::default(),
            View::All,
            cookie,
        )
        .unwrap()
        .unwrap();
        assert_eq!(peer.client, "203.0.113.7:51812".parse().unwrap());
        assert_eq!(
            (&*peer.evidence, &*peer.trusted_by),
            ("wire", "steer inbound")
        );
        assert_eq!(peer.pid, Some(std::process::id()));
        assert_eq!(peer.netns, Some(Netns::current().unwrap().inode()));
        assert_eq!(
            all(&origins, &names(), &Containers::default(), View::All).unwrap()[0].pid,
            peer.pid
        );

        let json = serde_json::to_value(&peer).unwrap();
        assert_eq!(json["original_dst"], "10.0.0.3:8080");
        let keys: Vec<_> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 13, "{keys:?}");
    }

    #[test]
    fn a_peer_of_a_pod_has_its_names() {
        let (_directory, containers) = containers::fixtures::web();
        let mut of_pod = origin("203.0.113.7:1");
        of_pod.netns = Netns::current().unwrap().cookie();
        let origins = Fake(vec![(1, of_pod), (2, origin("203.0.113.7:2"))]);
        let peers = all(&origins, &names(), &containers, View::All).unwrap();
        let json = serde_json::to_value(&peers).unwrap();
        assert_eq!((&json[0]["pod"], &json[1]["pod"]), (&Null, &json!("web-0")));
        assert_eq!(json[1]["namespace"], "shop");
        assert_eq!(serde_json::from_value::<Vec<Peer>>(json).unwrap(), peers);
    }

    #[test]
    fn a_socket_without_a_process_has_nulls() {
        let mut gone = origin("[2001:db8::7]:1");
        gone.rule = 1;
        let origins = Fake(vec![(u64::MAX, gone)]);
        let peers = all(&origins, &names(), &Containers::default(), View::All).unwrap();
        let json = serde_json::to_value(&peers[0]).unwrap();
        assert_eq!(json["client"], "[2001:db8::7]:1");
        assert_eq!(json["trusted_by"], "a rule that is no longer configured");
        for key in ["pid", "comm", "cgroup", "netns"] {
            assert!(json[key].is_null(), "{key}: {json}");
        }
    }

    #[test]
    fn a_user_sees_only_own_sockets() {
        let (_client, _server, cookie) = connection();
        let entry = origin("203.0.113.7:1");
        let origins = Fake(vec![(cookie, entry), (u64::MAX, entry)]);
        let own = nix::unistd::geteuid().as_raw();
        let cookies = |view| -> Vec<u64> {
            let peers = all(&origins, &names(), &Containers::default(), view).unwrap();
            peers.iter().map(|peer| peer.cookie).collect()
        };
        assert_eq!(cookies(View::All), [u64::MAX, cookie]);
        assert_eq!(cookies(View::Of(own)), [cookie]);
        assert!(cookies(View::Of(own + 1)).is_empty());
        let foreign = one(
            &origins,
            &names(),
            &Containers::default(),
            View::Of(own + 1),
            cookie,
        )
        .unwrap();
        assert_eq!(foreign, None);
        assert_eq!(View::of(0), View::All);
    }

    #[test]
    fn evidence_of_another_version_is_unknown() {
        let mut odd = origin("203.0.113.7:1");
        odd.evidence = 200;
        let origins = Fake(vec![(1, odd)]);
        assert_eq!(
            one(&origins, &names(), &Containers::default(), View::All, 1).unwrap(),
            None
        );
    }

    #[test]
    fn time_since_boot_becomes_the_time_of_day() {
        let clock = Clock::read().unwrap();
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
        let wall = clock.wall(Duration::from(now).as_nanos() as u64);
        let second = Duration::from_secs(1);
        let around = SystemTime::now() - second..SystemTime::now() + second;
        assert!(around.contains(&wall));
    }
}

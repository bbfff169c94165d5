//! The kernel's side of truepeer: loads the BPF programs, attaches them and fills their maps. The only
//! module that imports aya.

mod attach;
mod claims;
mod events;
mod guard;
mod pins;
mod sys;
mod translated;

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_common::{
    ListenerKey, Namespace,
    names::{self, map, program},
    node::{Interface, Node},
    origin::rule_id,
    tag,
    toa::Kinds,
    unwrap::{UnwrapPort, Versions},
};
use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{MapData, MapError},
    programs::{Iter, links::PinnedLink},
};
use nix::{
    libc::{AF_INET, AF_INET6},
    time::{ClockId, clock_gettime},
};
use tracing::{debug, warn};

pub use attach::Job;
pub use events::{Diagnostics, Events, Headers};
pub use pins::Pins;
pub use translated::Orphans;

use crate::{
    config::{CarryToa, Policy, Reveal, Trust, keys::Keys},
    connections::origins::Claims,
    host::netns::Netns,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TRUEPEER_OBJECT"));

/// The data path of this host. It stays in place when this value, or the agent, is gone: only
/// [`Datapath::remove`] takes it away.
pub struct Datapath {
    pins: Pins,
    loader: EbpfLoader<'static>,
    /// Holds the programs of the host, and the iterator that adopts listeners.
    object: Ebpf,
    /// The root of the cgroup v2 hierarchy.
    cgroup: PathBuf,
    /// Names of the pins of the host's programs: those that are always there, and those that the
    /// configuration needs.
    always: Vec<String>,
    by_need: Vec<String>,
}

impl Datapath {
    /// Puts in place what learns origins, for all processes below `cgroup` (the root of the cgroup v2
    /// hierarchy). `origins` is the size of the map of origins; `processes`: whether to note who has a
    /// connection. A data path that an agent left is
    /// taken over with its origins, without a moment in which neither works.
    pub fn load(root: &Path, origins: u32, processes: bool, cgroup: &Path) -> Result<Self> {
        let pins = Pins::new(root);
        pins.create()?;
        if !can_take_over(&pins, origins) {
            pins.remove_maps(false)?;
            pins.create()?;
        }
        let mut loader = loader(&pins, origins, processes);
        let mut object = load_object(&mut loader, 0)?;
        let mut always = attach::learn(&mut object, &pins, cgroup)?;
        if processes {
            always.extend(attach::release(&mut object, &pins, cgroup)?);
        }
        pins.remove_maps(true)?;
        Ok(Self {
            pins,
            loader,
            object,
            cgroup: cgroup.to_owned(),
            always,
            by_need: Vec::new(),
        })
    }

    /// Says who may connect. What that needs is attached by [`Datapath::trust`], which is to follow.
    pub fn guard(&self, policies: &[Policy]) -> Result<()> {
        guard::replace(&self.pins, policies)
    }

    /// Says who may speak for a client, who is told, and whether anybody is judged; what that needs is
    /// attached.
    ///
    /// # Errors
    ///
    /// When a cgroup is missing.
    pub fn trust(&mut self, trust: &Trust, reveal: &Reveal, guards: bool) -> Result<()> {
        let path = |cgroup: &String| self.cgroup.join(cgroup.trim_start_matches('/'));
        let mut uids = self.pins.trusted_uids()?;
        let wanted = trust
            .uids
            .iter()
            .map(|uid| (*uid, rule_id(&Trust::uid_rule(*uid))));
        pins::replace(&mut uids, wanted.collect())?;
        let mut cgroups = self.pins.trusted_cgroups()?;
        let wanted = trust.cgroups.iter().map(|cgroup| {
            let rule = rule_id(&Trust::cgroup_rule(cgroup));
            Ok((attach::cgroup_id(&path(cgroup))?, rule))
        });
        pins::replace(&mut cgroups, wanted.collect::<Result<_>>()?)?;

        // First, so that no moment asks for less than the configuration before or this one.
        let exempt = trust.sources.iter().filter(|source| {
            let mut signers = trust.signers.iter();
            signers.any(|signer| signer.contains(*source)) && !trust.signers.contains(source)
        });
        let signers = trust.signers.iter();
        let signers = signers.map(|prefix| (*prefix, rule_id(&Trust::signer_rule(prefix))));
        let wanted = signers.chain(exempt.map(|prefix| (*prefix, 0)));
        pins::replace_prefixes(&mut self.pins.signers()?, wanted)?;
        let sources = trust.sources.iter();
        let sources = sources.map(|prefix| (*prefix, rule_id(&Trust::source_rule(prefix))));
        pins::replace_prefixes(&mut self.pins.trusted_sources()?, sources)?;
        let mut local = self.pins.local_sources()?;
        let wanted = trust.local_source.iter().map(|address| {
            let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
            (family as u32, pins::Plain((*address).into()))
        });
        pins::replace(&mut local, wanted.collect())?;

        let mut names = Vec::new();
        if trust.has_proxies() {
            names.extend(attach::bind(&mut self.object, &self.pins, &self.cgroup)?);
            if guards || !trust.local_source.is_empty() {
                names.extend(attach::source(&mut self.object, &self.pins, &self.cgroup)?);
            }
        }
        if guards {
            names.extend(attach::guard(&mut self.object, &self.pins, &self.cgroup)?);
        }
        let told: Vec<_> = match &reveal.cgroups[..] {
            _ if !reveal.enabled => Vec::new(),
            [] => vec![self.cgroup.clone()],
            cgroups => cgroups.iter().map(path).collect(),
        };
        for cgroup in told {
            names.extend(attach::reveal(&mut self.object, &self.pins, &cgroup)?);
        }
        self.by_need = names;
        Ok(())
    }

    /// Says where the clients of local proxies are told as TOA.
    pub fn carry(&self, toa: &CarryToa) -> Result<()> {
        let wanted = toa.to.iter().map(|prefix| (*prefix, toa.kind.into()));
        pins::replace_prefixes(&mut self.pins.carry()?, wanted)
    }

    /// Says by which keys TOA is signed and proven, and what time it is.
    pub fn sign(&self, keys: Option<&Keys>) -> Result<()> {
        let now = |clock| clock_gettime(clock).map(Duration::from);
        let (wall, boot) = (now(ClockId::CLOCK_REALTIME)?, now(ClockId::CLOCK_BOOTTIME)?);
        let wall = (wall.as_nanos() as u64).wrapping_sub(boot.as_nanos() as u64);
        let entry = |keys: &Keys| (0, pins::Plain(tag::Keys::new(wall, keys.first, keys.other)));
        pins::replace(
            &mut self.pins.keys()?,
            keys.map(entry).into_iter().collect(),
        )
    }

    /// Says what is taken for TOA.
    pub fn read_toa(&self, kinds: Kinds) -> Result<()> {
        Ok(self.pins.toa()?.set(0, pins::Plain(kinds), 0)?)
    }

    /// Where the maps and links are pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// What the relay needs.
    pub fn claims(&self) -> Result<Arc<dyn Claims>> {
        Ok(Arc::new(claims::Maps::open(&self.pins)?))
    }

    /// The stream of closed connections. To be called within the async runtime.
    pub fn events(&self) -> Result<Events> {
        Events::new(self.pins.events()?)
    }

    /// The stream of PROXY headers that say more than addresses.
    pub fn headers(&self) -> Result<Headers> {
        Ok(Headers::new(self.pins.headers()?))
    }

    /// The stream of the programs' own messages. To be called within the async runtime.
    pub fn diagnostics(&mut self) -> Result<Diagnostics> {
        Diagnostics::new(&mut self.object)
    }

    /// Tells the data path what to do in `netns`. Sockets that come to listen from now on are known;
    /// for older ones see [`Datapath::adopt`].
    pub fn configure(&self, netns: &Netns, settings: &Namespace) -> Result<()> {
        let mut namespaces = self.pins.namespaces()?;
        namespaces
            .insert(netns.cookie(), pins::Plain(*settings), 0)
            .with_context(|| format!("cannot configure {netns}"))
    }

    /// Makes listeners known that are older than the data path: by the cookie of each listening socket
    /// of `netns`. The port in the key is 0 for those that are no proxy's.
    pub fn adopt(&mut self, netns: &Netns, listeners: &[(u64, ListenerKey)]) -> Result<()> {
        let capacity = self.pins.adopt_capacity()?;
        listeners
            .chunks(capacity)
            .try_for_each(|some| self.adopt_some(netns, some))
    }

    fn adopt_some(&mut self, netns: &Netns, listeners: &[(u64, ListenerKey)]) -> Result<()> {
        let mut adopt = self.pins.adopt()?;
        for (cookie, key) in listeners {
            adopt.insert(cookie, pins::Plain(*key), 0)?;
        }
        let program = self.object.program_mut(program::ADOPT);
        let iterator: &mut Iter = program
            .context("the BPF object has no iterator")?
            .try_into()?;
        if iterator.fd().is_err() {
            iterator.load("tcp", &Btf::from_sys_fs()?)?;
        }
        // The iterator walks the sockets of the namespace that opens it.
        let walked = netns.run(|| {
            let id = iterator.attach()?;
            let mut walk = iterator.take_link(id)?.into_file()?;
            walk.read_to_end(&mut Vec::new())?;
            Ok(())
        });
        for (cookie, _) in listeners {
            adopt.remove(cookie)?;
        }
        walked.with_context(|| format!("cannot walk the sockets of {netns}"))
    }

    /// Says on which ports of one namespace PROXY headers are taken off, and on which they were.
    pub fn unwrap(
        &self,
        before: &[(UnwrapPort, Versions)],
        ports: &[(UnwrapPort, Versions)],
    ) -> Result<()> {
        let mut unwraps = self.pins.unwraps()?;
        for (port, versions) in ports {
            unwraps.insert(pins::Plain(*port), versions.0, 0)?;
        }
        let is_gone = |port: &UnwrapPort| !ports.iter().any(|(p, _)| p == port);
        let gone: Vec<_> = before.iter().map(|(p, _)| *p).filter(is_gone).collect();
        self.no_longer_unwrap(&mut unwraps, &gone)
    }

    fn no_longer_unwrap(&self, unwraps: &mut pins::Unwraps, ports: &[UnwrapPort]) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        translated::reset(&self.pins, |connection| {
            let (netns, port) = (connection.netns, connection.destination.port);
            ports.iter().any(|p| (p.netns, p.port) == (netns, port))
        })?;
        for port in ports {
            unwraps.remove(&pins::Plain(*port))?;
        }
        Ok(())
    }

    /// Says which SYNs are given TOA before the node's own NAT, in the namespace with this cookie.
    pub fn node(&self, netns: u64, interfaces: &[(Interface, Node)]) -> Result<()> {
        let mut nodes = self.pins.nodes()?;
        for (interface, node) in interfaces {
            nodes.insert(pins::Plain(*interface), pins::Plain(*node), 0)?;
        }
        let known = nodes.keys().map(|key| Ok(key?.0));
        let mut gone = known.collect::<Result<Vec<Interface>>>()?;
        gone.retain(|i| i.netns == netns && !interfaces.iter().any(|(wanted, _)| wanted == i));
        for interface in gone {
            nodes.remove(&pins::Plain(interface))?;
        }
        Ok(())
    }

    /// Forgets translated connections that never got a socket. `before`: what the last call returned.
    pub fn sweep(&self, before: &Orphans) -> Result<Orphans> {
        translated::sweep(&self.pins, before)
    }

    /// Attaches the packet programs to interfaces of `netns`, and `sk_lookup` to the namespace if it has
    /// steers; what was attached there is replaced. Returns the names of the pins.
    pub fn attach(
        &mut self,
        netns: &Netns,
        jobs: &[(&str, Job)],
        steers: bool,
    ) -> Result<Vec<String>> {
        let mut object = load_object(&mut self.loader, netns.cookie())?;
        let pins = &self.pins;
        netns.run(move || {
            let mut names = Vec::new();
            for (interface, job) in jobs {
                for (program, direction) in job.programs() {
                    let name = attach::packets(
                        &mut object,
                        pins,
                        netns.inode(),
                        interface,
                        program,
                        *direction,
                    );
                    names.push(name.with_context(|| format!("cannot attach to {interface}"))?);
                }
            }
            if steers {
                let attached = attach::lookup(&mut object, pins, netns.inode());
                names.push(attached.context("cannot attach sk_lookup")?);
            }
            Ok(names)
        })
    }

    /// Detaches the packet programs with these pins.
    pub fn detach<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Result<()> {
        let mut names = names.into_iter();
        names.try_for_each(|name| self.pins.unpin_link(name))
    }

    /// Fails when one of these pins is missing.
    pub fn check(&self, names: &[String]) -> Result<()> {
        for name in names {
            let path = self.pins.link_path(name);
            PinnedLink::from_pin(&path)
                .with_context(|| format!("{} is missing", path.display()))?;
        }
        Ok(())
    }

    /// Forgets the settings of the namespace with this cookie.
    pub fn forget(&self, netns: u64) -> Result<()> {
        self.node(netns, &[])?;
        match self.pins.namespaces()?.remove(&netns) {
            Err(MapError::KeyNotFound) => Ok(()),
            removed => Ok(removed?),
        }
    }

    /// Removes what another agent has left: detaches every packet program whose pin is not among `names`, forgets
    /// the settings of every namespace whose cookie is not among `cookies`, and takes headers off `ports` only.
    pub fn retain(
        &self,
        names: &[&str],
        cookies: &[u64],
        ports: &[(UnwrapPort, Versions)],
    ) -> Result<()> {
        self.pins.retain_links(|name| {
            let own = self.always.iter().chain(&self.by_need);
            let keep = own.map(String::as_str).chain(names.iter().copied());
            keep.into_iter().any(|n| n == name)
        })?;
        let namespaces = self.pins.namespaces()?;
        let known: Vec<u64> = namespaces.keys().collect::<Result<_, _>>()?;
        for cookie in known.iter().filter(|cookie| !cookies.contains(cookie)) {
            self.forget(*cookie)?;
        }
        let mut unwraps = self.pins.unwraps()?;
        let known = unwraps.keys().map(|port| Ok(port?.0));
        let mut left = known.collect::<Result<Vec<UnwrapPort>>>()?;
        left.retain(|port| !ports.iter().any(|(p, _)| p == port));
        self.no_longer_unwrap(&mut unwraps, &left)
    }
}

/// Makes the directory of the pins, and mounts bpffs where there is none.
pub fn prepare(root: &Path) -> Result<()> {
    Pins::new(root).create()
}

/// Removes the data path pinned at `pins`, whoever left it: programs, maps, and clsact filters in
/// every namespace that can be seen.
pub fn remove(pins: &Pins) -> Result<()> {
    if let Err(error) = translated::reset(pins, |_| true) {
        debug!("no translated connections: {error:#}");
    }
    let removed = pins.remove();
    for netns in Netns::all()? {
        let swept = netns.run(|| {
            for interface in nix::net::if_::if_nameindex()?.iter() {
                attach::detach_clsact(&interface.name().to_string_lossy());
            }
            Ok(())
        });
        if let Err(error) = swept {
            warn!("clsact filters in {netns} were not looked for: {error:#}");
        }
    }
    removed
}

/// Whether the maps that are pinned fit this version and this configuration, and nothing was missed:
/// without the program that deletes origins, they may name sockets that are long gone.
fn can_take_over(pins: &Pins, origins: u32) -> bool {
    let was_learning = PinnedLink::from_pin(pins.link_path(program::LEARN)).is_ok();
    let fits = pins.origins().and_then(|_| pins.namespaces()).is_ok();
    let size = MapData::from_pin(pins.map_path(map::ORIGINS)).and_then(|map| map.info());
    let same_size = size.is_ok_and(|info| info.max_entries() == origins);
    if was_learning && fits && !same_size {
        warn!("`origins` has changed: connections in progress become unknown");
    }
    was_learning && fits && same_size
}

/// What is the same for each load of the object. Making it takes longer than all loads: aya reads the
/// kernel's BTF for it.
fn loader(pins: &Pins, origins: u32, processes: bool) -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    // The object has no relocation that needs it, and it takes tens of megabytes.
    loader.btf(None);
    loader.map_max_entries(map::ORIGINS, origins);
    loader.override_global(names::PROCESSES, if processes { &1_u8 } else { &0 }, true);
    for name in map::ALL {
        loader.map_pin_path(name, pins.map_path(name));
    }
    loader
}

/// Loads the object for the namespace with this cookie. Maps that are pinned are used again.
fn load_object(loader: &mut EbpfLoader<'static>, netns: u64) -> Result<Ebpf> {
    // The loader borrows globals for as long as it lives, which is as long as the agent: nine bytes
    // a namespace.
    loader
        .override_global(names::NETNS, &*Box::leak(Box::new(netns)), true)
        .override_global(aya_log::LEVEL, &*Box::leak(Box::new(log_level())), true);
    loader.load(OBJECT).context("cannot load the BPF object")
}

/// The level up to which the programs log, as the agent's own subscriber has it.
fn log_level() -> u8 {
    use tracing::level_filters::LevelFilter;
    let level = match LevelFilter::current() {
        LevelFilter::TRACE => aya_log::Level::Trace,
        LevelFilter::DEBUG => aya_log::Level::Debug,
        LevelFilter::INFO => aya_log::Level::Info,
        LevelFilter::WARN => aya_log::Level::Warn,
        LevelFilter::ERROR => aya_log::Level::Error,
        _ => return 0,
    };
    level as u8
}

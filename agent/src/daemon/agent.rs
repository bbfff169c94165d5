//! A running agent: follows the host, the configuration and the pods until it is told to stop.

use std::{
    collections::BTreeSet,
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    sync::mpsc::{self, Receiver},
    task::{JoinSet, block_in_place},
    time::{self, MissedTickBehavior},
};
use tracing::{debug, error, info, warn};

use super::{
    adoption,
    awaited::Awaited,
    beginning::{Load, Return},
    drain::{Follow, drain},
    keeper::Keeper,
    losses::{Loss, Losses},
    plan::Place,
    retired::{self, Begun, Retired},
    served::Missing,
    signals::{Signals, Wish},
    supervisor::Supervisor,
};
use crate::{
    api::{Reloaded, Request, Server, State},
    config::Config,
    connections::{
        names::Names,
        origins::Origins as _,
        summary::{Summary, SummarySender},
    },
    datapath::{Events, Orphans, Pins},
    doctor,
    host::{
        cgroup_watch::CgroupWatch, cgroups::cgroup2_mount, inherited::Inherited, netns::Netns,
        service,
    },
    observe::access_log::AccessLog,
    relay::Relays,
    route::Journal,
    workloads::pods::Directory,
};

/// How often named namespaces, keys and clock are looked at: nothing tells when one is replaced.
const LOOK: Duration = Duration::from_secs(1);
/// How often the agent looks for what connections that never came about have left.
const SWEEP: Duration = Duration::from_secs(5);
/// How often closed connections are fetched; the data path wakes the agent only when many wait.
const FETCH: Duration = Duration::from_millis(50);

/// A running agent.
pub(super) struct Agent {
    config: Config,
    load: Load,
    supervisor: Supervisor,
    keeper: Keeper,
    /// What the API asks for.
    requests: Receiver<Request>,
    relays: Relays,
    /// Served namespaces of which an interface has changed.
    changed: Receiver<Place>,
    awaited: Awaited,
    cgroups: Option<CgroupWatch>,
    /// Whether the pins are out of reach, so that nothing can be changed.
    is_blind: bool,
    losses: Losses,
    /// Namespaces that are not followed yet, lest the agent fights with somebody.
    delayed: BTreeSet<Place>,
    /// Why the configuration in its file is not the one that is in place.
    refusal: Option<String>,
    /// What systemd was told last.
    told: String,
    state: Arc<State>,
    events: Events,
    /// Whom the relays refused.
    refused: Receiver<Summary>,
    log: AccessLog,
    former: Vec<Arc<State>>,
    /// The API and the data path's messages, for as long as the agent runs.
    tasks: JoinSet<Result<()>>,
}

impl Agent {
    /// Puts everything in place, with the sockets that a predecessor has left, beside what `former` agents of this process have
    /// begun.
    pub(super) async fn start(
        config: Config,
        load: Load,
        server: Server,
        inherited: Inherited,
        former: Vec<Arc<State>>,
    ) -> Result<Self> {
        let names = Names::new(&config);
        let pins = Pins::new(&config.agent.bpffs);
        let (state, requests) = State::new(Arc::new(pins), names.clone(), &config.agent);
        let failures = state.metrics.access_log_failures.clone();
        let omissions = state.metrics.access_log_omissions.clone();
        let target = &config.agent.access_log;
        let log = AccessLog::open(
            target,
            config.agent.access_log_of,
            names.clone(),
            failures.clone(),
            omissions,
        )?;
        let (notify, changed) = mpsc::channel(64);
        let journal = Journal::open(&config.agent.journal())?;
        let containers = state.containers.clone();
        let mut supervisor =
            block_in_place(|| Supervisor::new(&config, journal, containers, notify))?;
        let pods = state.pods.clone();
        let directory = Directory::new(&config.agent.pods);
        block_in_place(|| adoption::adopt(&state.containers, &directory))
            .unwrap_or_else(|error| warn!("pods are not adopted: {error:#}"));
        let keeper = Keeper::load(&config.agent.pods, pods, names, &mut supervisor)?;
        let mut awaited = Awaited::new(state.metrics.upkeep.clone());
        block_in_place(|| awaited.look(&config));
        let cgroups = cgroup2_mount().and_then(|root| CgroupWatch::new(&root));
        let cgroups = cgroups.inspect_err(|error| warn!("{error:#}; looking each second instead"));
        let cgroups = cgroups.ok();
        block_in_place(|| {
            let change = supervisor.prepare(&config)?;
            supervisor.commit(change)
        })?;

        let claims = supervisor.datapath.claims()?;
        let (refusals, refused) = SummarySender::channel(failures);
        let (metrics, tlvs) = (state.metrics.relay.clone(), state.tlvs.clone());
        let mut relays = Relays::new(claims, metrics, tlvs, refusals, inherited);
        block_in_place(|| relays.apply(&config))?;

        let events = supervisor.datapath.events()?;
        state.tlvs.follow(supervisor.datapath.headers()?);
        let mut tasks = JoinSet::new();
        tasks.spawn(server.serve(state.clone()));
        tasks.spawn(supervisor.datapath.diagnostics()?.forward());
        tasks.spawn(supervisor.datapath.pins().clone().sweep_origins());
        state.set_ready(true);
        give_back_memory();
        Ok(Self {
            config,
            load,
            supervisor,
            keeper,
            requests,
            relays,
            changed,
            awaited,
            cgroups,
            is_blind: false,
            losses: Losses::new(state.metrics.upkeep.clone()),
            delayed: BTreeSet::new(),
            refusal: None,
            told: String::new(),
            state,
            events,
            refused,
            log,
            former,
            tasks,
        })
    }

    /// Serves until a signal says to stop, then until the connections in progress have ended. Returns what is left of it if
    /// another agent follows instead.
    pub(super) async fn serve(mut self, signals: &mut Signals) -> Result<Option<Retired>> {
        service::tell_ready();
        let mut look = time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweep = time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut orphans = Orphans::new();
        let mut fetch = time::interval(FETCH);
        fetch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Stop => break,
                    Wish::Reload => drop(self.reload()),
                    Wish::HandOver => return Ok(Some(self.retire().await)),
                },
                Some(request) = self.requests.recv() => self.act(request),
                Some(place) = self.changed.recv() => self.note_changed(place),
                () = changed(self.cgroups.as_ref()) => self.follow_cgroups(),
                _ = look.tick() => self.look(),
                _ = sweep.tick() => self.sweep(&mut orphans),
                _ = fetch.tick() => self.note_ended(),
                ready = self.events.ready() => {
                    ready?;
                    self.note_ended();
                }
                Some(ended) = self.tasks.join_next() => ended??,
            }
        }
        self.state.set_ready(false);
        service::tell_stopping();
        self.requests.close();
        // Those that wait are told by that.
        while self.requests.try_recv().is_ok() {}
        self.relays.close();
        let follow = if self.config.agent.keep {
            Follow::AtOnce
        } else {
            block_in_place(|| self.supervisor.drain())?;
            Follow::Later
        };
        let (began, limit) = (Instant::now(), self.config.agent.drain);
        let is_followed = drain(limit, signals, follow, || {
            let left = self.in_progress();
            self.note_ended();
            left
        })
        .await?;
        if !is_followed {
            return Ok(None);
        }
        Ok(Some(Retired {
            back: None,
            limit: limit.saturating_sub(began.elapsed()),
            stops: true,
            ..self.retire().await
        }))
    }

    /// Lets go of everything but the connections that relays have begun. What is in place stays.
    async fn retire(mut self) -> Retired {
        self.state.set_ready(false);
        let sockets = Inherited::of_this_process().unwrap_or_else(|error| {
            warn!("nobody listens if the agent that takes over fails: {error:#}");
            Inherited::default()
        });
        self.relays.close();
        self.note_ended();
        // The API's socket goes with its task.
        self.tasks.shutdown().await;
        Retired {
            limit: self.config.agent.drain,
            stops: false,
            begun: Begun {
                relays: self.relays,
                state: self.state,
                refused: self.refused,
                log: self.log,
                former: self.former,
            },
            back: Some(Return {
                config: self.config,
                load: self.load,
                sockets,
            }),
        }
    }

    /// Has statistics and access log know of connections that have ended.
    fn note_ended(&mut self) {
        let State {
            metrics,
            tlvs,
            containers,
            ..
        } = &*self.state;
        let mut note = |mut ended: Summary| {
            ended.workload = containers.of(&ended.closed.origin);
            if let Some(workload) = &ended.workload {
                containers.count(workload, ended.refused.is_some());
            }
            metrics.statistics.note(&ended);
            self.log.write(ended);
        };
        self.events
            .read(|closed| note(Summary::new(*closed, tlvs.take_ended(closed))));
        // Lest they find no room, even if nobody asks.
        tlvs.fetch();
        while let Ok(ended) = self.refused.try_recv() {
            note(ended);
        }
    }

    fn sweep(&self, orphans: &mut Orphans) {
        if self.is_blind {
            return;
        }
        match block_in_place(|| self.supervisor.datapath.sweep(orphans)) {
            Ok(now) => *orphans = now,
            Err(error) => warn!("cannot look for what connections have left: {error:#}"),
        }
    }

    /// Does what the API asks for. Who asks may have lost patience.
    fn act(&mut self, request: Request) {
        match request {
            Request::Pod(pod) => {
                let act = || self.keeper.act(&mut self.supervisor, &pod.id, pod.action);
                let _ = pod.reply.send(block_in_place(act));
            }
            Request::Reload(reply) => {
                let _ = reply.send(self.reload());
            }
        }
    }

    /// Follows each namespace with changes once.
    fn note_changed(&mut self, place: Place) {
        let mut places = BTreeSet::from([place]);
        while let Ok(place) = self.changed.try_recv() {
            places.insert(place);
        }
        match self.is_blind {
            true => self.delayed.extend(places),
            false => self.follow(places),
        }
    }

    /// Looks whether the pins are within reach.
    fn look_for_pins(&mut self) {
        let reached = self.supervisor.datapath.reach();
        match &reached {
            Err(error) if !self.is_blind => error!("{error:#}"),
            Ok(()) if self.is_blind => info!("the pins of this agent are back"),
            _ => {}
        }
        self.is_blind = reached.is_err();
    }

    /// Follows what tells of no change itself: namespaces, files, sysctls and links.
    fn look(&mut self) {
        self.look_for_pins();
        self.tell_status();
        if self.is_blind {
            return;
        }
        if let Err(error) = block_in_place(|| self.supervisor.follow_keys()) {
            error!("{error:#}");
        }
        block_in_place(|| self.awaited.look(&self.config));
        self.follow_cgroups();
        if let Err(error) = block_in_place(|| self.put_back_on_host()) {
            error!("{error:#}");
        }
        let looked = block_in_place(|| {
            self.state.containers.refresh();
            self.keeper.look(&mut self.supervisor)?;
            if self.relays.is_outdated(&self.config) {
                self.relays.apply(&self.config)?;
            }
            Ok::<_, anyhow::Error>(())
        });
        if let Err(error) = looked {
            error!("{error:#}");
        }
        let mut places = std::mem::take(&mut self.delayed);
        places.extend(self.supervisor.outdated());
        places.extend(self.supervisor.silently_lost());
        self.follow(places);
    }

    /// Follows cgroups that have come and gone.
    fn follow_cgroups(&mut self) {
        if self.is_blind {
            return;
        }
        if let Some(watch) = &self.cgroups {
            watch.follow(doctor::cgroups(&self.config));
        }
        if let Err(error) = block_in_place(|| self.supervisor.follow_cgroups()) {
            error!("{error:#}");
        }
    }

    /// Puts back the programs that are attached for the whole host.
    fn put_back_on_host(&mut self) -> Result<()> {
        let missing = self.supervisor.datapath.missing_on_host()?;
        let lost: Vec<_> = missing.into_iter().map(Loss::from).collect();
        if !lost.is_empty() && self.losses.may_put_back(&lost, Instant::now()) {
            self.supervisor.datapath.attach_missing()?;
            self.losses.count(&lost);
        }
        Ok(())
    }

    fn follow(&mut self, places: impl IntoIterator<Item = Place>) {
        for place in places {
            let lost = block_in_place(|| self.supervisor.lost(&place));
            let lost = lost.unwrap_or_else(|error| {
                debug!("{error:#}");
                Vec::new()
            });
            if !self.losses.may_put_back(&lost, Instant::now()) {
                self.delayed.insert(place);
                continue;
            }
            let followed = block_in_place(|| self.supervisor.follow(&place, Missing::Waits));
            let Err(error) = followed else {
                self.losses.count(&lost);
                continue;
            };
            let path = place.as_deref();
            let is_there = path.is_none_or(|path| Netns::open(path).is_ok());
            if is_there && path.is_none_or(|path| self.supervisor.wanted.is_configured(path)) {
                warn!("{error:#}");
            } else {
                // Every pod that is removed loses its interfaces first.
                debug!("{error:#}");
            }
        }
    }

    /// Reads the configuration again, and tells of the outcome.
    fn reload(&mut self) -> Result<Reloaded> {
        self.log.reopen();
        let outcome = self.take_up();
        match &outcome {
            Ok(_) => info!("configuration read again"),
            Err(error) => error!("{error:#}"),
        }
        self.refusal = outcome.as_ref().err().map(|error| format!("{error:#}"));
        self.tell_status();
        outcome
    }

    /// Takes up the configuration, all but `[agent]`, which needs a new start; a bad one changes nothing.
    fn take_up(&mut self) -> Result<Reloaded> {
        let new = (self.load)().context("the configuration is not read again")?;
        let needs_start = new.agent != self.config.agent;
        if needs_start {
            warn!("changes below [agent] take effect at the next start");
        }
        block_in_place(|| {
            // All that can fail comes first.
            refuse_misspelt(&new, &self.config)?;
            let change = self.supervisor.prepare(&new)?;
            let relays = self.relays.prepare(&new)?;
            self.supervisor.commit(change)?;
            self.relays.commit(&new, relays);
            Ok::<_, anyhow::Error>(())
        })
        .context("the new configuration is not taken up")?;
        self.state.names.set(&new);
        self.keeper.tell_names();
        self.config = Config {
            agent: self.config.agent.clone(),
            ..new
        };
        Ok(Reloaded { needs_start })
    }

    /// Has `systemctl status` show what is served and what is amiss.
    fn tell_status(&mut self) {
        let waiting = self.state.metrics.upkeep.waiting();
        let mut parts = vec![format!("in place: {}", self.config.sections())];
        parts.extend(waiting.iter().map(|thing| format!("waiting for {thing}")));
        parts.extend(self.is_blind.then(|| "its pins are out of reach".into()));
        parts.extend(self.refusal.clone());
        let text = parts.join("; ");
        if text != self.told {
            service::tell_status(&text);
            self.told = text;
        }
    }

    /// How many connections are open that would end with the agent: of the relays and, unless the data
    /// path stays, those with an origin.
    fn in_progress(&self) -> Result<u64> {
        let relayed = self.relays.open() + retired::open(&self.former);
        if self.config.agent.keep {
            return Ok(relayed);
        }
        let maps = self.supervisor.datapath.pins().status()?.maps;
        let known = maps.first().map_or(0, |origins| origins.entries);
        Ok(known.max(relayed))
    }
}

/// Refuses a configuration that names something for the first time which this host does not have: that is misspelt more
/// often than late. What the former one named, too, is waited for.
fn refuse_misspelt(new: &Config, former: &Config) -> Result<()> {
    let known = doctor::named(former);
    let mut missing = doctor::missing(new).into_iter();
    match missing.find(|(named, _)| named.may_be_misspelt() && !known.contains(named)) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Waits until a cgroup has come or gone.
async fn changed(watch: Option<&CgroupWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => future::pending().await,
    }
}

/// Returns what only the start needed to the system: reading the kernel's BTF takes tens of megabytes,
/// which glibc would keep.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions and may be called from any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

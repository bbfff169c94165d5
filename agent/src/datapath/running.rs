//! What runs on the packets of an interface, truepeer's programs and those of others, in which order.

use anyhow::Result;
use aya::programs::TcAttachType;

use super::{
    filters,
    interfaces::in_order,
    jobs::{Job, PacketProgram},
    links,
    pins::Pins,
};
use crate::host::netns::Netns;

/// A program that runs on packets of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// Which of the data path's own programs it is, in the order in which they are to run; `None`: it is somebody else's.
    pub own: Option<usize>,
}

impl Running {
    /// Whether it is the data path's.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Whether two of truepeer's programs run in the order of their jobs, or one of them is not truepeer's.
    pub fn precedes(&self, next: &Self) -> bool {
        self.own
            .zip(next.own)
            .is_none_or(|(first, second)| first < second)
    }
}

/// One way of an interface's packets, and what runs on them.
#[derive(Clone, Debug)]
pub struct Way {
    /// What `tc` calls it.
    pub name: &'static str,
    /// The programs in their order.
    pub running: Vec<Running>,
    /// Names of truepeer's programs that the jobs need and that do not run.
    pub missing: Vec<&'static str>,
}

impl Pins {
    /// Whether a program is pinned under its own name, as one for the whole host.
    pub fn has_link(&self, name: &str) -> Result<bool> {
        Ok(self.link(name)?.is_some())
    }

    /// What runs on the packets that come in and go out by an interface of `netns`, on which these jobs are to be done.
    pub fn ways(&self, netns: &Netns, interface: &str, jobs: &[Job]) -> Result<Vec<Way>> {
        let inode = netns.inode();
        netns.run(|| {
            let mut ways = Vec::new();
            for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
                let own = PacketProgram::all().enumerate();
                let own: Vec<_> = own.filter(|(_, p)| p.direction == direction).collect();
                let mut ids = Vec::new();
                for (number, program) in &own {
                    let pin = links::on_interface(program.name, inode, interface);
                    let linked = self.link(&pin)?;
                    let linked = linked.map(|link| link.info().map(|info| info.program_id()));
                    let id = match linked.transpose()? {
                        Some(id) => Some(id),
                        None => self.filter(&pin)?,
                    };
                    ids.extend(id.map(|id| (id, *number)));
                }
                let running = in_order(interface, direction)?.into_iter();
                let running = running.map(|(name, id)| {
                    let own = ids.iter().find(|(own, _)| *own == id);
                    let own = own.map(|(_, number)| *number);
                    Running { name, own }
                });
                let running: Vec<_> = running.collect();
                let is_needed = |program: &PacketProgram| jobs.contains(&program.job());
                let runs = |number: usize| running.iter().any(|r| r.own == Some(number));
                let missing = own
                    .iter()
                    .filter(|(n, program)| is_needed(program) && !runs(*n));
                ways.push(Way {
                    name: filters::word(direction),
                    missing: missing.map(|(_, program)| program.name).collect(),
                    running,
                });
            }
            Ok(ways)
        })
    }
}

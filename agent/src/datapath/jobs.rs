//! What can be done on an interface, and by which packet programs.

use std::fmt;

use agent_common::names::program;
use aya::programs::TcAttachType;

/// What is done on an interface. Jobs on one interface run in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// PROXY headers are taken off, before anything else sees them.
    Unwrap,
    /// SYNs are given TOA before the node's own NAT.
    Node,
    /// Connections are brought to a proxy, or its own to it.
    Steer,
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unwrap => "unwrap on",
            Self::Node => "carry on",
            Self::Steer => "steer on",
        })
    }
}

/// A packet program of the BPF object.
#[derive(Debug)]
pub(super) struct PacketProgram {
    /// Its name in the object.
    pub(super) name: &'static str,
    job: Job,
    pub(super) direction: TcAttachType,
    /// The priority of its clsact filter: of several filters, the one with the lowest number runs first. The
    /// kernel's own choice would be 49152 and then one less for each further filter, so that the last one added
    /// would run first (`tcf_auto_prio()` of net/sched/cls_api.c).
    pub(super) priority: u16,
}

impl PacketProgram {
    const ALL: [Self; 5] = [
        Self::new(program::UNWRAP, Job::Unwrap, TcAttachType::Ingress, 133),
        Self::new(program::ANSWER, Job::Unwrap, TcAttachType::Egress, 133),
        Self::new(program::NODE, Job::Node, TcAttachType::Ingress, 134),
        Self::new(program::LEAVE, Job::Node, TcAttachType::Egress, 134),
        Self::new(program::STEER, Job::Steer, TcAttachType::Ingress, 135),
    ];

    const fn new(name: &'static str, job: Job, direction: TcAttachType, priority: u16) -> Self {
        Self {
            name,
            job,
            direction,
            priority,
        }
    }

    /// Those that do this job.
    pub(super) fn of(job: Job) -> impl Iterator<Item = &'static Self> {
        Self::all().filter(move |program| program.job == job)
    }

    /// The one with this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        Self::all().find(|program| program.name == name)
    }

    /// The job that it does.
    pub(super) fn job(&self) -> Job {
        self.job
    }

    /// The others of its hook that run before it and behind it, the nearest first.
    pub(super) fn neighbours(&self) -> (Vec<&'static Self>, Vec<&'static Self>) {
        let others = Self::all().filter(|p| p.direction == self.direction && p.name != self.name);
        let (mut before, behind): (Vec<_>, _) = others.partition(|p| p.priority < self.priority);
        before.reverse();
        (before, behind)
    }

    /// Every packet program.
    pub(super) fn all() -> impl Iterator<Item = &'static Self> {
        const { &Self::ALL }.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_in_the_order_of_the_jobs() {
        let names = |all: Vec<&PacketProgram>| all.iter().map(|p| p.name).collect::<Vec<_>>();
        let of = |name| {
            let (before, behind) = PacketProgram::named(name).unwrap().neighbours();
            (names(before), names(behind))
        };
        assert_eq!(of(program::STEER).0, [program::NODE, program::UNWRAP]);
        assert_eq!(of(program::UNWRAP).1, [program::NODE, program::STEER]);
        assert_eq!(of(program::LEAVE), (vec![program::ANSWER], vec![]));
    }
}

//! How truepeer gets on with the rest of the host.

use std::path::Path;

use super::check::{Check, Outcome};
use crate::{
    datapath::{self, Pins},
    observe::upkeep::PutBack,
};

const NAME: &str = "neighbours";

/// Programs that run and whose pins cannot be seen.
pub(super) fn stranded(bpffs: &Path) -> Option<Check> {
    // Whoever may not list the kernel's programs is told so by other checks.
    let stranded = datapath::stranded(&Pins::new(bpffs)).unwrap_or_default();
    (stranded > 0).then(|| {
        Check::wrong(
            Outcome::Warn,
            NAME,
            format!(
                "{stranded} programs of an agent with its pins at {} run, and are not pinned there now",
                bpffs.display()
            ),
            "they go on as they are, whatever the configuration says",
            "unmount what covers their pins, start the agent, which detaches them, or type `truepeer detach`",
        )
    })
}

/// What a running agent has put back, by its own report.
pub(super) fn put_back(known: &[PutBack]) -> Vec<Check> {
    let check = |PutBack { what, times, last }: &PutBack| {
        Check::wrong(
            Outcome::Warn,
            NAME,
            format!(
                "somebody has removed or changed the {what}; the agent put it back (times: {times}, last: {last})"
            ),
            "until it was back, connections went on as without truepeer, or to nobody",
            "find out who it is; systemd-networkd leaves others' rules and routes alone with \
             `ManageForeignRoutingPolicyRules=no` and `ManageForeignRoutes=no` in networkd.conf",
        )
    };
    known.iter().map(check).collect()
}

//! Whether an agent runs, and what one that is gone has left.

use std::path::Path;

use agent_common::names::program;
use anyhow::Result;

use super::check::{Check, Outcome};
use crate::{config::Config, datapath::Pins, observe::upkeep::PutBack};

const NAME: &str = "agent";

/// What the agent's socket tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It answers.
    Answers {
        /// Its version.
        version: String,
        /// Its process.
        pid: u32,
        /// Whether it neither starts nor drains.
        ready: bool,
        /// What it had to put back.
        put_back: Vec<PutBack>,
    },
    /// Something is there that does not answer as an agent: why.
    Silent(String),
    /// Nobody is there.
    Gone,
}

impl Life {
    /// Whether an agent runs.
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Answers { .. })
    }
}

/// Whether a data path is pinned.
pub(super) fn is_in_place(config: &Config) -> bool {
    Pins::open(&config.agent.bpffs).is_ok()
}

pub(super) fn check(life: &Life, config: &Config) -> Check {
    let settings = &config.agent;
    let pinned = Pins::open(&settings.bpffs).and_then(|pins| pins.has_link(program::LEARN));
    judge(
        life,
        &pinned,
        settings.socket.exists(),
        &settings.bpffs,
        config,
    )
}

/// `pinned` says whether the program is attached that no data path is without, or why no data path is pinned; `has_socket`
/// whether the file of a socket is there.
fn judge(
    life: &Life,
    pinned: &Result<bool>,
    has_socket: bool,
    bpffs: &Path,
    config: &Config,
) -> Check {
    let (socket, bpffs) = (config.agent.socket.display(), bpffs.display());
    let fail = |reason: String, consequence: String, remedy: &str| {
        Check::wrong(Outcome::Fail, NAME, reason, consequence, remedy)
    };
    const START: &str = "start it, and see its log for why it ended";
    match (life, pinned) {
        (Life::Answers { version, pid, ready: true, .. }, Ok(true)) => Check::ok(
            NAME,
            format!("version {version} serves as process {pid}, and answers at {socket}"),
        ),
        (Life::Answers { pid, ready: false, .. }, Ok(true)) => Check::wrong(
            Outcome::Warn,
            NAME,
            format!("process {pid} is starting or draining"),
            "what it has not taken up yet, or gives up, does not work",
            "wait, and see its log",
        ),
        (Life::Answers { pid, .. }, Ok(false)) => fail(
            format!("process {pid} runs, but its programs are not in place: {} is not pinned", program::LEARN),
            "nothing is learnt of new connections, and applications see the last hop".into(),
            "find out who unpins at `bpffs`, and start the agent anew",
        ),
        (Life::Answers { pid, .. }, Err(error)) => fail(
            format!("process {pid} answers at {socket}, and no data path of it is found: {error:#}"),
            "commands that read the pins see nothing, and what this agent does is not what this doctor looks at".into(),
            "give `--config` of that agent; else find out what has been mounted or removed at `bpffs`, and start it anew",
        ),
        (Life::Silent(why), _) => fail(
            format!("no agent answers at {socket}: {why}"),
            "it is unknown whether relays, metrics and the access log go on; the programs in the kernel do".into(),
            "see its log; if it hangs, kill and start it, which interrupts nothing but relays",
        ),
        (Life::Gone, Ok(_)) => fail(
            format!("no agent answers at {socket}, and its programs are still pinned at {bpffs}"),
            without(config),
            "start it, and see its log for why it ended; or type `truepeer detach`, which undoes everything",
        ),
        (Life::Gone, Err(error)) if has_socket => fail(
            format!("no agent answers at {socket}, where one has left its socket: {error:#}"),
            "nothing of the configuration works".into(),
            START,
        ),
        (Life::Gone, Err(error)) => Check::wrong(
            Outcome::Warn,
            NAME,
            format!("none runs, and none has left anything: {error:#}"),
            "nothing of the configuration is in place yet",
            "start it: `truepeer run`",
        ),
    }
}

/// What goes on without the agent, and what does not.
fn without(config: &Config) -> String {
    let kernel = [
        ("steering", !config.steer.is_empty()),
        ("unwrap", !config.unwrap.is_empty()),
        (
            "TOA",
            !config.kinds().is_empty() || !config.carry_toa.to.is_empty(),
        ),
        ("policies", !config.policy.is_empty()),
        ("`accept()`", config.reveal.enabled),
    ];
    let goes_on: Vec<_> = kernel
        .iter()
        .filter(|(_, used)| *used)
        .map(|(name, _)| *name)
        .collect();
    let relays = if config.relay.is_empty() {
        String::new()
    } else {
        format!("none of the {} relays, ", config.relay.len())
    };
    let goes_on = match &goes_on[..] {
        [] => "the programs go on".to_owned(),
        verbs => format!("the programs go on ({})", verbs.join(", ")),
    };
    format!(
        "{goes_on}, but {relays}no metrics and no access log do, and nothing follows addresses, interfaces, pods and cgroups \
         that change, or puts back what others remove"
    )
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn found(life: &Life, pinned: Result<bool>, has_socket: bool) -> (Outcome, String) {
        let text = "[[relay]]\nlisten = \"[::]:80\"\nupstream = [\"[::1]:81\"]\n";
        let config = Config::parse(text, "test").unwrap();
        let check = judge(life, &pinned, has_socket, Path::new("/pins"), &config);
        (check.outcome, check.reason + "; " + &check.consequence)
    }

    #[test]
    fn an_agent_that_is_gone_is_never_well() {
        let answers = |ready| Life::Answers {
            version: "1".into(),
            pid: 7,
            ready,
            put_back: Vec::new(),
        };
        let nothing = || Err(anyhow!("nothing is pinned"));
        for (life, pinned, has_socket, outcome, words) in [
            (answers(true), Ok(true), true, Outcome::Ok, "process 7"),
            (answers(false), Ok(true), true, Outcome::Warn, "draining"),
            (
                answers(true),
                Ok(false),
                true,
                Outcome::Fail,
                "not in place",
            ),
            (
                answers(true),
                nothing(),
                true,
                Outcome::Fail,
                "no data path of it",
            ),
            (
                Life::Silent("it hangs".into()),
                Ok(true),
                true,
                Outcome::Fail,
                "it hangs",
            ),
            (
                Life::Gone,
                Ok(true),
                true,
                Outcome::Fail,
                "none of the 1 relays, no metrics",
            ),
            (
                Life::Gone,
                Ok(true),
                false,
                Outcome::Fail,
                "still pinned at /pins",
            ),
            (
                Life::Gone,
                nothing(),
                true,
                Outcome::Fail,
                "left its socket",
            ),
            (
                Life::Gone,
                nothing(),
                false,
                Outcome::Warn,
                "none has left anything",
            ),
        ] {
            let (found, said) = found(&life, pinned, has_socket);
            assert_eq!(found, outcome, "{life:?}: {said}");
            assert!(said.contains(words), "{words:?} in {said}");
        }
    }
}

//! Statements that nobody listens to, and listeners whom nobody may tell anything.

use agent_common::trust::Statement;

use super::doubt::{Doubt, is_believed, show};
use crate::config::{
    place::Place,
    relay::{Accept, Protocol, Relay},
    trust::{Speakers, Trust},
    unwrap::Unwrap,
    whole::Config,
};

pub(super) fn all(config: &Config) -> Vec<Doubt> {
    let rules = config.trust.iter().enumerate();
    let unheard = rules.flat_map(|(number, rule)| unheard(config, number, rule));
    let unwraps = config.unwrap.iter().enumerate();
    let unwraps = unwraps.filter_map(|(number, section)| unwrap(number, section, &config.trust));
    unheard.chain(unwraps).collect()
}

/// Ports whose every connection is refused, because nobody may send the header with which it must begin. Where that are
/// all of a section, the configuration is not valid.
fn unwrap(number: usize, unwrap: &Unwrap, trust: &[Trust]) -> Option<Doubt> {
    let unheard = unwrap.ports.iter().cloned().flatten();
    let unheard: Vec<u16> = unheard
        .filter(|port| !is_believed(trust, Statement::Proxy, *port))
        .collect();
    (!unheard.is_empty()).then(|| {
        Doubt::new(
            unwrap.title(),
            Place::nth("unwrap", number).key("ports"),
            format!("nobody is believed to send a PROXY header to {}", show(&unheard)),
            "every connection to it is refused",
            "add a [[trust]] with the senders as `source`, `says = [\"proxy\"]`, and these `ports` or none",
        )
    })
}

/// What a rule believes and nothing reads.
fn unheard(config: &Config, number: usize, rule: &Trust) -> Vec<Doubt> {
    let Speakers::Sources { says, .. } = &rule.speakers else {
        return Vec::new();
    };
    let on_its_ports = |relay: &Relay| relay.ports(&config.steer).any(|port| rule.concerns(port));
    let doubt = |statement: &Statement| {
        let (reason, remedy) = match statement {
            Statement::Toa if config.kinds().is_empty() => (
                "`kinds` of [toa] has no option that could be TOA",
                "leave `kinds` of [toa] out for those that load balancers write",
            ),
            Statement::Proxy if !reads_headers(config, rule, &on_its_ports) => (
                "no [[unwrap]] or [[relay]] takes PROXY headers on the rule's ports",
                "correct `ports`, or leave \"proxy\" out of `says`",
            ),
            Statement::Xff if !config.relay.iter().any(|r| reads_xff(r) && on_its_ports(r)) => (
                "no [[relay]] reads `X-Forwarded-For` on the rule's ports",
                "add `protocol = \"http\"` to the [[relay]], or leave \"xff\" out of `says`",
            ),
            _ => return None,
        };
        let place = Place::nth("trust", number).key("says");
        let said = format!("nobody hears \"{}\": {reason}", statement.name());
        Some(Doubt::new(
            rule.title(),
            place,
            said,
            "the rule does nothing about it",
            remedy,
        ))
    };
    says.iter().filter_map(doubt).collect()
}

/// Whether something takes PROXY headers on the rule's ports. Where the configuration itself takes none anywhere, pods may
/// ask for it.
fn reads_headers(config: &Config, rule: &Trust, on_its_ports: &dyn Fn(&Relay) -> bool) -> bool {
    let mut relays = config
        .relay
        .iter()
        .filter(|relay| relay.accept == Accept::Proxy)
        .peekable();
    if config.unwrap.is_empty() && relays.peek().is_none() {
        return true;
    }
    let mut unwrapped = config
        .unwrap
        .iter()
        .flat_map(|unwrap| unwrap.ports.iter().cloned().flatten());
    unwrapped.any(|port| rule.concerns(port)) || relays.any(on_its_ports)
}

fn reads_xff(relay: &Relay) -> bool {
    matches!(relay.protocol, Protocol::Http(http) if http.trusted_hops != Some(0))
}

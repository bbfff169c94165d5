//! A count of hops believes whoever connects, unless rules say who may speak.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tests::agent::{Agent, Config, Relay, Trust};
use tests::clients::http::Client;
use tests::host::scenario;
use tests::proxies::any;
use tests::servers::web::Web;
use tests::topology::{Family, Sidecar};

const RELAY: u16 = 9000;
const APPLICATION: u16 = 8080;

/// Rules, and whether the client's network is believed to tell other clients by them.
fn cases() -> [(&'static str, Vec<Trust>, bool); 6] {
    let about = |says: &[&'static str], prefixes: &[&str]| -> Vec<Trust> {
        Trust::saying(says, prefixes).collect()
    };
    let own = ["10.77.0.0/24", "fd77::/64"];
    let others = ["192.0.2.0/24", "2001:db8:1b::/64"];
    let elsewhere = Trust::saying(&["xff"], others).map(|rule| Trust {
        ports: vec!["1".into()],
        ..rule
    });
    [
        ("no rule", Vec::new(), true),
        (
            "a rule about others that says `toa`",
            about(&["toa"], &others),
            true,
        ),
        (
            "a rule about others on another port",
            elsewhere.collect(),
            true,
        ),
        ("a rule about others", about(&["xff"], &others), false),
        (
            "a rule about the sender that says `toa`",
            about(&["toa"], &own),
            false,
        ),
        ("a rule about the sender", about(&["xff"], &own), true),
    ]
}

#[test]
fn counted_with_and_without_rules() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _web = Web::echo(directory, &sidecar.pod, APPLICATION)?;
        for (what, trust, is_believed) in cases() {
            let mut config = Config::new(directory, [])?;
            config.trust = trust;
            let upstream = (Family::V6.localhost(), APPLICATION).into();
            config.relay = vec![Relay {
                accept: "plain",
                protocol: Some("http"),
                trusted_hops: Some(1),
                ..Relay::proxy(&sidecar.pod, any(RELAY), upstream, "reveal")
            }];
            let _agent = Agent::start(directory, config)?;
            for family in Family::ALL {
                let relay: SocketAddr = (Sidecar::address(family), RELAY).into();
                let named = family.client(6);
                let told = (|| -> Result<_> {
                    let mut client = Client::connect(&sidecar.client, relay)?;
                    let header = format!("X-Forwarded-For: {named}\r\n");
                    Ok((client.ask(&header)?.ip(), client.local_addr()?.ip()))
                })();
                let (told, own) = told.with_context(|| format!("{what}, {family:?}"))?;
                let expected = if is_believed { named } else { own };
                ensure!(told == expected, "{what}: {told} instead of {expected}");
            }
        }
        Ok(())
    });
}

//! Connections whose client is known before the relay has them, by TOA.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;

use anyhow::ensure;
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Relay, Trust, telling};
use tests::clients::tcp::assert_reset;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::own::connect_from;
use tests::proxies::proxy_header::v2;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

const RELAY: u16 = 9000;
const APPLICATION: u16 = 8080;

/// One line tells of the refusal, and it names the client whom TOA named.
#[test]
fn a_refusal_is_logged_once_with_its_client() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _report = Report::start(&sidecar.pod, any(APPLICATION))?;
        let _tells = telling(directory, Sidecar::networks())?;
        let mut config = Config::new(directory, [])?;
        config
            .trust
            .extend(Trust::saying(&["toa"], Sidecar::networks()));
        // Whoever is told by TOA is believed or not, and the senders of the packets are not.
        let balancer = |family: Family| family.client(1);
        let balancers = Family::ALL.map(|family| ipnet::IpNet::from(balancer(family)));
        config.trust.extend(Trust::saying(&["proxy"], balancers));
        let upstream = (Family::V6.localhost(), APPLICATION).into();
        config.relay = vec![Relay::proxy(&sidecar.pod, any(RELAY), upstream, "reveal")];
        let agent = Agent::start(directory, config)?;
        for family in Family::ALL {
            let target: SocketAddr = (Sidecar::address(family), RELAY).into();
            let stranger = family.client(2);
            let header = v2((family.client(3), 4711).into(), target);
            for (speaker, first, reason) in [
                (stranger, header, "untrusted"),
                (
                    balancer(family),
                    b"GET / HTTP/1.1\r\n\r\n".to_vec(),
                    "no_header",
                ),
            ] {
                let logged = agent.access_log()?.len();
                let client = SocketAddr::from((speaker, 4711));
                // The relay may reset the connection at any moment.
                match sidecar.client.enter(|| connect_from(client, target, 0)) {
                    Ok(mut stream) => {
                        if stream.write_all(&first).is_ok() {
                            assert_reset(stream, reason)?;
                        }
                    }
                    Err(error) => ensure!(
                        error.kind() == ErrorKind::ConnectionReset,
                        "{reason}: {error}"
                    ),
                }
                no_origins(&agent)?;
                let lines = eventually("the refusal is logged", || {
                    let lines = agent.access_log()?.split_off(logged);
                    Ok((!lines.is_empty()).then_some(lines))
                })?;
                let [line] = &lines[..] else {
                    anyhow::bail!("{reason}: {lines:?}");
                };
                ensure!(
                    line["refused"] == reason
                        && line["client"] == client.to_string()
                        && line["evidence"] == "toa",
                    "{line}"
                );
            }
        }
        Ok(())
    });
}

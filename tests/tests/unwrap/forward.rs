//! A host that takes PROXY headers off its own connections leaves alone what it forwards.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::records::{no_origins, none_refused};
use tests::agent::{Agent, Config, Trust, Unwrap};
use tests::clients::load::Load;
use tests::clients::tcp::connect;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::v2;
use tests::servers::report::{Report, Seen};
use tests::topology::{Family, Gateway};

const PORT: u16 = 8080;

#[test]
fn forwarded_connections() {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        // Both listen on all addresses.
        let _forwarding = Report::start(&gateway.gateway, any(PORT))?;
        let _behind = Report::start(&gateway.server, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        config
            .trust
            .extend(Trust::saying(&["proxy"], ["10.77.0.0/24", "fd77::/64"]));
        let unwrap = Unwrap::new(&gateway.gateway, Gateway::FRONT, &["8080"]);
        config.unwrap.push(unwrap);
        let agent = Agent::start(directory, config)?;
        let mut taken = 0;
        for cookies in ["0", "2"] {
            for netns in [&gateway.gateway, &gateway.server] {
                netns.set_sysctl("net/ipv4/tcp_syncookies", cookies)?;
            }
            for family in Family::ALL {
                // Some clients have addresses that nothing trusts, and one has a trusted address.
                let behind = (Gateway::server(family), PORT).into();
                Load::new([behind]).run(&gateway.client).all_exact()?;
                let mut stream = BufReader::new(connect(&gateway.client, behind)?);
                let own = stream.get_ref().local_addr()?;
                ensure!(seen(&mut stream)?.accepted == own, "a trusted sender's own");

                let client = SocketAddr::new(family.client(6), 4711);
                let forwarding = (Gateway::front(family), PORT).into();
                let mut stream = connect(&gateway.client, forwarding)?;
                stream.write_all(&v2(client, forwarding))?;
                let seen = seen(&mut BufReader::new(stream))?;
                ensure!(seen.accepted == client, "{seen:?}");
                taken += 1;
            }
        }
        let learnt = agent.counter(Counter::LearntProxy)?;
        ensure!(learnt == taken, "{learnt} instead of {taken}");
        none_refused(&agent)?;
        no_origins(&agent)
    });
}

fn seen(stream: &mut impl BufRead) -> Result<Seen> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

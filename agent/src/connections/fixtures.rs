//! A data path without a kernel, for tests.

use std::net::{SocketAddr, TcpListener, TcpStream};

use agent_common::{Counter, Evidence, Origin, origin::rule_id};
use anyhow::Result;

use super::{
    names::Names,
    origins::{Link, MapFill, Origins, Status},
};
use crate::{
    config::Config,
    host::{netns::Netns, sockets},
};

/// Origins without a kernel.
#[derive(Default)]
pub(crate) struct FakeOrigins(pub(crate) Vec<(u64, Origin)>);

impl Origins for FakeOrigins {
    fn get(&self, cookie: u64) -> Result<Option<Origin>> {
        let found = self.0.iter().find(|(known, _)| *known == cookie);
        Ok(found.map(|(_, origin)| *origin))
    }

    fn all(&self) -> Result<Vec<(u64, Origin)>> {
        Ok(self.0.clone())
    }

    fn status(&self) -> Result<Status> {
        Ok(Status {
            links: vec![Link {
                program: "truepeer_steer".into(),
                program_id: 7,
                target: "eth0".into(),
                pin: "/sys/fs/bpf/truepeer/links/x".into(),
            }],
            maps: vec![MapFill {
                name: agent_common::names::map::ORIGINS.into(),
                entries: self.0.len() as u64,
                max_entries: 1024,
            }],
            counters: Counter::ALL.into_iter().zip(10..).collect(),
            tallies: [(rule_id("policy guests"), [3, 4])].into(),
        })
    }
}

/// The names of a steer, `inbound`, and a policy, `guests`.
pub(crate) fn names() -> Names {
    let text = r#"
        [[steer]]
        name = "inbound"
        ports = ["80"]
        to = 15006
        [[policy]]
        name = "guests"
        ports = ["80"]
        deny = ["192.0.2.0/24"]
    "#;
    Names::new(&Config::parse(text, "test").unwrap())
}

/// An origin by the steer `inbound`, one second after boot.
pub(crate) fn origin(client: &str) -> Origin {
    let end = |text: &str| text.parse::<SocketAddr>().unwrap().into();
    Origin {
        since: 1_000_000_000,
        client: end(client),
        original_dst: end("10.0.0.3:8080"),
        local: end("10.0.0.3:8080"),
        remote: end(client),
        rule: rule_id("inbound"),
        evidence: Evidence::Wire as u8,
        ..Origin::default()
    }
}

/// The client's and the server's end of a connection inside this process, and the cookie of the former.
pub(crate) fn connection() -> (TcpStream, TcpStream, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    let cookie = sockets::cookie(&Netns::current().unwrap(), ends.0, ends.1);
    (client, server, cookie.unwrap().unwrap())
}

//! Connections that are reset while they end: only ends that count as bytes are taken off the bytes that are told.

use std::net::SocketAddr;

use anyhow::ensure;
use tests::host::scenario;
use tests::wait::eventually;

use super::stage::{Case, Stage};
use super::{GREETER, greeter};

#[test]
fn reset_when_the_end_came() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let _greeter = greeter(&stage)?;
        let mut greetings = Vec::new();
        stage.each(|case| {
            let target = SocketAddr::new(case.target.ip(), GREETER);
            let case = Case { target, ..*case };
            let mut connection = case.connect()?;
            connection.send(case.header)?;
            let greeting = connection.receive()?;
            ensure!(greeting == case.client.to_string(), "{greeting:?}");
            greetings.push(greeting.len());
            // The server's end is never acknowledged. That of the sender comes too early, as if data had been lost, or in time.
            let ahead = case.number % 2;
            connection.end_ahead(ahead)?;
            connection.reset_ahead(1 - ahead)
        })?;
        eventually("all connections are logged", || {
            let lines = stage.agent.access_log()?;
            let told = |key: &str| lines.iter().map(|line| line[key].as_u64()).collect();
            let (received, sent): (Vec<_>, Vec<_>) = (told("bytes_received"), told("bytes_sent"));
            ensure!(
                received.iter().all(|bytes| *bytes == Some(0)),
                "received {received:?}"
            );
            let wanted = greetings.iter().map(|length| Some(*length as u64));
            ensure!(
                sent.iter().copied().eq(wanted.take(sent.len())),
                "sent {sent:?}"
            );
            Ok((lines.len() == greetings.len()).then_some(()))
        })
    });
}

use serde_json::{Value::Null, json};

use super::*;
use crate::{
    connections::{
        fixtures::{FakeOrigins, connection, names, origin},
        origins::Origins as _,
    },
    host::netns::Netns,
    workloads::containers,
};

/// What the viewer of these connections is shown, at this moment.
fn all(
    origins: &FakeOrigins,
    names: &Names,
    containers: &Containers,
    view: View,
) -> Result<Vec<Peer>> {
    let viewer = Viewer {
        names,
        containers,
        owners: &Owners::snapshot()?,
        view,
    };
    viewer.all(&origins.all()?.into_iter().collect())
}

/// The same for the connection with this cookie.
fn one(
    origins: &FakeOrigins,
    names: &Names,
    containers: &Containers,
    view: View,
    cookie: u64,
) -> Result<Option<Peer>> {
    let viewer = Viewer {
        names,
        containers,
        owners: &Owners::snapshot()?,
        view,
    };
    let origin = origins.get(cookie)?;
    origin.map_or(Ok(None), |origin| viewer.one(cookie, &origin))
}

#[test]
fn a_peer_is_its_origin_and_its_process() {
    let (_client, _server, cookie) = connection();
    let origins = FakeOrigins(vec![(cookie, origin("203.0.113.7:51812"))]);
    let peer = one(
        &origins,
        &names(),
        &Containers::default(),
        View::All,
        cookie,
    )
    .unwrap()
    .unwrap();
    assert_eq!(peer.client, "203.0.113.7:51812".parse().unwrap());
    assert_eq!(
        (&*peer.evidence, &*peer.trusted_by),
        ("wire", "steer inbound")
    );
    assert_eq!(peer.pid, Some(std::process::id()));
    assert_eq!(peer.netns, Some(Netns::current().unwrap().inode()));
    assert_eq!(
        all(&origins, &names(), &Containers::default(), View::All).unwrap()[0].pid,
        peer.pid
    );

    let json = serde_json::to_value(&peer).unwrap();
    assert_eq!(json["original_dst"], "10.0.0.3:8080");
    let keys: Vec<_> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 13, "{keys:?}");
}

#[test]
fn a_peer_of_a_pod_has_its_names() {
    let (_directory, containers) = containers::fixtures::web();
    let mut of_pod = origin("203.0.113.7:1");
    of_pod.netns = Netns::current().unwrap().cookie();
    let origins = FakeOrigins(vec![(1, of_pod), (2, origin("203.0.113.7:2"))]);
    let peers = all(&origins, &names(), &containers, View::All).unwrap();
    let json = serde_json::to_value(&peers).unwrap();
    assert_eq!((&json[0]["pod"], &json[1]["pod"]), (&Null, &json!("web-0")));
    assert_eq!(json[1]["namespace"], "shop");
    assert_eq!(serde_json::from_value::<Vec<Peer>>(json).unwrap(), peers);
}

#[test]
fn a_socket_without_a_process_has_nulls() {
    let mut gone = origin("[2001:db8::7]:1");
    gone.rule = 1;
    let origins = FakeOrigins(vec![(u64::MAX, gone)]);
    let peers = all(&origins, &names(), &Containers::default(), View::All).unwrap();
    let json = serde_json::to_value(&peers[0]).unwrap();
    assert_eq!(json["client"], "[2001:db8::7]:1");
    assert_eq!(json["trusted_by"], "a rule that is no longer configured");
    for key in ["pid", "comm", "cgroup", "netns"] {
        assert!(json[key].is_null(), "{key}: {json}");
    }
}

#[test]
fn a_user_sees_only_own_sockets() {
    let (_client, _server, cookie) = connection();
    let entry = origin("203.0.113.7:1");
    let origins = FakeOrigins(vec![(cookie, entry), (u64::MAX, entry)]);
    let own = nix::unistd::geteuid().as_raw();
    let cookies = |view| -> Vec<u64> {
        let peers = all(&origins, &names(), &Containers::default(), view).unwrap();
        peers.iter().map(|peer| peer.cookie).collect()
    };
    assert_eq!(cookies(View::All), [u64::MAX, cookie]);
    assert_eq!(cookies(View::Of(own)), [cookie]);
    assert!(cookies(View::Of(own + 1)).is_empty());
    let foreign = one(
        &origins,
        &names(),
        &Containers::default(),
        View::Of(own + 1),
        cookie,
    )
    .unwrap();
    assert_eq!(foreign, None);
    assert_eq!(View::of(0), View::All);
}

#[test]
fn evidence_of_another_version_is_unknown() {
    let mut odd = origin("203.0.113.7:1");
    odd.evidence = 200;
    let origins = FakeOrigins(vec![(1, odd)]);
    assert_eq!(
        one(&origins, &names(), &Containers::default(), View::All, 1).unwrap(),
        None
    );
}

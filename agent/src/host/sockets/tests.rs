use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
};

use nix::{getsockopt_impl, libc, sockopt_impl, sys::socket::getsockopt};

use super::{diag::canonical, *};
use crate::host::netns::Netns;

sockopt_impl!(
    /// SO_COOKIE.
    Cookie, GetOnly, libc::SOL_SOCKET, libc::SO_COOKIE, u64
);

fn true_cookie(socket: &impl AsFd) -> u64 {
    getsockopt(&socket.as_fd(), Cookie).unwrap()
}

/// Connects to a listener on `bind` by its port on `host` and checks every answer.
fn check(bind: &str, host: &str) {
    let netns = Netns::current().unwrap();
    let listener = TcpListener::bind((bind, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((host, port)).unwrap();
    let (server, remote) = listener.accept().unwrap();
    let local = server.local_addr().unwrap();

    assert_eq!(
        cookie(&netns, local, remote).unwrap(),
        Some(true_cookie(&server))
    );
    assert_eq!(
        cookie(&netns, remote, local).unwrap(),
        Some(true_cookie(&client))
    );
    // The listener is not taken for a connection.
    let stranger = SocketAddr::new(remote.ip(), 1);
    assert_eq!(cookie(&netns, local, stranger).unwrap(), None);

    let found = listeners(&netns, port).unwrap();
    let [found] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(found.cookie, true_cookie(&listener));
    assert_eq!(found.address, listener.local_addr().unwrap());
    assert_eq!(
        (found.v6only, found.transparent),
        (bind == "::1", Some(false))
    );

    let all = connections(&netns).unwrap();
    let info = all
        .iter()
        .find(|s| s.cookie == true_cookie(&server))
        .unwrap();
    assert_eq!(
        (info.local, info.remote),
        (canonical(local), canonical(remote))
    );
    assert!(info.inode != 0);
    assert!(all.iter().all(|s| s.cookie != true_cookie(&listener)));

    (&client).write_all(b"question").unwrap();
    (&server).read_exact(&mut [0; 8]).unwrap();
    let all = traffic(&netns).unwrap();
    let expected = Traffic {
        cookie: true_cookie(&server),
        received: 8,
        acked: 0,
    };
    assert!(all.contains(&expected), "{all:?}");
}

#[test]
fn ipv4_sockets_are_found() {
    check("127.0.0.1", "127.0.0.1");
}

#[test]
fn ipv6_sockets_are_found() {
    check("::1", "::1");
}

#[test]
fn ipv4_connections_of_dual_stack_sockets_are_found() {
    check("::", "127.0.0.1");
}

"""Applications that tell each client whom they see, as the report server does, and then echo.

Each does something else with its connections, named by the first argument; the second is the port.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading


def text(address):
    """An address as Rust writes it; an IPv4 client of a dual-stack socket may come in mapped form."""
    ip, port, *_ = address
    ip = ip.removeprefix("::ffff:")
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def tell(connection, accepted):
    # A connection that breaks is the client's to notice.
    with connection, contextlib.suppress(OSError):
        seen = {
            "accepted": accepted,
            "peername": text(connection.getpeername()),
            "local": text(connection.getsockname()),
        }
        connection.sendall(json.dumps(seen).encode() + b"\n")
        while data := connection.recv(4096):
            connection.sendall(data)


def serve(listener, handle=tell):
    while True:
        connection, address = listener.accept()
        threading.Thread(target=handle, args=(connection, text(address))).start()


def forks(listener):
    """Forks when it listens; the children accept."""
    for _ in range(4):
        if os.fork() == 0:
            serve(listener)
    signal.pause()


def passes(listener):
    """Passes each connection to a process of another user, which asks for the peer itself."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        listener.close()
        os.setuid(65534)
        while True:
            accepted, [fd], *_ = socket.recv_fds(theirs, 100, 1)
            arguments = (socket.socket(fileno=fd), accepted.decode())
            threading.Thread(target=tell, args=arguments).start()
    while True:
        connection, address = listener.accept()
        socket.send_fds(ours, [text(address).encode()], [connection.fileno()])
        connection.close()


def connects(listener, *targets):
    """Connects to report servers before it answers. They and its own socket must tell the truth."""

    def handle(connection, accepted):
        for target in targets:
            host, port = target.rsplit(":", 1)
            target = (host.strip("[]"), int(port))
            with socket.create_connection(target) as outgoing:
                seen = json.loads(outgoing.makefile().readline())
                assert outgoing.getpeername()[:2] == target, outgoing
                assert seen["accepted"] == text(outgoing.getsockname()), (outgoing, seen)
        tell(connection, accepted)

    serve(listener, handle)


def waits(listener):
    """Accepts when it is told to, and logs what `accept()` returns."""
    signal.sigwait([signal.SIGUSR1])

    def handle(connection, accepted):
        os.write(1, accepted.encode() + b"\n")
        tell(connection, accepted)

    serve(listener, handle)


if __name__ == "__main__":
    what, port, *arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    address = ("::", int(port))
    listener = socket.create_server(
        address, family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
    )
    {"forks": forks, "passes": passes, "connects": connects, "waits": waits}[what](
        listener, *arguments
    )

"""Sets the options by which a process may use addresses that its host does not have. Prints, as JSON, what each attempt
came to: an error's name, or what the kernel says afterwards."""

import errno
import json
import socket
import sys

IP_FREEBIND, IP_TRANSPARENT, IPV6_FREEBIND, SO_MARK = 15, 19, 78, 36
V4, V6, TARGET, PORT = sys.argv[1:]
attempts = {}


def attempt(what):
    try:
        attempts[what.__name__] = what()
    except OSError as error:
        attempts[what.__name__] = errno.errorcode[error.errno]
    return what


def listens(family, level, option, address, port):
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(level, option, 1)
        listener.bind((address, port))
        listener.listen()
        return listener.getsockname()[:2]


@attempt
def future_address():
    return listens(socket.AF_INET, socket.SOL_IP, IP_FREEBIND, V4, 8443)


@attempt
def future_address_of_a_service():
    return listens(socket.AF_INET, socket.SOL_IP, IP_FREEBIND, V4, 443)


@attempt
def future_ipv6_address():
    return listens(socket.AF_INET6, socket.SOL_IPV6 if hasattr(socket, "SOL_IPV6") else 41, IPV6_FREEBIND, V6, 8443)


@attempt
def own_address():
    return listens(socket.AF_INET, socket.SOL_IP, IP_FREEBIND, "127.0.0.1", 8444)


@attempt
def future_address_for_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        udp.bind((V4, 5353))
        return udp.getsockname()


@attempt
def transparent_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        return udp.getsockopt(socket.SOL_IP, IP_TRANSPARENT)


@attempt
def transparent():
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        listener.bind(("0.0.0.0", 8445))
        listener.listen()
        return listener.getsockopt(socket.SOL_IP, IP_TRANSPARENT)


@attempt
def mark():
    with socket.socket() as marked:
        marked.setsockopt(socket.SOL_SOCKET, SO_MARK, 77)
        return marked.getsockopt(socket.SOL_SOCKET, SO_MARK)


# A rule of the namespace prohibits what has the mark.
@attempt
def marked_packets():
    with socket.socket() as marked:
        marked.setsockopt(socket.SOL_SOCKET, SO_MARK, 77)
        marked.settimeout(5)
        marked.connect((TARGET, int(PORT)))
        return "connected"


json.dump(attempts, sys.stdout)

//! carry: the next hop is told the client, before a node's own NAT and from a proxy's own source.

mod node;
mod node_packets;
mod node_tunnel;
mod source;

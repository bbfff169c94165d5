//! relay: user space takes and sends what the kernel cannot: HTTP headers, PROXY headers, balancing.

mod handover;
mod http;
mod http_envoy;
mod http_life;
mod inexpressible;
mod known;
mod life;
mod many;
mod peers;
mod stage;
mod stream;

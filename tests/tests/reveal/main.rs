//! reveal: unmodified applications are told the client by `accept()`, `getpeername()` and `SO_ORIGINAL_DST`.

mod applications;
mod reach;
mod redirect;
mod servers;

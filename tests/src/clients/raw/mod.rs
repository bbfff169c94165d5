//! TCP clients that are written segment by segment: any options, any source address, any moment of
//! silence. The kernel of their namespace does not know of them.

mod connection;
mod fence;
mod sender;

pub use self::connection::Connection;
pub use self::fence::Pinned;
pub use self::sender::{LINUX, Raw, tcp_of, toa};

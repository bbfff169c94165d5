//! What the clients of a load do.

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// Many connections on which nothing moves.
    Idle,
    /// Short connections: connect, ask, be answered, close.
    Connections,
    /// One connection that sends all the time.
    Upload,
    /// One connection that is sent to all the time.
    Download,
    /// A hundred connections that send all the time.
    Crowd,
    /// Short connections at a fixed rate.
    Paced,
    /// One connection, of which the application asks for the peer's name all the time.
    Getpeername,
    /// SYNs, of which nothing becomes a connection.
    Syns,
}

impl Work {
    /// Idle connections first: later, memory that others have left is used again.
    pub(crate) const ALL: [Self; 8] = [
        Self::Idle,
        Self::Connections,
        Self::Paced,
        Self::Upload,
        Self::Download,
        Self::Crowd,
        Self::Getpeername,
        Self::Syns,
    ];

    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle connections",
            Self::Connections => "connections",
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Crowd => "upload by 100",
            Self::Paced => "connections at a fixed rate",
            Self::Getpeername => "getpeername",
            Self::Syns => "SYNs",
        }
    }
}

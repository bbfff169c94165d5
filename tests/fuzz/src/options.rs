//! Options of TCP: finding, taking out and appending, in the kernel's way, against a plain reader.

use agent_common::{
    options::{class, close_up, find},
    tcp::{self, HEADER_ROOM, Header, MAX_HEADER, OPTIONS, append},
    toa::Kinds,
};

/// A byte that says which options are wanted, and a TCP header.
pub(crate) fn run(bytes: &[u8]) {
    let Some((wanted, header)) = bytes.split_first() else {
        return;
    };
    let header = room(header);
    let all = read(&header);
    let is_wanted = |kind: u8, length: u8| kind.wrapping_add(length) == *wanted;
    let (ours, others): (Vec<_>, Vec<_>) = all
        .iter()
        .partition(|option| is_wanted(option.kind(), option.bytes.len() as u8));

    let wants = |kinds: Kinds, length: u8| kinds.with(wanted.wrapping_sub(length), length);
    let kinds = (2..=(MAX_HEADER - OPTIONS) as u8).fold(Kinds::NONE, wants);
    let (number, at) = find(&header, &kinds, class::TOA);
    assert_eq!(number, ours.len());
    if let [only] = ours[..] {
        assert_eq!(at, only.at);
    }

    let mut closed = [0; HEADER_ROOM];
    let (end, number) = close_up(&header, &mut closed, &kinds, class::TOA);
    assert_eq!(number, ours.len());
    is_closed_up(&header, &closed, end, &others);

    let option = [254, 4, *wanted, !wanted];
    if end + option.len() <= MAX_HEADER {
        let end = append(&mut closed, end, &option);
        set_length(&mut closed, end);
        let mut expected: Vec<_> = others.iter().map(|option| option.bytes).collect();
        expected.push(&option);
        let now = read(&closed);
        assert_eq!(now.iter().map(|o| o.bytes).collect::<Vec<_>>(), expected);
    }
}

/// An option, with its kind and length.
#[derive(Debug, PartialEq)]
pub(crate) struct TcpOption<'a> {
    /// Where in the header it begins.
    pub(crate) at: usize,
    /// All of it.
    pub(crate) bytes: &'a [u8],
}

impl TcpOption<'_> {
    pub(crate) fn kind(&self) -> u8 {
        self.bytes[0]
    }
}

/// A TCP header as the data path loads one: as many bytes as its length says, and zeros behind them.
pub(crate) fn room(bytes: &[u8]) -> Header {
    let mut room = [0; HEADER_ROOM];
    let length = bytes.len().min(MAX_HEADER);
    room[..length].copy_from_slice(&bytes[..length]);
    let told = length_of(&room).max(OPTIONS);
    room[told..].fill(0);
    room
}

/// The header's length.
pub(crate) fn length_of(header: &Header) -> usize {
    usize::from(header[12] >> 4) * 4
}

/// Has a header end at the word in which its options end.
pub(crate) fn set_length(header: &mut Header, end: usize) {
    header[12] = (header[12] & 0xf) | (end.div_ceil(4) as u8) << 4;
}

/// The options, as Linux reads them (`tcp_parse_options`), up to what is none.
pub(crate) fn read(header: &Header) -> Vec<TcpOption<'_>> {
    let mut found = Vec::new();
    let mut at = OPTIONS;
    let end = length_of(header);
    while at < end {
        match header[at] {
            0 => break,
            tcp::NO_OPERATION => at += 1,
            _ => {
                let length = usize::from(header[at + 1]);
                if length < 2 || at + length > end {
                    break;
                }
                let bytes = &header[at..at + length];
                found.push(TcpOption { at, bytes });
                at += length;
            }
        }
    }
    found
}

/// Asserts that `closed` is `header` with these options and no others, and zeros behind them.
pub(crate) fn is_closed_up(header: &Header, closed: &Header, end: usize, kept: &[&TcpOption<'_>]) {
    let kept: Vec<&[u8]> = kept.iter().map(|option| option.bytes).collect();
    let kept = kept.concat();
    assert_eq!(closed[..OPTIONS], header[..OPTIONS]);
    assert_eq!(closed[OPTIONS..end], kept);
    assert!(closed[end..].iter().all(|byte| *byte == 0));
    assert!(end <= length_of(header).max(OPTIONS), "it grew");
}

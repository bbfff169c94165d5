//! What systemd is told of this service. Without systemd, nobody is.

use std::io;

use sd_notify::NotifyState;
use tracing::warn;

/// How long a text may be that `systemctl status` shows: systemd ignores messages of more than 4096 bytes.
const TEXT_MAX: usize = 1000;

/// Tells that what waits for this service may go on.
pub fn tell_ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells that it is about to end.
pub fn tell_stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Has `systemctl status` show this text.
pub fn tell_status(text: &str) {
    tell(&[NotifyState::Status(&one_line(text))]);
}

fn tell(state: &[NotifyState<'_>]) {
    told(sd_notify::notify(state));
}

/// Warns if systemd could not be told something.
pub(super) fn told(said: io::Result<()>) {
    if let Err(error) = said {
        warn!("systemd is not told of this service: {error}");
    }
}

/// A message has a variable a line: the rest of a text would be taken for others.
fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let mut line = words.join(" ").replace(char::is_control, "?");
    line.truncate(line.floor_char_boundary(TEXT_MAX));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_line_that_systemd_takes() {
        assert_eq!(
            one_line("refused\n  --> a\0b\nMAINPID=1"),
            "refused --> a?b MAINPID=1"
        );
        let long = "ä".repeat(5000);
        let line = one_line(&format!("x{long}"));
        assert!(line.len() <= TEXT_MAX && line.len() > TEXT_MAX - 2);
    }
}

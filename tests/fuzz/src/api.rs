//! Queries of the API: what a caller names is what it is answered about, or it is told what is wrong.

use hyper::{StatusCode, Uri};
use truepeer::api::{
    Failure,
    query::{Ranking, Wanted, attachment},
};

/// A request's target.
pub(crate) fn run(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from(bytes) else {
        return;
    };
    let parts = parts(uri.query().unwrap_or_default());
    let of = |names: &[&str]| parts.iter().all(|(name, _)| names.contains(&&**name));
    let only = |name: &str| {
        let mut values = parts.iter().filter(|(n, _)| n == name);
        let first = values.next().map(|(_, value)| value.as_str());
        first.filter(|_| values.next().is_none())
    };

    let cookie = only("cookie").and_then(|text| text.parse().ok());
    let end = |name| only(name).and_then(|text| text.parse().ok());
    let ends = (end("local"), end("remote"));
    let expected = match (parts.len(), cookie, ends) {
        (1, Some(cookie), _) => Some(Wanted::Cookie(cookie)),
        (2, None, (Some(local), Some(remote))) => Some(Wanted::Ends { local, remote }),
        _ => None,
    };
    assert_eq!(accepted(Wanted::try_from(&uri)), expected);

    let id = accepted(attachment(&uri));
    let names = only("container_id").zip(only("ifname"));
    let names = names.filter(|_| of(&["container_id", "ifname"]));
    assert_eq!(
        id.as_ref().map(|id| (&*id.container_id, &*id.ifname)),
        names
    );

    let ranking = accepted(Ranking::try_from(&uri));
    assert!(ranking.is_none() || of(&["by", "limit"]));
    let limit = only("limit").map_or(Some(20), |text| text.parse().ok());
    assert!(ranking.is_none_or(|ranking| Some(ranking.limit) == limit));
}

/// What was read; a query that is refused is the caller's fault, and he is told.
fn accepted<T>(read: Result<T, Failure>) -> Option<T> {
    read.map_err(|failure| {
        assert_eq!(failure.status, StatusCode::BAD_REQUEST);
        assert!(!failure.reason.is_empty());
    })
    .ok()
}

/// Names and values as a form writes them (`application/x-www-form-urlencoded`).
fn parts(query: &str) -> Vec<(String, String)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    let pairs = parts.map(|part| part.split_once('=').unwrap_or((part, "")));
    pairs
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        let digit = |at: usize| {
            behind
                .get(at)
                .and_then(|byte| char::from(*byte).to_digit(16))
        };
        rest = behind;
        match (byte, digit(0).zip(digit(1))) {
            (b'%', Some((high, low))) => {
                bytes.push((high * 16 + low) as u8);
                rest = &behind[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

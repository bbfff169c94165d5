//! What a PROXY header of version 2 says besides addresses, for people and logs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use agent_common::{
    Closed,
    proxy::{Meaning, Parsed, Ssl, Tlv, Tlvs, kind, parse},
};
use serde::{Deserialize, Serialize};

use super::origins::Headers;

/// Longer values are left out: no host name is longer.
const LONGEST: usize = 255;
/// Of how many connections details are kept; beyond, the oldest have none.
const CONNECTIONS: usize = 65_536;

/// What one header says; what it does not is left out of JSON. Bytes that are no text are escaped (`\xff`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// Application-layer protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// Host name that the client asked for (SNI).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The sender's identification of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_id: Option<String>,
    /// The sender's network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// How the client reached the sender by TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// AWS: id of the VPC endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_vpc_endpoint: Option<String>,
    /// Azure: link id of the private endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure_private_endpoint: Option<u32>,
    /// Google Cloud: id of the Private Service Connect connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gcp_psc_connection: Option<u64>,
}

/// The client's TLS session with the sender of the header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Version of TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Cipher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// Algorithm by which the sender's certificate is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature_algorithm: Option<String>,
    /// Algorithm of the sender's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_algorithm: Option<String>,
    /// Common name of the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// Whether the client has shown a certificate that was verified.
    pub client_verified: bool,
}

impl Details {
    /// What these TLVs say; `None` if that is nothing of the above.
    pub fn read(tlvs: Tlvs<'_>) -> Option<Self> {
        let mut details = Self::default();
        for meaning in tlvs.filter_map(Tlv::meaning) {
            match meaning {
                Meaning::Alpn(value) => details.alpn = text(value),
                Meaning::Authority(value) => details.authority = text(value),
                Meaning::UniqueId(value) => details.unique_id = text(value),
                Meaning::Netns(value) => details.netns = text(value),
                Meaning::Ssl(ssl) => details.tls = Tls::read(ssl),
                Meaning::AwsVpcEndpoint(id) => details.aws_vpc_endpoint = text(id),
                Meaning::AzurePrivateEndpoint(id) => details.azure_private_endpoint = Some(id),
                Meaning::GcpPscConnection(id) => details.gcp_psc_connection = Some(id),
                Meaning::Crc32c(_) | Meaning::Noop | Meaning::Unknown => {}
            }
        }
        (details != Self::default()).then_some(details)
    }
}

impl Tls {
    /// `None` if the client came without TLS.
    fn read(ssl: Ssl<'_>) -> Option<Self> {
        if ssl.client & Ssl::CLIENT_SSL == 0 {
            return None;
        }
        let has_certificate = ssl.client & (Ssl::CLIENT_CERT_CONN | Ssl::CLIENT_CERT_SESS) != 0;
        let mut tls = Self {
            client_verified: has_certificate && ssl.verify == 0,
            ..Self::default()
        };
        for Tlv { kind, value } in ssl.tlvs {
            match kind {
                kind::SSL_VERSION => tls.version = text(value),
                kind::SSL_CIPHER => tls.cipher = text(value),
                kind::SSL_SIG_ALG => tls.signature_algorithm = text(value),
                kind::SSL_KEY_ALG => tls.key_algorithm = text(value),
                kind::SSL_CN => tls.client_name = text(value),
                _ => {}
            }
        }
        Some(tls)
    }
}

fn text(value: &[u8]) -> Option<String> {
    let is_plain = |text: &&str| !text.contains(char::is_control);
    let text = str::from_utf8(value).ok().filter(is_plain);
    (value.len() <= LONGEST).then(|| match text {
        Some(text) => text.to_owned(),
        None => value.escape_ascii().to_string(),
    })
}

/// Details of live connections.
#[derive(Default)]
pub struct Kept {
    /// Of those that a relay accepted, by the cookies of their sockets.
    relayed: Table,
    /// Of those whose header the data path took off, by the number of the header.
    unwrapped: Table,
    headers: OnceLock<Box<dyn Headers>>,
}

impl Kept {
    /// Reads the headers that the data path takes off, from now on.
    pub fn follow(&self, headers: Box<dyn Headers>) {
        // Once in an agent's life.
        let _ = self.headers.set(headers);
    }

    /// Keeps those of a relay's connection until they are taken.
    pub fn keep(&self, cookie: u64, details: Details) {
        self.relayed.keep(cookie, details);
    }

    /// Those of the connection whose origin has this number of a header, or whose socket has this cookie.
    pub fn get(&self, cookie: u64, header: u64) -> Option<Arc<Details>> {
        if header == 0 {
            return self.relayed.lock().get(&cookie).cloned();
        }
        self.fetch();
        self.unwrapped.lock().get(&header).cloned()
    }

    /// Those of a relay's connection that has ended, which are kept no longer.
    pub fn take(&self, cookie: u64) -> Option<Arc<Details>> {
        self.relayed.lock().remove(&cookie)
    }

    /// Likewise of any connection.
    pub fn take_ended(&self, closed: &Closed) -> Option<Arc<Details>> {
        match closed.origin.header {
            0 => self.take(closed.cookie),
            header => {
                self.fetch();
                self.unwrapped.lock().remove(&header)
            }
        }
    }

    /// Reads what the data path has told meanwhile.
    pub fn fetch(&self) {
        let Some(headers) = self.headers.get() else {
            return;
        };
        headers.read(&mut |number, header| {
            if let Parsed::Header(header) = parse(header)
                && let Some(details) = Details::read(header.tlvs)
            {
                self.unwrapped.keep(number, details);
            }
        });
    }
}

#[derive(Default)]
struct Table(Mutex<BTreeMap<u64, Arc<Details>>>);

impl Table {
    fn keep(&self, key: u64, details: Details) {
        let mut kept = self.lock();
        kept.insert(key, Arc::new(details));
        if kept.len() > CONNECTIONS {
            // Cookies and numbers grow.
            kept.pop_first();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Details>>> {
        self.0.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let len = (value.len() as u16).to_be_bytes();
        [&[kind, len[0], len[1]], value].concat()
    }

    fn read(tlvs: &[Vec<u8>]) -> serde_json::Value {
        let bytes = tlvs.concat();
        let details = Details::read(Tlvs::well_formed(&bytes).unwrap());
        serde_json::to_value(details).unwrap()
    }

    #[test]
    fn all_that_is_known_is_shown() {
        let ssl = [
            vec![Ssl::CLIENT_SSL | Ssl::CLIENT_CERT_SESS, 0, 0, 0, 0],
            tlv(kind::SSL_VERSION, b"TLSv1.3"),
            tlv(kind::SSL_CN, "Jürgen".as_bytes()),
            tlv(kind::SSL_CIPHER, b"TLS_AES_128_GCM_SHA256"),
        ];
        let tlvs = [
            tlv(kind::ALPN, b"h2"),
            tlv(kind::AUTHORITY, b"shop.example"),
            tlv(kind::UNIQUE_ID, b"\x01\xff"),
            tlv(kind::SSL, &ssl.concat()),
            tlv(kind::AWS, b"\x01vpce-08d2bf15fac5001c9"),
            tlv(kind::AZURE, b"\x01\x78\x56\x34\x12"),
            tlv(kind::GCP, &7_u64.to_be_bytes()),
            tlv(0xf0, b"of nobody"),
        ];
        let expected = json!({
            "alpn": "h2",
            "authority": "shop.example",
            "unique_id": "\\x01\\xff",
            "tls": {"version": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256",
                "client_name": "Jürgen", "client_verified": true},
            "aws_vpc_endpoint": "vpce-08d2bf15fac5001c9",
            "azure_private_endpoint": 0x1234_5678,
            "gcp_psc_connection": 7,
        });
        assert_eq!(read(&tlvs), expected);
    }

    #[test]
    fn nothing_is_made_of_nothing() {
        let without_tls = [0, 0, 0, 0, 0];
        assert!(read(&[tlv(0xf0, b"x"), tlv(kind::NOOP, b"")]).is_null());
        assert!(read(&[tlv(kind::SSL, &without_tls)]).is_null());
        assert!(read(&[tlv(kind::AUTHORITY, &[b'a'; LONGEST + 1])]).is_null());
    }

    #[test]
    fn a_certificate_that_failed_or_is_missing_is_not_verified() {
        for (client, verify) in [(Ssl::CLIENT_SSL, 0), (7, 1)] {
            let shown = read(&[tlv(kind::SSL, &[client, 0, 0, 0, verify])]);
            assert_eq!(shown, json!({"tls": {"client_verified": false}}));
        }
    }

    #[test]
    fn the_oldest_make_room() {
        let kept = Kept::default();
        for cookie in 0..=CONNECTIONS as u64 {
            kept.keep(cookie, Details::default());
        }
        assert_eq!(kept.get(0, 0), None);
        assert!(kept.take(1).is_some());
        assert_eq!(kept.take(1), None);
        assert_eq!(kept.relayed.lock().len(), CONNECTIONS - 1);
    }
}

//! The TLVs of a PROXY header, version 2, decoded for people and logs.

use agent_common::proxy::{Meaning, Ssl, Tlv, Tlvs, kind};
use serde::{Deserialize, Serialize};

/// The longest value that is shown, in bytes. No host name is longer.
const LONGEST: usize = 255;

/// The TLVs of one header that truepeer knows. JSON has only those that the header has, with bytes that are no text
/// escaped (`\xff`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyTlvs {
    /// Application-layer protocol (ALPN).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// The host name that the client asked for (SNI).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The id that the sender gave the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_id: Option<String>,
    /// The sender's network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The client's TLS session with the sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Id of the VPC endpoint (AWS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_vpc_endpoint: Option<String>,
    /// Link id of the private endpoint (Azure).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure_private_endpoint: Option<u32>,
    /// Id of the Private Service Connect connection (Google Cloud).
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
    /// Algorithm of the signature of the sender's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature_algorithm: Option<String>,
    /// Algorithm of the sender's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_algorithm: Option<String>,
    /// Common name of the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// Whether the client presented a certificate that the sender verified.
    pub client_verified: bool,
}

impl ProxyTlvs {
    /// Decodes TLVs; `None` if truepeer knows none of them.
    pub fn read(tlvs: Tlvs<'_>) -> Option<Self> {
        let mut decoded = Self::default();
        for meaning in tlvs.filter_map(Tlv::meaning) {
            match meaning {
                Meaning::Alpn(value) => decoded.alpn = text(value),
                Meaning::Authority(value) => decoded.authority = text(value),
                Meaning::UniqueId(value) => decoded.unique_id = text(value),
                Meaning::Netns(value) => decoded.netns = text(value),
                Meaning::Ssl(ssl) => decoded.tls = Tls::read(ssl),
                Meaning::AwsVpcEndpoint(id) => decoded.aws_vpc_endpoint = text(id),
                Meaning::AzurePrivateEndpoint(id) => decoded.azure_private_endpoint = Some(id),
                Meaning::GcpPscConnection(id) => decoded.gcp_psc_connection = Some(id),
                Meaning::Crc32c(_) | Meaning::Noop | Meaning::Unknown => {}
            }
        }
        (decoded != Self::default()).then_some(decoded)
    }
}

impl Tls {
    /// Decodes the TLV for TLS; `None` if the client did not use TLS.
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

/// A value as text; `None` if it is too long.
fn text(value: &[u8]) -> Option<String> {
    let is_plain = |text: &&str| !text.contains(char::is_control);
    let text = str::from_utf8(value).ok().filter(is_plain);
    (value.len() <= LONGEST).then(|| match text {
        Some(text) => text.to_owned(),
        None => value.escape_ascii().to_string(),
    })
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
        let decoded = ProxyTlvs::read(Tlvs::well_formed(&bytes).unwrap());
        serde_json::to_value(decoded).unwrap()
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
}

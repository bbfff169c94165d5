//! What a header of version 2 says besides addresses, as type, length and value (2.2, 2.2.1 to 2.2.8).

use super::{Reason, crc32c};

/// The registered types, and those of the application range that cloud providers use.
pub mod kind {
    /// Application-layer protocol (2.2.1).
    pub const ALPN: u8 = 0x01;
    /// Host name that the client asked for (2.2.2).
    pub const AUTHORITY: u8 = 0x02;
    /// Checksum of the header (2.2.3).
    pub const CRC32C: u8 = 0x03;
    /// Padding (2.2.4).
    pub const NOOP: u8 = 0x04;
    /// Opaque identification of the connection (2.2.5).
    pub const UNIQUE_ID: u8 = 0x05;
    /// TLS (2.2.6).
    pub const SSL: u8 = 0x20;
    /// Within [`SSL`]: version of TLS.
    pub const SSL_VERSION: u8 = 0x21;
    /// Within [`SSL`]: common name of the client's certificate.
    pub const SSL_CN: u8 = 0x22;
    /// Within [`SSL`]: cipher.
    pub const SSL_CIPHER: u8 = 0x23;
    /// Within [`SSL`]: algorithm by which the proxy's certificate is signed.
    pub const SSL_SIG_ALG: u8 = 0x24;
    /// Within [`SSL`]: algorithm of the proxy's key.
    pub const SSL_KEY_ALG: u8 = 0x25;
    /// Network namespace (2.2.7).
    pub const NETNS: u8 = 0x30;
    /// Google Cloud: Private Service Connect, 8 bytes
    /// (<https://cloud.google.com/vpc/docs/about-vpc-hosted-services#proxy-protocol>).
    pub const GCP: u8 = 0xe0;
    /// AWS: a subtype of one byte first (<https://docs.aws.amazon.com/elasticloadbalancing/latest/network/>).
    pub const AWS: u8 = 0xea;
    /// Azure: a subtype of one byte first
    /// (<https://learn.microsoft.com/azure/private-link/private-link-service-overview>).
    pub const AZURE: u8 = 0xee;
}

/// The subtype of the VPC endpoint's id, of AWS, and of the private endpoint's link id, of Azure.
const ENDPOINT: u8 = 1;
/// "An opaque byte sequence of up to 128 bytes."
pub(super) const UNIQUE_ID_MAX: usize = 128;
/// Length of what stands before a value: kind and length.
pub(super) const HEAD: usize = 3;

/// One type with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// See [`kind`].
    pub kind: u8,
    /// At most 65,535 bytes.
    pub value: &'a [u8],
}

/// What a [`Tlv`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// [`kind::ALPN`].
    Alpn(&'a [u8]),
    /// [`kind::AUTHORITY`], as a rule UTF-8.
    Authority(&'a [u8]),
    /// [`kind::CRC32C`].
    Crc32c(u32),
    /// [`kind::NOOP`].
    Noop,
    /// [`kind::UNIQUE_ID`].
    UniqueId(&'a [u8]),
    /// [`kind::SSL`].
    Ssl(Ssl<'a>),
    /// [`kind::NETNS`], as a rule ASCII.
    Netns(&'a [u8]),
    /// [`kind::AWS`]: id of the VPC endpoint, in ASCII.
    AwsVpcEndpoint(&'a [u8]),
    /// [`kind::AZURE`]: link id of the private endpoint.
    AzurePrivateEndpoint(u32),
    /// [`kind::GCP`]: id of the Private Service Connect connection.
    GcpPscConnection(u64),
    /// Unknown: to be ignored, and handed on.
    Unknown,
}

/// What [`kind::SSL`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ssl<'a> {
    /// [`Ssl::CLIENT_SSL`], [`Ssl::CLIENT_CERT_CONN`], [`Ssl::CLIENT_CERT_SESS`].
    pub client: u8,
    /// Zero if the client presented a certificate that was verified.
    pub verify: u32,
    /// Of the kinds `SSL_…`.
    pub tlvs: Tlvs<'a>,
}

impl Ssl<'_> {
    /// The client came over TLS.
    pub const CLIENT_SSL: u8 = 1;
    /// The client presented a certificate on this connection.
    pub const CLIENT_CERT_CONN: u8 = 2;
    /// The client presented a certificate in this TLS session.
    pub const CLIENT_CERT_SESS: u8 = 4;
}

impl<'a> Tlv<'a> {
    /// What it means; `None` if the value is not what its type demands. In the application range, a value
    /// that is not the cloud provider's has an unknown meaning.
    pub fn meaning(self) -> Option<Meaning<'a>> {
        let value = self.value;
        Some(match self.kind {
            kind::ALPN => Meaning::Alpn(value),
            kind::AUTHORITY => Meaning::Authority(value),
            kind::CRC32C => Meaning::Crc32c(u32::from_be_bytes(value.try_into().ok()?)),
            kind::NOOP => Meaning::Noop,
            kind::UNIQUE_ID if value.len() <= UNIQUE_ID_MAX => Meaning::UniqueId(value),
            kind::UNIQUE_ID => return None,
            kind::SSL => {
                let (&[client, a, b, c, d], rest) = value.split_first_chunk()?;
                Meaning::Ssl(Ssl {
                    client,
                    verify: u32::from_be_bytes([a, b, c, d]),
                    tlvs: Tlvs::well_formed(rest)?,
                })
            }
            kind::NETNS => Meaning::Netns(value),
            kind::AWS => match value {
                [ENDPOINT, id @ ..] => Meaning::AwsVpcEndpoint(id),
                _ => Meaning::Unknown,
            },
            kind::AZURE => match *value {
                // The only number of all that is little-endian.
                [ENDPOINT, a, b, c, d] => {
                    Meaning::AzurePrivateEndpoint(u32::from_le_bytes([a, b, c, d]))
                }
                _ => Meaning::Unknown,
            },
            kind::GCP => match value.try_into() {
                Ok(id) => Meaning::GcpPscConnection(u64::from_be_bytes(id)),
                Err(_) => Meaning::Unknown,
            },
            _ => Meaning::Unknown,
        })
    }

    /// The first of several, and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[kind, high, low], rest) = bytes.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
        Some((Self { kind, value }, rest))
    }
}

/// The TLVs of a header, in its order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// As they are in the header.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// TLVs that fill `bytes` exactly.
    pub fn well_formed(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, rest) = Tlv::split(rest)?;
        }
        Some(Self(bytes))
    }

    /// The TLVs of a whole header from `start` on, each of which must mean something, with a matching
    /// checksum if there is one.
    pub(super) fn read(header: &'a [u8], start: usize) -> Result<Self, Reason> {
        let tlvs = header.get(start..).and_then(Self::well_formed);
        let tlvs = tlvs.ok_or(Reason::Tlv)?;
        let mut rest = tlvs;
        let mut checksum = None;
        while let Some(tlv) = rest.next() {
            if let Meaning::Crc32c(told) = tlv.meaning().ok_or(Reason::Tlv)?
                && checksum
                    .replace((told, header.len() - rest.0.len()))
                    .is_some()
            {
                return Err(Reason::Tlv);
            }
        }
        match checksum {
            Some((told, end)) if told != crc32c::of_header(header, end) => Err(Reason::Checksum),
            _ => Ok(tlvs),
        }
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        let (tlv, rest) = Tlv::split(self.0)?;
        self.0 = rest;
        Some(tlv)
    }
}

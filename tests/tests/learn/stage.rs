//! TOA as load balancers write it, signed or not.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_common::tag::{self, EPOCH, Keys, Signed};
use anyhow::{Result, ensure};
use tests::agent::{Agent, Carry, CarryToa, Config, Reveal, Trust};
use tests::clients::load::Load;
use tests::clients::raw::{Connection, toa};
use tests::host::process::Process;
use tests::host::user::UID;
use tests::proxies::{any, gateway_routes};
use tests::roles::proxy;
use tests::servers::report::{Report, Seen};
use tests::topology::{Family, Gateway};
use tests::wait::Limit;

/// Where [`Hosts`] have their application.
pub(crate) const APPLICATION: u16 = 8080;
const PROXY: u16 = 15001;

/// The networks of [`Family::balancer`].
pub(crate) const BALANCERS: [&str; 2] = ["198.51.100.0/24", "2001:db8:1b::/64"];

/// A gateway tells its server by TOA.
pub(crate) fn carry() -> Carry {
    Carry {
        toa: CarryToa {
            to: vec!["10.78.0.0/24".into(), "fd78::/64".into()],
            ..CarryToa::default()
        },
        ..Carry::default()
    }
}

/// A key of signed TOA.
#[derive(Clone, Copy)]
pub(crate) struct Key(pub u128);

/// The key of [`Hosts`].
pub(crate) const ONE: Key = Key(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
/// The key that replaces [`ONE`].
pub(crate) const TWO: Key = Key(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
/// A key that nobody believes.
pub(crate) const STRANGERS: Key = Key(1);

impl Key {
    /// Its line in a file.
    pub(crate) fn line(self) -> String {
        format!("{:032x}", self.0)
    }

    /// TOA for `client` with a tag that was made so many epochs from now.
    pub(crate) fn signed(self, client: SocketAddr, isn: u32, epochs: i64) -> Vec<u8> {
        let tag = self.tag(client, isn, epoch().wrapping_add_signed(epochs));
        [toa(254, client), tag].concat()
    }

    /// The option that proves TOA for `client` on a SYN with this sequence number, in this epoch.
    pub(crate) fn tag(self, client: SocketAddr, isn: u32, epoch: u64) -> Vec<u8> {
        let bytes = self.0.to_be_bytes();
        let (words, _) = bytes.as_chunks();
        let keys = Keys::new(0, [0, 1].map(|i| u64::from_le_bytes(words[i])), None);
        let client = client.into();
        tag::option(keys.sign(&Signed { client, isn }, epoch)).to_vec()
    }
}

/// Whom an application sees that reports it on this connection.
pub(crate) fn accepted(connection: &mut Connection<'_>) -> Result<SocketAddr> {
    let seen: Seen = serde_json::from_str(&connection.receive()?)?;
    ensure!(seen.accepted == seen.peername, "{seen:?}");
    Ok(seen.accepted)
}

/// The epoch of tags that are made now. It lasts for a while more, as far as an epoch can be long enough for a slow
/// machine.
pub(crate) fn epoch() -> u64 {
    const MORE: Limit = Limit::secs(4);
    let most = Duration::from_nanos(EPOCH) * 3 / 4;
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("a clock after 1970").as_nanos() as u64;
        let left = Duration::from_nanos(EPOCH - now % EPOCH);
        if left > MORE.here().min(most) {
            return now / EPOCH;
        }
        std::thread::sleep(left);
    }
}

/// A file with keys, replaced as Kubernetes replaces a Secret: by way of a link.
pub(crate) struct KeyFile {
    path: PathBuf,
    versions: usize,
}

impl KeyFile {
    /// A file with these keys.
    pub(crate) fn new(directory: &Path, name: &str, keys: &[Key]) -> Result<Self> {
        let mut file = Self {
            path: directory.join(name),
            versions: 0,
        };
        file.put(keys)?;
        Ok(file)
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the keys.
    pub(crate) fn put(&mut self, keys: &[Key]) -> Result<()> {
        let lines: Vec<_> = keys.iter().map(|key| key.line()).collect();
        self.write(&format!("# of a test\n{}\n", lines.join("\n")))
    }

    /// Replaces the text.
    pub(crate) fn write(&mut self, text: &str) -> Result<()> {
        self.versions += 1;
        let target = self.path.with_extension(self.versions.to_string());
        fs::write(&target, text)?;
        fs::set_permissions(&target, Permissions::from_mode(0o600))?;
        let link = self.path.with_extension("link");
        symlink(&target, &link)?;
        fs::rename(&link, &self.path)?;
        Ok(())
    }
}

/// Two hosts with an agent each: the gateway's proxy is trusted, its SYNs tell the client, and the server is
/// told.
pub(crate) struct Hosts {
    /// The hosts.
    pub gateway: Gateway,
    /// The agent that sends TOA.
    pub sends: Agent,
    /// The agent that reads it.
    pub reads: Agent,
    /// The file of the agent that sends, with [`ONE`].
    pub signing: KeyFile,
    /// The file of the agent that reads, with [`ONE`].
    pub verifying: KeyFile,
    _report: Report,
    _proxy: Process,
}

impl Hosts {
    /// The server wants signatures from `signers`, and none from `sources`. Without signers, no keys are in
    /// use. `program` is this crate's.
    pub(crate) fn new(
        directory: &Path,
        program: &str,
        signers: &[&str],
        sources: &[&str],
    ) -> Result<Self> {
        let gateway = Gateway::new()?;
        let signing = KeyFile::new(directory, "signing", &[ONE])?;
        let verifying = KeyFile::new(directory, "verifying", &[ONE])?;
        let keys = |file: &KeyFile| (!signers.is_empty()).then(|| file.path.clone());

        let mut config = Config::new(directory, [])?;
        config.trust.push(Trust::uid(UID).reach("carry"));
        config.toa.keys = keys(&signing);
        config.reveal = Reveal {
            enabled: false,
            ..Reveal::default()
        };
        config.carry = Some(carry());
        let sends = Agent::start(directory, config)?;

        let mut config = Config::new(directory, [])?;
        config.trust.extend(Trust::signers(signers));
        config.trust.extend(Trust::sources(sources));
        config.toa.keys = keys(&verifying);
        let reads = Agent::start(directory, config)?;

        let routes = gateway_routes(PROXY, APPLICATION);
        Ok(Self {
            _report: Report::start(&gateway.server, any(APPLICATION))?,
            _proxy: proxy(directory, &gateway.gateway, program.as_ref(), &routes)?,
            gateway,
            sends,
            reads,
            signing,
            verifying,
        })
    }

    /// Connections of this family to the proxy.
    pub(crate) fn load(&self, family: Family) -> Load {
        let targets = Gateway::targets(PROXY).into_iter();
        Load::new(targets.filter(|target| Family::of(*target) == family))
    }
}

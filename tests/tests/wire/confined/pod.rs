//! A pod whose nginx is confined, and each way by which it is told the client.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::agent::{Config, Steer, Trust, Unwrap, telling};
use tests::clients::load::{Application, Connection, Load, get};
use tests::clients::tcp::connect;
use tests::host::apparmor::Profile;
use tests::host::user::UID;
use tests::proxies::own::connect_from;
use tests::proxies::proxy_header::v2;
use tests::proxies::{any, any_v4, local_routes, nginx};
use tests::servers::web::{Web, parse_client};
use tests::topology::{Family, Sidecar};

use crate::stage::{HEADER, REPORT, client};

/// Where clients reach nginx as a proxy.
const BOUND: u16 = 15001;
/// Where they are steered to nginx as an application.
const STEERED: u16 = 9042;

/// nginx as hosts confine it. Where its files are is the host's to say.
const NGINX: &str = "
abi <abi/3.0>,
include <tunables/global>

profile nginx /usr/sbin/nginx {
  include <abstractions/base>
  include <abstractions/nameservice>
  include <abstractions/openssl>
  capability dac_override,
  capability net_bind_service,
  capability setgid,
  capability setuid,
  /usr/sbin/nginx mr,
  /etc/nginx/** r,
  /usr/share/nginx/modules-available/*.conf r,
  /usr/lib/nginx/modules/*.so mr,
  include if exists <local/nginx>
}
";

/// A pod whose nginx, as application and as proxy, is confined.
pub(super) struct Pod {
    sidecar: Sidecar,
    web: Web,
    profile: Profile,
}

impl Pod {
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let ports = [any_v4(REPORT), any(REPORT), any_v4(HEADER), any(HEADER)];
        let start = || Web::nginx(directory, pod, &ports);
        let strict = Profile::load(directory, "nginx", NGINX, "")?;
        let error = start()
            .err()
            .context("nginx was to be kept from its files")?;
        ensure!(
            format!("{error:#}").contains("Permission denied"),
            "{error:#}"
        );
        drop(strict);
        let files = format!("{0}/ r,\n{0}/** rw,\n", directory.display());
        let profile = Profile::load(directory, "nginx", NGINX, &files)?;
        let web = start()?;
        profile.ensure_confines(web.id())?;
        Ok(Self {
            web,
            profile,
            sidecar,
        })
    }

    /// A configuration with each way by which nginx is told.
    pub(super) fn config(&self, directory: &Path) -> Result<Config> {
        let pod = &self.sidecar.pod;
        let steer = Steer::new("in", pod, &["9000-9099"], REPORT);
        let mut config = Config::new(directory, [steer])?;
        config.trust.push(Trust::uid(UID));
        config.trust.extend(Trust::sources(Sidecar::networks()));
        config
            .unwrap
            .push(Unwrap::new(pod, Sidecar::INTERFACE, &["8443"]));
        Ok(config)
    }

    fn load(&self) -> Load {
        Load {
            application: Application::Web,
            connections: 100,
            concurrent: 20,
            ..Load::new(Sidecar::targets(BOUND))
        }
    }

    pub(super) fn is_not_told(&self, directory: &Path) -> Result<()> {
        let routes = local_routes(BOUND, REPORT);
        let proxy = nginx::plain(directory, &self.sidecar.pod, &routes)?;
        self.load().run(&self.sidecar.client).all_lost()?;
        proxy.stop()?;
        Ok(())
    }

    /// nginx is told the client by bind, by TOA, by a PROXY header, and steered to it.
    pub(super) fn is_told(&self, directory: &Path) -> Result<()> {
        let sender = &self.sidecar.client;
        let routes = local_routes(BOUND, REPORT);
        let proxy = nginx::binding(directory, &self.sidecar.pod, UID, &routes)?;
        self.profile.ensure_confines(proxy.id())?;
        self.load().run(sender).all_kept().context("bind")?;
        let _telling = telling(directory, Sidecar::networks())?;
        for family in Family::ALL {
            let at = |port| SocketAddr::from((Sidecar::address(family), port));
            let toa = sender.enter(|| connect_from(client(family), at(REPORT), 0))?;
            seen_as_client(&toa, family).context("TOA")?;
            let mut header = connect(sender, at(HEADER))?;
            header.write_all(&v2(client(family), at(HEADER)))?;
            seen_as_client(&header, family).context("PROXY header")?;
            let source = (family.client(6), 0).into();
            let steered =
                sender.enter(|| Connection::open_from(source, at(STEERED), Application::Web))?;
            ensure!(
                steered.seen.accepted == steered.client,
                "steered: {} was seen as {}",
                steered.client,
                steered.seen.accepted
            );
        }
        self.profile.ensure_confines(self.web.id())
    }
}

fn seen_as_client(stream: &TcpStream, family: Family) -> Result<()> {
    let seen = parse_client(&get(stream)?)?;
    ensure!(
        seen == client(family),
        "{} was seen as {seen}",
        client(family)
    );
    Ok(())
}

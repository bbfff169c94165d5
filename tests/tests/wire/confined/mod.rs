//! A security module confines who takes part: AppArmor, which Debian's kernels have by default.

mod pod;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::agent::{Agent, Config, Steer, binary};
use tests::balancer::{self, APPLICATION, crowd, plain};
use tests::host::apparmor::Profile;
use tests::host::process::{Process, unique};
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::any;
use tests::servers::report::Report;
use tests::topology::{Gateway, Sidecar};
use tests::wait::Limit;

use self::pod::Pod;
use crate::stage::REPORT;

/// How long a command may take that ends by itself.
const ENDS: Limit = Limit::secs(60);

/// What is shipped for the agent.
const TRUEPEER: &str = include_str!("../../../../deploy/apparmor/truepeer");

/// What of containerd's and Docker's default profile is in the agent's way.
const RUNTIME: &str = "
abi <abi/3.0>,
include <tunables/global>

profile truepeer /usr/bin/truepeer flags=(attach_disconnected,mediate_deleted) {
  include <abstractions/base>
  network,
  capability,
  file,
  umount,
  deny @{PROC}/sys/[^k]** w,
  deny mount,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  ptrace (trace, read, tracedby, readby) peer=truepeer,
}
";

/// The agent where packages install it, so that its profile applies, and its files where they are by default.
struct Installed(PathBuf);

impl Installed {
    const DIRECTORIES: [&str; 3] = ["/run/truepeer", "/var/lib/truepeer", "/var/log/truepeer"];
    const BPFFS: &str = "/sys/fs/bpf/truepeer";

    fn new() -> Result<Self> {
        let path = PathBuf::from("/usr/bin/truepeer");
        fs::copy(binary()?, &path)?;
        for directory in Self::DIRECTORIES {
            fs::create_dir_all(directory)?;
        }
        Ok(Self(path))
    }

    /// A configuration with its files at the usual places.
    fn config(mut config: Config) -> Config {
        config.agent.socket = "/run/truepeer/truepeer.sock".into();
        config.agent.bpffs = Self::BPFFS.into();
        config.agent.pods = "/var/lib/truepeer/pods".into();
        config.agent.access_log = "/var/log/truepeer/access.log".into();
        config
    }

    /// Whether a command succeeds, and what it says.
    fn runs(&self, directory: &Path, command: &str, config: &Config) -> Result<(bool, String)> {
        let mut run = Command::new(&self.0);
        run.args([command, "--config"]).arg(config.write()?);
        let name = unique(command);
        let mut process = Process::start(&name, run, directory)?;
        let status = process.wait(ENDS)?;
        Ok((status.success(), process.log()?))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        for directory in Self::DIRECTORIES {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// The profile that is shipped, but for some of its text, with what the scenario itself needs.
fn shipped(directory: &Path, without: &[&str]) -> Result<Profile> {
    let mut text = TRUEPEER.to_owned();
    for part in without {
        ensure!(text.contains(part), "the profile has no {part:?}");
        text = text.replace(part, "");
    }
    let log = format!("{}/*.log w,\n", directory.display());
    Profile::load(directory, "truepeer", &text, &log)
}

#[test]
fn application() {
    scenario(|directory| {
        let pod = Pod::new(directory)?;
        pod.is_not_told(directory)?;
        let _agent = Agent::start(directory, pod.config(directory)?)?;
        pod.is_told(directory)
    });
}

#[test]
fn agent_and_application() {
    scenario(|directory| {
        let pod = Pod::new(directory)?;
        let installed = Installed::new()?;
        let profile = shipped(directory, &[])?;
        let config = Installed::config(pod.config(directory)?);
        let agent = Agent::start_binary(&installed.0, directory, config.clone())?;
        profile.ensure_confines(agent.id())?;
        pod.is_told(directory)?;
        let (is_well, said) = installed.runs(directory, "doctor", &config)?;
        ensure!(is_well && said.contains(&profile.label()), "{said}");
        ensure!(agent.stop()?.success(), "the agent's exit status");
        ensure!(!Path::new(Installed::BPFFS).exists(), "pins are left");
        let denials = profile.denials()?;
        ensure!(denials.is_empty(), "denied:\n{}", denials.join("\n"));
        Ok(())
    });
}

/// One under the profile that is shipped follows another, and what a relay has begun goes on.
#[test]
fn agents_follow_each_other() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let installed = Installed::new()?;
        let profile = shipped(directory, &[])?;
        let config = Installed::config(balancer::config(directory, plain(&topology))?);
        let mut agent = Agent::start_binary(&installed.0, directory, config)?;
        profile.ensure_confines(agent.id())?;
        let load = crowd();
        let mut held = load.hold(&topology.client)?;
        let (former, outcome) = load.during(&topology.client, |progress| {
            let former = agent.follow(directory)?;
            progress.more("with another agent")?;
            Ok(former)
        })?;
        outcome.all_exact()?;
        profile.ensure_confines(agent.id())?;
        held.iter_mut()
            .try_for_each(|connection| connection.ping())?;
        drop(held);
        ensure!(former.stop()?.success(), "the former agent's exit status");
        load.run(&topology.client).all_exact()?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        let denials = profile.denials()?;
        ensure!(denials.is_empty(), "denied:\n{}", denials.join("\n"));
        Ok(())
    });
}

/// What a profile lacks, and words of what the agent then says.
const DENIED: [(&[&str], &[&str]); 5] = [
    (
        &["  capability sys_admin,\n", "  capability bpf,\n"],
        &["Operation not permitted"],
    ),
    (&["  capability sys_admin,\n"], &["CAP_SYS_ADMIN"]),
    // Older kernels ask for it when maps are made, newer ones for rules and routes.
    (&["  capability net_admin,\n"], &[]),
    (&["  network netlink,\n"], &["Permission denied"]),
    (
        &["  @{sys}/fs/bpf/{truepeer,truepeer-probe}/{,**} rwk,\n"],
        &["/sys/fs/bpf/truepeer", "Permission denied"],
    ),
];

#[test]
fn what_a_profile_denies_is_named() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let installed = Installed::new()?;
        let before = sidecar.pod.enter(Traces::here)?;
        let steer = Steer::new("in", &sidecar.pod, &["9000-9099"], REPORT);
        let config = Installed::config(Config::new(directory, [steer])?);
        for (without, words) in DENIED {
            let profile = shipped(directory, without)?;
            refuses(directory, &installed, &config, &profile, words)
                .with_context(|| without.concat())?;
            before.assert_unchanged(&sidecar.pod.enter(Traces::here)?)?;
        }
        let profile = shipped(directory, &["  ptrace (read, trace),\n"])?;
        let (_, said) = installed.runs(directory, "doctor", &config)?;
        let hides = format!("\"{}\" hides other processes", profile.label());
        ensure!(said.contains(&hides), "expected {hides:?} in:\n{said}");
        drop(profile);
        let profile = Profile::load(directory, "truepeer", RUNTIME, "")?;
        refuses(
            directory,
            &installed,
            &config,
            &profile,
            &["/sys/fs/bpf/truepeer"],
        )
    });
}

/// The agent does not start, names the profile besides these words, and leaves nothing.
fn refuses(
    directory: &Path,
    installed: &Installed,
    config: &Config,
    profile: &Profile,
    words: &[&str],
) -> Result<()> {
    let (is_well, said) = installed.runs(directory, "run", config)?;
    ensure!(!is_well, "it was to fail:\n{said}");
    for word in words.iter().copied().chain([&*profile.label()]) {
        ensure!(said.contains(word), "expected {word:?} in:\n{said}");
    }
    ensure!(!Path::new(Installed::BPFFS).exists(), "pins are left");
    Ok(())
}

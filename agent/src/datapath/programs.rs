//! Loads the programs of the BPF object, and explains when the kernel refuses one.

use std::{
    fmt, io,
    num::NonZero,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use agent_common::names::{self, program};
use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError, ProgramInfo, loaded_programs},
};
use tracing::debug;

use crate::host::{btf, confinement, kernel};

/// The BPF programs and maps, as ELF.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TRUEPEER_OBJECT"));

/// How many lines of what the verifier says are told: the last ones name the instruction and the reason.
const TOLD: usize = 6;

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// Its name in the BPF object.
    pub program: &'static str,
    /// What of the configuration needs it; `None`: the agent itself.
    pub section: Option<Section>,
    /// What does not work without it.
    pub consequence: &'static str,
}

/// What of the configuration needs programs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// `[[steer]]`, and a `[[relay]]` with `send = "transparent"`.
    Steer,
    /// `[[unwrap]]`.
    Unwrap,
    /// `[[carry.node]]`.
    CarryNode,
    /// `[[policy]]`.
    Policy,
    /// `[[trust]]` of a `uid` or a `cgroup`, and what `inexpressible` asks of relays.
    Bind,
    /// `[[trust]]` that believes "toa", and `[[carry.node]]`.
    Toa,
    /// `[reveal]`.
    Reveal,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Steer => "[[steer]]",
            Self::Unwrap => "[[unwrap]]",
            Self::CarryNode => "[[carry.node]]",
            Self::Policy => "[[policy]]",
            Self::Bind => "[[trust]] of a uid or a cgroup",
            Self::Toa => "TOA",
            Self::Reveal => "[reveal]",
        })
    }
}

/// Every program of the object.
const PURPOSES: [Purpose; 21] = {
    const fn of(program: &'static str, section: Section, consequence: &'static str) -> Purpose {
        Purpose {
            program,
            section: Some(section),
            consequence,
        }
    }
    const fn always(program: &'static str, consequence: &'static str) -> Purpose {
        Purpose {
            program,
            section: None,
            consequence,
        }
    }
    const PORTLESS: &str =
        "a proxy may connect from a port that its client has: both connections are reset";
    const UNREVEALED: &str = "applications are told the last hop instead of the client";
    const UNBOUND: &str = "proxies that bind to a client's address are not believed";
    const UNSOURCED: &str = "proxies in a pod with Istio's rules connect from the wrong address, those that a policy denies wait, and IPv6 \
         clients look like this host to applications with IPv4 sockets";
    [
        always(program::LEARN, "no origin is learnt: nothing works"),
        always(
            program::RELEASE,
            "the access log does not tell which process had a connection",
        ),
        always(
            program::ADOPT,
            "listeners that are older than the agent are not known",
        ),
        of(
            program::STEER,
            Section::Steer,
            "connections are not brought to the proxy",
        ),
        of(
            program::LOOKUP,
            Section::Steer,
            "connections to the host's own addresses are not brought to the proxy",
        ),
        always(program::PORT4, PORTLESS),
        always(program::PORT6, PORTLESS),
        of(
            program::UNWRAP,
            Section::Unwrap,
            "PROXY headers are not taken off: use a [[relay]]",
        ),
        of(
            program::ANSWER,
            Section::Unwrap,
            "PROXY headers are not taken off: use a [[relay]]",
        ),
        of(
            program::NODE,
            Section::CarryNode,
            "the node's NAT hides the clients of node ports",
        ),
        of(
            program::LEAVE,
            Section::CarryNode,
            "the node's NAT hides the clients of node ports",
        ),
        of(
            program::GUARD,
            Section::Policy,
            "nobody is refused but by the relay",
        ),
        of(
            program::HEAR,
            Section::Toa,
            "before Linux 6.12, TOA is not read",
        ),
        of(program::ASK, Section::Bind, UNBOUND),
        of(program::BIND4, Section::Bind, UNBOUND),
        of(program::BIND6, Section::Bind, UNBOUND),
        of(program::SOURCE4, Section::Bind, UNSOURCED),
        of(program::SOURCE6, Section::Bind, UNSOURCED),
        of(program::PEER4, Section::Reveal, UNREVEALED),
        of(program::PEER6, Section::Reveal, UNREVEALED),
        of(
            program::ORIGINAL_DST,
            Section::Reveal,
            "a proxy that is set up for REDIRECT does not learn where clients wanted to go",
        ),
    ]
};

impl Purpose {
    fn of(program: &str) -> Option<&'static Self> {
        const { &PURPOSES }
            .iter()
            .find(|purpose| purpose.program == program)
    }
}

/// What loads the object into this kernel.
pub(super) fn loader() -> Result<EbpfLoader<'static>> {
    let mut loader = EbpfLoader::new();
    // The object has no relocation that needs it, and it takes tens of megabytes.
    loader.btf(None);
    // The reason alone. Before Linux 6.4, a kernel whose way to it is longer than the log says only that.
    loader.verifier_log_level(VerifierLogLevel::STATS);
    static VERSION: OnceLock<u32> = OnceLock::new();
    let version = kernel::running()?.number();
    loader.override_global(names::KERNEL, VERSION.get_or_init(|| version), true);
    if let Some(at) = credentials() {
        loader.override_global(names::CREDENTIALS_KNOWN, &1_u32, true);
        loader.override_global(names::CREDENTIALS, at, true);
    }
    Ok(loader)
}

/// Where the kernel says which capabilities a process has, which is looked up once; `None` if it cannot be known, so that a
/// trusted process has what root has.
fn credentials() -> Option<&'static [u32; 7]> {
    static FOUND: OnceLock<Option<[u32; 7]>> = OnceLock::new();
    let found = FOUND.get_or_init(|| match btf::credentials() {
        Ok(found) => found.map(Into::into),
        Err(error) => {
            debug!("the capabilities of trusted processes are unknown: {error:#}");
            None
        }
    });
    found.as_ref()
}

/// The program of the object with this name and type.
pub(super) fn named<'a, P>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = object
        .program_mut(name)
        .with_context(|| format!("the BPF object has no program {name}"))?;
    Ok(program.try_into()?)
}

/// Loads a program of the object, unless it is.
pub(super) fn load(object: &mut Ebpf, name: &str) -> Result<()> {
    let program = object
        .program_mut(name)
        .with_context(|| format!("the BPF object has no program {name}"))?;
    verify(name, program)
}

/// The program with this id; `None`: it has gone.
pub(super) fn loaded(id: u32) -> Result<Option<ProgramInfo>> {
    for info in loaded_programs().filter_map(still_there) {
        let info = info.context("cannot list the kernel's BPF programs")?;
        if info.id() == id {
            return Ok(Some(info));
        }
    }
    Ok(None)
}

/// What the kernel has listed, unless it has gone before it could be looked at, as other people's programs may at any time.
/// The error of a kernel that lists nothing says what is missing.
pub(super) fn still_there<T, E: Into<anyhow::Error>>(listed: Result<T, E>) -> Option<Result<T>> {
    let is = |error: &anyhow::Error, kind| {
        let mut causes = error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>());
        causes.any(|cause| cause.kind() == kind)
    };
    match listed.map_err(Into::into) {
        Err(error) if is(&error, io::ErrorKind::NotFound) => None,
        Err(error) if is(&error, io::ErrorKind::PermissionDenied) => {
            Some(Err(error.context(confinement::lacks("CAP_SYS_ADMIN"))))
        }
        listed => Some(listed),
    }
}

/// The programs of the object that have these names.
pub(super) fn these<'a>(
    object: &'a mut Ebpf,
    names: &[&str],
) -> impl Iterator<Item = (&'a str, &'a mut Program)> {
    object
        .programs_mut()
        .filter(|(name, _)| names.contains(name))
}

/// Loads programs, unless they are, as many at a time as there are processors: the verifier takes most of a start.
///
/// # Errors
///
/// When the kernel refuses one.
pub(super) fn load_all<'a>(
    programs: impl IntoIterator<Item = (&'a str, &'a mut Program)>,
) -> Result<()> {
    let programs: Vec<_> = programs.into_iter().collect();
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = processors.min(programs.len());
    let queue = Mutex::new(programs.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<()> {
        while let Some((name, program)) = next() {
            verify(name, program)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let others = others.into_iter().map(|other| match other.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        others.fold(work(), Result::and)
    })
}

fn verify(name: &str, program: &mut Program) -> Result<()> {
    if program.fd().is_ok() {
        return Ok(());
    }
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::Iter(program) => program.load("tcp", &Btf::from_sys_fs()?),
        _ => unreachable!("the object has no program of another type"),
    };
    loaded.map_err(|error| explain(name, error))
}

/// What it cost the kernel to take a program.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// How many instructions the verifier went through, those of a loop once for each round. `None`: the kernel does
    /// not tell, because it is older than 5.16.
    pub instructions: Option<u32>,
    /// How long loading took: verifying it, and compiling it to machine code.
    pub took: Duration,
}

/// Tries every program on this kernel, attaches none, and leaves nothing. Returns what the kernel says of each.
///
/// # Errors
///
/// When the kernel refuses already the maps.
pub fn try_all() -> Result<Vec<(Purpose, Result<Cost>)>> {
    let mut object = loader()?
        .load(OBJECT)
        .context("cannot load the BPF object")?;
    let tried = PURPOSES
        .iter()
        .map(|purpose| (*purpose, try_one(&mut object, purpose.program)));
    Ok(tried.collect())
}

fn try_one(object: &mut Ebpf, name: &str) -> Result<Cost> {
    let started = Instant::now();
    load(object, name)?;
    let took = started.elapsed();
    let program = object.program_mut(name).context("it was loaded just now")?;
    let instructions = program.info()?.verified_instruction_count();
    Ok(Cost { instructions, took })
}

fn explain(name: &str, error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return anyhow::Error::new(error).context(format!("cannot load {name}"));
    };
    let log = verifier_log.to_string();
    let (section, consequence) =
        Purpose::of(name).map_or((None, ""), |p| (p.section, p.consequence));
    let needed = section.map_or_else(|| "the agent itself".to_owned(), |s| s.to_string());
    // Without its capabilities, the verifier gives reasons of its own.
    let remedy = (io_error.kind() == io::ErrorKind::PermissionDenied)
        .then(confinement::remedy)
        .flatten();
    anyhow::anyhow!(
        "this kernel refuses the program {name}, which {needed} needs ({io_error}): {}; without it, {consequence}{}",
        last_words(&log),
        remedy.map_or_else(String::new, |remedy| format!("; {remedy}"))
    )
}

/// The last lines of the verifier's log that give its reason; its statistics come behind them.
fn last_words(log: &str) -> String {
    let is_statistics = |line: &&str| {
        let starts = ["processed ", "verification time ", "stack depth "];
        line.is_empty() || starts.iter().any(|start| line.starts_with(start))
    };
    let lines: Vec<_> = log
        .lines()
        .map(str::trim)
        .filter(|line| !is_statistics(line))
        .collect();
    if lines.is_empty() {
        return "the verifier gives no reason".to_owned();
    }
    let words = &lines[lines.len().saturating_sub(TOLD)..];
    format!("the verifier says \"{}\"", words.join(" | "))
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn every_program_has_a_purpose() {
        let object = aya_obj::Object::parse(OBJECT).unwrap();
        for name in object.programs.keys() {
            assert!(Purpose::of(name).is_some(), "{name}");
        }
        assert_eq!(object.programs.len(), PURPOSES.len());
    }

    #[test]
    fn what_has_gone_meanwhile_is_not_listed() {
        let failed = |number| -> Result<(), ProgramError> {
            Err(ProgramError::SyscallError(SyscallError {
                call: "bpf_prog_get_fd_by_id",
                io_error: io::Error::from_raw_os_error(number),
            }))
        };
        assert!(still_there(failed(nix::libc::ENOENT)).is_none());
        let denied = still_there(failed(nix::libc::EPERM)).unwrap().unwrap_err();
        assert!(denied.to_string().contains("CAP_SYS_ADMIN"), "{denied}");
        assert!(still_there(Ok::<_, ProgramError>(())).is_some_and(|listed| listed.is_ok()));
    }

    #[test]
    fn the_verifiers_reason_is_told_and_not_its_statistics() {
        let log = "0: R1=ctx()\n1: (b7) r0 = 0\nR4 min value is negative\nprocessed 12 insns (limit 1000000)\n\n";
        assert_eq!(
            last_words(log),
            "the verifier says \"0: R1=ctx() | 1: (b7) r0 = 0 | R4 min value is negative\""
        );
        assert_eq!(last_words("\n"), "the verifier gives no reason");
    }

    #[test]
    fn an_error_names_program_section_reason_and_consequence() {
        let error = explain(
            program::UNWRAP,
            ProgramError::LoadError {
                io_error: std::io::Error::from_raw_os_error(nix::libc::EACCES),
                verifier_log: aya_obj::VerifierLog::new("R4 min value is negative".into()),
            },
        );
        let text = format!("{error:#}");
        for part in [
            "truepeer_unwrap",
            "[[unwrap]]",
            "R4 min value is negative",
            "[[relay]]",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}

//! Runs a fuzzer in as many processes as there are processors: they share a directory of what they find.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    fuzzer::{Fuzzer, Limit},
    interrupts::Interrupts,
    outcome::{End, Outcome},
    progress::{Progress, Said},
};

/// How long it takes at most until an interrupt is noticed.
const TICK: Duration = Duration::from_millis(100);

/// Runs fuzzers one after the other, and prints what came of each.
pub(super) fn all(program: &Path, fuzzers: &[Fuzzer], limit: Limit) -> Result<()> {
    let interrupts = Interrupts::hold()?;
    let mut outcomes = Vec::new();
    for fuzzer in fuzzers {
        println!("     Fuzzing {}", fuzzer.name);
        let outcome = one(program, fuzzer, limit, &interrupts)?;
        let is_over = outcome.end == End::Interrupted;
        outcomes.push(outcome);
        if is_over {
            break;
        }
    }
    print!("{}", Outcome::table(&outcomes));
    let failed: Vec<_> = outcomes.iter().filter_map(Outcome::failure).collect();
    if !failed.is_empty() {
        bail!("fuzzers failed: {}", failed.join(", "));
    }
    if outcomes.iter().any(|o| o.end == End::Interrupted) {
        bail!("interrupted");
    }
    Ok(())
}

/// Runs a fuzzer to the limit, until it fails, or until an interrupt.
fn one(program: &Path, fuzzer: &Fuzzer, limit: Limit, interrupts: &Interrupts) -> Result<Outcome> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let start = Instant::now();
    let mut processes = Processes::default();
    let (told, lines) = mpsc::channel();
    for (number, limit) in limit.shares(processors).enumerate() {
        let output = processes.start(fuzzer.command(program, limit)?)?;
        let told = told.clone();
        thread::spawn(move || tell(number, output, &told));
    }
    drop(told);

    let mut outcome = Outcome {
        name: fuzzer.name.clone(),
        time: Duration::ZERO,
        end: End::Limit,
        processes: Vec::new(),
    };
    let processes_told = processes.0.iter().map(|_| Progress::default());
    outcome.processes.extend(processes_told);
    loop {
        match lines.recv_timeout(TICK) {
            Ok((number, Some(line))) => match outcome.processes[number].note(&line) {
                Said::Nothing => {}
                // They come equally far, and one tells for all.
                Said::Pulse if number > 0 => {}
                Said::Pulse => eprintln!("{}", outcome.pulse()),
                Said::All => eprintln!("{line}"),
            },
            Ok((number, None)) => {
                let status = processes.0[number].wait()?;
                // One that was asked to end before libFuzzer listens dies of it, and has read nothing.
                let is_asked = status.signal() == Some(Signal::SIGUSR1 as i32);
                if !status.success() && !is_asked {
                    outcome.end = End::Failed;
                    processes.ask_to_end()?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if interrupts.came()? {
            outcome.end = outcome.end.max(End::Interrupted);
            processes.ask_to_end()?;
        }
    }
    outcome.time = start.elapsed();
    outcome.show_inputs()?;
    Ok(outcome)
}

/// Passes on each line of a process's output, and then its end.
fn tell(number: usize, output: ChildStderr, told: &Sender<(usize, Option<String>)>) {
    // What is no text is a panic's, and what cannot be read is the end. Nobody listens any more after an error.
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if told.send((number, Some(line))).is_err() {
            return;
        }
    }
    let _ = told.send((number, None));
}

/// The processes of a fuzzer, which end with this one.
#[derive(Default)]
struct Processes(Vec<Child>);

impl Processes {
    /// Starts one; returns what it prints.
    fn start(&mut self, mut command: Command) -> Result<ChildStderr> {
        let mut child = command
            // Ctrl-C goes to this process alone.
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run the fuzzer")?;
        let output = child.stderr.take();
        self.0.push(child);
        output.context("the fuzzer's output")
    }

    /// Has those that still run tell how far they came, and end.
    fn ask_to_end(&mut self) -> Result<()> {
        for child in &mut self.0 {
            if child.try_wait()?.is_none() {
                // It was not waited for, so that the number is still its own.
                kill(Pid::from_raw(child.id() as i32), Signal::SIGUSR1)?;
            }
        }
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended is left alone.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

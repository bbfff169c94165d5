//! A virtual machine that boots a kernel, does one job, and is gone.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use tempfile::TempDir;

use super::{
    architecture::Architecture,
    kernel::Kernel,
    pair::{End, alone, join},
    system::SIGNATURE,
};

/// How the guest says that its job begins.
const BEGINS: &str = "truepeer-guest: begins";
/// How it says with which exit code the job ended.
const ENDED: &str = "truepeer-guest: ended ";
/// How long a kernel may take until its job begins: emulated, half a minute on a quiet host.
const BOOT: Duration = Duration::from_secs(3 * 60);
/// How many of the kernel's last lines are told when the machine ends without having ended its job.
const LAST: usize = 100;
/// The variable by which a machine's first process knows that it is a peer. The kernel passes on what it does not know.
pub(super) const PEER: &str = "PEER";
/// Files with what a peer's job and its kernel print.
const PEERS_JOB: &str = "peers-job";
const PEERS_CONSOLE: &str = "peers-console";
/// What the first process does: it waits for the job's disk and goes on with what is there, so that the system's disk
/// stays as Debian made it. Disks are found by their labels, because kernels number them as they find them.
const FIRST: &str = "mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mkdir -p /job; \
                     until mount LABEL=job /job; do sleep 0.1; done; exec sh /job/init";

/// What a machine is made of.
pub(crate) struct Machine<'a> {
    pub(crate) architecture: Architecture,
    pub(crate) kernel: &'a Kernel,
    /// The disk with the system; what the guest writes to it is forgotten.
    pub(crate) system: &'a Path,
    /// The disk with the job; likewise.
    pub(crate) job: &'a Path,
    /// Whether another machine is joined to it, whose job is to serve this one's.
    pub(crate) has_peer: bool,
}

impl Machine<'_> {
    /// Boots it and waits until its job has ended; `line` is called with each line that the job prints. Returns the
    /// job's exit code. A machine whose kernel does not come up is begun once more, and said to be: an emulated one now and
    /// then loses a timer's first interrupt, and nothing of the job has run.
    ///
    /// # Errors
    ///
    /// When the machine does not come up twice, stops, or goes on with its job after `limit`; the error has the kernel's
    /// last lines.
    pub(crate) fn run(&self, limit: Duration, line: impl FnMut(&str)) -> Result<i32> {
        let mut booted = self.boot();
        if let Err(error) = &booted {
            println!("{error:#}\nkernels: the job had not begun; booting once more");
            booted = self.boot();
        }
        booted?.job(limit, self.has_peer, line)
    }

    /// Boots it and waits until its job begins. That of a peer is not waited for.
    fn boot(&self) -> Result<Booted> {
        let work = tempfile::tempdir()?;
        let console = work.path().join("console");
        let mut qemu = Qemu(
            self.command(work.path(), &console)?
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot run {}", self.architecture.board().qemu.0))?,
        );
        let stdout = qemu.0.stdout.take().context("qemu's output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for text in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&text);
                if sender.send(text.trim_end_matches('\r').to_owned()).is_err() {
                    break;
                }
            }
        });
        let booted = Booted {
            _qemu: qemu,
            work,
            console,
            lines,
        };
        let deadline = Instant::now() + BOOT;
        let mut printed = String::new();
        loop {
            let line = booted.line(deadline, "begin", BOOT);
            match line.with_context(|| format!("it printed: {printed}"))? {
                line if line == BEGINS => return Ok(booted),
                line => printed = printed + &line + "\n",
            }
        }
    }

    /// What runs it, and its peer if it has one.
    fn command(&self, work: &Path, console: &Path) -> Result<Command> {
        let mut near = self.qemu("stdio", console, "");
        near.args(["-smp", "2", "-m", "3072"]);
        if !self.has_peer {
            near.args(["-nic", "none"]);
            return Ok(alone(&near));
        }
        near.args(End::Near.card());
        let job = format!("file,path={}", work.join(PEERS_JOB).display());
        let console = work.join(PEERS_CONSOLE);
        let mut far = self.qemu(&job, &console, &format!("{PEER}=1"));
        far.args(["-smp", "1", "-m", "1024"]).args(End::Far.card());
        join(&near, &far)
    }

    /// A machine whose job prints to `job`, with a word for its kernel.
    fn qemu(&self, job: &str, console: &Path, word: &str) -> Command {
        let board = self.architecture.board();
        let mut command = Command::new(board.qemu.0);
        command.args(board.options);
        command.args(["-accel", self.architecture.accelerator()]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none"]);
        // One serial line has what the job prints, another what the kernel says.
        command.arg("-chardev").arg(format!("{job},id=job"));
        command.args(board.job).arg("-serial");
        command.arg(format!("file:{}", console.display()));
        command.arg("-kernel").arg(self.kernel.binary());
        // After an oops the machine stops, as what follows proves nothing and may never end.
        // The drivers of NVMe and ext4 are built into Debian's kernels, so that no initramfs is needed.
        command.arg("-append").arg(format!(
            "root=PARTUUID={SIGNATURE:08x}-01 rootwait rw rootfstype=ext4 console={} loglevel=5 oops=panic panic=-1 {} {word} \
             init=/bin/sh -- -c \"{FIRST}\"",
            board.console, board.append
        ));
        command.args(["-device", "nvme,id=nvme,serial=truepeer"]);
        let disks: [(&str, PathBuf); 3] = [
            ("system", self.system.to_owned()),
            ("modules", self.kernel.modules()),
            ("job", self.job.to_owned()),
        ];
        for (number, (name, disk)) in (1..).zip(disks) {
            let disk = disk.display();
            command.arg("-drive").arg(format!(
                "file={disk},format=raw,if=none,id={name},snapshot=on,cache=unsafe"
            ));
            command
                .arg("-device")
                .arg(format!("nvme-ns,bus=nvme,drive={name},nsid={number}"));
        }
        command
    }
}

/// A machine whose job runs.
struct Booted {
    /// Ended before what it writes to is removed.
    _qemu: Qemu,
    work: TempDir,
    console: PathBuf,
    lines: mpsc::Receiver<String>,
}

impl Booted {
    /// The next line of the job, at the latest at `deadline`, by when it was to `end` or `begin`.
    fn line(&self, deadline: Instant, what: &str, limit: Duration) -> Result<String> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.lines.recv_timeout(left).map_err(|error| {
            let last = last(&self.console);
            match error {
                mpsc::RecvTimeoutError::Timeout => {
                    anyhow!("the job did not {what} within {limit:?}{last}")
                }
                mpsc::RecvTimeoutError::Disconnected => {
                    anyhow!("the machine stopped before its job could {what}{last}")
                }
            }
        })
    }

    /// Waits until the job has ended, and returns its exit code.
    fn job(self, limit: Duration, has_peer: bool, mut line: impl FnMut(&str)) -> Result<i32> {
        let deadline = Instant::now() + limit;
        loop {
            let text = self.line(deadline, "end", limit)?;
            let Some(code) = text.strip_prefix(ENDED) else {
                line(&text);
                continue;
            };
            let code = code.trim().parse().context("the job's exit code")?;
            if has_peer && code != 0 {
                let printed = fs::read_to_string(self.work.path().join(PEERS_JOB));
                let printed = printed.unwrap_or_default();
                let last = last(&self.work.path().join(PEERS_CONSOLE));
                println!("the peer printed:\n{printed}{last}");
            }
            return Ok(code);
        }
    }
}

/// A machine that is ended on drop.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kernel's last lines, for an error.
fn last(console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LAST)..];
    format!("; the kernel's last words:\n{}", last.join("\n"))
}

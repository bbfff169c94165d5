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

use anyhow::{Context as _, Result, bail};

use super::{architecture::Architecture, kernel::Kernel, system::SIGNATURE};

/// How the guest says with which exit code its job ended.
const ENDED: &str = "truepeer-guest: ended ";
/// How many of the kernel's last lines are told when the machine ends without that.
const LAST: usize = 100;
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
}

impl Machine<'_> {
    /// Boots it and waits until its job has ended; `line` is called with each line that the job prints. Returns the
    /// job's exit code.
    ///
    /// # Errors
    ///
    /// When the machine stops, or goes on after `limit`, without having ended its job; the error has the kernel's
    /// last lines.
    pub(crate) fn run(&self, limit: Duration, mut line: impl FnMut(&str)) -> Result<i32> {
        let work = tempfile::tempdir()?;
        let console = work.path().join("console");
        let mut qemu = Qemu(
            self.qemu(&console)
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
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(text) => match text.strip_prefix(ENDED) {
                    Some(code) => return code.trim().parse().context("the job's exit code"),
                    None => line(&text),
                },
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!("the job did not end within {limit:?}{}", last(&console))
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    bail!("the machine stopped before its job ended{}", last(&console))
                }
            }
        }
    }

    fn qemu(&self, console: &Path) -> Command {
        let board = self.architecture.board();
        let mut command = Command::new(board.qemu.0);
        command.args(board.options);
        command.args([
            "-smp",
            "2",
            "-m",
            "3072",
            "-accel",
            self.architecture.accelerator(),
        ]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-nic", "none"]);
        // One serial line has what the job prints, another what the kernel says.
        command.args(["-chardev", "stdio,id=job"]).args(board.job);
        command.arg("-serial");
        command.arg(format!("file:{}", console.display()));
        command.arg("-kernel").arg(self.kernel.binary());
        // After an oops the machine stops, as what follows proves nothing and may never end.
        // The drivers of NVMe and ext4 are built into Debian's kernels, so that no initramfs is needed.
        command.arg("-append").arg(format!(
            "root=PARTUUID={SIGNATURE:08x}-01 rootwait rw rootfstype=ext4 console={} loglevel=5 oops=panic panic=-1 {} init=/bin/sh \
             -- -c \"{FIRST}\"",
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

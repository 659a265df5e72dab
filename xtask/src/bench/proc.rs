//! Programs that are measured: started on a core of their own, looked at through `/proc`, ended with us.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::errand::{output, spelled};

/// The core of what is measured, and the core of whoever asks and answers.
pub const MEASURED: usize = 0;
/// See [`MEASURED`].
pub const AROUND: usize = 1;

/// A program that runs until this is dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` on `core`; what it prints goes to `<folder>/<name>.out`.
    pub fn start(name: &str, command: &Command, core: usize, folder: &Path) -> Result<Self> {
        Self::start_anywhere(name, on_core(core, command), folder)
    }

    /// The same on whatever core the kernel gives it.
    pub fn start_anywhere(name: &str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.out"));
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        let child = command.spawn().with_context(|| format!("cannot start `{}`", spelled(&command)))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Keeps it, with all its threads, on `core` from now on; what it starts later stays there too.
    pub fn move_to(&self, core: usize) -> Result<()> {
        let arguments = ["--all-tasks", "--cpu-list", "--pid", &core.to_string(), &self.child.id().to_string()];
        output(Command::new("taskset").args(arguments)).map(drop)
    }

    /// Waits until it takes connections.
    pub fn listens_on(&mut self, address: SocketAddr) -> Result<()> {
        self.until("take connections", || TcpStream::connect(address).is_ok())
    }

    /// Waits for `condition`, for as long as the program runs and no longer than three minutes.
    pub fn until(&mut self, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
        let since = Instant::now();
        while !condition() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}) before it would {what}:\n{}", self.name, self.printed());
            }
            ensure!(
                since.elapsed() < Duration::from_mins(3),
                "{} did not {what} within three minutes:\n{}",
                self.name,
                self.printed()
            );
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// CPU time that it and its children have used, in seconds.
    pub fn cpu_s(&self) -> Result<f64> {
        family(self.child.id())?.into_iter().map(cpu_s).sum()
    }

    /// The same without its children.
    pub fn own_cpu_s(&self) -> Result<f64> {
        cpu_s(self.child.id())
    }

    /// Its own resident memory, in millions of bytes.
    pub fn resident_mb(&self) -> Result<f64> {
        let pid = self.child.id();
        let status =
            fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
        resident_mb(&status).with_context(|| format!("/proc/{pid}/status is not what proc(5) says"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A master ends its workers when it is asked to, not when it is killed.
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        for _ in 0..1_500 {
            if asked.is_err() || !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let _gone_already = self.child.kill();
            let _gone_already = self.child.wait();
        }
    }
}

/// `command`, to be run on one core.
pub fn on_core(core: usize, command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.arg("--cpu-list").arg(core.to_string()).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => pinned.env(name, value),
            None => pinned.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        pinned.current_dir(folder);
    }
    pinned
}

/// A port that is free now, on this machine alone.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// `program` with `text` as its configuration, written to `file`: `@DIR@` is the folder, `@PORT@` where it is to listen,
/// `@UPSTREAM@` the port it passes requests on to.
pub fn configured(
    mut program: Command,
    flag: &str,
    file: &str,
    text: &str,
    address: SocketAddr,
    upstream: SocketAddr,
    folder: &Path,
) -> Result<Command> {
    let path = folder.join(file);
    let text = text
        .replace("@DIR@", &folder.display().to_string())
        .replace("@PORT@", &address.port().to_string())
        .replace("@UPSTREAM@", &upstream.port().to_string());
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    program.arg(flag).arg(path);
    Ok(program)
}

/// The process and all below it.
fn family(root: u32) -> Result<Vec<u32>> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads {
            let children = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    Ok(all)
}

/// `utime` and `stime` of proc(5), which count in hundredths of a second on every Linux of today (`sysconf(_SC_CLK_TCK)`).
fn cpu_s(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    let ticks = ticks(&stat).with_context(|| format!("/proc/{pid}/stat is not what proc(5) says"))?;
    Ok(f64::from(ticks) / 100.0)
}

fn ticks(stat: &str) -> Option<u32> {
    // The name may hold anything, a closing bracket too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

fn resident_mb(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1_000_000.0)
}

/// What this machine is, for whoever reads the figures later.
pub fn machine() -> Result<serde_json::Value> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let kernel = output(Command::new("uname").arg("-r"))?;
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(serde_json::json!({
        "cpu": model,
        "cores": thread::available_parallelism()?.get(),
        "kernel": kernel.trim(),
        "load_before": load.split_whitespace().next(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_an_odd_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194304 100 0 0 0 120 34 0 0 20 0 1 0 55 0 0";
        assert_eq!(ticks(stat), Some(154));
        assert_eq!(ticks("7 (cut"), None);
    }

    #[test]
    fn memory_is_found_and_turned_into_millions_of_bytes() {
        assert_eq!(resident_mb("Name:\ta\nVmRSS:\t   62500 kB\nThreads: 3\n"), Some(64.0));
        assert_eq!(resident_mb("Name:\ta\n"), None);
    }
}

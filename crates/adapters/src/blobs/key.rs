//! Which keys there are, and where a folder keeps them. Nothing may lead out of the folder, and no key may stand in the
//! way of another: `a` and `a/b` are both fine.

use std::path::{Path, PathBuf};

use astrfleet_core::{Error, Result};

const LENGTH_MAX: usize = 512;
/// File systems take names of 255 bytes.
const NAME_LENGTH_MAX: usize = 200;

/// The file of a key. Its name ends with `~`, which no folder's does.
pub(super) fn file_of(root: &Path, key: &str) -> Result<PathBuf> {
    let mut path = folder(root, key)?.into_os_string();
    path.push("~");
    Ok(path.into())
}

/// The folder with the files of all keys that begin with `prefix`, which ends with `/`.
pub(super) fn folder_of(root: &Path, prefix: &str) -> Result<PathBuf> {
    let Some(prefix) = prefix.strip_suffix('/') else {
        return Err(Error::invalid("prefix", "a prefix ends with /"));
    };
    folder(root, prefix)
}

fn folder(root: &Path, key: &str) -> Result<PathBuf> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/');
    if key.is_empty() || key.len() > LENGTH_MAX || !key.bytes().all(allowed) {
        return Err(Error::invalid("key", "a key has 1 to 512 of a-z, A-Z, 0-9, _, -, . and /"));
    }
    let mut path = root.to_path_buf();
    for part in key.split('/') {
        if matches!(part, "" | "." | "..") {
            return Err(Error::invalid("key", "no part of a key between its / is empty, . or .."));
        }
        let mut rest = part;
        // A `+` says that the name goes on below: no key has one, so nothing else can be meant.
        while rest.len() > NAME_LENGTH_MAX {
            let (name, more) = rest.split_at(NAME_LENGTH_MAX);
            path.push(format!("{name}+"));
            rest = more;
        }
        path.push(rest);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::{file_of, folder_of};

    proptest! {
        #[test]
        fn no_key_leads_out_of_the_folder(key in "[a./~+_-]{0,12}|\\PC{0,20}|[a/]{190,520}") {
            let root = Path::new("/root of all");
            if let Ok(path) = file_of(root, &key) {
                let below = path.strip_prefix(root).unwrap();
                prop_assert!(below.components().all(|part| matches!(part, std::path::Component::Normal(name) if name.len() < 255)));
            }
        }

        #[test]
        fn different_keys_have_different_places(one in "([ab]{1,2}|[a]{398,402})(/[ab]{1,2}){0,2}", other in "([ab]{1,2}|[a]{398,402})(/[ab]{1,2}){0,2}") {
            let root = Path::new("/");
            let (first, second) = (file_of(root, &one).unwrap(), file_of(root, &other).unwrap());
            prop_assert_eq!(first == second, one == other);
            prop_assert!(one == other || !second.starts_with(&first));
            let prefix = format!("{one}/");
            prop_assert_eq!(second.starts_with(folder_of(root, &prefix).unwrap()), other.starts_with(&prefix));
        }
    }
}

//! A user of its own for every bot, where the platform runs as root: what one bot writes no other bot can read.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
    sync::{Mutex, PoisonError},
};

use astrfleet_core::id::InstanceId;

use super::places::{self, Places};

/// Above what distributions give to people and services, below what containers are given.
const FIRST: u32 = 210_000;
const LAST: u32 = 299_999;

/// Hands out users.
#[derive(Default)]
pub(super) struct Users(Mutex<()>);

impl Users {
    /// The user of a bot: the same one for as long as the bot has a folder, and no other bot's meanwhile.
    pub(super) fn of(&self, bots: &Path, instance: &InstanceId) -> io::Result<u32> {
        let _one_at_a_time = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places = Places::of(bots, instance);
        if let Some(user) = read(&places)? {
            return Ok(user);
        }
        let taken: Vec<u32> =
            places::known(bots).iter().filter_map(|other| read(&Places::of(bots, other)).ok().flatten()).collect();
        let free = (FIRST..=LAST).find(|user| !taken.contains(user));
        let user = free.ok_or_else(|| io::Error::other("there is no user left for another bot"))?;
        places::write_whole(&places.user(), user.to_string().as_bytes())?;
        Ok(user)
    }
}

/// Makes everything in a bot's root its user's. Follows no link. The bot must not run.
pub(super) fn hand_over(root: &Path, user: u32) -> io::Result<()> {
    let found = fs::symlink_metadata(root)?;
    // Another name of somebody else's file is no gift to the bot.
    let elsewhere_too = !found.is_dir() && found.nlink() > 1;
    if (found.uid() != user || found.gid() != user) && !elsewhere_too {
        lchown(root, Some(user), Some(user))?;
    }
    if found.is_dir() {
        for entry in fs::read_dir(root)? {
            hand_over(&entry?.path(), user)?;
        }
    }
    Ok(())
}

/// Whether another user can pass all folders on the way to `path`.
pub(super) fn reachable_by_others(path: &Path) -> bool {
    path.ancestors().all(|folder| fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o001 != 0))
}

fn read(places: &Places) -> io::Result<Option<u32>> {
    match fs::read_to_string(places.user()) {
        Ok(text) => match text.trim().parse() {
            Ok(user) => Ok(Some(user)),
            Err(_) => Err(io::Error::other(format!("{} holds no user: remove it", places.user().display()))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use astrfleet_core::id::InstanceId;

    use super::{FIRST, Users};
    use crate::process::places::Places;

    #[test]
    fn no_two_bots_have_the_same_user_and_one_keeps_its_own() {
        let bots = tempfile::tempdir().unwrap();
        let users = Users::default();
        let user = |number: u32| {
            let instance = InstanceId::parse(&format!("bot_{number:032x}")).unwrap();
            Places::of(bots.path(), &instance).make().unwrap();
            users.of(bots.path(), &instance).unwrap()
        };
        assert_eq!([user(1), user(2), user(1), user(3)], [FIRST, FIRST + 1, FIRST, FIRST + 2]);
    }
}

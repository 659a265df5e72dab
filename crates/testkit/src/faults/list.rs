//! All that may go wrong.

use std::time::Duration;

use super::row::MayFail;
use crate::fleet::ROLES;

/// How long something stays broken where nothing else is said.
pub(super) const BROKEN: Duration = Duration::from_secs(5);
/// Longer than the lives of all leases.
pub(super) const BEYOND_LEASES: Duration = Duration::from_secs(8);
/// Longer than a statement may take.
const BEYOND_STATEMENTS: Duration = Duration::from_secs(10);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// `kill -9` of a process of this role, which is started again after a while.
    Kill(&'static str),
    /// The same, while nobody reaches what is along a way: who takes its work over has to do without.
    KillCutOff(&'static str, &'static str),
    /// `kill -9` of the database, which is started again at once.
    KillPostgres,
    /// The database is told to end, and started again at once.
    RestartPostgres,
    /// `kill -9` of Redis, which is started again after a while.
    KillRedis,
    /// Everything in Redis is forgotten.
    FlushRedis,
    /// `kill -9` of the storage of files, which is started again after a while.
    KillS3,
    /// The keeper of the bots and the owner of a queue stand still until after their leases ran out.
    Freeze,
    /// A process of this role, which keeps the bots or has the queues where its role does that, has another clock.
    Clock(&'static str, &'static str),
    /// No room is left on the disk that the fleet shares.
    FillDisk,
    /// No room is left on the disk of the database.
    FillDatabaseDisk,
    /// Answers along a way come late.
    Delay(&'static str, Duration),
    /// What is along a way is refused, and connections end.
    Cut(&'static str, Duration),
    /// Connections along a way are reset.
    Reset(&'static str),
    /// What is sent along a way goes nowhere, in both directions.
    Silence(&'static str, Duration),
}

impl Deed {
    /// Where it happens, if that is a way.
    pub(super) fn way(self) -> Option<&'static str> {
        match self {
            Self::Delay(way, _)
            | Self::Cut(way, _)
            | Self::Reset(way)
            | Self::Silence(way, _)
            | Self::KillCutOff(_, way) => Some(way),
            _ => None,
        }
    }

    /// Which messages it may leave without an answer.
    pub(super) fn may_fail(self) -> MayFail {
        match self {
            Self::FillDisk => MayFail::Any,
            Self::Kill("llm") | Self::Cut("models", _) | Self::Reset("models") => MayFail::Midway,
            _ => MayFail::None,
        }
    }
}

/// A thing that may go wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What the table calls it.
    pub name: String,
    pub(super) deed: Deed,
}

impl Fault {
    /// Whether it takes another clock.
    #[must_use]
    pub fn needs_faketime(&self) -> bool {
        matches!(self.deed, Deed::Clock(..))
    }
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Fault> {
    let killed = ROLES.into_iter().map(|role| (format!("{role} killed"), Deed::Kill(role)));
    let clocks = ["message", "session", "manager"].into_iter().flat_map(|role| {
        [("ahead", "+1h"), ("behind", "-1h")]
            .map(|(where_to, by)| (format!("clock of {role} an hour {where_to}"), Deed::Clock(role, by)))
    });
    let slow = Duration::from_millis(500);
    let backends = [("postgres", "PostgreSQL"), ("redis", "Redis"), ("s3", "S3")];
    let backends = backends.into_iter().flat_map(|(way, called)| {
        [
            (format!("{called} delayed by 500 ms"), Deed::Delay(way, slow)),
            (format!("{called} reset"), Deed::Reset(way)),
            (format!("{called} silent"), Deed::Silence(way, BEYOND_STATEMENTS)),
        ]
    });
    let between = [
        ("auth", "gateway to auth"),
        ("tenant", "gateway to tenant"),
        ("session", "gateway to session"),
        ("message", "gateway to message"),
        ("manager", "gateway to manager"),
        ("llm", "gateway to llm"),
        ("models", "bots to llm"),
        ("peers-message", "message to message"),
    ];
    let between = between.into_iter().flat_map(|(way, called)| {
        [
            (format!("{called} delayed by 200 ms"), Deed::Delay(way, Duration::from_millis(200))),
            (format!("{called} cut"), Deed::Cut(way, BROKEN)),
            (format!("{called} reset"), Deed::Reset(way)),
        ]
    });
    let others = [
        ("message killed while manager is cut off", Deed::KillCutOff("message", "peers-manager")),
        ("PostgreSQL killed", Deed::KillPostgres),
        ("PostgreSQL restarted", Deed::RestartPostgres),
        ("PostgreSQL cut off for 30 s", Deed::Cut("postgres", Duration::from_secs(30))),
        ("Redis killed", Deed::KillRedis),
        ("Redis flushed", Deed::FlushRedis),
        ("S3 away", Deed::KillS3),
        ("two processes frozen beyond their leases", Deed::Freeze),
        ("disk full", Deed::FillDisk),
        ("disk of PostgreSQL full", Deed::FillDatabaseDisk),
    ];
    let others = others.into_iter().map(|(name, deed)| (name.to_owned(), deed));
    let named = killed.chain(others).chain(clocks).chain(backends).chain(between);
    named.map(|(name, deed)| Fault { name, deed }).collect()
}

/// A few of them, of every kind: for tests.
///
/// # Panics
/// When one of them is no more.
#[must_use]
pub fn some() -> Vec<Fault> {
    let wanted = [
        "message killed",
        "two processes frozen beyond their leases",
        "PostgreSQL killed",
        "Redis killed",
        "S3 away",
        "clock of message an hour ahead",
        "gateway to session reset",
    ];
    let all = all();
    let find = |name: &str| all.iter().find(|fault| fault.name == name).expect("it is one of them").clone();
    wanted.map(find).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own_and_some_are_of_every_kind() {
        let all = all();
        let names: std::collections::BTreeSet<&str> = all.iter().map(|fault| fault.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        assert_eq!(some().len(), 7);
    }
}

//! Whose rows a transaction may touch, as PostgreSQL is told: every transaction begins with it, and the policies of
//! row-level security (migration 0003) compare each row with it. SQLite has no such wall: there the statements' own
//! filters are all there is.

use astrfleet_core::id::TenantId;

/// Whose rows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope<'a> {
    /// Nobody's: what belongs to the platform (tenants, people, their logins) has no such wall.
    Platform,
    /// One tenant's.
    Tenant(&'a TenantId),
    /// Those of several tenants: a [`list`].
    Tenants(&'a str),
    /// One owner's: who sent an `Idempotency-Key`, or the platform's own audit log.
    Owner(&'a str),
    /// Everybody's. Always behind `Store::system`, or one of the few statements that span tenants and say so.
    System,
}

/// What a transaction may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read what is true now. The server itself refuses to write.
    Read,
    /// Read what was true a moment ago.
    StaleRead,
    /// Also write.
    Write,
}

/// The name under which the policies find it.
pub(crate) const SETTING: &str = "astrfleet.scope";
/// Stands for everybody.
pub(crate) const EVERYBODY: &str = "*";
/// Between those of a list.
const SEPARATOR: &str = ",";

impl Scope<'_> {
    /// Whose it is, for whoever keeps count of them.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Platform => "",
            Self::Tenant(tenant) => tenant.as_str(),
            Self::Tenants(list) => list,
            Self::Owner(owner) => owner,
            Self::System => EVERYBODY,
        }
    }

    /// What begins a transaction within this scope: one way to the server and back.
    pub(crate) fn begin(&self, access: Access) -> String {
        let begin = match access {
            Access::StaleRead => "BEGIN READ ONLY",
            // Both are refused by a server that only reads: it is not the primary any more.
            Access::Read => "BEGIN READ WRITE; SET TRANSACTION READ ONLY",
            Access::Write => "BEGIN READ WRITE",
        };
        let whose = match self {
            Self::Platform => return begin.to_owned(),
            Self::Tenant(tenant) => tenant.as_str(),
            Self::Tenants(list) => list,
            Self::Owner(owner) => checked(owner),
            Self::System => EVERYBODY,
        };
        format!("{begin}; SET LOCAL {SETTING} = '{whose}'")
    }
}

/// The list of those whose rows are written together.
pub(crate) fn list<'a>(tenants: impl IntoIterator<Item = &'a TenantId>) -> String {
    let mut names: Vec<_> = tenants.into_iter().map(TenantId::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.join(SEPARATOR)
}

/// Only what an owner's name is made of comes into the text of a statement, and never what stands for everybody. An
/// owner of another name sees nothing and writes nothing.
fn checked(owner: &str) -> &str {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-:.@".contains(&byte);
    if owner.bytes().all(good) { owner } else { "" }
}

#[cfg(test)]
mod tests {
    use astrfleet_core::id::TenantId;

    use super::{Access, Scope, list};

    fn tenant(number: u32) -> TenantId {
        TenantId::parse(&format!("ten_{number:032x}")).unwrap()
    }

    #[test]
    fn a_transaction_says_whose_rows_it_touches() {
        let one = tenant(1);
        assert_eq!(
            Scope::Tenant(&one).begin(Access::StaleRead),
            format!("BEGIN READ ONLY; SET LOCAL astrfleet.scope = '{one}'")
        );
        assert_eq!(Scope::Platform.begin(Access::Write), "BEGIN READ WRITE");
        assert_eq!(Scope::System.begin(Access::Write), "BEGIN READ WRITE; SET LOCAL astrfleet.scope = '*'");
    }

    #[test]
    fn nothing_gets_out_of_its_quotes() {
        for owner in ["", "*", "usr_1,usr_2", "usr_1'; DROP TABLE users; --", "usr_1\\", "usr_\0"] {
            assert!(Scope::Owner(owner).begin(Access::Read).ends_with("= ''"), "{owner}");
        }
        assert!(Scope::Owner("usr_1").begin(Access::Read).ends_with("= 'usr_1'"));
    }

    #[test]
    fn a_list_names_each_once() {
        let (one, two) = (tenant(1), tenant(2));
        assert_eq!(list([&two, &one, &two]), format!("{one},{two}"));
    }
}

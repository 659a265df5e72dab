//! What a store has to do with budgets: leases, what is settled with the ledger, and notices.

use std::time::Duration;

use astrfleet_core::{
    Error,
    audit::NewEntry,
    budget::{Account, Ask, Granted, Held, Settled},
    id::TenantId,
    message::Message,
    page::PageRequest,
    ports::{BudgetHolder, Budgets, Store},
    quota::{Kind, Level},
    time::Timestamp,
};

use super::{
    audit::entry,
    messages::{accepted, message},
    sessions::stored_session,
    store::{Make, NOW},
    usage::line,
};

const LONG: Duration = Duration::from_hours(1);
const SHORT: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);

fn holder(name: &str, ttl: Duration) -> BudgetHolder {
    BudgetHolder { name: name.to_owned(), ttl }
}

/// What stands in the audit log of a tenant that is told of a quota.
#[must_use]
pub fn told(make: &Make, tenant: &TenantId) -> NewEntry {
    entry(make, Some(tenant), "quota.warning")
}

/// A call of `need` waits, and `extra` would be welcome.
fn for_call(need: u64, extra: u64) -> Ask {
    Ask { need, extra, ..Ask::default() }
}

/// A lease of tokens.
async fn tokens(budgets: &dyn Budgets, limit: u64, holder: &BudgetHolder, ask: Ask) -> Granted {
    budgets.lease(&Account::Tokens, NOW.month_start(), limit, holder, &ask).await.unwrap()
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    leases_share_what_is_left(store, make).await;
    what_is_settled_is_counted_once(store, make).await;
    a_key_has_an_account_of_its_own(store, make).await;
    a_lease_ends_by_itself(store, make).await;
    messages_are_counted_as_they_are_stored(store, make).await;
    many_at_once_take_no_more_than_there_is(store, make).await;
    a_notice_is_given_once_a_period(store, make).await;
    another_tenants_lines_are_refused(store, make).await;
}

/// Puts a row of `tenant` into every table of budgets.
pub async fn fill(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let budgets = store.budgets(tenant);
    tokens(&*budgets, 1_000, &holder("one", LONG), for_call(10, 0)).await;
    let told = budgets.notice("tokens_per_month", NOW.month_start(), Level::Warning, &told(make, tenant)).await;
    assert!(told.unwrap());
}

async fn leases_share_what_is_left(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "budget-leases").await;
    let budgets = store.budgets(&tenant);
    let (one, other) = (holder("one", LONG), holder("other", LONG));

    let first = tokens(&*budgets, 1_000, &one, for_call(100, 10_000)).await;
    assert_eq!((first.total, first.spent, first.others), (100 + 450, 0, 0), "half of what is left stays for others");
    let second = tokens(&*budgets, 1_000, &other, for_call(100, 0)).await;
    assert_eq!((second.total, second.others), (100, 550));
    assert!(second.fence > first.fence, "each lease has a number of its own");

    let more = Ask { fence: first.fence, committed: 100, keep: 550, extra: 10, ..Ask::default() };
    let more = tokens(&*budgets, 1_000, &one, more).await;
    assert_eq!((more.fence, more.total), (first.fence, 560), "a lease grows and keeps its number");
    let again = Ask { fence: first.fence, committed: 100, keep: 560, ..Ask::default() };
    assert_eq!(tokens(&*budgets, 1_000, &one, again).await.total, 560, "the same again changes nothing");

    let last = tokens(&*budgets, 1_000, &holder("third", LONG), for_call(900, 0)).await;
    assert_eq!(last.total, 900, "what is left is more than nothing: one call is let in");
    let refused = Ask { fence: second.fence, committed: 100, keep: 100, need: 1, extra: 0 };
    assert_eq!(tokens(&*budgets, 1_000, &other, refused).await.total, 100, "and no other one");

    let back = Ask { fence: 1, ..Ask::default() };
    let gone = tokens(&*budgets, 1_000, &holder("third", LONG), Ask { fence: last.fence, ..Ask::default() }).await;
    assert_eq!((gone.total, gone.others), (0, 660));
    assert_eq!(tokens(&*budgets, 1_000, &holder("nobody", LONG), back).await.total, 0);
    let next_month = NOW.plus(Duration::from_hours(24 * 40)).month_start();
    let fresh = budgets.lease(&Account::Tokens, next_month, 1_000, &one, &for_call(1, 0)).await.unwrap();
    assert_eq!((fresh.total, fresh.others), (1, 0), "a month has nothing of the one before it");
    let theirs = make.stored_tenant(store, "budget-leases-theirs").await;
    assert_eq!(tokens(&*store.budgets(&theirs), 1_000, &one, for_call(1, 0)).await.others, 0, "nor has a tenant");
}

async fn what_is_settled_is_counted_once(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "budget-settled").await;
    let (budgets, ledger, one) = (store.budgets(&tenant), store.usage(&tenant), holder("one", LONG));
    let (month, lines) = (NOW.month_start(), [line(make, &tenant, NOW, 30, 10), line(make, &tenant, NOW, 5, 5)]);
    let lease = tokens(&*budgets, 1_000, &one, for_call(100, 0)).await;
    let held = [Held { account: Account::Tokens, fence: lease.fence, tokens: 50 }];
    for _ in 0..2 {
        let settled = budgets.settle(month, &lines, &one, &held).await.unwrap();
        assert_eq!(settled, [Settled { account: Account::Tokens, lives: true, spent: Some(50) }], "twice is once");
    }
    assert_eq!(ledger.tokens_since(month).await.unwrap(), 50);
    assert_eq!(ledger.list(&PageRequest::first()).await.unwrap().items.len(), 2);
    let other = tokens(&*budgets, 1_000, &holder("other", LONG), for_call(1, 0)).await;
    assert_eq!((other.spent, other.others), (50, 50), "what was written is spent, and not leased any more");

    let older = Held { fence: lease.fence + 1_000, ..held[0].clone() };
    let third = line(make, &tenant, NOW, 1, 1);
    let settled = budgets.settle(month, std::slice::from_ref(&third), &one, &[older]).await.unwrap();
    assert_eq!(
        settled,
        [Settled { account: Account::Tokens, lives: false, spent: Some(52) }],
        "another lease's number"
    );
    assert_eq!(tokens(&*budgets, 1_000, &holder("other", LONG), Ask::default()).await.others, 50, "changes nothing");

    // What is added without a lease is counted too, also where it is of another month.
    let before = Timestamp::from_micros(month.micros() - 1);
    ledger.append(&[line(make, &tenant, before, 7, 0), line(make, &tenant, NOW, 8, 0)]).await.unwrap();
    let now = tokens(&*budgets, 1_000, &one, Ask::default()).await;
    assert_eq!(now.spent, 60);
    let then = budgets.lease(&Account::Tokens, before.month_start(), 1_000, &one, &Ask::default()).await.unwrap();
    assert_eq!(then.spent, 7);
}

async fn a_key_has_an_account_of_its_own(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "budget-keys").await;
    let (budgets, ledger, one) = (store.budgets(&tenant), store.usage(&tenant), holder("one", LONG));
    let (month, first, second) = (NOW.month_start(), line(make, &tenant, NOW, 40, 0), line(make, &tenant, NOW, 2, 0));
    ledger.append(&[first.clone(), second.clone()]).await.unwrap();
    let account = Account::TokensOf(first.instance_id.clone());
    let lease = budgets.lease(&account, month, 100, &one, &for_call(10, 0)).await.unwrap();
    assert_eq!((lease.spent, lease.total), (40, 10), "made later, it knows what was before");

    let mut more = line(make, &tenant, NOW, 5, 0);
    more.instance_id = first.instance_id.clone();
    let held = [
        Held { account: Account::Tokens, fence: 0, tokens: 0 },
        Held { account: account.clone(), fence: lease.fence, tokens: 5 },
    ];
    let settled = budgets.settle(month, &[more], &one, &held).await.unwrap();
    assert_eq!(
        settled,
        [
            Settled { account: Account::Tokens, lives: false, spent: Some(47) },
            Settled { account: account.clone(), lives: true, spent: Some(45) },
        ]
    );
    assert_eq!(ledger.tokens_of_key_since(&first.instance_id, month).await.unwrap(), 45);
    assert_eq!(ledger.tokens_of_key_since(&second.instance_id, month).await.unwrap(), 2);
}

/// By the store's own clock, which no test turns.
async fn a_lease_ends_by_itself(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "budget-ends").await;
    let budgets = store.budgets(&tenant);
    let (dead, other) = (holder("dead", SHORT), holder("other", LONG));
    let lost = tokens(&*budgets, 100, &dead, for_call(100, 0)).await;
    assert_eq!(lost.total, 100);
    let comes_back = async {
        while tokens(&*budgets, 100, &other, for_call(60, 0)).await.total < 60 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, comes_back).await.expect("what a dead process had comes back");
    let late = [Held { account: Account::Tokens, fence: lost.fence, tokens: 90 }];
    let settled = budgets.settle(NOW.month_start(), &[line(make, &tenant, NOW, 10, 0)], &dead, &late).await.unwrap();
    assert_eq!((settled[0].lives, settled[0].spent), (false, Some(10)), "it counts, and its lease does not come back");
    let anew = tokens(&*budgets, 100, &dead, Ask { fence: lost.fence, need: 1, ..Ask::default() }).await;
    assert_eq!((anew.total, anew.others), (1, 60));
    assert!(anew.fence > lost.fence, "what follows has another number");
}

async fn messages_are_counted_as_they_are_stored(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "budget-messages").await;
    let (budgets, one) = (store.budgets(&tenant), holder("one", LONG));
    let day = Kind::MessagesPerDay.period(NOW);
    let lease = |ask: Ask| {
        let (budgets, one) = (&budgets, &one);
        async move { budgets.lease(&Account::Messages, day, 3, one, &ask).await.unwrap() }
    };
    let first = lease(for_call(1, 0)).await;
    assert_eq!((first.total, first.spent), (1, 0));
    let session = stored_session(store, make, &tenant, "ada").await;
    accepted(store, &message(make, &session)).await;
    // When it was written, a bot says: that puts no message into another day.
    let told_later = Message { created_at: NOW.minus(Duration::from_hours(99)), ..message(make, &session) };
    accepted(store, &told_later).await;
    let the_day_before = NOW.minus(Duration::from_hours(24));
    let yesterday = message(&Make::at(the_day_before), &session);
    accepted(store, &Message { created_at: the_day_before, ..yesterday }).await;
    let second = lease(Ask { fence: first.fence, need: 1, ..Ask::default() }).await;
    assert_eq!((second.total, second.spent), (1, 2));
    let last = message(make, &session);
    accepted(store, &last).await;
    let third = lease(Ask { fence: second.fence, need: 1, ..Ask::default() }).await;
    assert_eq!((third.total, third.spent), (0, 3), "used up");
    assert_eq!(budgets.chats_in_progress().await.unwrap(), 0);
    assert!(store.messages(&tenant).claim(&last.id, 1, NOW).await.unwrap());
    assert_eq!(budgets.chats_in_progress().await.unwrap(), 1);
}

/// Several at once, each with what is too large for all: never more than one call beyond the limit.
async fn many_at_once_take_no_more_than_there_is(store: &dyn Store, make: &Make) {
    const LIMIT: u64 = 1_000;
    let tenant = make.stored_tenant(store, "budget-many").await;
    let budgets = store.budgets(&tenant);
    let work = (0..8).map(|number| {
        let (budgets, tenant) = (&budgets, &tenant);
        async move {
            let (me, month, mut let_in) = (holder(&format!("holder-{number}"), LONG), NOW.month_start(), 0_u64);
            let mut fence = 0;
            for _ in 0..12 {
                let granted = tokens(&**budgets, LIMIT, &me, Ask { fence, ..for_call(30, 60) }).await;
                fence = granted.fence;
                if granted.total < 30 {
                    continue;
                }
                let_in += 30;
                let held = [Held { account: Account::Tokens, fence, tokens: granted.total - 30 }];
                budgets.settle(month, &[line(make, tenant, NOW, 30, 0)], &me, &held).await.unwrap();
            }
            tokens(&**budgets, LIMIT, &me, Ask { fence, ..Ask::default() }).await;
            let_in
        }
    });
    let let_in: u64 = futures_util::future::join_all(work).await.into_iter().sum();
    assert!(let_in < LIMIT + 30, "{let_in}");
    let after = tokens(&*budgets, LIMIT, &holder("last", LONG), Ask::default()).await;
    assert_eq!((after.spent, after.others), (let_in, 0));
    assert_eq!(store.usage(&tenant).tokens_since(NOW.month_start()).await.unwrap(), let_in);
}

async fn a_notice_is_given_once_a_period(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "budget-notices").await;
    let (budgets, day) = (store.budgets(&tenant), NOW.day_start());
    let tomorrow = day.plus(Duration::from_hours(24));
    let log = store.audit(Some(&tenant));
    let mut entries = 0;
    for (quota, period, level, is_new) in [
        ("messages_per_day", day, Level::Warning, true),
        ("messages_per_day", day, Level::Warning, false),
        ("messages_per_day", day, Level::Exhausted, true),
        ("storage_bytes", day, Level::Warning, true),
        ("messages_per_day", tomorrow, Level::Warning, true),
    ] {
        let entry = told(make, &tenant);
        assert_eq!(budgets.notice(quota, period, level, &entry).await.unwrap(), is_new, "{quota} {level:?}");
        entries += usize::from(is_new);
        assert_eq!(log.list(&PageRequest::first()).await.unwrap().items.len(), entries, "told in the audit log, once");
    }
    let nobody = make.ids.tenant();
    let missing = store.budgets(&nobody).notice("storage_bytes", day, Level::Warning, &told(make, &nobody)).await;
    assert!(matches!(missing, Err(Error::NotFound { what: "tenant" })), "{missing:?}");
}

async fn another_tenants_lines_are_refused(store: &dyn Store, make: &Make) {
    let ours = make.stored_tenant(store, "budget-ours").await;
    let theirs = make.stored_tenant(store, "budget-theirs").await;
    let (budgets, one, month) = (store.budgets(&theirs), holder("one", LONG), NOW.month_start());
    let refused = budgets.settle(month, &[line(make, &ours, NOW, 1, 1)], &one, &[]).await;
    assert!(matches!(refused, Err(Error::Internal { .. })), "another tenant's line");
    let earlier = line(make, &theirs, Timestamp::from_micros(month.micros() - 1), 1, 1);
    let refused = budgets.settle(month, &[earlier], &one, &[]).await;
    assert!(matches!(refused, Err(Error::Internal { .. })), "another month's line");
    let nobody = store.budgets(&make.ids.tenant());
    let missing = nobody.lease(&Account::Tokens, month, 1, &one, &for_call(1, 0)).await;
    assert!(matches!(missing, Err(Error::NotFound { what: "tenant" })), "{missing:?}");
}

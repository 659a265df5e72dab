//! What this process has leased of its tenants' amounts. The rules are [`astrfleet_core::budget`]'s; here is what asks the
//! store: one question of an account at a time, none while the lease lasts, and never while a lock of ours is held.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use astrfleet_core::{
    Error, Result,
    budget::{Account, Ask, Held, Refusal, Settled, Share, Take},
    id::TenantId,
    ports::BudgetHolder,
    quota::Amount,
    time::Timestamp,
    usage::UsageRecord,
};
use futures_util::{StreamExt as _, stream};
use tokio::{
    sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard},
    time::{Instant, sleep},
};

use super::notices::{Notices, Seen};
use crate::{app::Base, problem::chain};

/// How long a lease lasts: what a dead process had comes back after it.
const LEASE: Duration = Duration::from_secs(30);
/// A lease of which nothing was used for so long is given back.
const IDLE: Duration = Duration::from_secs(2);
/// The waits before something is asked for again that is reserved at the moment.
const WAITS: [Duration; 4] =
    [Duration::from_millis(30), Duration::from_millis(60), Duration::from_millis(100), Duration::from_millis(150)];
/// How often [`Purses::tend`] is to run.
pub const TEND_EVERY: Duration = Duration::from_secs(1);
/// Accounts that are told about at the same moment.
const AT_ONCE: usize = 8;
/// The largest estimate of one call. What one takes beyond it counts all the same.
const ESTIMATE_MAX: u64 = 1 << 20;

/// All of one process, for one purpose.
pub struct Purses {
    base: Arc<Base>,
    holder: BudgetHolder,
    notices: Notices,
    began: Instant,
    all: Mutex<HashMap<(TenantId, Account), Arc<Purse>>>,
}

/// One account of a tenant, as far as this process has leased of it.
pub struct Purse {
    base: Arc<Base>,
    holder: BudgetHolder,
    notices: Notices,
    began: Instant,
    tenant: TenantId,
    account: Account,
    /// By period: mostly one, and around its end two.
    shares: Mutex<Vec<(Timestamp, Share)>>,
    /// What the account is measured by, as last heard.
    amount: Mutex<Option<Amount>>,
    /// Held while the store is asked.
    asking: AsyncMutex<()>,
    asks_ahead: AtomicBool,
}

/// What was let in, given back when dropped.
#[derive(Debug)]
pub struct Portion {
    purse: Arc<Purse>,
    period: Timestamp,
    estimate: u64,
    ended: bool,
}

/// A question that is under way: dropped without an answer, it counts as unanswered.
struct Asking<'a> {
    purse: &'a Purse,
    period: Timestamp,
    ask: Ask,
    sent: Duration,
    unsettled: u64,
    answered: bool,
}

impl Purses {
    /// None yet.
    #[must_use]
    pub fn new(base: Arc<Base>) -> Self {
        let holder = BudgetHolder { name: base.ids.request().to_string(), ttl: LEASE };
        let notices = Notices::new(Arc::clone(&base));
        Self { base, holder, notices, began: Instant::now(), all: Mutex::default() }
    }

    /// The one of this account: never two of them at the same moment.
    #[must_use]
    pub fn of(&self, tenant: &TenantId, account: Account) -> Arc<Purse> {
        let mut all = self.lock();
        let purse = all.entry((tenant.clone(), account.clone())).or_insert_with(|| {
            Arc::new(Purse {
                base: Arc::clone(&self.base),
                holder: self.holder.clone(),
                notices: self.notices.clone(),
                began: self.began,
                tenant: tenant.clone(),
                account,
                shares: Mutex::default(),
                amount: Mutex::default(),
                asking: AsyncMutex::default(),
                asks_ahead: AtomicBool::new(false),
            })
        });
        Arc::clone(purse)
    }

    /// What tells tenants of their quotas.
    #[must_use]
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Gives back what nobody uses, keeps what somebody does, forgets what is empty. Returns how many were told about.
    ///
    /// # Errors
    /// The first one that the store gave; the others were tried all the same.
    pub async fn tend(&self) -> Result<u64> {
        let purses: Vec<_> = {
            let mut all = self.lock();
            // Whoever has one in hand besides us may be about to use it.
            all.retain(|_, purse| Arc::strong_count(purse) > 1 || !purse.is_empty());
            all.values().cloned().collect()
        };
        let outcomes =
            stream::iter(purses).map(|purse| async move { purse.tend(IDLE).await }).buffer_unordered(AT_ONCE);
        let outcomes: Vec<Result<u64>> = outcomes.collect().await;
        outcomes.into_iter().try_fold(0, |told, outcome| Ok(told + outcome?))
    }

    /// Gives back all that is free, since the process is about to end.
    pub async fn give_back(&self) {
        let purses: Vec<_> = self.lock().values().cloned().collect();
        let work = stream::iter(purses).map(|purse| async move { purse.tend(Duration::ZERO).await });
        let outcomes: Vec<Result<u64>> = work.buffer_unordered(AT_ONCE).collect().await;
        for error in outcomes.into_iter().filter_map(Result::err) {
            tracing::info!(error = chain(&error), "a lease on a budget could not be given back: it runs out by itself");
        }
    }

    /// Gives back all that is free when the process is told to end.
    pub fn give_back_at_the_end(self: &Arc<Self>) {
        let (purses, stop) = (Arc::clone(self), self.base.stop.clone());
        self.base.tasks.spawn(async move {
            stop.cancelled().await;
            purses.give_back().await;
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(TenantId, Account), Arc<Purse>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Purse {
    /// Lets in what will take some `estimate` of `amount` in the period that begins at `period`. What is merely reserved
    /// is waited for, a little.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the store does not answer.
    pub async fn take(
        self: &Arc<Self>,
        period: Timestamp,
        amount: Amount,
        estimate: u64,
    ) -> Result<Result<Portion, Refusal>> {
        let (limit, estimate) = (amount.hard(), estimate.clamp(1, ESTIMATE_MAX));
        *self.amount.lock().unwrap_or_else(PoisonError::into_inner) = Some(amount);
        let mut waits = WAITS.iter();
        loop {
            let refusal = match self.try_take(period, limit, estimate) {
                Ok(portion) => return Ok(Ok(portion)),
                Err(Take::Refused(refusal)) => refusal,
                Err(_) => match self.ask_and_take(period, limit, estimate).await? {
                    Ok(portion) => return Ok(Ok(portion)),
                    Err(refusal) => refusal,
                },
            };
            match waits.next() {
                Some(wait) if refusal == Refusal::Reserved => sleep(*wait).await,
                _ => return Ok(Err(refusal)),
            }
        }
    }

    fn try_take(self: &Arc<Self>, period: Timestamp, limit: u64, estimate: u64) -> Result<Portion, Take> {
        let now = self.now();
        match self.with(period, |share| share.take(now, limit, estimate)) {
            Take::Taken { low } => {
                if low && !self.asks_ahead.swap(true, Relaxed) {
                    let purse = Arc::clone(self);
                    self.base.tasks.spawn(async move { purse.ask_ahead(period, limit).await });
                }
                Ok(Portion { purse: Arc::clone(self), period, estimate, ended: false })
            }
            no => Err(no),
        }
    }

    async fn ask_and_take(
        self: &Arc<Self>,
        period: Timestamp,
        limit: u64,
        estimate: u64,
    ) -> Result<Result<Portion, Refusal>> {
        let asking = self.asking.lock().await;
        // Somebody else may have asked while we waited for our turn.
        match self.try_take(period, limit, estimate) {
            Ok(portion) => return Ok(Ok(portion)),
            Err(Take::Refused(refusal)) => return Ok(Err(refusal)),
            Err(_) => {}
        }
        let counted = self.account.is_counted();
        let question = self.begin(period, |share, now| Some(share.ask_for(now, limit, estimate, counted)));
        if let Some(question) = question {
            self.ask(&asking, question, limit).await?;
        }
        Ok(self.try_take(period, limit, estimate).map_err(|_| self.with(period, |share| share.refusal())))
    }

    /// Asks for more while there is some.
    async fn ask_ahead(&self, period: Timestamp, limit: u64) {
        let asking = self.asking.lock().await;
        let counted = self.account.is_counted();
        if let Some(question) = self.begin(period, |share, now| Some(share.ask_ahead(now, limit, counted)))
            && let Err(error) = self.ask(&asking, question, limit).await
        {
            tracing::info!(tenant_id = %self.tenant, account = %self.account, error = chain(&error), "a budget was not refilled ahead");
        }
        self.asks_ahead.store(false, Relaxed);
    }

    async fn tend(&self, idle: Duration) -> Result<u64> {
        let periods: Vec<_> = self.lock().iter().map(|(period, _)| *period).collect();
        let amount = *self.amount.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(limit) = amount.map(Amount::hard) else { return Ok(0) };
        let (mut told, counted) = (0, self.account.is_counted());
        for period in periods {
            let asking = self.asking.lock().await;
            if let Some(question) = self.begin(period, |share, now| share.due(now, LEASE, idle, counted)) {
                self.ask(&asking, question, limit).await?;
                told += 1;
            }
        }
        self.lock().retain(|(_, share)| !share.is_empty());
        Ok(told)
    }

    /// Writes lines of one month, with what is left of this account's lease and of `keys`' after them.
    ///
    /// # Errors
    /// Those of [`astrfleet_core::ports::Budgets::settle`].
    pub(crate) async fn settle(&self, keys: &[Arc<Self>], period: Timestamp, records: &[UsageRecord]) -> Result<()> {
        let _asking = self.asking.lock().await;
        let mut of_keys = Vec::with_capacity(keys.len());
        // In the order of their names, as everybody takes them.
        for key in keys {
            of_keys.push(key.asking.lock().await);
        }
        let all: Vec<&Self> = std::iter::once(self).chain(keys.iter().map(Arc::as_ref)).collect();
        let (mut held, mut tokens_of) = (Vec::with_capacity(all.len()), Vec::with_capacity(all.len()));
        for purse in &all {
            let tokens = records.iter().filter(|record| purse.counts(record)).map(|record| record.tokens.total()).sum();
            let (fence, left) = purse.with(period, |share| share.after(tokens));
            held.push(Held { account: purse.account.clone(), fence, tokens: left });
            tokens_of.push(tokens);
        }
        let sent = self.now();
        let settled = self.base.store.budgets(&self.tenant).settle(period, records, &self.holder, &held).await?;
        for ((purse, tokens), Settled { spent, lives, .. }) in all.into_iter().zip(tokens_of).zip(settled) {
            purse.with(period, |share| share.settled(sent, LEASE, tokens, spent, lives));
            purse.look(period);
        }
        Ok(())
    }

    /// Leaves out lines that can never be written.
    pub(crate) fn forget(&self, keys: &[Arc<Self>], period: Timestamp, records: &[UsageRecord]) {
        for purse in std::iter::once(self).chain(keys.iter().map(Arc::as_ref)) {
            let tokens = records.iter().filter(|record| purse.counts(record)).map(|record| record.tokens.total()).sum();
            purse.with(period, |share| share.settled(Duration::ZERO, LEASE, tokens, None, false));
        }
    }

    fn counts(&self, record: &UsageRecord) -> bool {
        match &self.account {
            Account::TokensOf(instance) => record.instance_id == *instance,
            _ => true,
        }
    }

    /// Which account.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    fn begin(
        &self,
        period: Timestamp,
        question: impl FnOnce(&mut Share, Duration) -> Option<Ask>,
    ) -> Option<Asking<'_>> {
        let sent = self.now();
        let (ask, unsettled) = self.with(period, |share| (question(share, sent), share.unsettled()));
        let unsettled = if self.account.is_counted() { unsettled } else { 0 };
        Some(Asking { purse: self, period, ask: ask?, sent, unsettled, answered: false })
    }

    /// Asks the store, once whoever asks has the right to.
    async fn ask(&self, _asking: &AsyncMutexGuard<'_, ()>, mut question: Asking<'_>, limit: u64) -> Result<()> {
        let budgets = self.base.store.budgets(&self.tenant);
        let granted = budgets.lease(&self.account, question.period, limit, &self.holder, &question.ask).await?;
        question.answered = true;
        let Asking { period, ask, sent, unsettled, .. } = &question;
        self.with(*period, |share| share.answered(*sent, LEASE, limit, ask, granted, *unsettled));
        self.look(*period);
        Ok(())
    }

    /// Tells the tenant, if there is something to be told.
    fn look(&self, period: Timestamp) {
        let amount = *self.amount.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(amount) = amount else { return };
        let kind = self.account.kind();
        let name = match &self.account {
            Account::TokensOf(instance) => format!("{} {instance}", kind.name()),
            _ => kind.name().to_owned(),
        };
        let used = self.with(period, |share| share.spent());
        self.notices.look(Seen { tenant: self.tenant.clone(), name, kind, period, amount, used });
    }

    fn with<T>(&self, period: Timestamp, act: impl FnOnce(&mut Share) -> T) -> T {
        let mut shares = self.lock();
        let at = shares.iter().position(|(of, _)| *of == period).unwrap_or_else(|| {
            shares.push((period, Share::default()));
            shares.len() - 1
        });
        act(&mut shares[at].1)
    }

    fn is_empty(&self) -> bool {
        self.lock().iter().all(|(_, share)| share.is_empty())
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Timestamp, Share)>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Purse {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Purse")
            .field("tenant", &self.tenant)
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.purse.with(self.period, |share| share.unanswered(&self.ask));
        }
    }
}

impl Portion {
    /// Counts what a part of it took, in the period in which that ended. The rest is still reserved.
    pub fn add(&self, period: Timestamp, took: u64) {
        self.purse.with(period, |share| share.end(0, took));
    }

    /// Counts what it took, in the period in which it ended; the rest is free again.
    pub fn settle(mut self, period: Timestamp, took: u64) {
        self.ended = true;
        if period == self.period {
            self.purse.with(period, |share| share.end(self.estimate, took));
        } else {
            self.purse.with(self.period, |share| share.end(self.estimate, 0));
            self.purse.with(period, |share| share.end(0, took));
        }
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        if !self.ended {
            self.purse.with(self.period, |share| share.end(self.estimate, 0));
        }
    }
}

/// What is said where nothing is let in.
#[must_use]
pub fn refused(refusal: Refusal, quota: &'static str, waits_for: &'static str, limit: u64, next_step: String) -> Error {
    match refusal {
        Refusal::UsedUp => Error::QuotaExceeded { quota, limit, next_step },
        Refusal::Reserved => Error::TooMany { what: waits_for, retry_after: Duration::from_secs(1) },
    }
}

//! The only door to what is stored.
//!
//! A tenant's things are reached through ports that are handed out for one tenant, so no call can forget it. What
//! spans tenants is behind [`Store::system`], whose caller has to give a reason, which is logged.

use std::time::Duration;

use async_trait::async_trait;

use super::bridge::{Bridge, Overdue};
use crate::{
    api_key::ApiKey,
    attachment::Attachment,
    audit::{Entry, NewEntry},
    blocklist::Block,
    budget::{Account, Ask, Granted, Held, Settled},
    error::Result,
    event::{Brief, Event, NewEvent},
    export::Export,
    id::{
        ApiKeyId, AttachmentId, BlockId, ExportId, InstanceId, InvitationId, LoginId, MessageId, RefreshTokenId,
        SessionId, TenantId, UserId, WebhookId,
    },
    instance::Instance,
    member::{Invitation, Member, Membership},
    message::{Exchange, Failure, Message, State},
    page::{Page, PageRequest},
    policy::Role,
    ports::{Deliveries, Fence, Leases, Webhooks},
    quota::Level,
    search::{PROBES, Probe, Said},
    session::Session,
    tenant::Tenant,
    time::Timestamp,
    usage::{UsageRecord, UsageTotal},
    user::{RefreshToken, User},
};

/// Hands out ports.
pub trait Store: Send + Sync {
    /// Tenants: an aggregate of the platform, not of a tenant.
    fn tenants(&self) -> Box<dyn Tenants>;
    /// People.
    fn users(&self) -> Box<dyn Users>;
    /// Refresh tokens.
    fn refresh_tokens(&self) -> Box<dyn RefreshTokens>;
    /// The members of `tenant`.
    fn members(&self, tenant: &TenantId) -> Box<dyn Members>;
    /// The invitations of `tenant`.
    fn invitations(&self, tenant: &TenantId) -> Box<dyn Invitations>;
    /// The API keys of `tenant`.
    fn api_keys(&self, tenant: &TenantId) -> Box<dyn ApiKeys>;
    /// The audit log of `tenant`, or the platform's own.
    fn audit(&self, tenant: Option<&TenantId>) -> Box<dyn AuditLog>;
    /// The bot of `tenant`.
    fn instances(&self, tenant: &TenantId) -> Box<dyn Instances>;
    /// The sessions of `tenant`.
    fn sessions(&self, tenant: &TenantId) -> Box<dyn Sessions>;
    /// The messages of `tenant`.
    fn messages(&self, tenant: &TenantId) -> Box<dyn Messages>;
    /// The messages of `tenant` for whoever holds a lease: what changes a message that is there
    /// ([`Messages::set_state`], [`Messages::set_bot_record`], [`Messages::set_partial`], [`Messages::finish`],
    /// [`Messages::set_reply_record`]) does nothing and returns [`crate::Error::Stale`] of a `lease` where `fence` does not
    /// stand any more.
    fn fenced_messages(&self, tenant: &TenantId, fence: &Fence) -> Box<dyn Messages>;
    /// The search in the messages of `tenant`.
    fn search(&self, tenant: &TenantId) -> Box<dyn Search>;
    /// The messages that IM channels brought to `tenant`.
    fn bridge(&self, tenant: &TenantId) -> Box<dyn Bridge>;
    /// What `tenant` has kept for too long.
    fn retention(&self, tenant: &TenantId) -> Box<dyn Retention>;
    /// The exports of `tenant`.
    fn exports(&self, tenant: &TenantId) -> Box<dyn Exports>;
    /// The attachments of `tenant`.
    fn attachments(&self, tenant: &TenantId) -> Box<dyn Attachments>;
    /// The blocklist of `tenant`.
    fn blocklist(&self, tenant: &TenantId) -> Box<dyn Blocklist>;
    /// The usage ledger of `tenant`.
    fn usage(&self, tenant: &TenantId) -> Box<dyn UsageLedger>;
    /// What happened to `tenant`.
    fn events(&self, tenant: &TenantId) -> Box<dyn Events>;
    /// Where `tenant` is told of it.
    fn webhooks(&self, tenant: &TenantId) -> Box<dyn Webhooks>;
    /// What a webhook of `tenant` is told.
    fn deliveries(&self, tenant: &TenantId, webhook: &WebhookId) -> Box<dyn Deliveries>;
    /// The budgets of `tenant`.
    fn budgets(&self, tenant: &TenantId) -> Box<dyn Budgets>;
    /// Answers that were given under an `Idempotency-Key`. `owner` is whoever sent it: a caller's actor.
    fn idempotency(&self, owner: &str) -> Box<dyn Idempotency>;
    /// Who alone may do what.
    fn leases(&self) -> Box<dyn Leases>;
    /// What spans tenants. `reason` goes to the log.
    fn system(&self, reason: &'static str) -> Box<dyn System>;
}

/// Tenants.
#[async_trait]
pub trait Tenants: Send + Sync {
    /// Stores a new one together with its bot, and its owner where there is one already.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] where its name or its address is taken.
    async fn insert(&self, tenant: &Tenant, instance: &Instance, owner: Option<&UserId>) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &TenantId) -> Result<Tenant>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn by_name(&self, name: &str) -> Result<Tenant>;
    /// The newest last.
    async fn list(&self, page: &PageRequest) -> Result<Page<Tenant>>;
    /// Stores a changed one if its `version` is still the stored one, which then grows by one. Returns it as stored.
    ///
    /// # Errors
    /// [`crate::Error::Stale`]; [`crate::Error::Conflict`] where its new name or address is taken.
    async fn update(&self, tenant: &Tenant) -> Result<Tenant>;
    /// At most `limit` tenants in deletion whose grace period is over at `now`.
    async fn due_for_erasure(&self, now: Timestamp, limit: u32) -> Result<Vec<Tenant>>;
    /// Erases a tenant and every row of its own in all tables, and writes the entry that `proof` makes of what was erased
    /// into the platform's audit log, in one transaction. Returns whether there was anything to erase.
    async fn erase(&self, id: &TenantId, proof: &Proof<'_>) -> Result<bool>;
}

/// How many rows of each table were erased.
pub type Erased = std::collections::BTreeMap<String, u64>;

/// Makes an entry of an audit log of what was erased. May be asked more than once.
pub type Proof<'a> = dyn Fn(&Erased) -> Result<NewEntry> + Send + Sync + 'a;

/// People.
#[async_trait]
pub trait Users: Send + Sync {
    /// Stores a new one with the hash of the password (PHC string).
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] where the address is taken.
    async fn insert(&self, user: &User, password_hash: &str) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &UserId) -> Result<User>;
    /// With the hash of the password.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn by_email(&self, email: &str) -> Result<(User, String)>;
    /// The newest last.
    async fn list(&self, page: &PageRequest) -> Result<Page<User>>;
    /// Stores a changed one if its `version` is still the stored one. Returns it as stored.
    ///
    /// # Errors
    /// [`crate::Error::Stale`].
    async fn update(&self, user: &User) -> Result<User>;
    /// Stores another password.
    async fn set_password(&self, id: &UserId, password_hash: &str, now: Timestamp) -> Result<()>;
    /// Whether there is any platform administrator.
    async fn any_admin(&self) -> Result<bool>;
    /// The first platform administrator.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn first_admin(&self) -> Result<User>;
    /// The tenants that a user belongs to.
    async fn memberships(&self, id: &UserId) -> Result<Vec<Membership>>;
}

/// Refresh tokens.
#[async_trait]
pub trait RefreshTokens: Send + Sync {
    /// Stores a new one.
    async fn insert(&self, token: &RefreshToken) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn by_hash(&self, hash: &[u8; 32]) -> Result<RefreshToken>;
    /// Marks it as used, if it was not. Returns whether it was not: `false` means that it is used a second time.
    async fn take(&self, id: &RefreshTokenId, now: Timestamp) -> Result<bool>;
    /// Whether a login still lasts: it was begun, and not ended since.
    async fn login_lasts(&self, login: &LoginId) -> Result<bool>;
    /// Ends a login.
    async fn revoke_login(&self, login: &LoginId, now: Timestamp) -> Result<()>;
    /// Ends all logins of a user. Returns which.
    async fn revoke_user(&self, user: &UserId, now: Timestamp) -> Result<Vec<LoginId>>;
    /// Deletes at most `limit` that expired before `before`. Returns how many.
    async fn delete_expired(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

/// Members of one tenant.
#[async_trait]
pub trait Members: Send + Sync {
    /// By their id.
    async fn list(&self, page: &PageRequest) -> Result<Page<Member>>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, user: &UserId) -> Result<Member>;
    /// Adds a user, or changes the role of one.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] where the last owner would lose that role.
    async fn put(&self, user: &UserId, role: Role, now: Timestamp) -> Result<()>;
    /// Takes a user out.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] where it is the last owner; [`crate::Error::NotFound`].
    async fn remove(&self, user: &UserId) -> Result<()>;
}

/// Invitations of one tenant.
#[async_trait]
pub trait Invitations: Send + Sync {
    /// Stores a new one with the SHA-256 of its token.
    async fn insert(&self, invitation: &Invitation, token_hash: &[u8; 32]) -> Result<()>;
    /// The newest last.
    async fn list(&self, page: &PageRequest) -> Result<Page<Invitation>>;
    /// Takes it back.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn delete(&self, id: &InvitationId) -> Result<()>;
    /// Marks it as taken up and makes `user` a member, in one transaction, if it was not taken up before. Returns
    /// whether it was not.
    async fn accept(&self, id: &InvitationId, user: &UserId, now: Timestamp) -> Result<bool>;
}

/// API keys of one tenant.
#[async_trait]
pub trait ApiKeys: Send + Sync {
    /// Stores a new one with the SHA-256 of its secret.
    async fn insert(&self, key: &ApiKey, hash: &[u8; 32]) -> Result<()>;
    /// The newest last.
    async fn list(&self, page: &PageRequest) -> Result<Page<ApiKey>>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &ApiKeyId) -> Result<ApiKey>;
    /// Takes it back. Twice is the same as once.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn revoke(&self, id: &ApiKeyId, now: Timestamp) -> Result<()>;
    /// Notes that it was used.
    async fn touch(&self, id: &ApiKeyId, now: Timestamp) -> Result<()>;
}

/// An audit log.
#[async_trait]
pub trait AuditLog: Send + Sync {
    /// Adds an entry to the end of its chain (see [`crate::audit`]).
    async fn append(&self, entry: &NewEntry) -> Result<Entry>;
    /// The newest first; its cursor is an entry's `seq`.
    async fn list(&self, page: &PageRequest) -> Result<Page<Entry>>;
    /// The newest entry of this action on this target.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn find(&self, action: &str, target: &str) -> Result<Entry>;
}

/// The bot of one tenant.
#[async_trait]
pub trait Instances: Send + Sync {
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self) -> Result<Instance>;
    /// Stores a changed one if its `version_lock` is still the stored one, which then grows by one. Returns it as stored.
    ///
    /// # Errors
    /// [`crate::Error::Stale`].
    async fn update(&self, instance: &Instance) -> Result<Instance>;
}

/// Sessions of one tenant.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Stores a new one.
    async fn insert(&self, session: &Session) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &SessionId) -> Result<Session>;
    /// With the newest message in it: what is said now is to come after that, whatever the clocks say.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get_with_newest(&self, id: &SessionId) -> Result<(Session, Option<MessageId>)>;
    /// The newest first. `end_user` narrows the list.
    async fn list(&self, end_user: Option<&str>, page: &PageRequest) -> Result<Page<Session>>;
    /// Stores a changed one if its `version` is still the stored one. Returns it as stored.
    ///
    /// # Errors
    /// [`crate::Error::Stale`].
    async fn update(&self, session: &Session) -> Result<Session>;
}

/// A message to be accepted.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// The message, in state `accepted` (or `blocked`).
    pub message: Message,
    /// The caller's `Idempotency-Key`, if any, with the SHA-256 of what they sent.
    pub idempotency: Option<(String, [u8; 32])>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is durable.
    New,
    /// The same was accepted before, under this id.
    Before(MessageId),
}

/// What a delivery needs to know, and how far it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which.
    pub message: Message,
    /// Whose words.
    pub end_user: String,
    /// The session's generation when it was claimed; grows when a person takes over.
    pub session_generation: i64,
    /// The bot's number of the message, once the bot has said it.
    pub bot_record: Option<i64>,
    /// The answer as far as it came, where it was interrupted.
    pub partial: String,
    /// The first message of the session before this one that is not at an end: this one has to wait for it. Looked for
    /// among the [`Delivery::LOOK_BACK`] messages before it.
    pub behind: Option<(MessageId, State)>,
}

impl Delivery {
    /// How many messages before it are looked at. More can only be between two that are not at an end where they ended
    /// without being delivered.
    pub const LOOK_BACK: u32 = 64;
}

/// How a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer: stored in state `done` (whole) or `interrupted` (a part of it). Its `reply_to` is the message.
    Reply(Message),
    /// Without one; the message becomes `failed`, `blocked` or `interrupted` as given.
    NoReply(State, Option<Failure>),
}

/// Messages of one tenant.
#[async_trait]
pub trait Messages: Send + Sync {
    /// Makes a message durable. When this returns, it survives the loss of everything but the disk.
    ///
    /// # Errors
    /// [`crate::Error::KeyReused`] where the key was used in this session for something else;
    /// [`crate::Error::NotFound`] where the session is not this tenant's.
    async fn accept(&self, new: NewMessage) -> Result<Accepted>;
    /// The message that was accepted in a session under an `Idempotency-Key`, `hash` being the SHA-256 of what is sent
    /// now.
    ///
    /// # Errors
    /// [`crate::Error::KeyReused`] where something else was sent then.
    async fn accepted_before(&self, session: &SessionId, key: &str, hash: &[u8; 32]) -> Result<Option<MessageId>>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &MessageId) -> Result<Message>;
    /// With its answer.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn exchange(&self, id: &MessageId) -> Result<Exchange>;
    /// Of a session, the newest last. Without a cursor: the newest page; a cursor leads to older ones.
    async fn list(&self, session: &SessionId, page: &PageRequest) -> Result<Page<Message>>;
    /// Moves a message from one state to another if it is still in the first. Returns whether it was.
    async fn set_state(&self, id: &MessageId, from: State, to: State, now: Timestamp) -> Result<bool>;
    /// Notes the bot's own number of a message.
    async fn set_bot_record(&self, id: &MessageId, record: i64) -> Result<()>;
    /// Keeps the answer as far as it came, for the repair.
    async fn set_partial(&self, id: &MessageId, partial: &str) -> Result<()>;
    /// Ends a delivery in one transaction: the message's state, the reply, the session's last activity. Does nothing
    /// and returns `false` where the message is in none of the states `from`. A message that is `interrupted` and has
    /// a partial reply gets that reply replaced.
    async fn finish(&self, id: &MessageId, from: &[State], outcome: Outcome, now: Timestamp) -> Result<bool>;
    /// What a delivery needs.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn delivery(&self, id: &MessageId) -> Result<Delivery>;
    /// The largest of the bot's own numbers in a session that belongs to an earlier message than `before`; 0 for none.
    async fn last_bot_record(&self, session: &SessionId, before: &MessageId) -> Result<i64>;
    /// Notes the bot's number of an answer.
    async fn set_reply_record(&self, reply: &MessageId, record: i64) -> Result<()>;
    /// At most `limit` messages that are not at an end (accepted, delivering or streaming), the oldest first, after
    /// `after`.
    async fn open(&self, after: Option<&MessageId>, limit: u32) -> Result<Vec<(SessionId, MessageId, State)>>;
    /// How many wait to be delivered.
    async fn count_waiting(&self) -> Result<u64>;
    /// Messages of end users accepted since `since`, for the daily quota.
    async fn count_since(&self, since: Timestamp) -> Result<u64>;
}

/// Consecutive messages of a tenant, whose words are known together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchBlock {
    /// The oldest of them.
    pub first: MessageId,
    /// The newest of them.
    pub last: MessageId,
}

/// The words of a block that is not stored yet.
#[derive(Clone, Debug)]
pub struct NewSearchBlock {
    /// The oldest message.
    pub first: MessageId,
    /// The newest message.
    pub last: MessageId,
    /// As [`crate::search::bucketed`] gives them.
    pub buckets: Vec<String>,
}

/// The search in the messages of one tenant: see [`crate::search`]. Where a text stands for a message's id, whatever
/// sorts like one will do.
#[async_trait]
pub trait Search: Send + Sync {
    /// At most `limit` messages from `from` on, before `before`, the newest first.
    async fn newest(&self, from: &str, before: &str, limit: u32) -> Result<Vec<Said>>;
    /// At most `limit` messages between two, neither of them included, the oldest first.
    async fn oldest(&self, after: &str, before: &str, limit: u32) -> Result<Vec<Said>>;
    /// Whether there are at least `count` messages between two.
    async fn has(&self, after: &str, before: &str, count: u32) -> Result<bool>;
    /// The newest message of any block: all messages up to it are in blocks.
    async fn indexed_to(&self) -> Result<Option<MessageId>>;
    /// At most `limit` blocks with all of `probes` that begin before `before`, the newest first.
    async fn blocks(&self, probes: &[Probe; PROBES], before: &str, limit: u32) -> Result<Vec<SearchBlock>>;
    /// Stores a block. Returns whether nobody else had done so.
    async fn add(&self, block: &NewSearchBlock) -> Result<bool>;
    /// Forgets all blocks with messages from `since` on: they are to be read anew.
    async fn forget(&self, since: &MessageId) -> Result<()>;
    /// Forgets all blocks with nothing but messages before `before`.
    async fn forget_before(&self, before: &str) -> Result<()>;
}

/// What one tenant has kept for too long: deleted in batches, the oldest first. Where a text stands for an id, whatever
/// sorts like one will do.
#[async_trait]
pub trait Retention: Send + Sync {
    /// Deletes at most `limit` messages before `before`, but for those that are still to be answered. Returns how many.
    async fn delete_messages(&self, before: &str, limit: u32) -> Result<u64>;
    /// Deletes at most `limit` closed sessions without messages in which nothing happened since `before`. Returns how
    /// many.
    async fn delete_sessions(&self, before: Timestamp, limit: u32) -> Result<u64>;
    /// At most `limit` attachments before `before`, the oldest first.
    async fn attachments(&self, before: &str, limit: u32) -> Result<Vec<AttachmentId>>;
    /// Forgets an attachment, whose content is gone already.
    async fn delete_attachment(&self, id: &AttachmentId) -> Result<()>;
    /// At most `limit` sessions of an end user, on whatever channel.
    async fn end_user_sessions(&self, end_user: &str, limit: u32) -> Result<Vec<SessionId>>;
    /// The oldest message of a session, and the attachments of all of them.
    async fn session_content(&self, id: &SessionId) -> Result<(Option<MessageId>, Vec<AttachmentId>)>;
    /// Deletes a session with all its messages, and everything else that speaks of it: what was told of it, to whom, and
    /// the answers that are kept of it.
    async fn delete_session(&self, id: &SessionId) -> Result<Erased>;
    /// Deletes at most `limit` events from before `before`, and at most `limit` deliveries of events that are gone.
    async fn delete_events(&self, before: Timestamp, limit: u32) -> Result<Erased>;
    /// Whether there is any session of an IM channel.
    async fn has_channels(&self) -> Result<bool>;
    /// Looks through at most `limit` messages after `after` for those that `sender` wrote in an IM channel.
    async fn sent_by(&self, sender: &str, after: Option<&MessageId>, limit: u32) -> Result<SentBy>;
    /// Deletes a message with its answer. Returns how many they were.
    async fn delete_message(&self, id: &MessageId) -> Result<u64>;
    /// Deletes what was told in a session of messages that are gone.
    async fn delete_untold(&self, id: &SessionId) -> Result<Erased>;
}

/// What of some messages somebody wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentBy {
    /// Theirs, each with its session.
    pub messages: Vec<(MessageId, SessionId)>,
    /// The last that was looked at; none: there are no more.
    pub last: Option<MessageId>,
}

/// Exports of one tenant, and what they read that nobody else does.
#[async_trait]
pub trait Exports: Send + Sync {
    /// Stores a new one, which waits.
    async fn insert(&self, export: &Export) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &ExportId) -> Result<Export>;
    /// At most `limit`, the newest first.
    async fn list(&self, limit: u32) -> Result<Vec<Export>>;
    /// Forgets one.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn delete(&self, id: &ExportId) -> Result<()>;
    /// Begins one that was begun `attempts` times before. Returns whether nobody else did: then whoever asks has the
    /// number `attempts + 1`.
    async fn claim(&self, id: &ExportId, attempts: i64, now: Timestamp) -> Result<bool>;
    /// Notes how far it is. Returns whether it is still the one with the number `attempt`.
    async fn progress(&self, id: &ExportId, attempt: i64, done: u64, total: u64, now: Timestamp) -> Result<bool>;
    /// Ends it: with the size and the SHA-256 of its archive, or with the reason why there is none. Returns whether it
    /// was still the one with the number `attempt`.
    async fn finish(
        &self,
        id: &ExportId,
        attempt: i64,
        outcome: Result<(u64, String), String>,
        now: Timestamp,
    ) -> Result<bool>;
    /// Messages and attachments of the tenant, counted.
    async fn total(&self) -> Result<u64>;
    /// At most `limit` messages of the tenant after `after`, the oldest first.
    async fn messages(&self, after: Option<&MessageId>, limit: u32) -> Result<Vec<Message>>;
    /// The same of its attachments.
    async fn attachments(&self, after: Option<&AttachmentId>, limit: u32) -> Result<Vec<Attachment>>;
}

/// Attachments of one tenant.
#[async_trait]
pub trait Attachments: Send + Sync {
    /// Stores a new one.
    async fn insert(&self, attachment: &Attachment) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &AttachmentId) -> Result<Attachment>;
    /// The bytes of all together, for the quota.
    async fn total_bytes(&self) -> Result<u64>;
}

/// The blocklist of one tenant.
#[async_trait]
pub trait Blocklist: Send + Sync {
    /// Puts somebody on the list; where they are on it for that channel, their reason and end become the new ones, and
    /// their id stays. Returns the entry as stored.
    async fn put(&self, block: &Block) -> Result<Block>;
    /// The newest last.
    async fn list(&self, page: &PageRequest) -> Result<Page<Block>>;
    /// Takes an entry off the list, and returns it.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn remove(&self, id: &BlockId) -> Result<Block>;
    /// How many entries there are.
    async fn count(&self) -> Result<u64>;
    /// All whose end lies after `now`, or that have none; at most `limit`, the newest first.
    async fn in_force(&self, now: Timestamp, limit: u32) -> Result<Vec<Block>>;
}

/// The usage ledger of one tenant.
#[async_trait]
pub trait UsageLedger: Send + Sync {
    /// Adds lines, and counts them in their month's accounts. Adding the same one again changes nothing.
    async fn append(&self, records: &[UsageRecord]) -> Result<()>;
    /// The newest first.
    async fn list(&self, page: &PageRequest) -> Result<Page<UsageRecord>>;
    /// At most `limit` lines from `from` to `to`, after the line `after`, the oldest first.
    async fn between(
        &self,
        from: Timestamp,
        to: Timestamp,
        after: Option<&UsageRecord>,
        limit: u32,
    ) -> Result<Vec<UsageRecord>>;
    /// By day, from `from` to `to`, days without any left out, the oldest first.
    async fn by_day(&self, from: Timestamp, to: Timestamp) -> Result<Vec<UsageTotal>>;
    /// The tokens since `since`, for the monthly quota.
    async fn tokens_since(&self, since: Timestamp) -> Result<u64>;
    /// The same of one bot's key.
    async fn tokens_of_key_since(&self, instance: &InstanceId, since: Timestamp) -> Result<u64>;
}

/// Whose lease it is, and how long it lasts.
#[derive(Clone, Debug)]
pub struct BudgetHolder {
    /// One process.
    pub name: String,
    /// From each time that it is heard of, by the store's own clock.
    pub ttl: Duration,
}

/// The budgets of one tenant: see [`crate::budget`]. What one asks and what another one writes come one after the other.
#[async_trait]
pub trait Budgets: Send + Sync {
    /// Decides about the lease of `holder` on what is left of `limit` in the period that begins at `period`.
    async fn lease(
        &self,
        account: &Account,
        period: Timestamp,
        limit: u64,
        holder: &BudgetHolder,
        ask: &Ask,
    ) -> Result<Granted>;
    /// Adds lines to the ledger, counts those that were not there, and notes what is left of the holder's leases: all of
    /// it or nothing. The lines are of the month that begins at `period`.
    async fn settle(
        &self,
        period: Timestamp,
        records: &[UsageRecord],
        holder: &BudgetHolder,
        held: &[Held],
    ) -> Result<Vec<Settled>>;
    /// Chats that are being answered at this moment, by whichever replica.
    async fn chats_in_progress(&self) -> Result<u64>;
    /// Notes that the tenant is told of a quota. Returns whether it was not in this period.
    async fn notice(&self, quota: &str, period: Timestamp, level: Level, now: Timestamp) -> Result<bool>;
}

/// What happened to one tenant: one sequence, without gaps but for what was deleted at its beginning. Whatever is at a
/// place was there before anything at a later one could be seen, so nobody who asks for what comes after the last one
/// that they saw misses any.
#[async_trait]
pub trait Events: Send + Sync {
    /// The places of the oldest that is kept and of the newest that there ever was. Where none is kept, the oldest is
    /// the one after the newest; from 1.
    async fn bounds(&self) -> Result<(i64, i64)>;
    /// At most `limit` after a place, the oldest first, each with the message that it is about, as that stands now.
    /// `session` narrows them.
    async fn after(&self, seq: i64, session: Option<&SessionId>, limit: u32) -> Result<Vec<Event>>;
    /// At most `limit` after a place, the oldest first, without what they say.
    async fn brief_after(&self, seq: i64, limit: u32) -> Result<Vec<Brief>>;
    /// Tells of something that is no message and no session: those are told of by whoever stores them.
    async fn append(&self, event: &NewEvent) -> Result<()>;
}

/// An answer that is given again under the same `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// What is known of an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nothing: go on, then `finish` or `forget`.
    New,
    /// The same request was answered before.
    Answered(StoredAnswer),
    /// The same request is being worked on.
    InProgress,
    /// Another request had this key.
    Different,
}

/// Answers under `Idempotency-Key`s of one owner.
#[async_trait]
pub trait Idempotency: Send + Sync {
    /// Takes the key for a request, whose method, path and body are in `request_hash`. An unfinished one that is older
    /// than `abandoned_before` counts as never begun.
    async fn begin(
        &self,
        key: &str,
        request_hash: &[u8; 32],
        now: Timestamp,
        abandoned_before: Timestamp,
    ) -> Result<Begun>;
    /// Keeps the answer.
    async fn finish(&self, key: &str, answer: &StoredAnswer) -> Result<()>;
    /// Gives the key back: nothing was done.
    async fn forget(&self, key: &str) -> Result<()>;
}

/// What spans tenants. Whoever calls has no tenant yet, or all of them.
#[async_trait]
pub trait System: Send + Sync {
    /// Whether the database answers.
    async fn ping(&self) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn api_key_by_hash(&self, hash: &[u8; 32]) -> Result<ApiKey>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn invitation_by_hash(&self, hash: &[u8; 32]) -> Result<(TenantId, Invitation)>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn instance(&self, id: &InstanceId) -> Result<Instance>;
    /// All bots, by their id.
    async fn instances(&self, page: &PageRequest) -> Result<Page<Instance>>;
    /// At most `limit` tenants who have messages that are not at an end, and whose queue nobody has (see
    /// [`super::queue_lease`]).
    async fn tenants_without_owner(&self, limit: u32) -> Result<Vec<TenantId>>;
    /// At most `limit` messages that wait to be delivered, in queues that `owner` has or had last; the oldest first, after
    /// `after`.
    async fn waiting_messages_of(
        &self,
        owner: &str,
        after: Option<&MessageId>,
        limit: u32,
    ) -> Result<Vec<(TenantId, SessionId, MessageId)>>;
    /// At most `limit` messages of IM channels, or of people to them, that are on their way since before `before`.
    async fn overdue_at_channels(&self, before: Timestamp, limit: u32) -> Result<Vec<Overdue>>;
    /// At most `limit` messages that were being delivered or streamed, or were interrupted after `interrupted_since`: what is to be
    /// repaired when nobody works on it any more. None of IM channels: their bots answer those by themselves. The
    /// oldest first, after `after`.
    async fn unfinished_messages(
        &self,
        interrupted_since: Timestamp,
        after: Option<&MessageId>,
        limit: u32,
    ) -> Result<Vec<(TenantId, MessageId)>>;
    /// At most `limit` sessions that are not closed, in which nobody wrote since `before`, and no message is unfinished.
    async fn idle_sessions(&self, before: Timestamp, limit: u32) -> Result<Vec<Session>>;
    /// The place of the newest event of each of these tenants that has any.
    async fn newest_events(&self, tenants: &[TenantId]) -> Result<Vec<(TenantId, i64)>>;
    /// At most `limit` webhooks that have not got all their deliveries yet, and fewer than `pending_max` that wait.
    async fn webhooks_behind(&self, pending_max: u32, limit: u32) -> Result<Vec<(TenantId, WebhookId)>>;
    /// At most `limit` webhooks with a delivery that may be claimed at `now`, those that waited longest first.
    async fn webhooks_due(&self, now: Timestamp, limit: u32) -> Result<Vec<(TenantId, WebhookId)>>;
    /// Deletes at most `limit` deliveries that came to their end before `before`. Returns how many.
    async fn delete_deliveries(&self, before: Timestamp, limit: u32) -> Result<u64>;
    /// Deletes at most `limit` events from before `before`. Returns how many.
    async fn delete_events(&self, before: Timestamp, limit: u32) -> Result<u64>;
    /// Makes room for the messages of the month of `moment`, where the database wants that and there is none. Returns
    /// whether it did.
    async fn make_message_month(&self, moment: Timestamp) -> Result<bool>;
    /// Drops the months of messages that end before `before`, an id or what sorts like one, whosever they are. Returns
    /// how many.
    async fn drop_message_months(&self, before: &str) -> Result<u64>;
    /// At most `limit` exports that wait, or came no further since `abandoned_before`, each with how often it was begun.
    async fn open_exports(&self, abandoned_before: Timestamp, limit: u32) -> Result<Vec<(Export, i64)>>;
    /// At most `limit` exports whose time is over.
    async fn expired_exports(&self, now: Timestamp, limit: u32) -> Result<Vec<Export>>;
    /// Deletes at most `limit` answers kept under an `Idempotency-Key` since before `before`. Returns how many.
    async fn delete_idempotency(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

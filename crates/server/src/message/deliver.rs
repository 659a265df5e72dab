//! One message on its way to the bot, and its answer on the way back. The connection of whoever asked plays no part in
//! it: a delivery goes on when they have gone.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    chat::ChatRequest,
    message::{Event, Message, State, next},
    ports::{BotAccess, BotClient, ChatStream, Delivery, Messages},
    time::Timestamp,
};
use futures_util::StreamExt;
use tokio::time::Instant;

use super::{
    Service,
    answer::{Answer, Finding, Step},
    ending::{Whole, failure},
    files::Brought,
    live::{End, Live, Progress},
    owners::Held,
    queue::Turn,
};
use crate::{config::seconds, manager::Route, problem::chain};

/// How often the answer so far is kept for the case that this process ends without a word.
const KEEP_EVERY: Duration = Duration::from_secs(2);
/// How long a bot may take to end an answer that was stopped.
const STOP_MAX: Duration = Duration::from_secs(5);
/// The wait before another try; it grows with each.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How long a request that broke off may still be on its way inside the bot.
const SETTLE: Duration = Duration::from_secs(1);

/// A turn that is being taken. It ends when this is dropped, also where a delivery panics.
pub(super) struct Served {
    pub(super) service: Service,
    pub(super) turn: Turn,
    /// The queue that it stands in.
    pub(super) held: Arc<Held>,
}

impl Served {
    pub(super) fn new(service: Service, turn: Turn, held: Arc<Held>) -> Self {
        Self { service, turn, held }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.service.queues.finished(&self.turn);
        self.held.touch();
        // It may be in the queue that was taken anew meanwhile, where it was not put since it was here.
        if self.held.over.is_cancelled() {
            self.service.wake_waiting.notify_one();
        }
    }
}

/// What comes after a try.
pub(super) enum Next {
    /// Nothing: the message is at an end.
    Ended,
    /// Another try: the bot has not got it.
    Again,
    /// Back into the queue: an earlier message of its session, of which this process did not know, is not at an end.
    Behind,
    /// Nothing here: somebody else will see to it.
    LeftAsItIs,
}

/// What happened while waiting for the bot.
enum Found {
    /// With the start that it belongs to.
    Bot(BotAccess, i64),
    Nobody(Error),
    Stopped,
    Left,
    Draining,
}

/// How the bot's stream ended.
enum Ending {
    Whole,
    Broken(Error),
    Overdue,
    TooLong,
    Stopped,
    /// Somebody else has ended the message: the bot does not answer in its session any more.
    Left,
    Draining,
}

/// What was asked of whoever hears a bot out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    /// To stop the bot, and to take what it said so far.
    Stop,
    /// To stop the bot, and to take nothing.
    Leave,
}

/// A chat that has begun.
struct Chat<'a> {
    turn: &'a Turn,
    held: &'a Held,
    live: &'a Live,
    delivery: &'a Delivery,
    access: &'a BotAccess,
    client: &'a dyn BotClient,
    began: Timestamp,
}

impl Service {
    /// Brings a message to its end, or leaves it where the loops find it.
    pub(super) async fn deliver(&self, served: &Served) -> Next {
        let (turn, held) = (&served.turn, &served.held);
        let live = self.lives.open(&turn.message, &turn.session);
        for attempt in 1..=self.base.config.message.max_attempts.max(1) {
            match self.attempt(turn, held, &live).await {
                Ok(Next::Behind) => return Next::Behind,
                Ok(next @ (Next::Ended | Next::LeftAsItIs)) => {
                    self.close(turn, held, &live, &next).await;
                    return next;
                }
                Ok(Next::Again) => {
                    tracing::warn!(retry_count = attempt, "the bot has not got a message, which is delivered again");
                    tokio::select! {
                        () = held.over.cancelled() => {
                            self.lives.end(&turn.message, &End::Interrupted);
                            return Next::LeftAsItIs;
                        }
                        () = tokio::time::sleep(RETRY_AFTER * attempt) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "a delivery was left where it is");
                    if matches!(error, Error::Stale { what: "lease" }) {
                        self.lose(held);
                    }
                    // The store says later how far it came: here, or where the queue is now.
                    if self.owners.held(&turn.tenant).is_some() {
                        self.queues.doubt(&turn.tenant, &turn.session, &turn.message);
                    }
                    self.lives.end(&turn.message, &End::Interrupted);
                    return Next::LeftAsItIs;
                }
            }
        }
        let gone = failure(
            "bot_unavailable",
            "the bot broke off before it took this message, again and again: look at the instance, then send the message again",
        );
        if let Err(error) = self.fail_turn(turn, held, gone).await {
            tracing::warn!(error = chain(&error), "a failure could not be stored");
        }
        Next::Ended
    }

    async fn fail_turn(&self, turn: &Turn, held: &Held, failure: astrfleet_core::message::Failure) -> Result<()> {
        let message = self.base.store.messages(&turn.tenant).get(&turn.message).await?;
        self.failed(held, &message, failure).await.map(|_| ())
    }

    /// The messages of a tenant, as whoever has its queue writes them.
    pub(super) fn messages(&self, held: &Held) -> Box<dyn Messages> {
        self.base.store.fenced_messages(&held.tenant, &held.fence())
    }

    async fn attempt(&self, turn: &Turn, held: &Held, live: &Live) -> Result<Next> {
        held.must_be_in_time()?;
        let messages = self.messages(held);
        let delivery = messages.delivery(&turn.message).await?;
        let message = &delivery.message;
        if message.state != State::Accepted {
            return Ok(Next::LeftAsItIs);
        }
        if let Some((earlier, state)) = &delivery.behind {
            tracing::debug!(earlier = %earlier, "another process took an earlier message of this session in");
            if *state == State::Accepted {
                let concurrent = self.concurrent_of(&turn.tenant).await;
                self.queues.put(&turn.tenant, &turn.session, earlier, concurrent);
            } else if !self.queues.serves(&turn.tenant, earlier) {
                self.queues.doubt(&turn.tenant, &turn.session, earlier);
                self.wake_repair.notify_one();
            }
            return Ok(Next::Behind);
        }
        if self.overtaken(held, &delivery).await?.is_some() {
            return Ok(Next::Ended);
        }
        let (access, start) = match self.find_bot(turn, held, live).await {
            Found::Bot(access, start) => (access, start),
            Found::Draining | Found::Left => return Ok(Next::LeftAsItIs),
            Found::Stopped => {
                self.failed(held, message, stopped()).await?;
                return Ok(Next::Ended);
            }
            Found::Nobody(error) => {
                tracing::warn!(error = chain(&error), "no bot for a message");
                self.failed(
                    held,
                    message,
                    failure(
                        "bot_unavailable",
                        "the bot did not become ready in time: its instance says why; then send the message again",
                    ),
                )
                .await?;
                return Ok(Next::Ended);
            }
        };
        let client = self.base.bots.client(&access);
        let attachments = match self.bring_files(turn, held, &*client, &delivery).await? {
            Brought::All(attachments) => attachments,
            Brought::Not(next) => return Ok(next),
        };
        if held.over.is_cancelled() {
            return Ok(Next::LeftAsItIs);
        }
        held.must_be_in_time()?;
        let began = self.base.clock.now();
        if !messages.claim(&message.id, start, began).await? {
            return Ok(Next::LeftAsItIs);
        }
        self.notice_chats(&turn.tenant).await;
        live.progress(Progress::Delivering);
        let request = ChatRequest {
            end_user: delivery.end_user.clone(),
            session: turn.session.to_string(),
            text: message.text.clone(),
            attachments,
        };
        let chat = Chat { turn, held, live, delivery: &delivery, access: &access, client: &*client, began };
        let mut answer = Answer::new(self.base.secrets.failure_text()?);
        // This may be a moment for which the process was stopped: what comes now would be said to the bot a second time.
        held.must_be_in_time()?;
        let ending = tokio::select! {
            () = held.over.cancelled() => Ending::Draining,
            () = turn.left.cancelled() => {
                self.stop_bot(&chat).await;
                Ending::Left
            }
            opened = client.chat(request) => match opened {
                Ok(stream) => self.hear(&chat, stream, &mut answer).await?,
                Err(error) => Ending::Broken(error),
            },
        };
        self.conclude(&chat, answer, ending).await
    }

    /// Waits for the bot.
    async fn find_bot(&self, turn: &Turn, held: &Held, live: &Live) -> Found {
        if let Route::Ready { access, generation } = self.manager.route(&turn.tenant) {
            return Found::Bot(access, generation);
        }
        live.progress(Progress::Waking);
        self.manager.wake(&turn.tenant);
        // Those that waited in the queue do not wait as long again; but each gives the bot a moment.
        let limit = seconds(self.base.config.message.wait_for_bot_s);
        let limit = limit.saturating_sub(turn.since.elapsed()).max(limit / 10);
        tokio::select! {
            () = held.over.cancelled() => Found::Draining,
            () = turn.left.cancelled() => Found::Left,
            () = turn.stop.cancelled() => Found::Stopped,
            found = self.manager.wait_ready(&turn.tenant, limit) => match found {
                Ok((access, generation)) => Found::Bot(access, generation),
                Err(error) => Found::Nobody(error),
            },
        }
    }

    /// Takes what the bot says, to its end, and passes it on.
    async fn hear(&self, chat: &Chat<'_>, mut stream: ChatStream, answer: &mut Answer) -> Result<Ending> {
        let messages = self.messages(chat.held);
        let id = &chat.turn.message;
        let deadline = tokio::time::sleep(seconds(self.base.config.message.answer_timeout_s));
        tokio::pin!(deadline);
        let (mut asked, mut streaming, mut kept) = (Asked::Nothing, false, Instant::now());
        loop {
            let event = tokio::select! {
                biased;
                () = chat.held.over.cancelled() => return Ok(Ending::Draining),
                () = chat.turn.left.cancelled(), if asked != Asked::Leave => {
                    asked = Asked::Leave;
                    // Told first: what the bot still says is of no interest to anybody but the next message of its session,
                    // for which it is to be silent.
                    self.end_as_stored(&chat.turn.tenant, id).await;
                    self.stop_bot(chat).await;
                    deadline.as_mut().reset(Instant::now() + STOP_MAX);
                    continue;
                }
                () = chat.turn.stop.cancelled(), if asked == Asked::Nothing => {
                    asked = Asked::Stop;
                    self.stop_bot(chat).await;
                    deadline.as_mut().reset(Instant::now() + STOP_MAX);
                    continue;
                }
                event = stream.next() => Some(event),
                () = &mut deadline => None,
            };
            let event = match (event, asked) {
                (Some(Some(Ok(_))), Asked::Leave) => continue,
                (_, Asked::Leave) => return Ok(Ending::Left),
                (Some(Some(Ok(event))), _) => event,
                (_, Asked::Stop) => return Ok(Ending::Stopped),
                (None, Asked::Nothing) => return Ok(Ending::Overdue),
                (Some(None), Asked::Nothing) => return Ok(Ending::Whole),
                (Some(Some(Err(error))), Asked::Nothing) => return Ok(Ending::Broken(error)),
            };
            match answer.take(event) {
                Step::Nothing => {}
                Step::TooLong => return Ok(Ending::TooLong),
                Step::Received(record) => messages.set_bot_record(id, record).await?,
                Step::Piece(piece) => {
                    // Told first and stored after: it is the bot's memory that tells whether it has the message.
                    if !streaming {
                        chat.live.progress(Progress::Streaming);
                    }
                    chat.live.text(&piece);
                    let mut is_open = true;
                    let now = self.base.clock.now();
                    if !streaming {
                        streaming = true;
                        self.base
                            .metrics
                            .first_token
                            .observe(now.since(chat.delivery.message.created_at).as_secs_f64());
                        let to = next(State::Delivering, Event::FirstPiece)?;
                        is_open = messages.set_state(id, State::Delivering, to, now).await?;
                    } else if kept.elapsed() >= KEEP_EVERY {
                        kept = Instant::now();
                        is_open = messages.set_partial(id, answer.text()).await?;
                    }
                    if !is_open {
                        // Somebody else has ended it, which was told, and not heard here.
                        chat.turn.left.cancel();
                    }
                }
            }
        }
    }

    async fn stop_bot(&self, chat: &Chat<'_>) {
        let stopped = chat.client.stop_chat(&chat.delivery.end_user, chat.turn.session.as_str());
        if let Err(error) = stopped.await {
            tracing::warn!(error = chain(&error), "a bot did not stop an answer");
        }
    }

    async fn conclude(&self, chat: &Chat<'_>, answer: Answer, ending: Ending) -> Result<Next> {
        let (message, held) = (&chat.delivery.message, chat.held);
        match ending {
            Ending::Draining => {
                if !answer.text().is_empty() {
                    self.messages(held).set_partial(&message.id, answer.text()).await?;
                }
                return Ok(Next::LeftAsItIs);
            }
            Ending::Left => return Ok(Next::LeftAsItIs),
            Ending::Broken(error) if !answer.has_begun() => {
                tracing::warn!(error = chain(&error), "a bot broke off before it took a message");
                return self.clarify(chat).await;
            }
            Ending::Whole if !answer.has_begun() && !answer.model_failed() => {
                tracing::warn!("a bot ended without having taken a message");
                return self.clarify(chat).await;
            }
            Ending::Broken(error) if !answer.is_confirmed() => {
                tracing::warn!(error = chain(&error), "a bot broke off in the middle of an answer");
                self.cut_off(held, message, answer.text()).await?;
            }
            Ending::Stopped if answer.is_empty() => {
                self.failed(held, message, stopped()).await?;
            }
            Ending::Whole | Ending::Broken(_) | Ending::Stopped => {
                let unsure = matches!(ending, Ending::Whole) && (answer.is_empty() || !answer.is_confirmed());
                self.whole(chat, answer, unsure).await?;
            }
            Ending::TooLong => {
                self.stop_bot(chat).await;
                let long = failure("answer_too_large", "the bot's answer is longer than 1 MiB: ask for less");
                self.failed(held, message, long).await?;
            }
            Ending::Overdue => {
                self.stop_bot(chat).await;
                if answer.text().is_empty() {
                    let late = failure("answer_timeout", "the bot took too long: send the message again");
                    self.failed(held, message, late).await?;
                } else {
                    self.cut_off(held, message, answer.text()).await?;
                }
            }
        }
        Ok(Next::Ended)
    }

    /// Ends a message with what the bot said. Where the end of it may be missing, its own memory has the last word.
    async fn whole(&self, chat: &Chat<'_>, answer: Answer, unsure: bool) -> Result<()> {
        let message = &chat.delivery.message;
        if answer.model_failed() {
            return self.model_failed(chat).await;
        }
        let said =
            |text: &str| Whole { text: text.to_owned(), files: Vec::new(), usage: answer.usage, record: answer.saved };
        let whole = match if unsure { Some(self.remembered(chat, &answer).await) } else { None } {
            Some(Ok(Finding::Answered { failed: true, .. })) => return self.model_failed(chat).await,
            Some(Ok(Finding::Answered { answer: record, text, usage, .. })) if !text.is_empty() => {
                Whole { usage: answer.usage.or(usage), record: Some(record), ..said(&text) }
            }
            Some(Err(error)) => {
                tracing::warn!(error = chain(&error), "it is not known whether an answer is whole");
                return self.cut_off(chat.held, message, answer.text()).await.map(|_| ());
            }
            _ if answer.is_empty() => {
                let silent = failure("no_answer", "the bot ended without an answer to this message");
                return self.failed(chat.held, message, silent).await.map(|_| ());
            }
            _ => said(answer.text()),
        };
        chat.held.must_be_in_time()?;
        let files = self.take_files(chat.held, chat.client, &chat.delivery.end_user, message, &answer.files).await;
        self.answered(chat.held, message, Whole { files, ..whole }).await.map(|_| ())
    }

    /// What the bot remembers of an answer whose end did not come. It may not have come so far yet.
    async fn remembered(&self, chat: &Chat<'_>, answer: &Answer) -> Result<Finding> {
        let delivery = Delivery { bot_record: answer.received, ..chat.delivery.clone() };
        let found = self.look(chat.client, &delivery).await?;
        if matches!(found, Finding::Answered { .. }) {
            return Ok(found);
        }
        tokio::time::sleep(SETTLE).await;
        self.look(chat.client, &delivery).await
    }

    async fn model_failed(&self, chat: &Chat<'_>) -> Result<()> {
        let failure = self.llm.failure_since(&chat.access.instance, chat.began).unwrap_or_else(model_failed);
        self.failed(chat.held, &chat.delivery.message, failure).await.map(|_| ())
    }

    /// The connection broke before the bot had said anything: only its own memory tells whether it has the message.
    async fn clarify(&self, chat: &Chat<'_>) -> Result<Next> {
        let limit = seconds(self.base.config.message.wait_for_bot_s);
        let look = async {
            let until = Instant::now() + limit;
            loop {
                tokio::time::sleep(SETTLE).await;
                self.manager.wake(&chat.turn.tenant);
                let (access, _) = self.manager.wait_ready(&chat.turn.tenant, limit).await?;
                match self.look(&*self.base.bots.client(&access), chat.delivery).await {
                    // It may have died without its manager having noticed yet.
                    Err(Error::Unavailable { .. }) if Instant::now() < until => {}
                    found => return found,
                }
            }
        };
        let found = tokio::select! {
            () = chat.held.over.cancelled() => return Ok(Next::LeftAsItIs),
            () = chat.turn.left.cancelled() => return Ok(Next::LeftAsItIs),
            found = look => found,
        };
        let message = &chat.delivery.message;
        match found {
            Ok(finding) => self.settle(chat.held, message, finding, true).await,
            Err(error) => {
                // It stays on its way: the repair delivers it, or finds its answer, when the bot is there again.
                tracing::warn!(error = chain(&error), "it is not known yet whether a bot has a message");
                self.queues.doubt(&chat.turn.tenant, &chat.turn.session, &message.id);
                self.lives.end(&message.id, &End::Interrupted);
                Ok(Next::LeftAsItIs)
            }
        }
    }

    async fn settle(&self, held: &Held, message: &Message, finding: Finding, gone: bool) -> Result<Next> {
        Ok(if self.judge(held, message, "", finding, gone).await? { Next::Again } else { Next::Ended })
    }
}

pub(super) fn stopped() -> astrfleet_core::message::Failure {
    failure("stopped", "somebody stopped this message before there was an answer")
}

pub(super) fn model_failed() -> astrfleet_core::message::Failure {
    failure("model_failed", "the model gave no answer: send the message again")
}

//! The port [`BotClient`] for one bot: which call is described where. No call is described here.

use std::sync::Arc;

use astrfleet_core::{
    channel::Channel,
    chat::{BotAttachment, ChatRequest, HistoryRecord},
    error::Result,
    ports::{BotAccess, BotClient, BotFile, ChannelDraft, ChatStream},
};
use bytes::Bytes;
use serde_json::Value;

use super::{channels, chat, client::Shared, dashboard, files, history, persona, settings};

/// One bot.
pub(super) struct Connection {
    pub shared: Arc<Shared>,
    pub access: BotAccess,
}

impl Connection {
    pub fn new(shared: Arc<Shared>, access: BotAccess) -> Self {
        Self { shared, access }
    }
}

#[async_trait::async_trait]
impl BotClient for Connection {
    async fn is_ready(&self) -> bool {
        self.answers().await
    }

    async fn prepare(&self) -> Result<()> {
        persona::prepare(self).await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        chat::ask(self, request).await
    }

    async fn stop_chat(&self, end_user: &str, session: &str) -> Result<()> {
        chat::stop(self, end_user, session).await
    }

    async fn history(&self, end_user: &str, session: &str) -> Result<Vec<HistoryRecord>> {
        history::read(self, end_user, session).await
    }

    async fn upload(&self, end_user: &str, name: &str, media_type: &str, content: Bytes) -> Result<BotAttachment> {
        files::upload(self, end_user, name, media_type, content).await
    }

    async fn download(&self, end_user: &str, reference: &str) -> Result<BotFile> {
        files::download(self, end_user, reference).await
    }

    async fn say(&self, umo: &str, text: &str) -> Result<()> {
        channels::say(self, umo, text).await
    }

    async fn config(&self) -> Result<Value> {
        settings::read(self).await
    }

    async fn change_config(&self, patch: &Value) -> Result<Value> {
        settings::change(self, patch).await
    }

    async fn restore_dashboard_request(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        dashboard::restore(self, method, path, body).await
    }

    async fn channels(&self) -> Result<Vec<Channel>> {
        channels::list(self).await
    }

    async fn add_channel(&self, draft: ChannelDraft) -> Result<Channel> {
        channels::add(self, draft).await
    }

    async fn change_channel(&self, draft: ChannelDraft) -> Result<Channel> {
        channels::change(self, draft).await
    }

    async fn delete_channel(&self, id: &str) -> Result<()> {
        channels::delete(self, id).await
    }

    async fn test_channel(&self, id: &str) -> Result<(bool, String)> {
        channels::test(self, id).await
    }
}

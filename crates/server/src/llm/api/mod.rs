//! `/llm/v1`: OpenAI's paths, shapes and errors. One file per endpoint.

pub(super) mod chat_completions;
pub(super) mod models;

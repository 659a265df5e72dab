//! What a bot says where its model fails: a text of ours instead of the provider's own words. It belongs to a persona,
//! and personas live in the bot's database, so this is set through its API once it is ready.

use astrfleet_core::error::Result;
use reqwest::Method;
use serde_json::json;

use super::{
    client::{Failure, escaped},
    config::PLATFORM_PERSONA_ID,
    connection::Connection,
};

/// The bot's own default prompt; the tenant may write another one in its dashboard, which stays.
const PROMPT: &str = "You are a helpful and friendly assistant.";

/// Makes the platform's persona, or gives it our text where it has another one.
pub(super) async fn prepare(bot: &Connection) -> Result<()> {
    let text = &bot.shared.failure_text;
    let path = format!("personas/by-id?persona_id={}", escaped(PLATFORM_PERSONA_ID));
    match bot.call(Method::GET, &path, None).await {
        Ok(persona) if persona["custom_error_message"] == text.trim() => Ok(()),
        Ok(_) => {
            let change = json!({"persona_id": PLATFORM_PERSONA_ID, "custom_error_message": text});
            bot.call(Method::PUT, "personas/by-id", Some(&change)).await?;
            Ok(())
        }
        Err(Failure::Refused(_)) => {
            let persona = json!({
                "persona_id": PLATFORM_PERSONA_ID,
                "system_prompt": PROMPT,
                "begin_dialogs": [],
                "custom_error_message": text,
            });
            bot.call(Method::POST, "personas", Some(&persona)).await?;
            Ok(())
        }
        Err(failure) => Err(failure.into()),
    }
}

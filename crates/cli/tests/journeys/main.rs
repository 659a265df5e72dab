//! Journeys through the whole product: the real binary, two real `AstrBots`, a model provider and a Telegram that are
//! fakes in our hands. They see the platform as its users do: by arguments, signals, lines of JSON and HTTP; they know
//! nothing of how it is made.
//!
//! A bot takes some 11 CPU-seconds to start. So there is one platform for all, and the journeys run one after the other,
//! in the order of the list below: the last ones kill it, start it again and end it.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod bot_dies;
mod bridge;
mod bridge_outage;
mod bridge_ways;
mod channels;
mod chat;
mod command;
mod ending;
mod isolation;
mod limits;
mod model_fails;
mod platform_dies;
mod queue;
mod refusals;
mod runner;
mod start;
mod way;
mod world;

use runner::{Journey, alone, together};

fn main() -> std::process::ExitCode {
    runner::run(&[
        // Without a bot.
        alone!(refusals::a_port_that_is_taken),
        alone!(refusals::a_broken_configuration),
        alone!(refusals::a_database_of_a_newer_version),
        alone!(refusals::a_disk_that_is_full),
        alone!(start::a_free_port_and_a_way_in_for_this_machine),
        // On one platform.
        together!(start::the_demonstration),
        together!(start::one_data_folder_is_for_one_platform),
        together!(chat::an_answer_is_streamed),
        together!(chat::a_stream_goes_on_where_the_reader_was),
        together!(chat::a_key_makes_a_message_once),
        together!(chat::history_has_everything_in_order),
        together!(chat::an_answer_is_stopped),
        together!(chat::a_picture_reaches_the_model),
        together!(chat::a_client_that_goes_away_loses_nothing),
        together!(chat::keys_stay_where_they_belong),
        together!(isolation::nobody_sees_another_tenant),
        together!(isolation::bots_remember_apart),
        together!(queue::ten_chats_at_once),
        together!(model_fails::a_failure_is_told_as_a_failure),
        together!(model_fails::an_outage_ends),
        together!(channels::telegram_in_full),
        together!(channels::line_by_its_signature),
        together!(bridge::a_message_of_a_channel_is_a_message_of_a_session),
        together!(bridge::a_telegram_that_misbehaves),
        together!(bridge::a_person_takes_over),
        together!(bridge::a_tenant_that_may_not),
        together!(bridge_ways::a_mention_and_nothing_else),
        together!(bridge_ways::a_command_that_is_not_for_everybody),
        together!(bridge_ways::what_a_tool_says),
        together!(bridge_ways::another_account),
        together!(bridge::its_cost_is_measured),
        together!(bridge_outage::the_bot_answers_all_the_while),
        together!(bridge::the_platform_is_away),
        together!(limits::tokens_that_are_used_up),
        together!(limits::a_suspended_tenant),
        together!(bot_dies::in_the_middle_of_an_answer),
        together!(platform_dies::between_accept_and_answer),
        together!(platform_dies::with_everything),
        together!(ending::in_order),
    ])
}

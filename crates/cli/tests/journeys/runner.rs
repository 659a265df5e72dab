//! Runs journeys one after the other, each with a time limit, and says what became of them in the words of `cargo test`.
//! A journey that fails does not keep the others from running, and one that hangs fails when its time is over.

use std::{
    future::Future,
    io::Write,
    panic::AssertUnwindSafe,
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use astrfleet_testkit::parts::astrbot;
use futures_util::FutureExt;

use crate::world::World;

/// No journey takes longer, however busy the machine is.
const LIMIT: Duration = Duration::from_mins(5);
/// Nor does preparing the bots' environment, which is done once on a machine and counts for no journey.
const PREPARE_LIMIT: Duration = Duration::from_mins(10);
/// Lines of the platform's log that are shown with a failure.
const LOG_LINES: usize = 80;

type Walk<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One journey.
pub struct Journey {
    /// Its module and name.
    pub name: &'static str,
    /// How to go on it.
    pub way: Way,
}

/// With whom a journey is made.
pub enum Way {
    /// It starts what it needs.
    Alone(fn() -> Walk<'static>),
    /// On the platform that all share.
    Together(for<'a> fn(&'a mut World) -> Walk<'a>),
}

/// A journey that starts what it needs.
macro_rules! alone {
    ($($name:ident)::+) => {
        Journey { name: stringify!($($name)::+), way: $crate::runner::Way::Alone(|| Box::pin($($name)::+())) }
    };
}

/// A journey on the platform that all share.
macro_rules! together {
    ($($name:ident)::+) => {
        Journey { name: stringify!($($name)::+), way: $crate::runner::Way::Together(|world| Box::pin($($name)::+(world))) }
    };
}

pub(crate) use {alone, together};

/// Runs those that the arguments name; all where they name none.
pub fn run(journeys: &[Journey]) -> ExitCode {
    // As `cargo test` passes them on: words to look for, and flags of its own harness.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |journey: &&Journey| words.is_empty() || words.iter().any(|word| plain(journey).contains(*word));
    let chosen: Vec<&Journey> = journeys.iter().filter(wanted).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for journey in chosen {
            println!("{}: test", plain(journey));
        }
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let failed = runtime.block_on(go(&chosen, journeys.len() - chosen.len()));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn go(chosen: &[&Journey], left_out: usize) -> bool {
    if !chosen.is_empty() {
        let prepared = tokio::time::timeout(PREPARE_LIMIT, astrbot()).await;
        prepared.unwrap_or_else(|_| panic!("the bots' environment was not prepared within {PREPARE_LIMIT:?}"));
    }
    println!("\nrunning {} tests", chosen.len());
    let (began, mut world, mut failures) = (Instant::now(), None, Vec::new());
    for (number, journey) in chosen.iter().enumerate() {
        print!("test {} ... ", plain(journey));
        std::io::stdout().flush().unwrap();
        let since = Instant::now();
        let walk = async {
            match journey.way {
                Way::Alone(walk) => walk().await,
                Way::Together(walk) => {
                    if world.is_none() {
                        world = Some(World::start().await);
                    }
                    walk(world.as_mut().unwrap()).await;
                }
            }
        };
        let outcome = tokio::time::timeout(LIMIT, AssertUnwindSafe(walk).catch_unwind()).await;
        let took = since.elapsed().as_secs_f64();
        if let Ok(Ok(())) = outcome {
            println!("ok ({took:.1} s)");
            continue;
        }
        println!("FAILED ({took:.1} s{})", if outcome.is_err() { ", its time was over" } else { "" });
        failures.push(plain(journey));
        if let Some(world) = &world {
            let mut log = world.platform.log();
            // Those of requests are many, and a journey says itself what it got.
            log.retain(|line| !line.contains(r#""message":"request""#));
            eprintln!("the end of the platform's log:\n{}", log[log.len().saturating_sub(LOG_LINES)..].join("\n"));
        }
        if matches!(journey.way, Way::Together(_)) {
            let Some(left) = world.take() else {
                // There will be no other platform either.
                failures.extend(chosen[number + 1..].iter().map(|journey| plain(journey) + " (not begun)"));
                break;
            };
            // Whatever it left behind must not make the others fail.
            world = left.mended().await;
        }
    }
    let passed = chosen.len() - failures.len();
    if !failures.is_empty() {
        println!("\nfailures:\n    {}", failures.join("\n    "));
    }
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; {left_out} filtered out; finished in {:.2}s\n",
        failures.len(),
        began.elapsed().as_secs_f64()
    );
    !failures.is_empty()
}

fn plain(journey: &Journey) -> String {
    journey.name.replace(' ', "")
}

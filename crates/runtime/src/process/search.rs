//! Bots that run already. A record says which; a sudden end of the platform between a bot's start and its record, or a
//! lost record, is made up for by a look at all processes of the machine.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use astrfleet_core::{error::Result, id::InstanceId, ports::FoundBot};
use rustix::process::Signal;
use tokio::time::timeout;

use super::{
    Shared, blocking,
    capture::Capture,
    launch::{GENERATION, PORT, TERMS},
    limits::Groups,
    linux::{self, Process},
    places::{self, Places, Record},
    running::{self, Run},
};

/// How long a surplus process may take to end after it was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes over every bot that runs, and erases what interrupted erasures left.
pub(super) async fn find(shared: &Arc<Shared>) -> Result<Vec<FoundBot>> {
    let bots = shared.settings.bots.clone();
    let emptied = blocking("the bots' folder", move || places::empty_trash(&bots)).await;
    if let Err(error) = emptied {
        tracing::warn!(error = ?error, "an erasure that was interrupted could not be finished: it is tried again at the next start");
    }
    let bots = shared.settings.bots.clone();
    let (known, running) = blocking("the machine's processes", move || Ok((places::known(&bots), by_root()))).await?;
    let in_folder = |root: &PathBuf| {
        let name = root.file_name()?.to_str()?;
        (root.parent()? == shared.settings.bots).then(|| InstanceId::parse(name).ok())?
    };
    let mut instances: Vec<InstanceId> = known.into_iter().chain(running.keys().filter_map(in_folder)).collect();
    instances.sort();
    instances.dedup();
    let mut found = Vec::new();
    for instance in instances {
        let slot = shared.slot(&instance);
        let _turn = slot.turn.lock().await;
        if slot.running().is_none() {
            let places = shared.places(&instance);
            let processes = with_recorded(&places, running.get(&places.root).cloned().unwrap_or_default());
            if let Err(error) = take_over(shared, &instance, processes).await {
                // The others are to be found all the same. This one is not started twice: a start looks, too.
                tracing::error!(%instance, error = ?error, "a bot that may be running could not be taken over: stop it to try again");
            }
        }
        if let Some(run) = slot.running() {
            found.push(FoundBot { instance, generation: run.generation, port: run.port, terms: run.terms });
        }
    }
    Ok(found)
}

/// Takes over one bot, if it runs. The caller holds its turn.
pub(super) async fn adopt(shared: &Arc<Shared>, instance: &InstanceId) -> Result<()> {
    let places = shared.places(instance);
    let processes = blocking("the machine's processes", move || Ok(processes_of(&places))).await?;
    take_over(shared, instance, processes).await
}

/// The processes that are this bot; at most one, unless something went wrong.
pub(super) fn processes_of(places: &Places) -> Vec<Process> {
    let in_root = linux::processes()
        .into_iter()
        .filter(|process| process.folder().is_some_and(|folder| folder == places.root) && is_bot(*process))
        .collect();
    with_recorded(places, in_root)
}

/// The recorded process counts for as long as it lives, also where we may not look into it.
fn with_recorded(places: &Places, mut found: Vec<Process>) -> Vec<Process> {
    let recorded = places.read_record().and_then(|record| recorded_process(&record));
    if let Some(process) = recorded.filter(|process| process.is_alive() && !found.contains(process)) {
        found.push(process);
    }
    found
}

/// Nothing for what is of an earlier run of the machine.
fn recorded_process(record: &Record) -> Option<Process> {
    (record.boot_id == linux::boot_id()).then_some(record.process)
}

fn by_root() -> HashMap<PathBuf, Vec<Process>> {
    let mut found: HashMap<PathBuf, Vec<Process>> = HashMap::new();
    for process in linux::processes().into_iter().filter(|process| is_bot(*process)) {
        if let Some(folder) = process.folder() {
            found.entry(folder).or_default().push(process);
        }
    }
    found
}

/// What a bot itself starts has its environment and its folder, but leads no group as one of our starting does.
fn is_bot(process: Process) -> bool {
    process.is_astrbot() && process.leads_its_group() && process.environment().contains_key(GENERATION)
}

async fn take_over(shared: &Arc<Shared>, instance: &InstanceId, mut processes: Vec<Process>) -> Result<()> {
    let places = shared.places(instance);
    let record = places.read_record();
    let recorded = record.as_ref().and_then(recorded_process);
    // Ours is the recorded one; else the one that came last.
    processes.sort_by_key(|process| (Some(*process) == recorded, process.started_ticks));
    let Some(process) = processes.pop() else {
        let Some(record) = record else { return Ok(()) };
        tracing::warn!(%instance, generation = record.generation, "a bot ended while the platform was away: see its log");
        let (around, followers) = (shared.surroundings(), shared.slot(instance).followers.clone());
        return blocking("the bot's folder", move || {
            record.groups.remove();
            Capture::open(&places, around, followers)?.take_rest()?;
            places.remove_record()
        })
        .await;
    };
    for surplus in processes {
        tracing::warn!(%instance, pid = surplus.pid, "a second process of a bot is killed");
        surplus.signal(Signal::KILL).map_err(|error| astrfleet_core::Error::unavailable("the bot", error))?;
        surplus.kill_group();
        // One that does not end even so keeps nobody from looking after the bot.
        let _ = timeout(KILL_TIMEOUT, surplus.ended()).await;
    }
    let (around, followers) = (shared.surroundings(), shared.slot(instance).followers.clone());
    let group = shared.group(instance);
    let (run, capture) = blocking("the bot's folder", move || {
        places.make()?;
        let environment = process.environment();
        let number = |name| environment.get(name).and_then(|text| text.parse::<i64>().ok()).unwrap_or_default();
        let record = record.filter(|record| Some(process) == recorded && record.process == process).unwrap_or(Record {
            process,
            boot_id: linux::boot_id(),
            generation: number(GENERATION),
            port: u16::try_from(number(PORT)).unwrap_or_default(),
            terms: environment.get(TERMS).cloned().unwrap_or_default(),
            groups: Groups::of(process, &group),
        });
        places.write_record(&record)?;
        let run = Run::new(record, process.since());
        Ok((run, Capture::open(&places, around, followers)?))
    })
    .await?;
    tracing::info!(%instance, generation = run.generation, pid = process.pid, "a bot that was running is taken over");
    running::attend(shared, instance, run, None, capture);
    Ok(())
}

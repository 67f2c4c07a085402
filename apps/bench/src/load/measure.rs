//! Runs a level: connects, starts the clock and the threads that make the calls, and gathers what they counted.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::load::connections::Connections;
use crate::load::level::{Demand, Level};
use crate::load::live::Live;
use crate::load::measured::Measured;
use crate::load::run::Run;
use crate::load::target::Target;
use crate::load::thread::Thread;
use crate::load::{closed, on_own_thread, open};

/// Offers a level of load to a target. It ends by itself at the latest a grace after the level's time, or, when `live` is
/// ended, a grace after that: what has been measured until then is returned.
///
/// # Errors
/// When a connection cannot be made or a process under load is gone. A call that fails is counted.
pub(crate) async fn measure(target: &Target, level: &Level, live: &Live) -> anyhow::Result<Measured> {
    let mut threads = JoinSet::new();
    let mut begin = Vec::new();
    let mut inlets = Vec::new();
    let addresses = target.connected();
    let count = level.threads.clamp(1, addresses.len());
    for n in 0..count {
        let (target, level) = (target.clone(), *level);
        let share: Vec<_> = addresses.iter().copied().skip(n).step_by(count).collect();
        let (ready, is_ready) = oneshot::channel();
        let (inlet, due) = tokio::sync::mpsc::unbounded_channel();
        inlets.push(inlet);
        begin.push(is_ready);
        threads.spawn(on_own_thread("load", move || async move {
            let connections = Arc::new(Connections::to(&share, &target).await?);
            let (start, started) = oneshot::channel::<Arc<Run>>();
            let _ = ready.send(start);
            // Dropped when another thread could not connect.
            let Ok(run) = started.await else { return Measured::empty() };
            let thread =
                Arc::new(Thread { run: run.clone(), connections, counted: Mutex::new(Measured::empty()?) });
            match level.demand {
                Demand::Open { .. } => open::dispatch(&thread, due).await,
                Demand::Closed { callers } => closed::callers(&thread, share_of(callers, n, count), n).await,
            }
            thread.finish()
        }));
    }
    let mut starts = Vec::new();
    for ready in begin {
        match ready.await {
            Ok(start) => starts.push(start),
            // Its thread has failed.
            Err(_) => break,
        }
    }
    if starts.len() < count {
        drop(starts);
        while let Some(thread) = threads.join_next().await {
            thread??;
        }
        anyhow::bail!("a thread of the load generator did not begin");
    }
    let run = Arc::new(Run::begin(target, *level, live.clone()));
    for start in starts {
        let _ = start.send(run.clone());
    }
    let clock = match level.demand {
        Demand::Closed { .. } => None,
        Demand::Open { per_second, arrivals } => {
            let run = run.clone();
            let keep = move || async move { open::keep_time(&run, per_second, arrivals, &inlets) };
            Some(tokio::spawn(on_own_thread("clock", keep)))
        }
    };
    let sampler = {
        let (run, pids) = (run.clone(), target.pids.clone());
        on_own_thread("sampler", move || async move { run.sample(&pids) })
    };
    let mut measured = sampler.await?;
    if let Some(clock) = clock {
        measured.add(clock.await??)?;
    }
    while let Some(thread) = threads.join_next().await {
        measured.add(thread??)?;
    }
    Ok(measured)
}

fn share_of(whole: usize, n: usize, count: usize) -> usize {
    whole / count + usize::from(n < whole % count)
}

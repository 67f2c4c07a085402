//! The live screen: draws what comes and does what is typed, until told to end.

use std::pin::pin;

use ratatui::DefaultTerminal;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::args::TopArgs;
use crate::keys::Keys;
use crate::view::{Then, View};
use crate::{queues, watch};

/// Updates that wait to be drawn.
const UPDATES_MAX: usize = 4;

pub(crate) async fn run(args: &TopArgs, terminal: &mut DefaultTerminal) -> anyhow::Result<()> {
    let mut keys = Keys::read();
    let drawn = draw(args, terminal, &mut keys).await;
    keys.end().await;
    drawn
}

async fn draw(args: &TopArgs, terminal: &mut DefaultTerminal, keys: &mut Keys) -> anyhow::Result<()> {
    let mut view = View::new(&args.addr, args.sort, &args.filter);
    let (to, mut updates) = mpsc::channel(UPDATES_MAX);
    let mut follow = pin!(watch::follow(&args.addr, args.interval, watch::AGAIN_AFTER, to));
    let (queues_to, mut queues) = mpsc::channel(1);
    let mut follow_queues = pin!(queues::follow(&args.addr, queues_to));
    let mut ticks = interval(args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        terminal.draw(|frame| view.draw(frame))?;
        tokio::select! {
            ended = &mut follow => return ended,
            Some(update) = updates.recv() => view.update(update, Instant::now()),
            () = &mut follow_queues => anyhow::bail!("the queues are no longer followed"),
            Some(now) = queues.recv() => view.queues(now),
            _ = ticks.tick() => view.quiet(Instant::now(), args.interval),
            key = keys.keys.recv() => match key {
                Some(key) => if view.key(key) == Then::Quit { return Ok(()) },
                None => anyhow::bail!("the terminal cannot be read"),
            },
        }
    }
}

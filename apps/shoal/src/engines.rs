//! Reachability of the engines behind `shoal up`, for its terminal. Asks the clones' own checks, as `/readyz` does. Only the
//! ready line waits for an engine, for a moment.

use std::time::Duration;

use shoal_kit::Probe;
use shoal_kit::role::Role;

use crate::report;

/// Time between two checks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Characters of the reason why an engine is away that fit into a line; the log has all of it.
const WHY_CHARS_MAX: usize = 120;

/// The engines of a mesh.
#[derive(Default)]
pub(crate) struct Engines(Vec<Engine>);

/// An engine, and the clones that use it.
struct Engine {
    /// `redis 127.0.0.1:6379`
    name: String,
    clones: Vec<(Role, Probe)>,
    /// True if the terminal says that the engine is away.
    told_away: bool,
    /// True if the engine was reachable before.
    met: bool,
}

impl Engines {
    /// Adds a clone that uses the engine of this name.
    pub(crate) fn add(&mut self, name: &str, role: Role, probe: Probe) {
        match self.0.iter_mut().find(|engine| engine.name == name) {
            Some(engine) => engine.clones.push((role, probe)),
            None => {
                self.0.push(Engine {
                    name: name.to_owned(),
                    clones: vec![(role, probe)],
                    told_away: false,
                    met: false,
                });
            }
        }
    }

    /// Resolves when every engine can be reached.
    pub(crate) async fn reachable(&self) {
        while self.0.iter().any(|engine| engine.away().is_some()) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns the roles of which every clone has reached its engine and serves.
    pub(crate) fn roles_reached(&self) -> Vec<Role> {
        let clones = || self.0.iter().flat_map(|engine| &engine.clones);
        let reached = |role| clones().filter(|(of, _)| *of == role).all(|(_, probe)| probe.was_reached());
        Role::ALL.into_iter().filter(|role| *role != Role::Gateway && reached(*role)).collect()
    }

    /// Returns a sentence about the engines that cannot be reached, if any.
    pub(crate) fn away(&mut self) -> Option<String> {
        let mut away = Vec::new();
        for engine in &mut self.0 {
            let why = engine.away();
            engine.told_away = why.is_some();
            engine.met |= why.is_none();
            if let Some(why) = why {
                away.push(format!("{} for {} ({why})", engine.name, engine.roles()));
            }
        }
        (!away.is_empty())
            .then(|| format!("not reachable yet: {}; until then calls answer UNAVAILABLE", away.join(", ")))
    }

    /// Prints a line whenever an engine becomes reachable or unreachable. Never ends.
    pub(crate) async fn follow(&mut self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for line in self.changes() {
                report::line(line);
            }
        }
    }

    /// Returns a line for each engine whose state differs from what the terminal says.
    fn changes(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for engine in &mut self.0 {
            let why = engine.away();
            if why.is_some() == engine.told_away {
                continue;
            }
            engine.told_away = why.is_some();
            let roles = engine.roles();
            lines.push(match why {
                None if engine.met => format!("well again: {} for {roles}", engine.name),
                None => format!("reachable: {} for {roles}", engine.name),
                Some(why) => format!("not well: {} for {roles} ({why})", engine.name),
            });
            engine.met |= !engine.told_away;
        }
        lines
    }
}

impl Engine {
    /// Returns why a clone cannot reach the engine, if any cannot.
    fn away(&self) -> Option<String> {
        let why = self.clones.iter().find_map(|(_, probe)| probe.well().err())?;
        let cut = why.char_indices().nth(WHY_CHARS_MAX).map(|(at, _)| at);
        Some(cut.map_or_else(|| why.clone(), |at| format!("{}…", &why[..at])))
    }

    fn roles(&self) -> String {
        let mut names: Vec<&str> = self.clones.iter().map(|(role, _)| role.name()).collect();
        names.dedup();
        names.join(", ")
    }
}

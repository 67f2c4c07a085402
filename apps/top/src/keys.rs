//! The keyboard: a thread that waits for keys, since the terminal is read by blocking.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Time that the thread may go on after its receiver is gone.
const LOOKS_UP_EVERY: Duration = Duration::from_millis(50);

/// Keys typed and not yet looked at.
const KEYS_MAX: usize = 64;

/// A pressed key, or another event of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Up,
    Down,
    /// Ctrl-C, which does not interrupt while the terminal is raw.
    Interrupt,
    /// Something else, or the window has another size: it is drawn anew.
    Other,
}

/// A running reader.
pub(crate) struct Keys {
    pub(crate) keys: mpsc::Receiver<Key>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Keys {
    pub(crate) fn read() -> Keys {
        let (to, keys) = mpsc::channel(KEYS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = tokio::task::spawn_blocking(move || {
            while !stopped.load(Ordering::Relaxed) {
                match event::poll(LOOKS_UP_EVERY) {
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(_) => return,
                }
                let Ok(event) = event::read() else { return };
                if let Some(key) = key_of(&event)
                    && to.blocking_send(key).is_err()
                {
                    return;
                }
            }
        });
        Keys { keys, stop, thread }
    }

    /// Ends the thread.
    pub(crate) async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.keys);
        let _ = self.thread.await;
    }
}

fn key_of(event: &Event) -> Option<Key> {
    let Event::Key(KeyEvent { code, modifiers, kind, .. }) = event else {
        return matches!(event, Event::Resize(..)).then_some(Key::Other);
    };
    if *kind == KeyEventKind::Release {
        return None;
    }
    Some(match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(char) => Key::Char(*char),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        _ => Key::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_c_interrupts_and_c_does_not() {
        let pressed = |modifiers| key_of(&Event::Key(KeyEvent::new(KeyCode::Char('c'), modifiers)));
        assert_eq!(pressed(KeyModifiers::CONTROL), Some(Key::Interrupt));
        assert_eq!(pressed(KeyModifiers::NONE), Some(Key::Char('c')));
    }

    #[test]
    fn resize_redraws_and_key_release_is_ignored() {
        assert_eq!(key_of(&Event::Resize(80, 24)), Some(Key::Other));
        let mut released = KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE);
        released.kind = KeyEventKind::Release;
        assert_eq!(key_of(&Event::Key(released)), None);
        assert_eq!(key_of(&Event::FocusGained), None);
    }
}

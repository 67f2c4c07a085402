//! The screen: its state, the effect of each key, and how it is drawn.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as Drawn, Table, Wrap};
use shoal_proto::gateway::v1::{EndpointState, Upstream};
use tokio::time::Instant;

use crate::keys::Key;
use crate::queues::Queues;
use crate::row::{Column, Row, below, rows, sort};
use crate::watch::Update;
use crate::{fit, help};

/// A rate over less than this is noise: the one before stays.
const RATE_OVER_MIN: Duration = Duration::from_millis(80);

/// The screen of one gateway.
pub(crate) struct View {
    addr: String,
    upstreams: Vec<Upstream>,
    rows: Vec<Row>,
    updated: Option<Instant>,
    /// Why the gateway cannot be asked now.
    trouble: Option<String>,
    sort: Column,
    reversed: bool,
    filter: String,
    typing: bool,
    /// True while the help covers the table.
    helping: bool,
    scrolled: usize,
    queues: Queues,
}

/// Tells whether the view goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Then {
    GoOn,
    Quit,
}

impl View {
    pub(crate) fn new(addr: &str, sort: Column, filter: &str) -> View {
        View {
            addr: addr.to_owned(),
            upstreams: Vec::new(),
            rows: Vec::new(),
            updated: None,
            trouble: None,
            sort,
            reversed: false,
            filter: filter.to_owned(),
            typing: false,
            helping: false,
            scrolled: 0,
            queues: None,
        }
    }

    /// Takes in what the gateway says.
    pub(crate) fn update(&mut self, update: Update, now: Instant) {
        let upstreams = match update {
            Ok(upstreams) => upstreams,
            Err(trouble) => {
                self.trouble = Some(trouble);
                return;
            }
        };
        self.trouble = None;
        let ago = self.updated.map(|at| now - at).filter(|ago| *ago >= RATE_OVER_MIN);
        self.rows = rows(&upstreams, ago.map(|ago| (self.upstreams.as_slice(), ago)));
        (self.upstreams, self.updated) = (upstreams, Some(now));
    }

    /// Takes in what the jobs service says.
    pub(crate) fn queues(&mut self, queues: Queues) {
        self.queues = queues;
    }

    /// Sets the rates to zero: without an update for a while nothing has been called either.
    pub(crate) fn quiet(&mut self, now: Instant, interval: Duration) {
        if self.trouble.is_none() && self.updated.is_some_and(|at| now - at > interval * 2) {
            let same = std::mem::take(&mut self.upstreams);
            self.rows = rows(&same, Some((&same, interval)));
            self.upstreams = same;
            // What is counted next has not happened in all that time.
            self.updated = now.checked_sub(interval);
        }
    }

    /// Does what a key asks for.
    pub(crate) fn key(&mut self, key: Key) -> Then {
        if self.helping && !matches!(key, Key::Interrupt | Key::Other) {
            self.helping = false;
            return Then::GoOn;
        }
        match (key, self.typing) {
            (Key::Interrupt, _) | (Key::Char('q') | Key::Escape, false) => return Then::Quit,
            (Key::Enter, true) => self.typing = false,
            (Key::Escape, true) => {
                self.typing = false;
                self.filter.clear();
            }
            (Key::Backspace, true) => drop(self.filter.pop()),
            (Key::Char(char), true) => self.filter.push(char),
            (Key::Char('?' | 'h'), false) => self.helping = true,
            (Key::Char('/'), false) => self.typing = true,
            (Key::Char('s'), false) => (self.sort, self.reversed) = (self.sort.next(), false),
            (Key::Char('r'), false) => self.reversed = !self.reversed,
            (Key::Up, _) => self.scrolled = self.scrolled.saturating_sub(1),
            (Key::Down, _) => self.scrolled = (self.scrolled + 1).min(self.rows.len().saturating_sub(1)),
            (Key::Enter | Key::Backspace | Key::Char(_) | Key::Other, _) => {}
        }
        Then::GoOn
    }

    /// The rows as they are shown.
    fn shown(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.rows.iter().filter(|row| row.has(&self.filter)).cloned().collect();
        sort(&mut rows, self.sort, self.reversed);
        rows
    }

    pub(crate) fn draw(&self, frame: &mut Frame<'_>) {
        let rows = self.shown();
        let width = usize::from(frame.area().width);
        let services = self.upstreams.iter().filter(|u| rows.iter().any(|row| row.service == u.name));
        let below = below(&services.collect::<Vec<_>>(), &self.queues);
        let below: Vec<Line<'_>> = below.iter().map(|text| Line::raw(fit::line(text, width))).collect();
        // The table comes first where there is too little room for both.
        let below_height = u16::try_from(below.len()).unwrap_or(u16::MAX).min(frame.area().height / 3);
        let [top, table, bottom, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Min(3),
            Constraint::Length(below_height),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.head(rows.len(), width)), top);
        if self.helping {
            let help = format!("{}\n\n{}", help::KEYS, help::COLUMNS);
            frame.render_widget(Paragraph::new(help).wrap(Wrap { trim: false }), table.union(bottom));
        } else {
            frame.render_widget(self.table(&rows, usize::from(table.width)), table);
            frame.render_widget(Paragraph::new(below).style(Style::new().fg(Color::Gray)), bottom);
        }
        let foot = Line::raw(fit::line(&self.foot(), width));
        frame.render_widget(Paragraph::new(foot).style(Style::new().fg(Color::DarkGray)), keys);
    }

    fn head(&self, shown: usize, width: usize) -> Line<'_> {
        const NAME: &str = "shoal top";
        let here = format!("  {}  {shown} of {} clones", self.addr, self.rows.len());
        let trouble = match &self.trouble {
            Some(trouble) if self.updated.is_some() => format!("  last known; {trouble}"),
            Some(trouble) => format!("  {trouble}"),
            None if self.updated.is_none() => "  connecting".to_owned(),
            None => String::new(),
        };
        let here = fit::line(&here, width.saturating_sub(NAME.len()));
        let left = width.saturating_sub(NAME.len() + here.chars().count());
        Line::from(vec![
            Span::styled(NAME, Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(here),
            Span::styled(
                fit::line(&trouble, left),
                match self.trouble {
                    Some(_) => Style::new().fg(Color::Red),
                    None => Style::new(),
                },
            ),
        ])
    }

    fn foot(&self) -> String {
        if self.helping {
            return "any key closes the help".to_owned();
        }
        if self.typing {
            return format!("filter: {}_   Enter keeps it, Esc clears it", self.filter);
        }
        let order = if self.reversed { ", reversed" } else { "" };
        let filter = if self.filter.is_empty() { String::new() } else { format!(" ({})", self.filter) };
        format!(
            "? help   q quit   s sort ({}{order})   r reverse   / filter{filter}   up/down scroll",
            self.sort.title()
        )
    }

    fn table(&self, rows: &[Row], width: usize) -> Table<'static> {
        let columns = fit::columns(rows, width);
        let titles = columns.iter().map(|(column, width)| {
            let style = Style::new().add_modifier(Modifier::BOLD);
            let style = if *column == self.sort { style.add_modifier(Modifier::UNDERLINED) } else { style };
            cell(*column, fit::cell(column.title(), *column, *width)).style(style)
        });
        let titles = Drawn::new(titles.collect::<Vec<_>>());
        let scrolled = self.scrolled.min(rows.len().saturating_sub(1));
        let lines = rows.iter().skip(scrolled).map(|row| {
            let color = color(row.state);
            Drawn::new(columns.iter().map(|(column, width)| {
                let cell = cell(*column, fit::cell(&row.text(*column), *column, *width));
                if *column == Column::State { cell.style(Style::new().fg(color)) } else { cell }
            }))
        });
        let lines: Vec<Drawn<'_>> = lines.collect();
        let widths =
            columns.iter().map(|(_, width)| Constraint::Length(u16::try_from(*width).unwrap_or(u16::MAX)));
        let spacing = u16::try_from(fit::SPACING).unwrap_or_default();
        Table::new(lines, widths).header(titles).column_spacing(spacing)
    }
}

fn cell(column: Column, text: String) -> Cell<'static> {
    let line = Line::raw(text);
    Cell::new(if column.is_number() { line.right_aligned() } else { line })
}

fn color(of: EndpointState) -> Color {
    match of {
        EndpointState::Ready => Color::Green,
        EndpointState::Ejected | EndpointState::OtherStore => Color::Red,
        EndpointState::Connecting | EndpointState::NotServing => Color::Yellow,
        EndpointState::Unspecified => Color::DarkGray,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::row::tests::{endpoint, upstream};

    fn view() -> View {
        let mut view = View::new("127.0.0.1:7000", Column::Service, "");
        let now = Instant::now();
        let mut ejected = endpoint("10.0.0.1:70", 100, 40, 12);
        ejected.state = EndpointState::Ejected.into();
        ejected.reason = "5 failures in a row".to_owned();
        let mut upstreams = vec![
            upstream("cache", vec![ejected, endpoint("10.0.0.2:70", 200, 0, 9)]),
            upstream("jobs", vec![endpoint("10.0.0.3:70", 9, 0, 700)]),
        ];
        view.update(Ok(upstreams.clone()), now);
        upstreams[0].endpoints[1].calls += 50;
        upstreams[0].endpoints[1].successes += 50;
        upstreams[0].calls_by_code = [("OK".to_owned(), 310)].into();
        view.update(Ok(upstreams), now + Duration::from_secs(1));
        view
    }

    /// The lines of a screen of that size.
    fn drawn(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
        terminal.draw(|frame| view.draw(frame)).expect("drawn");
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    fn typed(view: &mut View, text: &str) {
        text.chars().for_each(|char| assert_eq!(view.key(Key::Char(char)), Then::GoOn));
    }

    #[test]
    fn each_clone_has_numbers_and_state() {
        let lines = drawn(&view(), 140, 10);
        assert_eq!(lines[0], "shoal top  127.0.0.1:7000  3 of 3 clones");
        assert_eq!(
            lines[1],
            "SERVICE  CLONE        READY  SUCCESS   RPS    P50    P95     P99   EWMA  IN-FLIGHT  STATE    ENGINE     WHY"
        );
        assert_eq!(
            lines[2],
            "cache    10.0.0.1:70  2/2          -   0.0  1.0ms  2.0ms  12.0ms  1.0ms          3  ejected  redis a:1  5 failures in a row"
        );
        assert_eq!(
            lines[3],
            "cache    10.0.0.2:70  2/2     100.0%  50.0  1.0ms  2.0ms   9.0ms  1.0ms          3  ready    redis a:1"
        );
        assert!(lines[7].starts_with("cache: OK 310; retries 0"), "{lines:#?}");
        assert!(lines[9].starts_with("? help   q quit   s sort (SERVICE)"), "{lines:#?}");
    }

    #[test]
    fn keys_sort_reverse_and_filter() {
        let mut view = view();
        let clones = |view: &View| view.shown().iter().map(|row| row.clone.clone()).collect::<Vec<_>>();
        typed(&mut view, "sssssss");
        assert_eq!(clones(&view), ["10.0.0.3:70", "10.0.0.1:70", "10.0.0.2:70"]);
        assert!(drawn(&view, 140, 10)[9].contains("sort (P99)"));
        typed(&mut view, "r");
        assert_eq!(clones(&view), ["10.0.0.2:70", "10.0.0.1:70", "10.0.0.3:70"]);
        typed(&mut view, "/queues");
        assert!(drawn(&view, 140, 10)[9].contains("filter: queues_"), "letters are text while one types");
        assert!(clones(&view).is_empty());
        for _ in 0..6 {
            view.key(Key::Backspace);
        }
        typed(&mut view, "eject");
        view.key(Key::Enter);
        assert_eq!(clones(&view), ["10.0.0.1:70"]);
        let lines = drawn(&view, 140, 10);
        assert!(lines[0].contains("1 of 3 clones") && lines[9].contains("filter (eject)"), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.starts_with("jobs")));
        typed(&mut view, "/");
        assert_eq!((view.key(Key::Escape), clones(&view).len()), (Then::GoOn, 3));
        assert_eq!((view.key(Key::Escape), view.key(Key::Char('q'))), (Then::Quit, Then::Quit));
    }

    #[test]
    fn scrolling_stops_at_the_last_row() {
        let mut view = view();
        for _ in 0..99 {
            view.key(Key::Down);
        }
        assert!(drawn(&view, 140, 8)[2].starts_with("jobs"));
        view.key(Key::Up);
        assert!(drawn(&view, 140, 8)[2].contains("10.0.0.2:70"));
    }

    #[test]
    fn lost_gateway_keeps_last_known_rows() {
        let mut view = view();
        view.update(Err("cannot connect".to_owned()), Instant::now());
        let lines = drawn(&view, 140, 10);
        assert!(
            lines[0].ends_with("last known; cannot connect") && lines[2].starts_with("cache"),
            "{lines:#?}"
        );
        let now = Instant::now();
        view.update(Ok(vec![]), now);
        assert!(drawn(&view, 140, 10)[0].ends_with("0 of 0 clones"));
    }

    #[test]
    fn rates_fall_to_zero_without_updates() {
        let mut view = view();
        let second = Duration::from_secs(1);
        let rps = |view: &View| view.rows[1].rps;
        view.quiet(Instant::now() + second, second);
        assert_eq!(rps(&view), Some(50.0));
        let now = Instant::now() + second * 9;
        view.quiet(now, second);
        assert_eq!(rps(&view), Some(0.0));
        let mut upstreams = view.upstreams.clone();
        upstreams[0].endpoints[1].calls += 60;
        view.update(Ok(upstreams), now + second);
        assert_eq!(rps(&view), Some(30.0), "over the last look and this one, not over the silence");
    }

    #[test]
    fn numbers_are_whole_at_every_width() {
        let whole: Vec<String> = drawn(&view(), 200, 12).iter().flat_map(|line| words(line)).collect();
        for width in 30..140 {
            let lines = drawn(&view(), width, 12);
            for number in lines.iter().flat_map(|line| words(line)) {
                assert!(whole.contains(&number), "{width}: {number} in {lines:#?}");
            }
            for (line, port) in [(2, "1:70"), (3, "2:70"), (4, "3:70")] {
                assert!(lines[line].contains(port), "{width}: {lines:#?}");
            }
        }
        assert!(drawn(&view(), 80, 12)[3].contains("100.0%"));
    }

    /// The words of a line that have a digit in them, addresses aside: those may be cut at their front.
    fn words(line: &str) -> Vec<String> {
        let number = |word: &&str| word.contains(|c: char| c.is_ascii_digit()) && !word.contains(":70");
        let bare = |word: &str| word.trim_end_matches(['…', ',', ';']).to_owned();
        line.split_whitespace().filter(number).map(bare).collect()
    }

    #[test]
    fn any_key_closes_the_help() {
        for key in ['?', 'h'] {
            let mut view = view();
            typed(&mut view, &key.to_string());
            let lines = drawn(&view, 100, 30);
            assert!(
                lines.iter().any(|line| line.contains("READY      on how many of the gateway's cores")),
                "{lines:#?}"
            );
            typed(&mut view, "q");
            assert!(drawn(&view, 100, 30)[2].starts_with("cache"), "it is closed, and nothing has ended");
        }
    }

    #[test]
    fn queues_stand_below_the_table() {
        let mut view = view();
        view.upstreams[1].services = vec!["shoal.jobs.v1.JobsService".to_owned()];
        let mail =
            shoal_proto::jobs::v1::Queue { name: "mail".into(), ready_count: 12, ..Default::default() };
        view.queues(Some(Ok(vec![mail])));
        let lines = drawn(&view, 100, 12);
        assert!(lines.iter().any(|line| line.starts_with("queue mail: 12 ready")), "{lines:#?}");
    }

    #[test]
    fn smallest_terminal_is_drawn() {
        for (width, height) in [(1, 1), (20, 3), (80, 24)] {
            drawn(&view(), width, height);
            let mut view = view();
            typed(&mut view, "?");
            drawn(&view, width, height);
        }
    }
}

//! A chart as SVG with a title, a description, a legend and the table behind it. Knows nothing of loads.

use std::fmt::Write as _;

use crate::scale::html::scale::Scale;
use crate::scale::html::text::escape;

/// Size of a chart in its own units, and of the margins for its labels. Labels grow on telephones: the margins have room.
pub(crate) const WIDTH: f64 = 640.0;
pub(crate) const HEIGHT: f64 = 360.0;
pub(crate) const LEFT: f64 = 96.0;
pub(crate) const RIGHT: f64 = 600.0;
pub(crate) const TOP: f64 = 44.0;
pub(crate) const BOTTOM: f64 = 292.0;

/// Colour and mark of a series, each distinct in black and white too. The style sheet has a class for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Series {
    First,
    Second,
    Third,
    Fourth,
    /// A bound to compare with, such as an objective.
    Bound,
}

impl Series {
    pub(crate) const ALL: [Series; 4] = [Series::First, Series::Second, Series::Third, Series::Fourth];

    fn class(self) -> &'static str {
        match self {
            Series::First => "s1",
            Series::Second => "s2",
            Series::Third => "s3",
            Series::Fourth => "s4",
            Series::Bound => "s0",
        }
    }

    fn mark(self, x: f64, y: f64) -> String {
        match self {
            Series::First => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>"),
            Series::Second => {
                format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\"/>", x - 4.0, y - 4.0)
            }
            Series::Third | Series::Bound => {
                format!("<path d=\"M{:.1} {:.1}l5 9h-10z\"/>", x, y - 5.5)
            }
            Series::Fourth => format!("<path d=\"M{x:.1} {:.1}l5.5 5.5-5.5 5.5-5.5-5.5z\"/>", y - 5.5),
        }
    }
}

/// A place in a chart; grey ones have too few samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) grey: bool,
}

/// Table behind a chart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub(crate) caption: String,
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<Cell>>,
    /// True if the last column is of sentences, rather than of numbers.
    pub(crate) prose: bool,
}

/// Cell of a table.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) text: String,
    /// True if it has too few samples to be believed.
    pub(crate) grey: bool,
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell { text, grey: false }
    }
}

/// A chart under construction.
#[derive(Debug)]
pub(crate) struct Chart {
    id: &'static str,
    title: String,
    description: String,
    x: Scale,
    y: Scale,
    body: String,
    legend: Vec<String>,
}

impl Chart {
    /// Returns a chart with its axes; `x_ticks` replace the round ticks where not empty.
    pub(crate) fn new(
        id: &'static str,
        title: &str,
        (x_label, x, x_ticks): (&str, Scale, Vec<(f64, String)>),
        (y_label, y, y_text): (&str, Scale, fn(f64) -> String),
    ) -> Chart {
        let mut body = String::new();
        for tick in y.ticks() {
            let (place, text) = (y.at(tick), escape(&y_text(tick)));
            let _ = write!(
                body,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{place:.1}\" y2=\"{place:.1}\"/>\
                 <text x=\"{:.0}\" y=\"{place:.1}\" dy=\".35em\" class=\"end\">{text}</text>",
                LEFT - 8.0
            );
        }
        for (tick, text) in x_ticks {
            let place = x.at(tick);
            let _ = write!(
                body,
                "<line class=\"tick\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{BOTTOM}\" y2=\"{:.0}\"/>\
                 <text x=\"{place:.1}\" y=\"{:.0}\" class=\"mid\">{}</text>",
                BOTTOM + 5.0,
                BOTTOM + 24.0,
                escape(&text)
            );
        }
        let _ = write!(
            body,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{BOTTOM}\" y2=\"{BOTTOM}\"/>\
             <text x=\"8\" y=\"22\" class=\"label\">{}</text>\
             <text x=\"{RIGHT}\" y=\"{:.0}\" class=\"label end\">{}</text>",
            escape(y_label),
            HEIGHT - 14.0,
            escape(x_label)
        );
        Chart { id, title: title.to_owned(), description: String::new(), x, y, body, legend: Vec::new() }
    }

    /// Sets the description, which says in words what the chart shows.
    pub(crate) fn describe(&mut self, description: String) {
        self.description = description;
    }

    /// Draws a series: marks, and a line through them if `joined`.
    pub(crate) fn series(&mut self, series: Series, name: &str, spots: &[Spot], joined: bool) {
        let class = series.class();
        if joined && spots.len() > 1 {
            self.polyline(class, spots);
        }
        for spot in spots {
            let grey = if spot.grey { " grey" } else { "" };
            let mark = series.mark(self.x.at(spot.x), self.y.at(spot.y));
            let _ = write!(self.body, "<g class=\"mark {class}{grey}\">{mark}</g>");
        }
        let line = if joined {
            "<path class=\"line {c}\" d=\"M0 8h28\"/>".replace("{c}", class)
        } else {
            String::new()
        };
        self.legend(&format!("{line}<g class=\"mark {class}\">{}</g>", series.mark(14.0, 8.0)), name);
    }

    /// Draws a line without marks.
    pub(crate) fn curve(&mut self, series: Series, name: &str, spots: &[Spot]) {
        self.polyline(series.class(), spots);
        self.legend(&format!("<path class=\"line {}\" d=\"M0 8h28\"/>", series.class()), name);
    }

    /// Draws a horizontal bound with its name.
    pub(crate) fn bound(&mut self, value: f64, name: &str) {
        let place = self.y.at(value);
        let _ = write!(
            self.body,
            "<line class=\"line s0\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{place:.1}\" y2=\"{place:.1}\"/>"
        );
        self.legend("<path class=\"line s0\" d=\"M0 8h28\"/>", name);
    }

    /// Draws a vertical bound with its name.
    pub(crate) fn vertical(&mut self, value: f64, name: &str) {
        let place = self.x.at(value);
        let _ = write!(
            self.body,
            "<line class=\"line s5\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>"
        );
        self.legend("<path class=\"line s5\" d=\"M14 0v16\"/>", name);
    }

    /// Draws a bar between two values about `x`.
    pub(crate) fn bar(&mut self, series: Series, x: f64, width: f64, (low, high): (f64, f64)) {
        let (top, bottom) = (self.y.at(high), self.y.at(low));
        let _ = write!(
            self.body,
            "<rect class=\"bar {}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
            series.class(),
            self.x.at(x) - width / 2.0,
            (bottom - top).max(0.0)
        );
    }

    /// Draws the interval of a value as a vertical line.
    pub(crate) fn interval(&mut self, series: Series, x: f64, low: f64, high: f64) {
        let (x, top, bottom) = (self.x.at(x), self.y.at(high), self.y.at(low));
        let _ = write!(
            self.body,
            "<line class=\"interval {}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>",
            series.class()
        );
    }

    /// Adds the name of a series of bars to the legend.
    pub(crate) fn legend_bar(&mut self, series: Series, name: &str) {
        self.legend(
            &format!("<rect class=\"bar {}\" x=\"4\" width=\"20\" height=\"16\"/>", series.class()),
            name,
        );
    }

    /// Adds what grey marks mean to the legend.
    pub(crate) fn legend_grey(&mut self) {
        self.legend(
            &format!("<g class=\"mark s1 grey\">{}</g>", Series::First.mark(14.0, 8.0)),
            "too few samples for this percentile",
        );
    }

    fn legend(&mut self, swatch: &str, name: &str) {
        self.legend.push(format!(
            "<li><svg viewBox=\"0 0 28 16\" width=\"28\" height=\"16\" aria-hidden=\"true\">{swatch}</svg>{}</li>",
            escape(name)
        ));
    }

    fn polyline(&mut self, class: &str, spots: &[Spot]) {
        let places: Vec<String> =
            spots.iter().map(|spot| format!("{:.1},{:.1}", self.x.at(spot.x), self.y.at(spot.y))).collect();
        let _ = write!(self.body, "<polyline class=\"line {class}\" points=\"{}\"/>", places.join(" "));
    }

    /// Returns the chart with its table.
    pub(crate) fn figure(&self, table: &Table) -> String {
        let id = self.id;
        format!(
            "<figure id=\"{id}\">\n<figcaption><h3>{title}</h3><p>{description}</p></figcaption>\n<ul class=\"legend\">{legend}</ul>\n\
             <svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-title {id}-desc\">\
             <title id=\"{id}-title\">{title}</title><desc id=\"{id}-desc\">{description}</desc>{body}</svg>\n\
             <details><summary>Figures of this chart</summary>{table}</details>\n</figure>\n",
            title = escape(&self.title),
            description = escape(&self.description),
            legend = self.legend.concat(),
            body = self.body,
            table = table.html(),
        )
    }
}

impl Table {
    /// Returns the table in a frame that scrolls where it is too wide.
    pub(crate) fn html(&self) -> String {
        let caption = escape(&self.caption);
        let class = if self.prose { " class=\"prose\"" } else { "" };
        let head: String =
            self.header.iter().map(|cell| format!("<th scope=\"col\">{}</th>", escape(cell))).collect();
        let mut body = String::new();
        for row in &self.rows {
            body.push_str("<tr>");
            for (n, cell) in row.iter().enumerate() {
                let text = escape(&cell.text);
                let _ = match (n, cell.grey) {
                    (0, _) => write!(body, "<th scope=\"row\">{text}</th>"),
                    (_, true) => write!(
                        body,
                        "<td class=\"grey\">{text}<span class=\"sr\"> (too few samples)</span></td>"
                    ),
                    (_, false) => write!(body, "<td>{text}</td>"),
                };
            }
            body.push_str("</tr>");
        }
        format!(
            "<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"{caption}\"><table{class}><caption>{caption}</caption>\
             <thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    }
}

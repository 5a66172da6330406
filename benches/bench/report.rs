//! What a scenario found, as a table for people and as JSON.

use std::fmt::Write;

use serde::Serialize;

/// What one scenario found.
#[derive(Serialize)]
pub struct Report {
    pub scenario: &'static str,
    /// What was done, in a sentence.
    pub work: String,
    pub rows: Vec<Row>,
    pub goals: Vec<Goal>,
    /// Settings of the server that differ from the defaults.
    pub settings: Vec<String>,
}

/// One line of figures: ours, or the limit's.
#[derive(Serialize)]
pub struct Row {
    pub label: String,
    pub figures: Vec<Figure>,
}

/// A figure under its heading, which names the unit.
#[derive(Serialize)]
pub struct Figure {
    pub heading: &'static str,
    pub value: f64,
}

/// What was to be reached, and what was.
#[derive(Serialize)]
pub struct Goal {
    pub goal: String,
    pub measured: f64,
    pub met: bool,
}

impl Row {
    pub fn new(label: impl Into<String>) -> Row {
        Row { label: label.into(), figures: Vec::new() }
    }

    pub fn with(mut self, heading: &'static str, value: f64) -> Row {
        self.figures.push(Figure { heading, value });
        self
    }
}

impl Goal {
    /// `measured` is to be at most `bound`.
    pub fn at_most(what: &str, measured: f64, bound: f64) -> Goal {
        Goal { goal: format!("{what} ≤ {}", number(bound)), measured, met: measured <= bound }
    }

    /// `measured` is to be at least `bound`.
    pub fn at_least(what: &str, measured: f64, bound: f64) -> Goal {
        Goal { goal: format!("{what} ≥ {}", number(bound)), measured, met: measured >= bound }
    }
}

impl Report {
    /// The table, with what it means below.
    pub fn render(&self) -> String {
        let mut text = format!("\n{}: {}\n", self.scenario, self.work);
        let mut headings: Vec<&str> = Vec::new();
        for figure in self.rows.iter().flat_map(|row| &row.figures) {
            if !headings.contains(&figure.heading) {
                headings.push(figure.heading);
            }
        }
        let mut lines = vec![Vec::from([String::new()])];
        lines[0].extend(headings.iter().map(ToString::to_string));
        for row in &self.rows {
            let mut line = vec![row.label.clone()];
            for heading in &headings {
                let figure = row.figures.iter().find(|figure| figure.heading == *heading);
                line.push(figure.map_or_else(|| "–".to_owned(), |figure| number(figure.value)));
            }
            lines.push(line);
        }
        write_columns(&mut text, &lines);
        for goal in &self.goals {
            let verdict = if goal.met { "met" } else { "missed" };
            // Writing to a string has no way to fail.
            let _ = writeln!(text, "  {verdict}: {} ({})", goal.goal, number(goal.measured));
        }
        if !self.settings.is_empty() {
            let _ = writeln!(text, "  settings that differ: {}", self.settings.join(", "));
        }
        text
    }
}

fn write_columns(text: &mut String, lines: &[Vec<String>]) {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    for line in lines {
        text.push_str("  ");
        for (column, cell) in line.iter().enumerate() {
            let gap = " ".repeat(widths[column] - cell.chars().count());
            let padded = if column == 0 { format!("{cell}{gap}") } else { format!("  {gap}{cell}") };
            text.push_str(&padded);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
}

/// A number with as many digits as people can use.
pub fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => grouped(value),
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        0.0 => "0".into(),
        _ => format!("{value:.2}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

//! The plot of a drill as SVG: a lane for each process, time to the right, colour for the share of all edits that it held. Below, how many edits
//! there were, and how many of them everybody had. Plain text without references, so that it shows wherever it is put.

use std::fmt::Write as _;

use super::ledger::Sample;
use super::report::{Report, Told, bytes};

const WIDTH: f64 = 1_280.0;
const LEFT: f64 = 118.0;
const RIGHT: f64 = 96.0;
const TOP: f64 = 132.0;
/// All lanes together, where there are many.
const LANES: f64 = 640.0;
const BELOW: f64 = 110.0;
const GAP: f64 = 34.0;
const FOOT: f64 = 84.0;

/// Text is about this wide for its size.
const LETTER: f64 = 0.56;

const INK: &str = "#1e293b";
const FAINT: &str = "#64748b";
const ALL: &str = "#0f766e";
const NOTHING_YET: &str = "#dbe2ea";

/// The plot.
pub(super) fn svg(report: &Report) -> String {
    Plot::of(report).draw()
}

struct Plot<'a> {
    report: &'a Report,
    lane: f64,
    end_s: f64,
    text: String,
}

impl<'a> Plot<'a> {
    fn of(report: &'a Report) -> Plot<'a> {
        let lane = (LANES / report.members.len().max(1) as f64).clamp(9.0, 24.0).floor();
        Plot { report, lane, end_s: report.seconds.max(0.1), text: String::new() }
    }

    fn x(&self, at_s: f64) -> f64 {
        LEFT + (at_s / self.end_s).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    /// The upper edge of a lane.
    fn y(&self, lane: usize) -> f64 {
        TOP + lane as f64 * self.lane
    }

    fn bottom(&self) -> f64 {
        self.y(self.report.members.len())
    }

    fn draw(mut self) -> String {
        let height = self.bottom() + GAP + BELOW + FOOT;
        let _ = write!(
            self.text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\" role=\"img\">\n\
             <title>Commonhold drill: who held what, when</title>\n\
             <defs><pattern id=\"dead\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
             <rect width=\"6\" height=\"6\" fill=\"#f1f5f9\"/><line x1=\"0\" y1=\"0\" x2=\"0\" y2=\"6\" stroke=\"#cbd5e1\" stroke-width=\"2\"/>\
             </pattern></defs>\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        self.head();
        for (lane, told) in self.report.members.iter().enumerate() {
            self.lane(lane, told);
        }
        self.sides();
        self.sums();
        self.marks();
        self.axis();
        self.legend(height - 22.0);
        self.text += "</svg>\n";
        self.text
    }

    fn head(&mut self) {
        let report = self.report;
        let verdict = if report.passed { "passed" } else { "FAILED" };
        self.words(LEFT, 32.0, 20.0, INK, "start", "bold", "Who held what, when");
        let sub = format!(
            "Commonhold drill {verdict}: {} processes, {} edits, {} lost, {:.0} s, seed {}. Delay {}; loss {}.",
            report.processes,
            report.edits,
            report.edits_lost,
            report.seconds,
            report.seed,
            report.network.delay,
            report.network.loss,
        );
        self.words(LEFT, 53.0, 12.5, FAINT, "start", "normal", &sub);
        self.words(WIDTH - RIGHT + 8.0, TOP - 6.0, 10.5, FAINT, "start", "normal", "bytes sent");
    }

    fn lane(&mut self, lane: usize, told: &Told) {
        let (y, middle) = (self.y(lane), self.y(lane) + self.lane / 2.0);
        let high = self.lane - if self.lane > 14.0 { 3.0 } else { 1.0 };
        let size = (self.lane - 1.0).min(12.0);
        self.words(LEFT - 8.0, middle + size * 0.35, size, INK, "end", "normal", &told.name);
        self.words(
            WIDTH - RIGHT + 8.0,
            middle + size * 0.35,
            size,
            FAINT,
            "start",
            "normal",
            &bytes(told.traffic.sent_bytes),
        );
        let end = told.died_s.unwrap_or(self.end_s);
        // Runs of one colour are one rectangle.
        let mut runs: Vec<(f64, String)> = vec![(told.began_s, NOTHING_YET.to_owned())];
        for sample in told.samples.iter().filter(|sample| sample.at_s < end) {
            let colour = colour(sample);
            if runs.last().is_none_or(|(_, last)| *last != colour) {
                runs.push((sample.at_s, colour));
            }
        }
        for (number, (from, colour)) in runs.iter().enumerate() {
            let to = runs.get(number + 1).map_or(end, |(to, _)| *to);
            self.rectangle(self.x(*from), y, self.x(to) - self.x(*from), high, colour);
        }
        if let Some(died) = told.died_s {
            let x = self.x(died);
            self.rectangle(x, y, self.x(self.end_s) - x, high, "url(#dead)");
            let arm = (high / 2.0 - 1.0).min(5.0);
            let (x, middle) = (x + arm + 2.0, y + high / 2.0);
            let _ = writeln!(
                self.text,
                "<path d=\"M{:.1} {:.1}l{:.1} {:.1}m0 {:.1}l{:.1} {:.1}\" stroke=\"#b91c1c\" stroke-width=\"1.8\" fill=\"none\"/>",
                x - arm,
                middle - arm,
                2.0 * arm,
                2.0 * arm,
                -2.0 * arm,
                -2.0 * arm,
                2.0 * arm,
            );
            if let (Some(death), true) = (told.death, self.lane > 14.0) {
                self.words(x + arm + 5.0, middle + 3.5, 10.0, FAINT, "start", "normal", death);
            }
        }
    }

    /// Frames around the lanes of each side while the network was parted.
    fn sides(&mut self) {
        let Some(parted) = &self.report.parted else { return };
        let to = parted.to_s.unwrap_or(self.end_s);
        let side = |told: &Told| {
            let there = told.began_s < to && told.died_s.is_none_or(|died| died > parted.from_s);
            there.then(|| parted.side.contains(&told.name))
        };
        let sides: Vec<_> = self.report.members.iter().map(side).collect();
        let (left, right) = (self.x(parted.from_s), self.x(to));
        let mut lane = 0;
        while lane < sides.len() {
            let first = lane;
            while lane < sides.len() && sides[lane] == sides[first] {
                lane += 1;
            }
            let Some(near) = sides[first] else { continue };
            let (top, high) = (self.y(first) - 0.5, self.y(lane) - self.y(first) - 1.0);
            let dashes = if near { "none" } else { "5 3" };
            let _ = writeln!(
                self.text,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{high:.1}\" fill=\"none\" stroke=\"{INK}\" \
                 stroke-width=\"1.6\" stroke-dasharray=\"{dashes}\"/>",
                right - left,
            );
        }
    }

    /// How many edits there were, and how many of them each of the living had.
    fn sums(&mut self) {
        let (top, bottom) = (self.bottom() + GAP, self.bottom() + GAP + BELOW);
        let most = self.report.edits.max(1) as f64;
        let y = |edits: usize| bottom - edits as f64 / most * BELOW;
        let mut times: Vec<f64> =
            self.report.members.iter().flat_map(|told| told.samples.iter().map(|sample| sample.at_s)).collect();
        times.sort_by(f64::total_cmp);
        times.push(self.end_s);
        let (mut made, mut common) = (0, Vec::new());
        let mut line = format!("M{:.1} {:.1}", self.x(0.0), y(0));
        for at in times {
            let living = self
                .report
                .members
                .iter()
                .filter(|told| told.began_s <= at && told.died_s.is_none_or(|died| died > at));
            let last = |told: &Told| told.samples.iter().rev().find(|sample| sample.at_s <= at).copied();
            let held: Vec<_> = living.map(last).collect();
            made = held.iter().flatten().map(|sample| sample.made).fold(made, usize::max);
            let least = held.iter().map(|sample| sample.map_or(0, |sample| sample.held)).min().unwrap_or(0);
            let _ = write!(line, "H{:.1}V{:.1}", self.x(at), y(made));
            common.push((at, least));
        }
        let mut area = format!("M{:.1} {bottom:.1}", self.x(0.0));
        for (at, least) in common {
            let _ = write!(area, "H{:.1}V{:.1}", self.x(at), y(least));
        }
        let _ = writeln!(self.text, "<path d=\"{area}V{bottom:.1}Z\" fill=\"#99d5cd\"/>");
        let _ = writeln!(self.text, "<path d=\"{line}\" fill=\"none\" stroke=\"{INK}\" stroke-width=\"1.6\"/>");
        for edits in [0, self.report.edits] {
            self.words(LEFT - 8.0, y(edits) + 4.0, 11.0, FAINT, "end", "normal", &edits.to_string());
        }
        let middle = (top + bottom) / 2.0;
        let _ = writeln!(
            self.text,
            "<text x=\"0\" y=\"0\" font-size=\"12\" fill=\"{INK}\" text-anchor=\"middle\" transform=\"translate(64 {middle:.1}) rotate(-90)\">edits</text>"
        );
        let lanes = (TOP + self.bottom()) / 2.0;
        let _ = writeln!(
            self.text,
            "<text x=\"0\" y=\"0\" font-size=\"12\" fill=\"{INK}\" text-anchor=\"middle\" transform=\"translate(18 {lanes:.1}) rotate(-90)\">processes</text>"
        );
    }

    fn marks(&mut self) {
        // Labels that would overlap go up a row.
        let mut rows: Vec<f64> = vec![f64::NEG_INFINITY; 4];
        for mark in &self.report.marks {
            let x = self.x(mark.at_s);
            let wide = mark.what.chars().count() as f64 * 11.5 * LETTER + 12.0;
            let (anchor, left) = if x + wide > WIDTH - RIGHT + 4.0 { ("end", x - wide) } else { ("start", x) };
            let row = rows.iter().position(|end| *end < left).unwrap_or(rows.len() - 1);
            rows[row] = left + wide;
            let y = TOP - 10.0 - row as f64 * 15.0;
            let bottom = self.bottom() + GAP + BELOW;
            let _ = writeln!(
                self.text,
                "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{INK}\" stroke-width=\"1\" stroke-dasharray=\"2 3\"/>",
                y - 8.0,
            );
            let at = if anchor == "end" { x - 4.0 } else { x + 4.0 };
            self.words(at, y, 11.5, INK, anchor, "bold", &mark.what);
        }
    }

    fn axis(&mut self) {
        let y = self.bottom() + GAP + BELOW;
        let (left, right) = (self.x(0.0), self.x(self.end_s));
        let _ = writeln!(
            self.text,
            "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"{INK}\" stroke-width=\"1\"/>"
        );
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0];
        let step = steps.into_iter().find(|step| self.end_s / step <= 14.0).unwrap_or(600.0);
        for tick in 0..=(self.end_s / step) as usize {
            let at = tick as f64 * step;
            let x = self.x(at);
            let _ = writeln!(
                self.text,
                "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"{INK}\"/>",
                y + 5.0
            );
            self.words(x, y + 18.0, 11.0, FAINT, "middle", "normal", &format!("{at:.0}"));
        }
        self.words(
            f64::midpoint(left, right),
            y + 36.0,
            12.0,
            INK,
            "middle",
            "normal",
            "seconds since the drill began",
        );
    }

    fn legend(&mut self, y: f64) {
        let held = |held| colour(&Sample { at_s: 0.0, held, made: 100 });
        let boxes = [
            (held(100), "holds every edit"),
            (held(95), "95 %"),
            (held(50), "50 %"),
            (held(0), "nothing"),
            (NOTHING_YET.to_owned(), "no edit yet"),
            ("url(#dead)".to_owned(), "dead"),
            ("#99d5cd".to_owned(), "held by all of the living"),
        ];
        let mut x = LEFT;
        for (fill, what) in boxes {
            self.rectangle(x, y - 10.0, 18.0, 12.0, &fill);
            self.words(x + 24.0, y, 11.5, INK, "start", "normal", what);
            x += 24.0 + what.chars().count() as f64 * 11.5 * LETTER + 20.0;
        }
        let _ = writeln!(
            self.text,
            "<line x1=\"{x:.1}\" y1=\"{0:.1}\" x2=\"{1:.1}\" y2=\"{0:.1}\" stroke=\"{INK}\" stroke-width=\"1.6\"/>",
            y - 4.0,
            x + 18.0,
        );
        self.words(x + 24.0, y, 11.5, INK, "start", "normal", "edits made");
        x += 24.0 + 10.0 * 11.5 * LETTER + 20.0;
        let _ = writeln!(
            self.text,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"18\" height=\"12\" fill=\"none\" stroke=\"{INK}\" stroke-width=\"1.6\"/>\
             <rect x=\"{:.1}\" y=\"{:.1}\" width=\"18\" height=\"12\" fill=\"none\" stroke=\"{INK}\" stroke-width=\"1.6\" stroke-dasharray=\"5 3\"/>",
            y - 10.0,
            x + 22.0,
            y - 10.0,
        );
        self.words(x + 46.0, y, 11.5, INK, "start", "normal", "sides of the partition");
    }

    fn rectangle(&mut self, x: f64, y: f64, wide: f64, high: f64, fill: &str) {
        if wide > 0.0 {
            let _ = writeln!(
                self.text,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{high:.1}\" fill=\"{fill}\"/>"
            );
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the attributes of one element")]
    fn words(&mut self, x: f64, y: f64, size: f64, fill: &str, anchor: &str, weight: &str, what: &str) {
        let what = what.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.text,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{fill}\" text-anchor=\"{anchor}\" font-weight=\"{weight}\" \
             stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\" stroke-linejoin=\"round\">{what}</text>"
        );
    }
}

/// All is a colour of its own; what lacks little is pale, what lacks much is dark red, so that one sees who is behind.
fn colour(sample: &Sample) -> String {
    if sample.made == 0 {
        return NOTHING_YET.to_owned();
    }
    if sample.held >= sample.made {
        return ALL.to_owned();
    }
    let share = sample.held as f64 / sample.made as f64;
    // Steps of 2 %, so that runs are long.
    let share = (share * 50.0).floor() / 50.0;
    let (few, most) = ([185.0, 28.0, 28.0], [253.0, 224.0, 120.0]);
    let [r, g, b] = std::array::from_fn(|n| (few[n] + (most[n] - few[n]) * share) as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}

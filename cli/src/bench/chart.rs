//! A bench as a picture: bars of images a second, one group for each number of devices, one colour
//! for each input. A whole SVG file that needs nothing else.

use std::fmt::Write as _;

use super::case::Input;
use super::results::{Results, Row};

/// In the SVG's own units.
const WIDTH: f64 = 760.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 70.0;
const BAR: f64 = 18.0;
const GAP: f64 = 5.0;
/// Between groups of one number of devices.
const GROUP_GAP: f64 = 16.0;
const BOTTOM: f64 = 46.0;

/// Told apart by lightness too, for print and for colour-blind readers.
fn colour(input: Input) -> &'static str {
    match input {
        Input::Original => "#b8c4d0",
        Input::Jpeg => "#5b8db8",
        Input::Raw => "#1f4e79",
    }
}

/// The chart, or None where there is no figure to draw.
pub(crate) fn svg(results: &Results) -> Option<String> {
    // One scale for all groups: bars of different devices can be compared by their length.
    let most = results
        .rows
        .iter()
        .map(|row| row.rate.median)
        .max_by(f64::total_cmp)?;
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let (bars, bottom) = bars(results, scale);
    let height = bottom + BOTTOM;
    let title = format!(
        "{} at {}x{}, global batch {}, {}",
        results.model, results.size.0, results.size.1, results.batch_size, results.precision
    );
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#1a1a1a\">\n\
         <title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"28\" font-size=\"17\" font-weight=\"bold\">{title}</text>\n\
         <text x=\"16\" y=\"50\" fill=\"#555\">images a second, all ranks together; in brackets: \
         times the fewest devices of the kind, all else equal</text>\n\
         {bars}{}</svg>\n",
        legend(results, bottom + 26.0)
    ))
}

fn bars(results: &Results, scale: f64) -> (String, f64) {
    let mut out = String::new();
    let mut y = TOP;
    let mut before: Option<&Row> = None;
    for row in &results.rows {
        let is_new = before.is_none_or(|before| before.case.devices != row.case.devices);
        if is_new {
            y += if before.is_some() { GROUP_GAP } else { 0.0 };
            let _ = writeln!(
                out,
                "<text x=\"16\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
                y + 14.0,
                row.case.devices
            );
        }
        let width = row.rate.median * scale;
        let colour = colour(row.case.input);
        let board = if row.case.tensorboard {
            " stroke=\"#c05a00\" stroke-width=\"2\""
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"{board}/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{:.1}{}</text>",
            LEFT - 8.0,
            y + 14.0,
            row.case.input.word(),
            LEFT + width + 7.0,
            y + 14.0,
            row.rate.median,
            speed_up(results, row),
        );
        y += BAR + GAP;
        before = Some(row);
    }
    (out, y)
}

fn speed_up(results: &Results, row: &Row) -> String {
    match (results.base_of(&row.case), results.speed_up(row)) {
        // Beside the base itself "1.00x" would look like a finding.
        (Some(base), Some(times)) if base != row => format!(" ({times:.2}x)"),
        (Some(_) | None, _) => String::new(),
    }
}

fn legend(results: &Results, y: f64) -> String {
    let mut out = String::new();
    let mut x = 16.0;
    for input in Input::ALL {
        if !results.rows.iter().any(|row| row.case.input == input) {
            continue;
        }
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{}\"/>\
             <text x=\"{}\" y=\"{y:.1}\" fill=\"#555\">{}</text>",
            y - 11.0,
            colour(input),
            x + 18.0,
            input.meaning()
        );
        x += 45.0 + 7.0 * f64::from(u32::try_from(input.meaning().len()).unwrap_or(0));
    }
    if results.rows.iter().any(|row| row.case.tensorboard) {
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"none\" stroke=\"#c05a00\" \
             stroke-width=\"2\"/><text x=\"{}\" y=\"{y:.1}\" fill=\"#555\">with TensorBoard</text>",
            y - 11.0,
            x + 18.0
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{results, run};
    use super::*;

    #[test]
    fn every_row_is_a_bar_as_long_as_its_rate() {
        let found = results(&[
            run("cpu-1-original", 10.0),
            run("cpu-1-raw-tb", 15.0),
            run("cpu-2-original", 20.0),
        ]);
        let svg = svg(&found).unwrap();
        let longest = WIDTH - LEFT - RIGHT;
        for share in [0.5, 0.75, 1.0] {
            let width = format!("width=\"{:.1}\" height=\"{BAR}\"", longest * share);
            assert!(svg.contains(&width), "{width} in {svg}");
        }
        assert!(svg.contains("20.0 (2.00x)") && svg.contains("with TensorBoard"));
        assert!(!svg.contains("jpeg shards"));
        assert_eq!(super::svg(&results(&[])), None);
    }
}

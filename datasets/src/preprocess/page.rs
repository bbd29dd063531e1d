//! The quality report as a page: one file, with its pictures in it, that opens from anywhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use marquee_domain::report::SourceNote;

use super::quality::{FLAGS, Report};

/// Pictures of one kind that are shown.
const SHOWN: usize = 8;
/// Pairs that are shown.
const PAIRS_SHOWN: usize = 12;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2129; --paper: #fff; --soft: #f1f3f6; --line: #d8dde4; --bar: #4a6fa5; --quiet: #5d6673; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --paper: #16191e; --soft: #20252c; --line: #343b45; --bar: #7fa3d8; --quiet: #9aa4b1; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.7rem; } h2 { margin: 2.5rem 0 .75rem; font-size: 1.2rem; } h3 { margin: 0; font-size: 1rem; }
p { margin: .25rem 0; } .quiet { color: var(--quiet); } .note { padding: .6rem .9rem; background: var(--soft); border-radius: .4rem; margin: 1rem 0; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.25rem 0; } .figures div { background: var(--soft); border-radius: .5rem; padding: .7rem 1.1rem; min-width: 8rem; }
.figures b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.kinds { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1rem; } .kind { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; }
.kind h3 span { float: right; font-variant-numeric: tabular-nums; color: var(--quiet); font-weight: 400; }
.gallery { display: flex; flex-wrap: wrap; gap: .35rem; margin-top: .6rem; } figure { margin: 0; width: 4.4rem; } figure img { width: 100%; height: 6.2rem; object-fit: contain; background: var(--soft); border-radius: .2rem; outline: 1px solid var(--line); display: block; }
figcaption { font-size: .68rem; color: var(--quiet); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; } th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.bar { display: inline-block; height: .7rem; background: var(--bar); border-radius: .15rem; vertical-align: middle; } .years { display: flex; align-items: flex-end; gap: 1px; height: 9rem; border-bottom: 1px solid var(--line); }
.years i { flex: 1; background: var(--bar); min-width: 1px; } .scroll { overflow-x: auto; } .pair { display: flex; gap: .6rem; align-items: center; }
";

/// A small picture of an example, as the `data:` URL of a JPEG.
pub(super) type Thumbnails = BTreeMap<String, String>;

/// The ids of the examples whose thumbnails the page shows.
pub(super) fn shown(report: &Report) -> Vec<String> {
    let samples = FLAGS
        .iter()
        .filter_map(|(flag, _)| report.samples.get(*flag))
        .flat_map(|ids| ids.iter().take(SHOWN));
    let clusters = report
        .clusters
        .iter()
        .take(PAIRS_SHOWN)
        .flat_map(|cluster| cluster.first.iter().take(SHOWN));
    let pairs = report
        .disagreements
        .iter()
        .take(PAIRS_SHOWN)
        .flat_map(|pair| &pair.pictures);
    let mut ids: Vec<String> = samples.chain(clusters).chain(pairs).cloned().collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

pub(super) fn render(report: &Report, source: &SourceNote, thumbnails: &Thumbnails) -> String {
    let mut page = String::new();
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Quality of the pictures</title><style>{STYLE}</style></head><body><h1>Quality of the pictures</h1>"
    );
    about(&mut page, source);
    figures(&mut page, report);
    kinds(&mut page, report, thumbnails);
    skipped(&mut page, report);
    same(&mut page, report, thumbnails);
    years(&mut page, report);
    classes(&mut page, report);
    label_counts(&mut page, report);
    page.push_str("</body></html>\n");
    page
}

fn about(page: &mut String, source: &SourceNote) {
    let _ = write!(page, "<p class=\"quiet\">Source: {}", text(&source.name));
    if let Some(licence) = &source.licence {
        let _ = write!(page, " · licence: {}", text(licence));
    }
    if let Some(day) = &source.use_until {
        let _ = write!(page, " · may be used until {}", text(day));
    }
    page.push_str("</p>");
    if source.synthetic {
        page.push_str("<p class=\"note\">These pictures are synthetic: figures on them are never set beside figures on real ones.</p>");
    }
    if let Some(attribution) = &source.attribution {
        let _ = write!(page, "<p class=\"note\">{}</p>", text(attribution));
    }
}

fn figures(page: &mut String, report: &Report) {
    let skipped: u64 = report.skipped.values().sum();
    let figure = |page: &mut String, number: u64, what: &str| {
        let _ = write!(page, "<div><b>{}</b>{what}</div>", grouped(number));
    };
    page.push_str("<div class=\"figures\">");
    figure(page, report.pictures, "pictures");
    figure(page, report.pictures - skipped, "in the splits");
    figure(page, skipped, "left out");
    figure(page, report.clusters_in_all, "sets that look the same");
    figure(
        page,
        report.clusters_that_disagree,
        "of them with other labels",
    );
    page.push_str("</div>");
}

fn kinds(page: &mut String, report: &Report, thumbnails: &Thumbnails) {
    page.push_str("<h2>What is odd</h2><div class=\"kinds\">");
    for (flag, meaning) in FLAGS {
        let count = report.flags.get(flag).copied().unwrap_or(0);
        let _ = write!(
            page,
            "<section class=\"kind\"><h3>{} <span>{} · {}</span></h3><p class=\"quiet\">{}</p>",
            flag.replace('_', " "),
            grouped(count),
            percent(count, report.pictures),
            text(meaning)
        );
        let samples = report.samples.get(flag).map_or(&[][..], Vec::as_slice);
        gallery(page, samples.iter().take(SHOWN), thumbnails);
        page.push_str("</section>");
    }
    page.push_str("</div>");
}

fn gallery<'a>(page: &mut String, ids: impl Iterator<Item = &'a String>, thumbnails: &Thumbnails) {
    page.push_str("<div class=\"gallery\">");
    for id in ids {
        figure_of(page, id, thumbnails);
    }
    page.push_str("</div>");
}

fn figure_of(page: &mut String, id: &str, thumbnails: &Thumbnails) {
    let Some(url) = thumbnails.get(id) else {
        return;
    };
    let id = text(id);
    let _ = write!(
        page,
        "<figure><img src=\"{url}\" alt=\"picture of {id}\"><figcaption title=\"{id}\">{id}</figcaption></figure>"
    );
}

fn skipped(page: &mut String, report: &Report) {
    if !report.flags_of_most.is_empty() {
        let flags = report.flags_of_most.join(", ").replace('_', " ");
        let _ = write!(
            page,
            "<p class=\"note\">More than half of the pictures are {flags}: that is what this set is like, and none was left out for it.</p>"
        );
    }
    if report.skipped.is_empty() {
        return;
    }
    page.push_str("<h2>What was left out</h2><div class=\"scroll\"><table><tr><th>why</th><th class=\"n\">pictures</th><th>for example</th></tr>");
    for (why, count) in &report.skipped {
        let samples = report.samples.get(why).map_or(&[][..], Vec::as_slice);
        let _ = write!(
            page,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"quiet\">{}</td></tr>",
            text(&why.replace('_', " ")),
            grouped(*count),
            text(&samples.join(", "))
        );
    }
    page.push_str("</table></div>");
}

fn same(page: &mut String, report: &Report, thumbnails: &Thumbnails) {
    if !report.clusters.is_empty() {
        page.push_str("<h2>Pictures that look the same</h2><p class=\"quiet\">At another size or quality, mirrored, turned by a quarter, cropped or in other colours. The largest sets first. Pictures of one set are never in two splits, unless the settings say so.</p><div class=\"kinds\">");
        for cluster in report.clusters.iter().take(PAIRS_SHOWN) {
            let kind = if cluster.is_placeholder {
                "placeholder"
            } else {
                "the same picture"
            };
            let _ = write!(
                page,
                "<section class=\"kind\"><h3>{kind} <span>{} pictures</span></h3>",
                grouped(cluster.pictures)
            );
            gallery(page, cluster.first.iter().take(SHOWN), thumbnails);
            page.push_str("</section>");
        }
        page.push_str("</div>");
    }
    if report.disagreements.is_empty() {
        return;
    }
    page.push_str("<h2>The same picture, other labels</h2><p class=\"quiet\">How often that happens is an estimate of how often labels are wrong.");
    let _ = write!(
        page,
        " {} pairs in {} sets.</p><div class=\"scroll\"><table>",
        grouped(report.disagreements_in_all),
        grouped(report.clusters_that_disagree)
    );
    for pair in report.disagreements.iter().take(PAIRS_SHOWN) {
        page.push_str("<tr>");
        for (id, labels) in pair.pictures.iter().zip(&pair.labels) {
            page.push_str("<td><div class=\"pair\">");
            figure_of(page, id, thumbnails);
            let _ = write!(page, "<span>{}</span></div></td>", text(&labels.join(", ")));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div>");
}

fn years(page: &mut String, report: &Report) {
    let known: Vec<(i32, u64)> = report
        .years
        .iter()
        .filter_map(|(year, count)| Some((year.parse().ok()?, *count)))
        .collect();
    let unknown = report.years.get("unknown").copied().unwrap_or(0);
    let (Some((first, _)), Some((last, _))) = (known.first(), known.last()) else {
        return;
    };
    let most = known.iter().map(|(_, count)| *count).max().unwrap_or(1);
    let of_year: BTreeMap<i32, u64> = known.iter().copied().collect();
    let _ = write!(
        page,
        "<h2>Years of release</h2><p class=\"quiet\">{first} to {last}; {} without a date</p><div class=\"years\">",
        grouped(unknown)
    );
    // Every year from the first to the last: a gap of the data must be a gap of the chart.
    for year in *first..=*last {
        let count = of_year.get(&year).copied().unwrap_or(0);
        let height = count as f64 * 100.0 / most as f64;
        let _ = write!(
            page,
            "<i style=\"height:{height:.1}%\" title=\"{year}: {}\"></i>",
            grouped(count)
        );
    }
    page.push_str("</div>");
}

/// What there is for each split, in the order in which one thinks of them.
fn in_order<'a, T>(by_split: &'a BTreeMap<&'static str, T>) -> Vec<(&'static str, &'a T)> {
    const ORDER: [&str; 3] = ["train", "validation", "test"];
    let place = |split: &str| ORDER.iter().position(|known| *known == split);
    let mut splits: Vec<_> = by_split
        .iter()
        .map(|(split, value)| (*split, value))
        .collect();
    splits.sort_by_key(|(split, _)| place(split).unwrap_or(ORDER.len()));
    splits
}

fn classes(page: &mut String, report: &Report) {
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    for counts in report.classes.values() {
        for (class, count) in counts {
            *totals.entry(class).or_default() += count;
        }
    }
    let most = totals.values().max().copied().unwrap_or(1).max(1);
    let mut order: Vec<(&str, u64)> = totals.into_iter().collect();
    order.sort_by_key(|(class, count)| (std::cmp::Reverse(*count), *class));
    page.push_str("<h2>Classes</h2><div class=\"scroll\"><table><tr><th>class</th>");
    for (split, _) in in_order(&report.classes) {
        let _ = write!(page, "<th class=\"n\">{split}</th>");
    }
    page.push_str("<th></th></tr>");
    for (class, total) in order {
        let _ = write!(page, "<tr><td>{}</td>", text(class));
        for (_, counts) in in_order(&report.classes) {
            let count = counts.get(class).copied().unwrap_or(0);
            let _ = write!(page, "<td class=\"n\">{}</td>", grouped(count));
        }
        let width = total as f64 * 16.0 / most as f64;
        let _ = write!(
            page,
            "<td><span class=\"bar\" style=\"width:{width:.2}rem\"></span></td></tr>"
        );
    }
    page.push_str("</table></div>");
}

fn label_counts(page: &mut String, report: &Report) {
    let numbers: std::collections::BTreeSet<u32> = report
        .label_counts
        .values()
        .flat_map(|counts| counts.keys().copied())
        .collect();
    page.push_str("<h2>Labels of one picture</h2><div class=\"scroll\"><table><tr><th>labels</th>");
    for (split, _) in in_order(&report.label_counts) {
        let _ = write!(page, "<th class=\"n\">{split}</th>");
    }
    page.push_str("</tr>");
    for number in numbers {
        let _ = write!(page, "<tr><td>{number}</td>");
        for (_, counts) in in_order(&report.label_counts) {
            let count = counts.get(&number).copied().unwrap_or(0);
            let total: u64 = counts.values().sum();
            let _ = write!(
                page,
                "<td class=\"n\">{} <span class=\"quiet\">{}</span></td>",
                grouped(count),
                percent(count, total)
            );
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div>");
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", part as f64 * 100.0 / whole.max(1) as f64)
}

/// 12,345.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Text from strangers, as text.
fn text(raw: &str) -> String {
    raw.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_strangers_text_stays_text() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(text("<script>\"'&"), "&lt;script&gt;&quot;&#39;&amp;");
    }
}

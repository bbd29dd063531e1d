//! Which columns of a table hold labels, and what their cells say: one column of joined labels, or columns
//! of 0 and 1, one a label.
//!
//! Nothing is left aside without a word: columns that are not used are named, with what speaks against
//! them.

use std::collections::BTreeSet;

use marquee_domain::report::Remarks;
use marquee_domain::spec::{LabelRules, Uncertain, Unlabelled};

use super::flags::{Flag, Tally, flag_in};
use super::label_cell::{RowLabels, Separator, labels_in};
use super::{Cell, Table};

/// Names of columns that one sentence lists.
const NAMED_MAX: usize = 20;

/// A column of 0 and 1.
#[derive(Debug)]
struct FlagColumn {
    label: String,
    /// What -1 says there.
    minus_one: Uncertain,
}

#[derive(Debug)]
enum Kind {
    Joined(Separator),
    Flags(Vec<FlagColumn>),
}

/// Which columns say what the labels are, and how.
#[derive(Debug)]
pub(in crate::fetch) struct LabelColumns {
    /// Their places in the table.
    pub(in crate::fetch) places: Vec<usize>,
    kind: Kind,
    unlabelled: Unlabelled,
    /// What is worth knowing about the columns.
    pub(in crate::fetch) remarks: Remarks,
}

/// What a table is asked for.
#[derive(Debug)]
pub(in crate::fetch) struct Question<'a> {
    /// Columns that hold something else than labels.
    pub(in crate::fetch) taken: &'a [usize],
    /// The column of joined labels, where there is one.
    pub(in crate::fetch) joined: Option<usize>,
    /// What joins labels there, unless the rules say.
    pub(in crate::fetch) separators: &'static [char],
    /// Whether columns of 0 and 1 beside joined labels are asked whether they state zeros.
    pub(in crate::fetch) confirms: bool,
    pub(in crate::fetch) rules: &'a LabelRules,
}

impl LabelColumns {
    /// The columns of `table` that hold labels, or why there are none.
    pub(in crate::fetch) fn of(table: &Table, question: &Question<'_>) -> Result<Self, String> {
        let others: Vec<usize> = (0..table.header.len())
            .filter(|at| !question.taken.contains(at) && question.joined != Some(*at))
            .collect();
        match question.joined {
            Some(joined) => Self::of_joined(table, question, joined, &others),
            None => Self::of_flags(table, question, &others),
        }
    }

    fn of_joined(
        table: &Table,
        question: &Question<'_>,
        joined: usize,
        others: &[usize],
    ) -> Result<Self, String> {
        let rules = question.rules;
        let separator = match &rules.separator {
            Some(given) => Separator::Given(given.clone()),
            None => Separator::Usual(question.separators),
        };
        let mut remarks = Remarks::default();
        let mut unlabelled = rules.unlabelled;
        let mut unused: Vec<String> = others.iter().map(|at| name_of(table, *at)).collect();
        if question.confirms && !others.is_empty() {
            let mut labels = BTreeSet::new();
            let columns: Vec<usize> = [joined].iter().chain(others).copied().collect();
            let mut tallies = vec![Tally::default(); others.len()];
            for row in table.rows(&columns)?.flatten() {
                labels.extend(labels_in(&row.cells[0], &separator).unwrap_or_default());
                for (tally, cell) in tallies.iter_mut().zip(&row.cells[1..]) {
                    tally.add(row.number, cell);
                }
            }
            let is_label = |(at, tally): &(&usize, &Tally)| {
                tally.is_flags() && labels.contains(table.header[**at].as_str())
            };
            let confirming: Vec<usize> = others
                .iter()
                .zip(&tallies)
                .filter(is_label)
                .map(|(at, _)| *at)
                .collect();
            // One column for each label: an empty cell then says none, as the zeros beside it do.
            if !labels.is_empty() && confirming.len() == labels.len() {
                if unlabelled == Unlabelled::Auto {
                    unlabelled = Unlabelled::Keep;
                }
                unused = others
                    .iter()
                    .filter(|at| !confirming.contains(at))
                    .map(|at| name_of(table, *at))
                    .collect();
            }
        }
        remarks.zeros_stated = unlabelled == Unlabelled::Keep;
        remarks.notes.extend(unused_note(&unused));
        Ok(Self {
            places: vec![joined],
            kind: Kind::Joined(separator),
            unlabelled,
            remarks,
        })
    }

    fn of_flags(table: &Table, question: &Question<'_>, others: &[usize]) -> Result<Self, String> {
        let rules = question.rules;
        let mut tallies = vec![Tally::default(); others.len()];
        // Rows at fault are passed over here: whoever reads the rows afterwards tells all of them,
        // with their lines.
        for row in table.rows(others)?.flatten() {
            for (tally, cell) in tallies.iter_mut().zip(&row.cells) {
                tally.add(row.number, cell);
            }
        }
        // A column without a name is an index that a program wrote: it may be 0, 1 by chance.
        let is_label = |at: &usize, tally: &Tally| {
            let name = table.header[*at].as_str();
            tally.is_flags() && !name.is_empty()
        };
        let mut this = Self {
            places: Vec::new(),
            kind: Kind::Flags(Vec::new()),
            unlabelled: rules.unlabelled,
            remarks: Remarks {
                zeros_stated: rules.unlabelled != Unlabelled::LeaveOut,
                ..Remarks::default()
            },
        };
        let (mut flags, mut unused, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        for (at, tally) in others.iter().zip(&tallies) {
            let name = name_of(table, *at);
            if is_label(at, tally) {
                this.places.push(*at);
                flags.push(FlagColumn {
                    label: table.header[*at].clone(),
                    minus_one: if tally.minus_is_no() {
                        Uncertain::Absent
                    } else {
                        rules.uncertain
                    },
                });
                taken.push((name, tally));
                continue;
            }
            let why = tally.why_not(table.unit());
            if tally.is_nearly_flags() {
                this.remarks.warnings.push(format!(
                    "column {name} is not used though most of it is 0 and 1: {why} ({} such); put it right, or \
                     remove the column",
                    cells(tally.odd)
                ));
            }
            unused.push(format!("{name} ({why})"));
        }
        if flags.is_empty() {
            return Err(no_labels(table, &unused));
        }
        this.remarks.notes.push(format!(
            "labels are the columns {}",
            listed(taken.iter().map(|(name, _)| name.as_str()))
        ));
        this.remarks.notes.extend(unused_note(&unused));
        this.remarks.notes.extend(rules_notes(&taken, rules));
        this.kind = Kind::Flags(flags);
        Ok(this)
    }

    /// The labels in the table's own order, where its columns name them.
    pub(in crate::fetch) fn known(&self) -> Vec<String> {
        match &self.kind {
            Kind::Joined(_) => Vec::new(),
            Kind::Flags(flags) => flags.iter().map(|flag| flag.label.clone()).collect(),
        }
    }

    /// What the cells of [`Self::places`] say of one row.
    pub(in crate::fetch) fn read(&self, cells: &[Cell]) -> RowLabels {
        let labels = match &self.kind {
            Kind::Joined(separator) => {
                let cell = cells.first().unwrap_or(&Cell::Empty);
                match (labels_in(cell, separator), self.unlabelled) {
                    (Some(labels), _) => labels,
                    (None, Unlabelled::Keep) => Vec::new(),
                    (None, Unlabelled::Auto | Unlabelled::LeaveOut) => return RowLabels::Unsaid,
                }
            }
            Kind::Flags(flags) => {
                let mut labels = Vec::new();
                for (flag, cell) in flags.iter().zip(cells) {
                    let is_there = match flag_in(cell) {
                        Some(Flag::One) => true,
                        Some(Flag::MinusOne) => match flag.minus_one {
                            Uncertain::Present => true,
                            Uncertain::Absent => false,
                            Uncertain::LeaveOut => {
                                let column = flag.label.clone();
                                return RowLabels::Uncertain { column };
                            }
                        },
                        Some(Flag::Zero | Flag::Blank) | None => false,
                    };
                    if is_there {
                        labels.push(flag.label.clone());
                    }
                }
                labels
            }
        };
        if labels.is_empty() && self.unlabelled == Unlabelled::LeaveOut {
            return RowLabels::Unsaid;
        }
        RowLabels::Said(labels)
    }
}

/// What blanks and -1 came to.
fn rules_notes(taken: &[(String, &Tally)], rules: &LabelRules) -> Vec<String> {
    let mut notes = Vec::new();
    let count = |of: fn(&Tally) -> u64| taken.iter().map(|(_, tally)| of(tally)).sum::<u64>();
    let blanks = count(|tally| tally.blanks);
    if blanks > 0 {
        notes.push(format!(
            "blank cells of label columns count as 0 ({})",
            cells(blanks)
        ));
    }
    let with_minus = |is_no: bool| {
        let columns = taken
            .iter()
            .filter(move |(_, tally)| tally.minus_ones > 0 && tally.minus_is_no() == is_no);
        columns.map(|(name, _)| name.as_str())
    };
    if with_minus(true).next().is_some() {
        notes.push(format!(
            "-1 counts as 0 in the columns {}, which have no other",
            listed(with_minus(true))
        ));
    }
    if with_minus(false).next().is_some() {
        let what = match rules.uncertain {
            Uncertain::Absent => "counts as 0",
            Uncertain::Present => "counts as 1",
            Uncertain::LeaveOut => "leaves the picture out",
        };
        let uncertain = count(|tally| {
            if tally.minus_is_no() {
                0
            } else {
                tally.minus_ones
            }
        });
        notes.push(format!(
            "-1 (uncertain) {what} in the columns {} ({}); the source's key uncertain decides",
            listed(with_minus(false)),
            cells(uncertain)
        ));
    }
    notes
}

fn cells(count: u64) -> String {
    match count {
        1 => "1 cell".to_owned(),
        more => format!("{more} cells"),
    }
}

fn no_labels(table: &Table, unused: &[String]) -> String {
    let why = if unused.is_empty() {
        "it has no other column".to_owned()
    } else {
        format!(
            "its other columns: {}",
            listed(unused.iter().map(String::as_str))
        )
    };
    format!(
        "{} has neither a column of labels (labels, Genre, tags, class ...) nor columns of 0 and 1, one a \
         label; {why}",
        table.name
    )
}

fn unused_note(unused: &[String]) -> Option<String> {
    let all = listed(unused.iter().map(String::as_str));
    (!unused.is_empty()).then(|| format!("columns not used: {all}"))
}

fn name_of(table: &Table, at: usize) -> String {
    match table.header[at].as_str() {
        "" => format!("{} (without a name)", at + 1),
        name => format!("{name:?}"),
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    let mut text = names[..names.len() - more].join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(text: &str, rules: &LabelRules) -> Result<(LabelColumns, Vec<String>), String> {
        let table = Table::of_bytes("t.csv", text.as_bytes().to_vec()).unwrap();
        let columns = LabelColumns::of(
            &table,
            &Question {
                taken: &[0],
                joined: table.find("genre"),
                separators: &['|', ','],
                confirms: true,
                rules,
            },
        )?;
        let rows = table.rows(&columns.places).unwrap();
        let shown = rows
            .map(|row| match columns.read(&row.unwrap().cells) {
                RowLabels::Said(labels) => labels.join("+"),
                RowLabels::Unsaid => "?".to_owned(),
                RowLabels::Uncertain { column } => format!("uncertain {column}"),
            })
            .collect();
        Ok((columns, shown))
    }

    #[test]
    fn zeros_blanks_and_words_of_every_kind_are_flags() {
        let text = "id,cat,dog,bird\na,1,True,\nb,0.0,FALSE,1\nc,0,false,NaN\nd,,,\n";
        let (columns, rows) = columns(text, &LabelRules::default()).unwrap();
        assert_eq!(rows, ["cat+dog", "bird", "", ""]);
        assert_eq!(columns.known(), ["cat", "dog", "bird"]);
        assert!(columns.remarks.zeros_stated);
        insta::assert_snapshot!(columns.remarks.notes.join("\n"), @r#"
        labels are the columns "cat", "dog", "bird"
        blank cells of label columns count as 0 (5 cells)
        "#);
    }

    #[test]
    fn minus_one_is_no_where_there_is_no_zero_and_else_what_the_rules_say() {
        let text = "id,male,edema\na,1,1\nb,-1,-1\nc,-1,0\nd,1,\n";
        let with = |uncertain| {
            let rules = LabelRules {
                uncertain,
                ..LabelRules::default()
            };
            columns(text, &rules).unwrap()
        };
        let (chosen, rows) = with(Uncertain::Absent);
        assert_eq!(rows, ["male+edema", "", "", "male"]);
        insta::assert_snapshot!(chosen.remarks.notes[1..].join("\n"), @r#"
        blank cells of label columns count as 0 (1 cell)
        -1 counts as 0 in the columns "male", which have no other
        -1 (uncertain) counts as 0 in the columns "edema" (1 cell); the source's key uncertain decides
        "#);
        assert_eq!(with(Uncertain::Present).1[1], "edema");
        assert_eq!(with(Uncertain::LeaveOut).1[1], "uncertain edema");
    }

    #[test]
    fn columns_that_are_not_used_are_named_with_what_speaks_against_them() {
        let mut text = String::from(",cat,grade,year,empty,minus\n");
        for row in 0..40 {
            let grade = if row == 7 { 3 } else { row % 2 };
            text += &format!("{row},{},{grade},19{row:02},,-1\n", row % 2);
        }
        let (chosen, _) = columns(&text, &LabelRules::default()).unwrap();
        insta::assert_snapshot!(chosen.remarks.notes[1], @r#"columns not used: "grade" (line 9 holds "3"), "year" (line 2 holds "1900"), "empty" (it is empty), "minus" (it holds -1 alone)"#);
        insta::assert_snapshot!(chosen.remarks.warnings.join("\n"), @r#"column "grade" is not used though most of it is 0 and 1: line 9 holds "3" (1 cell such); put it right, or remove the column"#);
        let error = columns("id,year\na,1999\n", &LabelRules::default()).unwrap_err();
        insta::assert_snapshot!(error, @r#"t.csv has neither a column of labels (labels, Genre, tags, class ...) nor columns of 0 and 1, one a label; its other columns: "year" (line 2 holds "1999")"#);
    }

    #[test]
    fn joined_labels_say_none_where_columns_of_zeros_stand_beside_them() {
        let text = "id,genre,year,Action,Drama\na,Action|Drama,1,1,1\nb,,1,0,0\nc,[],1,0,0\n";
        let (chosen, rows) = columns(text, &LabelRules::default()).unwrap();
        assert_eq!(rows, ["Action+Drama", "", ""]);
        assert!(chosen.remarks.zeros_stated);
        assert_eq!(chosen.remarks.notes, ["columns not used: \"year\""]);
        // One label has no column: the others state no zeros for it.
        let text = "id,genre,Action\na,Action|War,1\nb,,0\nc,[],0\n";
        let (chosen, rows) = columns(text, &LabelRules::default()).unwrap();
        assert_eq!(rows, ["Action+War", "?", ""]);
        assert!(!chosen.remarks.zeros_stated);
        let rules = LabelRules {
            unlabelled: Unlabelled::LeaveOut,
            ..LabelRules::default()
        };
        assert_eq!(columns(text, &rules).unwrap().1, ["Action+War", "?", "?"]);
    }
}

//! Files and who needs whom: which hang together in circles, and the shortest way round.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::Path;

use super::modules::Use;

/// Files each of which leads to each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Circle {
    /// Below the checkout.
    pub(super) files: BTreeSet<String>,
    /// The shortest way from a file back to itself.
    pub(super) steps: Vec<Step>,
}

/// One file that names something of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    from: String,
    line: usize,
    path: String,
    to: String,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<&str> = self.files.iter().map(String::as_str).collect();
        write!(f, "a circle of files: {}", files.join(", "))?;
        for step in &self.steps {
            write!(
                f,
                "\n  {}:{} needs {} (\"{}\")",
                step.from, step.line, step.to, step.path
            )?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    /// By file: the files it needs, each with the first place that says so.
    needs: BTreeMap<String, BTreeMap<String, Step>>,
}

impl Graph {
    pub(super) fn new(uses: Vec<Use>, root: &Path) -> Self {
        let name = |file: &Path| {
            let short = file.strip_prefix(root).unwrap_or(file);
            short.display().to_string()
        };
        let mut graph = Self::default();
        for one in uses {
            let (from, to) = (name(&one.from), name(&one.to));
            let step = Step {
                from: from.clone(),
                line: one.line,
                path: one.path,
                to: to.clone(),
            };
            let needs = graph.needs.entry(from).or_default();
            // The first place is enough: one is shown for each step of a circle.
            needs.entry(to).or_insert(step);
        }
        graph
    }

    /// Every set of files that hang together, by its first file.
    pub(super) fn circles(&self) -> Vec<Circle> {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut circles = Vec::new();
        for file in self.needs.keys() {
            if seen.contains(file.as_str()) {
                continue;
            }
            let forth = self.reached_from(file);
            let files: BTreeSet<&str> = forth
                .into_iter()
                .filter(|other| self.reached_from(other).contains(file.as_str()))
                .collect();
            if files.contains(file.as_str()) {
                let ways = files.iter().filter_map(|file| self.way_round(file));
                let steps = ways.min_by_key(Vec::len).unwrap_or_default();
                circles.push(Circle {
                    files: files.iter().map(|file| (*file).to_owned()).collect(),
                    steps,
                });
            }
            seen.extend(files);
        }
        circles
    }

    fn steps(&self, file: &str) -> impl Iterator<Item = &Step> {
        self.needs.get(file).into_iter().flat_map(BTreeMap::values)
    }

    /// All that a file needs, and what that needs, and so on. The file itself only where a way leads back.
    fn reached_from(&self, file: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&str> = self.steps(file).map(|step| step.to.as_str()).collect();
        while let Some(next) = open.pop() {
            if reached.insert(next) {
                open.extend(self.steps(next).map(|step| step.to.as_str()));
            }
        }
        reached
    }

    /// The shortest way from a file back to itself.
    fn way_round(&self, file: &str) -> Option<Vec<Step>> {
        let mut came_by: BTreeMap<&str, &Step> = BTreeMap::new();
        let mut open = VecDeque::from([file]);
        while let Some(here) = open.pop_front() {
            for step in self.steps(here) {
                if came_by.contains_key(step.to.as_str()) {
                    continue;
                }
                came_by.insert(&step.to, step);
                if step.to == file {
                    return Some(back(&came_by, file));
                }
                open.push_back(&step.to);
            }
        }
        None
    }
}

/// Follows the steps back from `file` until it is met again.
fn back(came_by: &BTreeMap<&str, &Step>, file: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut here = file;
    while let Some(step) = came_by.get(here) {
        steps.push((*step).clone());
        here = &step.from;
        if here == file {
            break;
        }
    }
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn graph(needs: &[(&str, &str)]) -> Graph {
        let file = |name: &str| PathBuf::from("/root/one/src").join(format!("{name}.rs"));
        let uses = (1..).zip(needs).map(|(line, (from, to))| Use {
            from: file(from),
            line,
            path: format!("crate::{to}"),
            to: file(to),
        });
        Graph::new(uses.collect(), Path::new("/root"))
    }

    fn sets(graph: &Graph) -> Vec<Vec<&str>> {
        let circles = graph.circles();
        let names = circles
            .iter()
            .map(|circle| circle.files.iter().map(|file| name_of(file)).collect());
        names.collect()
    }

    /// One of the letters that the tests here use.
    fn name_of(file: &str) -> &'static str {
        let name = file.trim_start_matches("one/src/").trim_end_matches(".rs");
        ["a", "b", "c", "d", "e"]
            .into_iter()
            .find(|known| *known == name)
            .unwrap()
    }

    #[test]
    fn what_only_leads_on_is_no_circle() {
        assert!(graph(&[]).circles().is_empty());
        assert!(
            graph(&[("a", "b"), ("b", "c"), ("a", "c"), ("d", "c")])
                .circles()
                .is_empty()
        );
    }

    #[test]
    fn those_that_lead_back_are_one_set_each_and_those_that_hang_on_are_in_none() {
        let needs = [
            ("a", "b"),
            ("b", "a"),
            ("b", "c"),
            ("d", "e"),
            ("e", "d"),
            ("c", "d"),
        ];
        assert_eq!(sets(&graph(&needs)), [["a", "b"], ["d", "e"]]);
        assert_eq!(
            sets(&graph(&[("a", "a")])),
            [["a"]],
            "a file that needs itself by way of a name"
        );
    }

    #[test]
    fn the_shortest_way_round_is_told_line_by_line() {
        let needs = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "b"), ("a", "b")];
        let graph = graph(&needs);
        let circles = graph.circles();
        assert_eq!(circles.len(), 1);
        assert_eq!(circles[0].steps.len(), 2);
        let text = circles[0].to_string();
        assert!(
            text.starts_with("a circle of files: one/src/a.rs, one/src/b.rs, one/src/c.rs\n"),
            "{text}"
        );
        assert!(
            text.contains("one/src/b.rs:2 needs one/src/c.rs (\"crate::c\")"),
            "{text}"
        );
        assert!(text.contains("one/src/c.rs:4 needs one/src/b.rs"), "{text}");
    }

    #[test]
    fn of_several_places_the_first_is_named_and_a_file_elsewhere_keeps_its_whole_path() {
        let graph = graph(&[("a", "b"), ("a", "b"), ("b", "a")]);
        assert_eq!(graph.needs["one/src/a.rs"]["one/src/b.rs"].line, 1);
        let uses = vec![Use {
            from: PathBuf::from("/other/x.rs"),
            line: 1,
            path: "x".into(),
            to: PathBuf::from("/other/y.rs"),
        }];
        let graph = Graph::new(uses, Path::new("/root"));
        assert!(graph.needs.contains_key("/other/x.rs"));
    }
}

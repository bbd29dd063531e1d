//! What every command of `marquee admin` answers in JSON, on a real coordinator: one document, with the very fields that
//! docs/cli.md names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::trust::Head;

const DOCS: &str = include_str!("../../../docs/cli.md");
const SECTION: &str = "## `marquee admin` in JSON";
/// How long a step of a rotation may be held up by those who have not heard of it yet.
const SOON: Duration = Duration::from_secs(40);

/// What docs/cli.md says of a command's answer.
#[derive(Debug, Clone)]
struct Documented {
    form: String,
    fields: BTreeSet<String>,
}

/// The words between backticks.
fn ticked(text: &str) -> Vec<String> {
    let parts = text.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

/// The same without what stands in brackets.
fn outside(text: &str) -> String {
    let mut depth = 0;
    let is_outside = |letter: &char| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => return depth == 0,
        }
        false
    };
    text.chars().filter(is_outside).collect()
}

fn documented() -> BTreeMap<String, Documented> {
    let section = DOCS.split(SECTION).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let mut all = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [commands, form, fields] = cells[..] else {
            panic!("three cells: {row}");
        };
        let row = Documented {
            form: form.to_owned(),
            fields: ticked(&outside(fields)).into_iter().collect(),
        };
        for command in ticked(commands) {
            assert!(
                all.insert(command.clone(), row.clone()).is_none(),
                "{command}"
            );
        }
    }
    all
}

/// Every command that does something itself, as the program's own help has them.
fn leaves(head: &Head, words: &str, all: &mut BTreeSet<String>) {
    let output = head
        .cli()
        .arg("admin")
        .args(words.split_whitespace())
        .arg("--help")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let listed = text.split("\nCommands:\n").nth(1).unwrap_or_default();
    let listed = listed.lines().take_while(|line| !line.is_empty());
    // What is further in goes on with the line before.
    let names: Vec<&str> = listed
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    if names.is_empty() {
        all.insert(words.trim().to_owned());
    }
    for name in names {
        leaves(head, &format!("{words} {name}"), all);
    }
}

/// Commands on one coordinator, and which of those that are documented were tried.
struct Walk {
    head: Head,
    documented: BTreeMap<String, Documented>,
    tried: BTreeSet<String>,
}

impl Walk {
    /// What a command prints; it must succeed.
    fn run(&self, line: &str) -> Result<String, String> {
        let mut command = self.head.cli();
        command
            .current_dir(self.head.path(""))
            .args(["--output", "json", "admin"])
            .args(line.split(' '));
        let output = command.output().unwrap();
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).unwrap());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The answer, which has the fields that are documented of `row`, and no other.
    fn has_fields(&mut self, row: &str, line: &str, text: &str) -> Value {
        let documented = &self.documented[row];
        let read = |text: &str| -> Value {
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{line}: {error} in {text:?}"))
        };
        let (answer, one) = match documented.form.as_str() {
            "object" => {
                let answer = read(text);
                (answer.clone(), answer)
            }
            "list" => {
                let answer = read(text);
                let first = answer.as_array().and_then(|all| all.first());
                let first =
                    first.unwrap_or_else(|| panic!("{line}: a list with something: {text}"));
                (answer.clone(), first.clone())
            }
            "lines" => {
                let all: Vec<Value> = text.lines().map(read).collect();
                (Value::from(all.clone()), all[0].clone())
            }
            form => panic!("docs/cli.md has an unknown form {form:?}"),
        };
        let fields = one.as_object().unwrap_or_else(|| panic!("{line}: {one}"));
        let fields: BTreeSet<String> = fields.keys().cloned().collect();
        assert_eq!(fields, documented.fields, "{line}");
        self.tried.insert(row.to_owned());
        answer
    }

    #[track_caller]
    fn says(&mut self, row: &str, more: &str) -> Value {
        let command = row
            .trim_end_matches(" --out")
            .trim_end_matches(" --dry-run");
        let line = format!("{command} {more}");
        let line = line.trim();
        let text = self.run(line).unwrap_or_else(|why| panic!("{line}: {why}"));
        self.has_fields(row, line, &text)
    }

    /// First as a trial, which has a row of its own in some cases, then in earnest.
    #[track_caller]
    fn tries_and_does(&mut self, row: &str, more: &str) -> Value {
        let trial = format!("{row} --dry-run");
        let trial = if self.documented.contains_key(&trial) {
            trial
        } else {
            row.to_owned()
        };
        self.says(&trial, format!("{more} --dry-run").trim());
        self.says(row, more)
    }

    /// A step of a rotation, as soon as nothing is in its way.
    async fn steps(&mut self, row: &str) {
        let line = format!("{row} --yes");
        let deadline = Instant::now() + SOON;
        let text = loop {
            match self.run(&line) {
                Ok(text) => break text,
                Err(why) => assert!(Instant::now() < deadline, "{line}: {why}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        self.has_fields(row, &line, &text);
    }

    fn users(&mut self) {
        self.tries_and_does("user add", "ada --role viewer --project vision --yes");
        let listed = self.says("user list", "");
        assert_eq!(listed[0]["roles"][0]["project"], "vision");
        self.tries_and_does("user role", "ada --role submitter");
        let made = self.tries_and_does("token create", "ada --ttl 2h");
        let secret = made["secret"].as_str().unwrap();
        assert!(secret.starts_with("mqu_"));
        let kept = self.says("token create --out", "ada --out ada.token");
        assert!(self.head.path("ada.token").exists());
        assert_eq!(
            self.says("token list", "").as_array().map(Vec::len),
            Some(2)
        );
        let id = kept["id"].as_str().unwrap();
        self.tries_and_does("token revoke", &format!("{id} --yes"));
        let gone = self.tries_and_does("user remove", "ada --yes");
        assert_eq!(gone["tokens_ended"], 1, "one was revoked before");
    }

    async fn workers(&mut self) {
        let made = self.tries_and_does("worker join-token", "--name gpu-01 --ttl 15m");
        let token = self.head.path("join.token");
        std::fs::write(&token, made["text"].as_str().unwrap()).unwrap();
        let joined = self.head.join("gpu-01", &self.head.address, &token);
        assert!(joined.status.success(), "{joined:?}");
        let other = self.says("worker join-token", "--uses 2");
        assert_eq!(other["token"]["uses"], 2);
        self.says("worker join-tokens", "");
        let id = other["token"]["id"].as_str().unwrap();
        self.tries_and_does("worker revoke-token", &format!("{id} --yes"));
        assert_eq!(self.says("worker list", "")[0]["name"], "gpu-01");
        let renamed = self.tries_and_does("worker rename", "gpu-01 gpu-1");
        assert_eq!(renamed[0]["name"], "gpu-1");
        self.tries_and_does("worker revoke", "gpu-1 --reason stolen --yes");
        self.tries_and_does("worker forget", "gpu-1 --yes");
    }

    async fn authority(&mut self) {
        self.says("ca", "");
        assert_eq!(self.says("ca rotate status", "")["phase"], "none");
        let begun = self.tries_and_does("ca rotate begin", "--yes");
        assert_eq!(begun["phase"], "begun");
        self.tries_and_does("ca rotate abandon", "--yes");
        self.says("ca rotate begin", "--yes");
        // Both, or the next one's certificate would not be believed here.
        self.tries_and_does("ca save", "");
        self.says("ca rotate switch", "--dry-run --force");
        self.steps("ca rotate switch").await;
        self.says("ca rotate finish", "--dry-run --force");
        self.steps("ca rotate finish").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_admin_command_answers_in_json_with_the_fields_that_are_documented() {
    let mut walk = Walk {
        head: Head::start(),
        documented: documented(),
        tried: BTreeSet::new(),
    };
    assert!(walk.documented.len() > 30, "{:#?}", walk.documented);
    let mut all = BTreeSet::new();
    leaves(&walk.head, "", &mut all);
    for words in &all {
        assert!(
            walk.documented.contains_key(words),
            "{words} has no row in docs/cli.md"
        );
    }

    // A trial shows what is there, so the first one has to be made.
    walk.says("project set", "vision --weight 2");
    walk.tries_and_does("project set", "vision --weight 2 --gpus 8");
    walk.users();
    walk.workers().await;
    let projects = walk.says("project list", "");
    assert!(projects.to_string().contains("vision"), "{projects}");
    walk.says("settings", "");
    let lines = walk.says("audit log", "--all");
    assert!(lines.to_string().contains("token_revoked"), "{lines}");
    assert_eq!(walk.says("audit verify", "")["clean"], true);
    let status = walk.says("status", "");
    assert_eq!(status["coordinators"][0]["leads"], true, "{status}");
    let would = walk.says("backup --dry-run", "copy --dry-run");
    assert_eq!(would["dry_run"], true);
    let made = walk.says("backup", "copy");
    assert_eq!(made["absent"], Value::Array(Vec::new()));
    walk.authority().await;

    let rows: BTreeSet<String> = walk.documented.keys().cloned().collect();
    assert_eq!(walk.tried, rows, "what is documented was tried");
}

//! Command lines: those that help texts, documents and messages name are ones that this program takes, and those that
//! nobody can mean are refused by name before anybody is asked.

use std::path::{Path, PathBuf};

use super::*;

fn parse_words(words: &[String]) -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches_from(words)?;
    Cli::from_arg_matches(&matches)
}

/// Words as a shell would take them, up to a comment, a pipe or the next command.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t') => words.extend(word.take()),
            (None, '|' | ';' | '&' | '<' | '>' | '\\' | ')') => break,
            (None, '#') if word.is_none() => break,
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// An example of a help text: what is said of it stands behind two blanks.
fn example(line: &str) -> Option<Vec<String>> {
    let line = line.strip_prefix("  ")?;
    let at = line.find("marquee ")?;
    // Such as `sudo -u marquee-worker marquee doctor`, or `id=$(marquee submit ...)`.
    let is_command = line[..at].chars().all(|c| c != ' ') || line.starts_with("sudo ");
    let line = line[at..].split("  ").next()?;
    is_command.then(|| words(line))
}

fn each_command(command: &clap::Command, see: &mut impl FnMut(&clap::Command)) {
    see(command);
    for below in command.get_subcommands() {
        each_command(below, see);
    }
}

#[test]
fn every_example_of_every_help_text_is_a_command_line_that_works() {
    let mut tried = 0;
    let mut wrong = Vec::new();
    each_command(&Cli::command(), &mut |command| {
        let after = command.get_after_help().map(ToString::to_string);
        for line in after.unwrap_or_default().lines() {
            let Some(words) = example(line) else { continue };
            tried += 1;
            if let Err(error) = parse_words(&words) {
                wrong.push(format!("{line}\n{error}"));
            }
        }
    });
    assert!(tried > 60, "{tried}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files below a folder with one of these endings, without what is built or fetched.
fn files(folder: &Path, endings: &[&str], all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        let is_left_out =
            name.starts_with('.') || matches!(name.as_str(), "target" | "node_modules" | "dist");
        if is_left_out {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            files(&path, endings, all);
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            all.push(path);
        }
    }
}

#[test]
fn every_command_line_in_the_documents_works() {
    let mut documents = vec![repository().join("README.md")];
    files(&repository().join("docs"), &[".md"], &mut documents);
    let mut tried = 0;
    let mut wrong = Vec::new();
    for file in documents {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut is_code = false;
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            }
            let line = line.trim_start().trim_start_matches("$ ");
            if !is_code || !line.starts_with("marquee ") {
                continue;
            }
            for line in line
                .split(';')
                .map(str::trim)
                .filter(|line| line.starts_with("marquee "))
            {
                // What stands for something that the reader knows.
                let line = line
                    .replace("JOB", "17")
                    .replace("NAME", "name")
                    .replace("...", "x");
                tried += 1;
                let words = words(&line);
                // A line that goes on is asked for its beginning alone.
                let goes_on = line.ends_with('\\');
                match parse_words(&words) {
                    Err(error)
                        if !(goes_on && error.kind() == ErrorKind::MissingRequiredArgument) =>
                    {
                        wrong.push(format!("{}:{number}: {line}\n{error}", file.display()));
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }
    assert!(tried > 40, "{tried}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is called so and is no command: the names of locks and connections, and the first line of a manifest.
const NO_COMMANDS: [&str; 3] = ["coordinator", "leader", "manifest"];

/// The commands that a text names in quotes: `marquee admin user role` of "marquee admin user role ada".
fn named(text: &str) -> Vec<Vec<&str>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("marquee ") {
        let is_quoted = text[..at].ends_with(['"', '`']);
        let rest = &text[at + "marquee ".len()..];
        let end = rest.find(['"', '`', '\\', '\n']).unwrap_or(rest.len());
        let plain = |word: &&str| {
            let is_plain = |c: char| c.is_ascii_lowercase() || c == '-';
            !word.starts_with('-') && !word.is_empty() && word.chars().all(is_plain)
        };
        let names: Vec<&str> = rest[..end].split(' ').take_while(plain).collect();
        if is_quoted && !names.is_empty() {
            found.push(names);
        }
    }
    found
}

#[test]
fn every_command_that_a_message_or_a_document_names_is_there() {
    let mut sources = vec![
        repository().join("README.md"),
        repository().join("SECURITY.md"),
    ];
    for folder in ["docs", "deploy"] {
        files(
            &repository().join(folder),
            &[".md", ".toml", ".yml"],
            &mut sources,
        );
    }
    for crate_ in [
        "cli",
        "coordinator",
        "domain",
        "proto",
        "store",
        "view",
        "worker",
        "datasets",
        "trainer",
    ] {
        files(
            &repository().join(crate_).join("src"),
            &[".rs"],
            &mut sources,
        );
    }
    let root = Cli::command();
    let (mut seen, mut wrong) = (0, Vec::new());
    for file in sources {
        // Tests name what is not there, too.
        let is_test = file.components().any(|part| part.as_os_str() == "tests");
        if is_test || file.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        for names in named(text) {
            seen += 1;
            if NO_COMMANDS.contains(&names[0]) {
                continue;
            }
            let Some(command) = root.find_subcommand(names[0]) else {
                wrong.push(format!("{}: marquee {}", file.display(), names.join(" ")));
                continue;
            };
            let mut command = command;
            for name in &names[1..] {
                match command.find_subcommand(name) {
                    Some(below) => command = below,
                    // What follows is an argument, unless only commands may follow.
                    None if command.is_subcommand_required_set() => {
                        wrong.push(format!("{}: marquee {}", file.display(), names.join(" ")));
                        break;
                    }
                    None => break,
                }
            }
        }
    }
    assert!(seen > 200, "{seen}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_nobody_can_mean_is_refused_by_name() {
    let long = "x".repeat(300);
    let cases: &[(&str, &str)] = &[
        ("jobs --limit -1", "-1"),
        ("jobs --kind training", "train"),
        ("jobs --pipeline 0x3", "0x3"),
        ("jobs extra", "extra"),
        ("show 17 18", "18"),
        ("show p3/", "p3/train"),
        ("explain 17 --with colour=red", "colour"),
        ("explain 17 --with ranks", "ranks"),
        ("explain 17 --with ranks=-1", "-1"),
        ("explain 17 --with ranks=many", "many"),
        ("explain 17 --with priority=high", "high"),
        ("logs", "<JOB>"),
        ("logs 17 --rank -1", "-1"),
        ("logs 17 --attempt first", "first"),
        ("logs 17 --tail ten", "ten"),
        ("metrics 17 --rank x", "x"),
        ("cancel", "<JOB|PIPELINE>"),
        ("retry", "<JOB>"),
        ("hold p3/", "p3/"),
        ("rm", "<PIPELINE|ARTIFACT>"),
        ("keep", "PIPELINE"),
        ("wait", "JOB|PIPELINE"),
        ("drain", "WORKER"),
        ("drain gpu-1 --deadline -5m", "-5"),
        ("drain gpu-1 --deadline 5", "5"),
        ("quarantine gpu-1/-1", "gpu-1/-1"),
        ("quarantine gpu-1/4294967296", "4294967296"),
        ("burn-in gpu-1", "WORKER/2"),
        ("burn-in gpu-1/0 --minutes 0", "0"),
        ("burn-in gpu-1/0 --minutes 1441", "1441"),
        ("window add gpu-1 --for 2h", "--from"),
        ("window add gpu-1 --from 2h", "--for"),
        ("window add gpu-1 --from 2h --for yesterday", "yesterday"),
        ("window remove gpu-1", "NUMBER"),
        ("window remove gpu-1 first", "first"),
        ("window", "add"),
        ("project set", "<NAME>"),
        ("project set 1vision", "1vision"),
        ("project set vision --weight 0", "--weight"),
        ("project set vision --weight -1", "-1"),
        ("project set vision --weight inf", "--weight"),
        ("project set vision --gpus 1.5", "1.5"),
        ("project set vision --gpus all", "all"),
        ("project set vision --gpu-hours-week NaN", "NaN"),
        ("project set vision --gpu-hours-week inf", "inf"),
        ("project set vision --gpu-hours-week -3", "-3"),
        ("project set vision --reset monthly", "monthly"),
        ("project set vision --keep-days -1", "-1"),
        ("artifacts get", "<DIGEST|JOB>"),
        ("artifacts ls --limit x", "x"),
        ("audit log --since 2h --all", "--all"),
        ("audit log --since later", "later"),
        ("audit log --limit 0", "0"),
        ("admin user add ada", "--role"),
        ("admin user add ada --role root", "root"),
        (
            "admin user add ada --role admin --project Vision!",
            "Vision!",
        ),
        ("admin token create", "<USER>"),
        ("admin token create ada --ttl soon", "soon"),
        ("admin token revoke 4f0c", "twelve"),
        ("admin token revoke zzzzzzzzzzzz", "twelve"),
        ("admin worker join-token --uses 0", "0"),
        ("admin worker join-token --uses 1001", "1001"),
        ("admin worker join-token --ttl forever", "forever"),
        ("admin worker rename gpu-1", "NEW-NAME"),
        ("chaos kill-rank", "<JOB>"),
        ("schedule add nightly p.toml", "--cron"),
        ("schedule add Nightly! p.toml --cron x", "Nightly!"),
        (
            "schedule add nightly p.toml --cron x --overlap both",
            "both",
        ),
        ("schedule add nightly p.toml --cron x --missed all", "all"),
        ("submit f --set =3", "=3"),
        ("submit f --project 9", "9"),
        ("demo --films 0", "0"),
        ("up --cpu-slots 0", "0"),
        ("up --listen localhost", "localhost"),
        ("bench --steps 0", "0"),
        ("completions", "<SHELL>"),
        ("login extra words", "extra"),
        ("--output", "--output"),
        ("-o xml jobs", "xml"),
        ("jobs -o json -o table", "--output"),
    ];
    let mut wrong = Vec::new();
    for (line, word) in cases {
        let line = format!("marquee {line}");
        match parse(&line) {
            Ok(cli) => wrong.push(format!("{line} is taken: {:?}", cli.command)),
            Err(error) if !error.to_string().contains(word) => {
                wrong.push(format!("{line} does not name {word}: {error}"));
            }
            Err(error) => assert!(error.exit_code() == 2, "{line}: {error}"),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // However long it is, what is refused is refused.
    for line in [
        format!("marquee show {long}"),
        format!("marquee project set {long}"),
    ] {
        assert!(parse(&line).is_err());
    }
}

#[test]
fn what_is_at_the_edge_is_taken() {
    for line in [
        "jobs --limit 1",
        "jobs --state failed --state cancelled --kind eval",
        "show p9223372036854775807",
        "show 9223372036854775807",
        "show 17[0]",
        "show p3/sweep[4294967295]",
        "explain 17 --with ranks=1 --with priority=-5",
        "explain 17 --with timeout=60s",
        "logs 17 --rank 0 --attempt 1 --tail 1 --raw",
        "quarantine gpu-1/0 --lift",
        "burn-in gpu-1/127 --minutes 1440",
        "drain gpu-1 --deadline 2027-03-01T06:00:00+01:00",
        "project set v --weight 0.5 --gpus 0 --queued none --gpu-hours-week 0.5 --reset sun",
        "admin worker join-token --uses 1000 --ttl 1m --name gpu-01",
        "admin token revoke 4F0C2A91B6D3",
        "audit log --newest --limit 1",
        "artifacts get 5a3cf0918d22 report.html a/b.txt --to .",
        "cancel 17 p3 train p3/train",
        "-o quiet workers --gpus",
    ] {
        let line = format!("marquee {line}");
        assert!(
            parse(&line).is_ok(),
            "{line}: {}",
            parse(&line).unwrap_err()
        );
    }
}

#[test]
fn a_shells_words_are_told_apart() {
    let cases: &[(&str, &[&str])] = &[
        ("marquee jobs # all of them", &["marquee", "jobs"]),
        ("marquee jobs | head", &["marquee", "jobs"]),
        ("a --set 'x=\"y z\"' b", &["a", "--set", "x=\"y z\"", "b"]),
        (
            "a --reason \"new power\" > file",
            &["a", "--reason", "new power"],
        ),
        ("a ''", &["a", ""]),
    ];
    for (line, expected) in cases {
        assert_eq!(words(line), *expected, "{line}");
    }
}

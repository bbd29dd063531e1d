//! `marquee logs`.

use std::borrow::Cow;

use marquee_proto::v1::{self, LogLine};
use marquee_view::{harmless_json, harmless_line, json, units};

use crate::error::{CliError, Result};
use crate::output::Format;
use crate::requests;
use crate::say::say;
use crate::session::Session;
use crate::target::Target;

/// Show what a job printed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee logs train --tail 20
  marquee logs -f train --rank 0
  marquee logs train --rank 0 --raw > train.log
  marquee logs 17 --attempt 1 --output json")]
pub(super) struct Args {
    job: Target,
    /// Go on with new lines until the job has ended
    #[arg(long, short)]
    follow: bool,
    /// Only this rank
    #[arg(long)]
    rank: Option<u32>,
    /// This attempt [default: the newest]
    #[arg(long)]
    attempt: Option<u32>,
    /// Only the last so many stored lines
    #[arg(long, short = 'n', value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..))]
    tail: Option<u32>,
    /// Every byte as the program printed it, for a file or a pipe; without it, what a terminal would obey is left out
    #[arg(long)]
    raw: bool,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    if args.raw && session.output.is_terminal() {
        let text = "--raw is for a file or a pipe: this terminal would obey whatever the program printed; leave it out";
        return Err(CliError::Usage(text.to_owned()));
    }
    let remote = session.remote()?;
    let request = v1::LogsRequest {
        job_id: args.job.resolve_job(&remote).await?,
        attempt: args.attempt.unwrap_or(0),
        rank: args.rank,
        follow: args.follow,
        tail: args.tail.unwrap_or(0),
    };
    let one_rank = request.rank.is_some();
    let output = session.output;
    let raw = args.raw;
    let (mut lost, mut damaged) = (0_u64, 0_u64);
    requests::logs::each(&remote, request, |line| {
        // Counted on the way and said at the end: in JSON, or far up in a terminal, a gap is easily
        // overlooked.
        lost += u64::from(line.lost_before) + u64::from(line.lost_after);
        damaged += u64::from(line.damaged);
        Ok(output.text(&render(&line, output.format, one_rank, raw))?)
    })
    .await?;
    if lost + damaged > 0 {
        say!(
            "warning: this log is not whole: {lost} lines are lost and {damaged} are not what was stored; the \
             database was damaged, or somebody changed it"
        );
    }
    Ok(())
}

/// A line as printed; the rank stands before it unless one was asked for.
fn render(line: &LogLine, format: Format, one_rank: bool, raw: bool) -> String {
    let text = if raw {
        Cow::Borrowed(line.text.as_str())
    } else {
        harmless_line(&line.text)
    };
    let shown = match format {
        Format::Table if one_rank => format!("{text}\n"),
        Format::Table => format!("[{}] {text}\n", line.rank),
        Format::Json => {
            let json = json::log_line(line).to_string();
            format!("{}\n", harmless_json(&json))
        }
        Format::Quiet => format!("{text}\n"),
    };
    // JSON says it in fields of its own, and a file is to have what the program printed.
    if raw || format != Format::Table {
        return shown;
    }
    let gap = |count| match count {
        0 => String::new(),
        count => format!(
            "[marquee] {} of rank {} lost here\n",
            units::plural(count, "line"),
            line.rank
        ),
    };
    let (before, after) = (
        gap(line.lost_before as usize),
        gap(line.lost_after as usize),
    );
    let damage = if line.damaged {
        "[marquee] the next line is not what was stored\n"
    } else {
        ""
    };
    format!("{before}{damage}{shown}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_printed_reaches_no_terminal_and_every_pipe_that_asks_for_it() {
        let line = LogLine {
            rank: 3,
            text: "\u{1b}]52;c;ZXZpbA==\u{7}loss 0.1".into(),
            ..LogLine::default()
        };
        let shown = |format, one_rank| render(&line, format, one_rank, false);
        for text in [
            shown(Format::Table, true),
            shown(Format::Table, false),
            shown(Format::Quiet, true),
            shown(Format::Json, true),
        ] {
            let line = text.trim_end_matches('\n');
            assert!(!line.contains(char::is_control), "{text:?}");
            assert!(text.contains("loss 0.1"));
        }
        let torn = LogLine {
            lost_before: 2,
            lost_after: 1,
            damaged: true,
            text: "x".into(),
            ..line.clone()
        };
        assert_eq!(
            render(&torn, Format::Table, false, false),
            "[marquee] 2 lines of rank 3 lost here\n[marquee] the next line is not what was stored\n[3] x\n\
             [marquee] 1 line of rank 3 lost here\n"
        );
        assert_eq!(render(&torn, Format::Quiet, false, false), "x\n");
        assert_eq!(
            render(&line, Format::Quiet, true, true),
            format!("{}\n", line.text)
        );
    }
}

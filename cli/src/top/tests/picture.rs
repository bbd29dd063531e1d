//! The picture of docs/cli.md: a small cluster at work, drawn as a terminal would.
//!
//! `MARQUEE_SHOTS=docs/images cargo test -p marquee-cli its_picture -- --ignored`

use std::fmt::Write as _;

use marquee_proto::v1::{
    Device, DeviceCount, Gpu, Inventory, Job, JobKind, JobState, Overview, QueueReason,
    RunningRank, Worker, WorkerState, device::Kind,
};
use marquee_view::samples;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

use super::{Curves, News, ago, app, count, now, screen, training};
use crate::top::ink::Ink;
use crate::top::state::App;

/// Pixels of a cell.
const WIDE: usize = 9;
const HIGH: usize = 19;

fn host(name: &str, held: &[(i64, &str, u32)], state: WorkerState) -> Worker {
    let gpu = |index| Gpu {
        index,
        name: "Tesla K80".into(),
        memory_bytes: 12 << 30,
        ..Gpu::default()
    };
    let mut next = 0;
    let mut rank = |(job_id, job_name, gpus): &(i64, &str, u32)| {
        let devices = (next..next + gpus).map(|index| Device {
            kind: Some(Kind::Gpu(index)),
        });
        next += gpus;
        RunningRank {
            job_id: *job_id,
            job_name: (*job_name).into(),
            devices: devices.collect(),
            ..RunningRank::default()
        }
    };
    Worker {
        name: name.into(),
        state: state.into(),
        ranks: held.iter().map(&mut rank).collect(),
        inventory: Some(Inventory {
            cpu_slots: 4,
            gpus: (0..8).map(gpu).collect(),
            ..Inventory::default()
        }),
        ..Worker::default()
    }
}

fn at_work() -> App {
    let mut app = app();
    app.ink = Ink {
        colour: true,
        unicode: true,
    };
    let mut jobs: Vec<Job> = [
        (41, "resnet50", 3),
        (38, "vit-small", 11),
        (37, "inception", 5),
    ]
    .into_iter()
    .map(|(id, name, epoch)| {
        let mut job = training(id, name);
        if let Some(progress) = &mut job.progress {
            progress.phase = format!("epoch {epoch}/12");
        }
        job
    })
    .collect();
    jobs[1].pipeline_name = "vision".into();
    let ended = [
        (36, "preprocess", JobKind::Preprocess, JobState::Succeeded),
        (33, "train", JobKind::Train, JobState::Failed),
        (31, "eval", JobKind::Eval, JobState::Succeeded),
    ];
    let ended = ended.map(|(id, name, kind, state)| Job {
        attempt: 1,
        started_at: ago(2_400),
        finished_at: ago(300 + 200 * (36 - id)),
        failure: (state == JobState::Failed).then(samples::failure),
        ..samples::job(id, name, kind, state)
    });
    for (job, decay) in [(41, 0.9), (38, 0.95), (37, 0.86)] {
        let wave = |step: i32| f64::from((step * 7 + i32::try_from(job).unwrap()) % 5);
        let loss = (0..40).map(|step| 2.1 * f64::powi(decay, step) + 0.02 * wave(step) + 0.2);
        let rate = (0..40).map(|step| 300.0 + 9.0 * wave(step));
        let curves = Curves {
            loss: loss.collect(),
            rate: rate.collect(),
        };
        app.take(News::Curves(job, curves), now());
    }
    app.take(
        News::Workers(vec![
            host(
                "gpu-01",
                &[(41, "resnet50", 4), (38, "vit-small", 4)],
                WorkerState::Online,
            ),
            host(
                "gpu-02",
                &[(38, "vit-small", 4), (37, "inception", 2)],
                WorkerState::Online,
            ),
            host("gpu-03", &[], WorkerState::Lost),
        ]),
        now(),
    );
    let overview = Overview {
        jobs: vec![
            count(JobState::Running, 3),
            count(JobState::Queued, 9),
            count(JobState::Waiting, 12),
            count(JobState::Succeeded, 118),
            count(JobState::Failed, 2),
        ],
        queue: vec![QueueReason {
            text: "needs 4 GPUs on one host; gpu-02 has 2 free".into(),
            jobs: 9,
            example_job_id: 42,
        }],
        gpus: Some(DeviceCount {
            held: 14,
            all: 16,
            closed: 0,
        }),
        cpus: Some(DeviceCount {
            held: 0,
            all: 8,
            closed: 0,
        }),
        workers_online: 2,
        workers_lost: 1,
        newest_job_id: 42,
        running: jobs,
        ended: ended.into(),
        ..Overview::default()
    };
    app.take(News::Overview(Box::new(overview)), now());
    app
}

#[test]
#[ignore = "makes a picture for the documentation; MARQUEE_SHOTS names its folder"]
fn its_picture() {
    let folder = std::env::var("MARQUEE_SHOTS").unwrap();
    let mut terminal = Terminal::new(TestBackend::new(100, 24)).unwrap();
    let mut app = at_work();
    terminal
        .draw(|frame| screen::draw(&mut app, frame.buffer_mut(), now()))
        .unwrap();
    let picture = svg(terminal.backend().buffer());
    std::fs::write(format!("{folder}/top.svg"), picture).unwrap();
}

const COLOURS: [(Color, &str); 4] = [
    (Color::Green, "#7ec97e"),
    (Color::Red, "#ff7b72"),
    (Color::Cyan, "#62c4d8"),
    (Color::Yellow, "#e3b341"),
];

fn colour(cell: &Cell) -> &'static str {
    match COLOURS.iter().find(|(colour, _)| *colour == cell.fg) {
        Some((_, shown)) => shown,
        None if cell.modifier.contains(Modifier::DIM) => "#8b929c",
        None => "#e6e6e6",
    }
}

fn svg(buf: &Buffer) -> String {
    let (columns, rows) = (usize::from(buf.area.width), usize::from(buf.area.height));
    let (width, height) = (columns * WIDE + 24, rows * HIGH + 24);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', monospace\" font-size=\"15\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#14171b\"/>\n"
    );
    for (row, cells) in buf.content.chunks(columns).enumerate() {
        let y = 12 + row * HIGH;
        for (column, cell) in cells.iter().enumerate() {
            if cell.modifier.contains(Modifier::REVERSED) {
                let x = 12 + column * WIDE;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{WIDE}\" height=\"{HIGH}\" fill=\"#e6e6e6\"/>"
                );
            }
        }
        // One element for each stretch of a look, with the place of each of its characters.
        let look = |cell: &Cell| (colour(cell), cell.modifier);
        let mut at = 0;
        while at < columns {
            let end = (at..columns).find(|place| look(&cells[*place]) != look(&cells[at]));
            let end = end.unwrap_or(columns);
            let text: String = cells[at..end].iter().map(Cell::symbol).collect();
            if !text.trim().is_empty() {
                let places: Vec<String> = (at..end)
                    .map(|place| (12 + place * WIDE).to_string())
                    .collect();
                let modifier = cells[at].modifier;
                let fill = if modifier.contains(Modifier::REVERSED) {
                    "#14171b"
                } else {
                    colour(&cells[at])
                };
                let bold = if modifier.contains(Modifier::BOLD) {
                    " font-weight=\"bold\""
                } else {
                    ""
                };
                let line = if modifier.contains(Modifier::UNDERLINED) {
                    " text-decoration=\"underline\""
                } else {
                    ""
                };
                let text = text.replace('&', "&amp;").replace('<', "&lt;");
                let _ = writeln!(
                    svg,
                    "<text x=\"{}\" y=\"{}\" fill=\"{fill}\"{bold}{line} xml:space=\"preserve\">{text}</text>",
                    places.join(" "),
                    y + HIGH - 5,
                );
            }
            at = end;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

//! `marquee-prep run SPEC`: the child contract of `marquee_domain::child`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use marquee_datasets::channel::Channel;
use marquee_datasets::job::{Context, JobError, Reporter, Stop};
use marquee_datasets::{fetch, preprocess};
use marquee_domain::FailureClass;
use marquee_domain::child::{self, ChildEvent, ChildSpec};
use marquee_domain::failure::Failure;
use marquee_domain::report;
use marquee_domain::spec::Work;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::system_clock;

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The spec file: a `ChildSpec` as JSON
    spec: PathBuf,
}

/// Does the job. Events go to the worker's channel, text for people to stderr; the exit status says how it
/// ended.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let channel = match Channel::from_env() {
        Ok(channel) => channel,
        Err(error) => {
            tracing::error!("events cannot be written: {error}");
            return Ok(exit(child::ExitCode::USAGE));
        }
    };
    let spec = match read_spec(&args.spec) {
        Ok(spec) => spec,
        Err(error) => {
            tracing::error!("{error:#}");
            return Ok(exit(child::ExitCode::USAGE));
        }
    };
    // One provider of cryptography for all TLS, chosen here so that no library brings its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let context = Context {
        reporter: Reporter::new(channel),
        stop: stop_on_signals()?,
        clock: system_clock,
        helper: Some(std::env::current_exe().context("this program cannot find itself")?),
    };
    let code = match work(spec, &context).await {
        Ok(summary) => {
            context.reporter.last_word(&ChildEvent::Finished {
                summary: report::summary(&summary),
            });
            child::ExitCode::OK
        }
        Err(JobError::Stopped) => {
            tracing::info!("told to stop, and did");
            child::ExitCode::STOPPED
        }
        Err(JobError::Failed(Failure { class, message })) => {
            tracing::error!(class = class.as_str(), "{message}");
            context
                .reporter
                .last_word(&ChildEvent::Failed { class, message });
            child::ExitCode::FAILED
        }
    };
    Ok(exit(code))
}

fn read_spec(file: &Path) -> anyhow::Result<ChildSpec> {
    let shown = file.display();
    let text = std::fs::read(file).with_context(|| format!("spec {shown} cannot be read"))?;
    serde_json::from_slice(&text).with_context(|| format!("spec {shown} is no child spec"))
}

fn exit(code: child::ExitCode) -> ExitCode {
    ExitCode::from(u8::try_from(code.0).unwrap_or(u8::MAX))
}

async fn work(spec: ChildSpec, context: &Context) -> Result<Value, JobError> {
    let kind = spec.work.kind();
    let summary = match &spec.work {
        Work::Fetch(settings) => {
            // Attempts that follow each other must not wait alike.
            let seed = spec.job.0.unsigned_abs() << 16 | u64::from(spec.attempt.0);
            serde_json::to_value(fetch::run(settings, &spec, seed, context).await?)
        }
        Work::Preprocess(settings) => {
            let input = spec.inputs.get("dataset").ok_or_else(|| {
                usage("the spec has no input \"dataset\"; a preprocess job needs one".to_owned())
            })?;
            // This thread works without a pause from here on; the runtime moves its other tasks,
            // such as the one that waits for signals, to other threads.
            serde_json::to_value(tokio::task::block_in_place(|| {
                preprocess::run(settings, input, &spec.output, spec.threads, context)
            })?)
        }
        Work::Train(_) | Work::Eval(_) | Work::Command(_) => {
            return Err(usage(format!(
                "marquee-prep does fetch and preprocess jobs, and this spec is of kind {kind}; \
                 marquee-trainer does train and eval"
            )));
        }
    };
    summary.map_err(|error| {
        let message = format!("the summary cannot be written as JSON: {error}");
        JobError::Failed(Failure {
            class: FailureClass::Crash,
            message,
        })
    })
}

fn usage(message: String) -> JobError {
    JobError::Failed(Failure {
        class: FailureClass::UserError,
        message,
    })
}

/// SIGTERM and SIGINT both ask to leave in order.
fn stop_on_signals() -> anyhow::Result<Stop> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // The job may be over already.
        let _ = tell.send(true);
        tell.closed().await;
    });
    Ok(Stop::new(told))
}

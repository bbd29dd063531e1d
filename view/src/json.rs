//! Messages as JSON: snake_case names, words for enums, RFC 3339 times, null for what is not set.
//! Scripts depend on these names; docs/cli.md lists them.

use chrono::{DateTime, Utc};
use marquee_proto::v1;
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::{units, words};

fn time(at: Option<&Timestamp>) -> Value {
    units::time(at).map_or(Value::Null, |at: DateTime<Utc>| units::rfc3339(at).into())
}

/// Text that stands for nothing when empty.
pub(crate) fn text(value: &str) -> Value {
    if value.is_empty() {
        Value::Null
    } else {
        value.into()
    }
}

/// JSON that travels inside a message; null where there is none.
fn embedded(value: &str) -> Value {
    // A summary that is no JSON is a program's own doing: it is passed on as the text it is, and breaks nobody's
    // script.
    serde_json::from_str(value).unwrap_or_else(|_| text(value))
}

fn failure(failure: Option<&v1::Failure>) -> Value {
    failure.map_or(
        Value::Null,
        // The same word as in SQL and on screen: whoever compares it in a script finds it in the
        // documentation.
        |failure| json!({ "class": words::failure_word(failure), "message": failure.message }),
    )
}

fn progress(progress: Option<&v1::Progress>) -> Value {
    progress.map_or(Value::Null, |progress| {
        json!({
            "phase": progress.phase,
            "done": progress.done,
            "total": progress.total,
            "unit": progress.unit,
            "at": time(progress.at.as_ref()),
            "phase_started_at": time(progress.phase_started_at.as_ref()),
            "phase_started_done": progress.phase_started_done,
            "bytes": progress.bytes,
            "phase_started_bytes": progress.phase_started_bytes,
            "problems": progress.problems,
        })
    })
}

#[must_use]
pub fn job(job: &v1::Job) -> Value {
    json!({
        "id": job.id,
        "pipeline_id": job.pipeline_id,
        "pipeline_name": job.pipeline_name,
        "name": job.name,
        "kind": words::job_kind(job),
        "state": words::job_state(job),
        "reason": text(&job.reason),
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "ranks": job.ranks,
        "priority": job.priority,
        "created_at": time(job.created_at.as_ref()),
        "started_at": time(job.started_at.as_ref()),
        "finished_at": time(job.finished_at.as_ref()),
        "failure": failure(job.failure.as_ref()),
        "progress": progress(job.progress.as_ref()),
        "artifact_digest": text(&job.artifact_digest),
        "needs": job.needs,
        "needs_on": job.needs_on.iter().map(|need| (need.job_name.clone(), need.on.clone().into()))
            .collect::<serde_json::Map<String, Value>>(),
        "not_needed": job.not_needed,
        "values": job.values.iter().map(|(name, value)| (name.clone(), value.clone().into()))
            .collect::<serde_json::Map<String, Value>>(),
        "cancel_requested": job.cancel_requested,
        "elements": job.elements.as_ref().map(|counts| json!({
            "waiting": counts.waiting,
            "queued": counts.queued,
            "running": counts.running,
            "succeeded": counts.succeeded,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
        })),
        "element": job.element.as_ref().map(|element| json!({
            "array_job_id": element.array_job_id,
            "index": element.index,
        })),
        // On the wire 0 means "none"; a script would take it for the number of a job.
        "reused_from_job_id": (job.reused_from_job_id != 0).then_some(job.reused_from_job_id),
        "project": text(&job.project),
        "held_by": text(&job.held_by),
        "held_at": time(job.held_at.as_ref()),
        "makes_room": text(&job.makes_room),
        "idle_since": time(job.idle_since.as_ref()),
    })
}

#[must_use]
pub fn pipeline(pipeline: &v1::Pipeline) -> Value {
    json!({
        "id": pipeline.id,
        "name": pipeline.name,
        "created_at": time(pipeline.created_at.as_ref()),
        "kept_by": text(&pipeline.kept_by),
        "kept_at": time(pipeline.kept_at.as_ref()),
        "jobs": pipeline.jobs.iter().map(job).collect::<Vec<_>>(),
    })
}

fn rank(rank: &v1::AttemptRank) -> Value {
    let mut value = json!({
        "rank": rank.rank,
        "worker_name": rank.worker_name,
        "devices": rank.devices.iter().map(words::device).collect::<Vec<_>>(),
        "state": words::rank_state(rank),
        "progress": progress(rank.progress.as_ref()),
        "summary": embedded(&rank.summary_json),
        "failure": failure(rank.failure.as_ref()),
        "lost_at": time(rank.lost_at.as_ref()),
    });
    // Most ranks get on: the key is there only where one does not.
    if let (Some(stall), Some(fields)) = (&rank.stall, value.as_object_mut()) {
        let stall = json!({
            "idle_s": stall.idle_ms as f64 / 1_000.0,
            "step": stall.step,
            "phase": stall.phase,
            "is_stopped": stall.is_stopped,
            "waits_for_peers": stall.waits_for_peers,
            "process": stall.process,
        });
        fields.insert("stall".into(), stall);
    }
    value
}

fn attempt(attempt: &v1::Attempt) -> Value {
    json!({
        "number": attempt.number,
        "state": words::attempt_state(attempt),
        "created_at": time(attempt.created_at.as_ref()),
        "started_at": time(attempt.started_at.as_ref()),
        "finished_at": time(attempt.finished_at.as_ref()),
        "failure": failure(attempt.failure.as_ref()),
        "ranks": attempt.ranks.iter().map(rank).collect::<Vec<_>>(),
        "resumed_from_step": attempt.resumed_from_step,
        "waited_for": text(&attempt.waited_for),
    })
}

/// A job with its history: the job's own fields, and beside them the rest.
#[must_use]
pub fn job_detail(detail: &v1::JobDetail) -> Value {
    // The job's own fields at the top, as in a listing: what reads one job reads many.
    let mut value = detail.job.as_ref().map_or_else(|| json!({}), job);
    value["spec"] = embedded(&detail.spec_json);
    if !detail.spec_unreadable.is_empty() {
        value["spec_unreadable"] = json!(detail.spec_unreadable);
    }
    value["attempts"] = detail.attempts.iter().map(attempt).collect();
    let event = |event: &v1::JobEvent| json!({ "at": time(event.at.as_ref()), "attempt": event.attempt, "text": event.text, "caller": text(&event.caller) });
    value["events"] = detail.events.iter().map(event).collect();
    // Where there is something to say: of most jobs there is not.
    if let Some(expected) = &detail.expected {
        value["expected"] = forecast(expected);
    }
    if let Some(first) = &detail.first_said {
        value["first_said"] = forecast(first);
    }
    if let Some(found) = &detail.forecast_accuracy {
        value["forecast_accuracy"] = accuracy(found);
    }
    value
}

/// The cluster as a whole.
#[must_use]
pub fn overview(overview: &v1::Overview) -> Value {
    let devices = |count: Option<v1::DeviceCount>| {
        let count = count.unwrap_or_default();
        json!({ "held": count.held, "all": count.all, "closed": count.closed })
    };
    // The same words as in a job's own "state", which scripts compare them with.
    let word = |state: v1::JobState| {
        words::job_state(&v1::Job {
            state: state.into(),
            ..v1::Job::default()
        })
    };
    let jobs = overview.jobs.iter();
    let jobs: serde_json::Map<String, Value> = jobs
        .map(|count| (word(count.state()).to_owned(), count.jobs.into()))
        .collect();
    json!({
        "now": time(overview.now.as_ref()),
        "version": overview.version,
        "forecasts": overview.forecasts.as_ref().map(accuracy),
        "cluster_id": overview.cluster_id,
        "safe_mode": text(&overview.safe_mode),
        "stands_by": overview.stands_by,
        "leader": text(&overview.leader),
        "jobs": jobs,
        "queued": overview.queued,
        "queue": overview.queue.iter().map(|reason| json!({
            "jobs": reason.jobs,
            "reason": reason.text,
            "example_job_id": reason.example_job_id,
        })).collect::<Value>(),
        "workers_online": overview.workers_online,
        "workers_lost": overview.workers_lost,
        "gpus": devices(overview.gpus),
        "idle_jobs": overview.idle_jobs,
        "idle_gpus": overview.idle_gpus,
        "cpus": devices(overview.cpus),
        "running": overview.running.iter().map(job).collect::<Value>(),
        "ended": overview.ended.iter().map(job).collect::<Value>(),
    })
}

#[must_use]
pub fn worker(worker: &v1::Worker) -> Value {
    let inventory = worker.inventory.as_ref().map_or(Value::Null, |host| {
        let gpu = |gpu: &v1::Gpu| {
            json!({
                "index": gpu.index,
                "uuid": gpu.uuid,
                "name": gpu.name,
                "memory_bytes": gpu.memory_bytes,
                "part_of": gpu.part.map(|part| part.of),
                // As text: 8.10 as a number would be 8.1.
                "compute_capability": format!("{}.{}", gpu.compute_major, gpu.compute_minor),
            })
        };
        json!({
            "hostname": host.hostname,
            "cpu_threads": host.cpu_threads,
            "memory_bytes": host.memory_bytes,
            "cpu_slots": host.cpu_slots,
            "threads_per_slot": host.threads_per_slot,
            "gpus": host.gpus.iter().map(gpu).collect::<Vec<_>>(),
            "address": host.address,
            "flavour": text(&host.flavour),
            "labels": host.labels,
        })
    });
    let rank = |rank: &v1::RunningRank| {
        json!({
            "job_id": rank.job_id,
            "job_name": rank.job_name,
            "attempt": rank.attempt,
            "rank": rank.rank,
            "devices": rank.devices.iter().map(words::device).collect::<Vec<_>>(),
        })
    };
    json!({
        "id": worker.id,
        "name": worker.name,
        "state": words::worker_state(worker),
        "version": worker.version,
        "last_seen_at": time(worker.last_seen_at.as_ref()),
        "inventory": inventory,
        "unreadable": text(&worker.unreadable),
        "rival": text(&worker.rival),
        "closed": text(&worker.closed),
        "drain_deadline": time(worker.drain_deadline.as_ref()),
        "quarantined_gpus": worker.quarantined_gpus.iter().map(|gpu| json!({
            "index": gpu.index,
            "reason": gpu.reason,
            "by": gpu.by,
            "uuid": text(&gpu.uuid),
            "automatic": gpu.automatic,
            "evidence": gpu.evidence.iter().map(|piece| json!({
                "kind": piece.kind,
                "code": piece.code,
                "first_at": time(piece.first_at.as_ref()),
                "last_at": time(piece.last_at.as_ref()),
                "count": piece.count,
                "text": piece.text,
            })).collect::<Vec<_>>(),
            "burn_in_job": gpu.burn_in_job,
            "burn_in_failure": text(&gpu.burn_in_failure),
        })).collect::<Vec<_>>(),
        "windows": worker.windows.iter().map(window).collect::<Vec<_>>(),
        "cache": worker.cache.map(|cache| json!({
            "bytes": cache.bytes,
            "max_bytes": cache.max_bytes,
            "artifacts": cache.artifacts,
            "pinned": cache.pinned,
        })),
        "clock_ahead_ms": worker.clock_ahead_ms,
        "ranks": worker.ranks.iter().map(rank).collect::<Vec<_>>(),
    })
}

fn accuracy(accuracy: &v1::ForecastAccuracy) -> Value {
    json!({
        "jobs": accuracy.jobs,
        "median_error_s": accuracy.median_error_s,
        "held": accuracy.held,
    })
}

/// When something is expected.
#[must_use]
pub fn forecast(forecast: &v1::Forecast) -> Value {
    json!({
        "said_at": time(forecast.said_at.as_ref()),
        "expected_at": time(forecast.expected_at.as_ref()),
        "likely_by": time(forecast.likely_by.as_ref()),
        "basis": forecast.basis,
    })
}

/// A schedule, with its newest runs.
#[must_use]
pub fn schedule(schedule: &v1::Schedule) -> Value {
    let run = |run: &v1::ScheduleRun| {
        json!({
            "due_at": time(run.due_at.as_ref()),
            "outcome": run.outcome,
            "pipeline_id": (run.pipeline_id != 0).then_some(run.pipeline_id),
            "text": text(&run.text),
            "at": time(run.at.as_ref()),
        })
    };
    json!({
        "name": schedule.name,
        "cron": schedule.cron,
        "time_zone": schedule.time_zone,
        "overlap": schedule.overlap,
        "missed": schedule.missed,
        "next_due": time(schedule.next_due.as_ref()),
        "waiting_due": time(schedule.waiting_due.as_ref()),
        "paused_by": text(&schedule.paused_by),
        "paused_at": time(schedule.paused_at.as_ref()),
        "set_by": schedule.set_by,
        "set_at": time(schedule.set_at.as_ref()),
        "runs": schedule.runs.iter().map(run).collect::<Vec<_>>(),
    })
}

/// A maintenance window.
#[must_use]
pub fn window(window: &v1::MaintenanceWindow) -> Value {
    json!({
        "number": window.number,
        "from": time(window.from.as_ref()),
        "until": time(window.until.as_ref()),
        "reason": text(&window.reason),
        "by": window.by,
        "set_at": time(window.at.as_ref()),
    })
}

/// One GPU of a worker; a reading that was never made leaves its fields null.
#[must_use]
pub fn gpu(worker: &v1::Worker, index: u32, name: &str, reading: Option<&v1::GpuReading>) -> Value {
    let unread = v1::GpuReading::default();
    let reading = reading.unwrap_or(&unread);
    // In watts, as nvidia-smi shows them: thousandths are NVML's own.
    let watts = |milliwatts: Option<u32>| milliwatts.map(|mw| f64::from(mw) / 1_000.0);
    let process = |process: &v1::GpuProcess| {
        json!({
            "pid": process.pid,
            "name": text(&process.name),
            "memory_bytes": process.memory_bytes,
        })
    };
    let xid = |xid: &v1::XidError| json!({ "code": xid.code, "at": time(xid.at.as_ref()) });
    json!({
        "worker": worker.name,
        "index": index,
        "uuid": text(&reading.uuid),
        "name": text(name),
        "at": time(reading.at.as_ref()),
        // Null where it was never read: "healthy" would be a claim that nobody has checked.
        "healthy": reading.at.map(|_| reading.fault.is_empty()),
        "fault": text(&reading.fault),
        "cure": text(&reading.cure),
        "utilisation_percent": reading.utilisation_percent,
        "memory_utilisation_percent": reading.memory_utilisation_percent,
        "memory_used_bytes": reading.memory_used_bytes,
        "memory_total_bytes": reading.memory_total_bytes,
        "power_w": watts(reading.power_mw),
        "power_limit_w": watts(reading.power_limit_mw),
        "temperature_c": reading.temperature_c,
        "slowdown_temperature_c": reading.slowdown_temperature_c,
        "fan_percent": reading.fan_percent,
        "sm_clock_mhz": reading.sm_clock_mhz,
        "sm_clock_max_mhz": reading.sm_clock_max_mhz,
        "memory_clock_mhz": reading.memory_clock_mhz,
        "memory_clock_max_mhz": reading.memory_clock_max_mhz,
        "throttle_reasons": reading.throttle_reasons,
        "performance_state": text(&reading.performance_state),
        "ecc": reading.ecc_enabled.map(|enabled| json!({
            "enabled": enabled,
            "corrected_volatile": reading.ecc_corrected_volatile,
            "uncorrected_volatile": reading.ecc_uncorrected_volatile,
            "corrected_aggregate": reading.ecc_corrected_aggregate,
            "uncorrected_aggregate": reading.ecc_uncorrected_aggregate,
        })),
        "xid_source": text(&reading.xid_source),
        "xids": reading.xids.iter().map(xid).collect::<Vec<_>>(),
        "processes": reading.processes.iter().map(process).collect::<Vec<_>>(),
        "pcie_generation": reading.pcie_generation,
        "pcie_generation_max": reading.pcie_generation_max,
        "pcie_width": reading.pcie_width,
        "pcie_width_max": reading.pcie_width_max,
        "pci_bus_id": text(&reading.pci_bus_id),
        "driver_version": text(&reading.driver_version),
        "cuda_version": text(&reading.cuda_version),
        "persistence_mode": reading.persistence_mode,
        "compute_mode": text(&reading.compute_mode),
        "mig_enabled": reading.mig_enabled,
    })
}

#[must_use]
pub fn project(project: &v1::Project) -> Value {
    let quotas = project.quotas.clone().unwrap_or_default();
    let change = |change: &v1::ProjectChange| {
        json!({
            "at": time(change.at.as_ref()),
            "text": change.text,
            "caller": text(&change.caller),
        })
    };
    json!({
        "name": project.name,
        "weight": project.weight,
        "quotas": {
            "gpus": quotas.gpus,
            "cpu_slots": quotas.cpu_slots,
            "queued": quotas.queued,
            "gpu_hours_week": quotas.gpu_hours_week,
            "reset": text(&quotas.reset),
        },
        "gpus_used": project.gpus_used,
        "cpu_slots_used": project.cpu_slots_used,
        "queued_jobs": project.queued_jobs,
        "gpu_hours_used": project.gpu_hours_used,
        "gpu_hours_free_at": time(project.gpu_hours_free_at.as_ref()),
        "devices_free_at": time(project.devices_free_at.as_ref()),
        "usage_gpu_seconds": project.usage_gpu_seconds,
        "keep_days": project.keep_days,
        "keep_log_days": project.keep_log_days,
        "idle_stop_min": project.idle_stop_min,
        "changes": project.changes.iter().map(change).collect::<Vec<_>>(),
    })
}

#[must_use]
pub fn artifact(artifact: &v1::Artifact) -> Value {
    let files = artifact.manifest.as_ref().map(|manifest| {
        let file = |file: &v1::FileEntry| {
            json!({ "path": file.path, "size_bytes": file.size_bytes, "digest": file.digest })
        };
        manifest.files.iter().map(file).collect::<Vec<_>>()
    });
    json!({
        "digest": artifact.digest,
        "name": artifact.name,
        "job_id": artifact.job_id,
        "job_name": artifact.job_name,
        "pipeline_id": artifact.pipeline_id,
        "attempt": artifact.attempt,
        "size_bytes": artifact.size_bytes,
        "file_count": artifact.file_count,
        "committed_at": time(artifact.committed_at.as_ref()),
        "files": files,
        "damaged": text(&artifact.damaged),
    })
}

#[must_use]
pub fn log_line(line: &v1::LogLine) -> Value {
    let stream = match line.stream() {
        v1::log_line::Stream::Stdout => "stdout",
        v1::log_line::Stream::Stderr => "stderr",
        v1::log_line::Stream::Unspecified => "unknown",
    };
    json!({
        "attempt": line.attempt,
        "rank": line.rank,
        "stream": stream,
        "at": time(line.at.as_ref()),
        "text": line.text,
        "lost_before": line.lost_before,
        "lost_after": line.lost_after,
        "damaged": line.damaged,
    })
}

#[must_use]
pub fn metric(point: &v1::MetricPoint) -> Value {
    json!({
        "attempt": point.attempt,
        "rank": point.rank,
        "name": point.name,
        "step": point.step,
        "value": point.value,
        "at": time(point.at.as_ref()),
    })
}

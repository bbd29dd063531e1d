/** Words and figures, as the command line has them. */

import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { AttemptState, FailureClass, JobKind, JobState, RankState, type Device } from "./gen/marquee/v1/common_pb";
import type { Job, Progress } from "./gen/marquee/v1/jobs_pb";
import { WorkerState } from "./gen/marquee/v1/workers_pb";

export const JOB_STATES = [
  JobState.WAITING,
  JobState.QUEUED,
  JobState.RUNNING,
  JobState.SUCCEEDED,
  JobState.FAILED,
  JobState.CANCELLED,
] as const;
export const JOB_KINDS = [JobKind.FETCH, JobKind.PREPROCESS, JobKind.TRAIN, JobKind.EVAL, JobKind.COMMAND] as const;

/** What only a newer coordinator knows is unknown, and no error. */
const word = (names: Record<number, string>, value: number) => (names[value] ?? "unknown").toLowerCase();

export const stateWord = (state: JobState) => word(JobState, state);
export const kindWord = (kind: JobKind) => word(JobKind, kind);
export const attemptWord = (state: AttemptState) => word(AttemptState, state);
export const rankWord = (state: RankState) => word(RankState, state);
export const failureWord = (failure: FailureClass) => word(FailureClass, failure);
export const workerWord = (state: WorkerState) => word(WorkerState, state);

export const isOpen = (state: JobState) =>
  state === JobState.WAITING || state === JobState.QUEUED || state === JobState.RUNNING;

export function deviceWord(device: Device): string {
  const { kind } = device;
  return kind.case === undefined ? "unknown device" : `${kind.case} ${kind.value}`;
}

/** `fetch`, an array's `fetch[0-15]`, an element's `fetch[3]`. */
export function jobName(job: Job): string {
  if (job.elements) {
    const counts = job.elements;
    const size = counts.waiting + counts.queued + counts.running + counts.succeeded + counts.failed + counts.cancelled;
    return `${job.name}[0-${Math.max(size - 1, 0)}]`;
  }
  if (!job.element) return job.name;
  const values = Object.entries(job.values).sort(([a], [b]) => (a < b ? -1 : 1));
  return [`${job.name}[${job.element.index}]`, ...values.map(([name, value]) => `${name}=${value}`)].join(" ");
}

export const ms = (time: Timestamp | undefined): number | undefined =>
  time === undefined ? undefined : Number(time.seconds) * 1000 + time.nanos / 1e6;

/** `3.4 s`, `2 m 05 s`, `1 h 12 m`, `3 d 4 h`. */
export function duration(milliseconds: number): string {
  const s = Math.max(milliseconds, 0) / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  const two = (n: number) => String(Math.floor(n)).padStart(2, "0");
  if (s < 3600) return `${Math.floor(s / 60)} m ${two(s % 60)} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${two((s % 3600) / 60)} m`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** `just now`, `12 s ago`, `5 m ago`, `3 h ago`, `2 d ago`; `in 5 m` of what is still to come. */
export function relative(then: number, now: number): string {
  const s = (now - then) / 1000;
  const size = Math.abs(s);
  if (size < 2) return "just now";
  const text =
    size < 60
      ? `${Math.floor(size)} s`
      : size < 3600
        ? `${Math.floor(size / 60)} m`
        : size < 86_400
          ? `${Math.floor(size / 3600)} h`
          : `${Math.floor(size / 86_400)} d`;
  return s < 0 ? `in ${text}` : `${text} ago`;
}

/** Exact, in the reader's own time zone, with its name. */
export function exact(time: number): string {
  return new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(count: bigint | number): string {
  let value = Number(count);
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit] ?? ""}`;
}

export function count(value: bigint | number): string {
  return value.toLocaleString("en-US");
}

export function plural(value: bigint | number, one: string): string {
  return `${count(value)} ${one}${Number(value) === 1 ? "" : "s"}`;
}

/** A figure of a metric: as many digits as tell something. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  if (Number.isInteger(value)) return count(value);
  return size >= 100 ? value.toFixed(1) : value.toPrecision(4);
}

/** `48 %`, or undefined where the whole is not known. */
export function percent(progress: Progress | undefined): number | undefined {
  if (progress?.total === undefined || progress.total === 0n) return undefined;
  return Math.min(100, (100 * Number(progress.done)) / Number(progress.total));
}

/** Milliseconds until the phase ends, at the rate it had since it began. */
export function timeLeft(progress: Progress | undefined): number | undefined {
  if (progress?.total === undefined) return undefined;
  const begun = ms(progress.phaseStartedAt);
  const at = ms(progress.at);
  if (begun === undefined || at === undefined) return undefined;
  const done = Number(progress.done - progress.phaseStartedDone);
  const left = Number(progress.total - progress.done);
  if (done <= 0 || left <= 0 || at <= begun) return undefined;
  return (left * (at - begun)) / done;
}

/** How long the newest attempt ran, or runs. */
export function ranFor(job: Job, now: number): number | undefined {
  // It was handed back and waits again.
  if (job.state === JobState.WAITING || job.state === JobState.QUEUED) return undefined;
  const started = ms(job.startedAt);
  if (started === undefined) return undefined;
  return (ms(job.finishedAt) ?? now) - started;
}

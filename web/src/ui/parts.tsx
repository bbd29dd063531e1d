/** Small things that every page is made of. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Trouble } from "../api";
import { JobState } from "../gen/marquee/v1/common_pb";
import type { Job, Progress as JobProgress } from "../gen/marquee/v1/jobs_pb";
import { Link } from "../router";
import { bytes, count, duration, exact, jobName, ms, percent, ranFor, relative, stateWord, timeLeft } from "../words";
import type { Timestamp } from "@bufbuild/protobuf/wkt";

/** The time now, which goes on by itself. */
export function useNow(every = 1000): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

/** How long ago, and when exactly for who points at it. */
export function Ago({ at }: { at: Timestamp | undefined }) {
  const now = useNow();
  const time = ms(at);
  if (time === undefined) return <span class="none">–</span>;
  return (
    <time dateTime={new Date(time).toISOString()} title={exact(time)}>
      {relative(time, now)}
    </time>
  );
}

/** How long a job ran, or has run. */
export function RanFor({ job }: { job: Job }) {
  const now = useNow();
  const ran = ranFor(job, now);
  return ran === undefined ? <span class="none">–</span> : <span class="num">{duration(ran)}</span>;
}

const MARKS: Record<number, string> = {
  [JobState.WAITING]: "◌",
  [JobState.QUEUED]: "◔",
  [JobState.RUNNING]: "◉",
  [JobState.SUCCEEDED]: "✓",
  [JobState.FAILED]: "✕",
  [JobState.CANCELLED]: "⊘",
};

/** A state: colour, mark and word, so that none of them carries it alone. */
export function State({ of, small = false }: { of: JobState; small?: boolean }) {
  const word = stateWord(of);
  return (
    <span class={`state state-${word}${small ? " state-small" : ""}`}>
      <span class="mark" aria-hidden="true">
        {MARKS[of] ?? "?"}
      </span>
      <span class={small ? "sr" : ""}>{word}</span>
    </span>
  );
}

export function Bar({ value, label }: { value: number | undefined; label: string }) {
  return (
    <span
      class={`bar${value === undefined ? " bar-unknown" : ""}`}
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      {...(value === undefined ? {} : { "aria-valuenow": Math.round(value) })}
    >
      <span style={{ width: `${value ?? 100}%` }} />
    </span>
  );
}

/** How far a job is: a bar, the phase, counts, the rate and the time left. */
export function Progress({ of, name }: { of: JobProgress; name: string }) {
  const share = percent(of);
  const left = timeLeft(of);
  const counted = of.total === undefined ? count(of.done) : `${count(of.done)} of ${count(of.total)}`;
  return (
    <span class="progress">
      <Bar value={share} label={`${name}: ${of.phase}`} />
      <span class="progress-text">
        {of.phase !== "" && of.phase !== of.unit ? `${of.phase}: ` : ""}
        <span class="num">{counted}</span> {of.unit}
        {of.bytes !== undefined && of.bytes > 0n ? `, ${bytes(of.bytes)}` : ""}
        {left === undefined ? "" : `, ${duration(left)} left`}
      </span>
    </span>
  );
}

/** What a job does or waits for, in a line. */
export function Doing({ job }: { job: Job }) {
  if (job.state === JobState.RUNNING && job.elements) {
    const e = job.elements;
    const size = e.waiting + e.queued + e.running + e.succeeded + e.failed + e.cancelled;
    const failed = e.failed > 0 ? `, ${e.failed} failed` : "";
    return (
      <span class="progress">
        <Bar value={(100 * e.succeeded) / Math.max(size, 1)} label={`${jobName(job)}: elements`} />
        <span class="progress-text">
          {e.succeeded} of {size} elements, {e.running} running{failed}
        </span>
      </span>
    );
  }
  if (job.state === JobState.RUNNING)
    return job.cancelRequested ? (
      <span>stops</span>
    ) : job.idleSince ? (
      <span class="trouble-title">
        its GPUs do nothing; the last one worked <Ago at={job.idleSince} />
      </span>
    ) : job.progress ? (
      <Progress of={job.progress} name={jobName(job)} />
    ) : (
      <span class="quiet">under way</span>
    );
  if (job.failure && job.state !== JobState.SUCCEEDED) return <span class="clip">{job.failure.message}</span>;
  if (job.reusedFromJobId !== 0n)
    return (
      <span class="quiet">
        result of job <Link to={`/jobs/${job.reusedFromJobId}`}>{String(job.reusedFromJobId)}</Link> taken
      </span>
    );
  return <span class="clip quiet">{job.reason}</span>;
}

export function JobLink({ job }: { job: Job }) {
  return (
    <Link to={`/jobs/${job.id}`} class="job-link">
      {jobName(job)}
    </Link>
  );
}

/** Stands where something will be: never an empty screen. */
export function Skeleton({ lines = 4 }: { lines?: number }) {
  return (
    <div class="skeleton" role="status" aria-label="Loading">
      {Array.from({ length: lines }, (_, index) => (
        <i key={index} style={{ width: `${90 - ((index * 17) % 45)}%` }} />
      ))}
    </div>
  );
}

/** Nothing is here, and what would change that. */
export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children}
    </div>
  );
}

/** A command to type, which a click copies. */
export function Command({ line }: { line: string }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), 1500);
    return () => clearTimeout(timer);
  }, [copied]);
  return (
    <button
      type="button"
      class="command"
      title="Copy"
      onClick={() => {
        void copy(line).then(setCopied);
      }}
    >
      <code>{line}</code>
      <span aria-live="polite">{copied ? "copied" : "copy"}</span>
    </button>
  );
}

/** Outside of TLS and loopback browsers have no clipboard: then nothing is copied, and nothing said. */
async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

export function TroubleBox({ of, again }: { of: Trouble; again?: (() => void) | undefined }) {
  return (
    <div class="trouble" role="alert">
      <p class="trouble-title">
        {of.title}
        {of.code === "" ? null : <code class="code">{of.code}</code>}
      </p>
      <p>{of.text}</p>
      {of.passes ? <p class="quiet">Is it running? See its log, or start it: marquee up</p> : null}
      {again ? (
        <button type="button" onClick={again}>
          Try again
        </button>
      ) : null}
    </div>
  );
}

export function Card({
  title,
  more,
  children,
  class: name = "",
}: {
  title: string;
  more?: ComponentChildren;
  children: ComponentChildren;
  class?: string;
}) {
  return (
    <section class={`card ${name}`} aria-label={title}>
      <header>
        <h2>{title}</h2>
        {more}
      </header>
      {children}
    </section>
  );
}

/** Labels with their values; those without are left out. */
export function Facts({ of }: { of: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {of
        .filter(([, value]) => value !== undefined && value !== null && value !== "")
        .map(([label, value]) => (
          <div key={label}>
            <dt>{label}</dt>
            <dd>{value}</dd>
          </div>
        ))}
    </dl>
  );
}

export function Tabs({ of, now }: { of: { name: string; to: string; count?: number | undefined }[]; now: string }) {
  return (
    <nav class="tabs" aria-label="Parts of this page">
      {of.map((tab) => (
        <Link key={tab.name} to={tab.to} aria-current={tab.name === now ? "page" : undefined}>
          {tab.name}
          {tab.count ? <span class="num count">{tab.count}</span> : null}
        </Link>
      ))}
    </nav>
  );
}

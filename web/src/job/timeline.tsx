/** A job's life as one bar: waiting, being prepared, running, and how each attempt ended. */

import { AttemptState, JobState } from "../gen/marquee/v1/common_pb";
import type { Job, JobDetail } from "../gen/marquee/v1/jobs_pb";
import { useNow } from "../ui/parts";
import { attemptWord, duration, failureWord, ms } from "../words";

export interface Segment {
  look: "wait" | "prepare" | "run" | "ok" | "bad" | "gone";
  from: number;
  to: number;
  says: string;
}

const LOOKS: Record<number, Segment["look"]> = {
  [AttemptState.SUCCEEDED]: "ok",
  [AttemptState.FAILED]: "bad",
  [AttemptState.CANCELLED]: "gone",
  [AttemptState.INTERRUPTED]: "gone",
};

export function segments(detail: JobDetail, job: Job, now: number): Segment[] {
  const all: Segment[] = [];
  let at = ms(job.createdAt) ?? now;
  const add = (look: Segment["look"], to: number, says: string) => {
    if (to > at) all.push({ look, from: at, to, says: `${says}: ${duration(to - at)}` });
    at = Math.max(at, to);
  };
  for (const attempt of detail.attempts) {
    const begun = ms(attempt.createdAt) ?? at;
    const started = ms(attempt.startedAt);
    const ended = ms(attempt.finishedAt) ?? now;
    const name = `attempt ${attempt.number}`;
    const others = job.needs.length > 0 ? `waited for ${job.needs.join(", ")}` : "waited";
    const waited = attempt.number === 1 ? others : "waited for the next attempt";
    add("wait", begun, attempt.waitedFor === "" ? waited : `${waited} (${attempt.waitedFor})`);
    add("prepare", started ?? ended, `${name} was prepared`);
    if (started !== undefined) {
      const why = attempt.failure ? ` (${failureWord(attempt.failure.class)})` : "";
      const word = attempt.state === AttemptState.RUNNING ? "runs" : `ran and ${attemptWord(attempt.state)}${why}`;
      add(LOOKS[attempt.state] ?? "run", ended, `${name} ${word}`);
    }
  }
  const isOver = job.state === JobState.SUCCEEDED || job.state === JobState.FAILED || job.state === JobState.CANCELLED;
  if (!isOver && job.state !== JobState.RUNNING) add("wait", now, job.reason === "" ? "waits" : job.reason);
  return all;
}

export function TimeLine({ detail, job }: { detail: JobDetail; job: Job }) {
  const now = useNow();
  const all = segments(detail, job, now);
  const whole = Math.max((all.at(-1)?.to ?? now) - (all[0]?.from ?? now), 1);
  if (all.length === 0) return <p class="quiet">It did not wait and did not run.</p>;
  return (
    <div class="stack" style={{ gap: "0.8rem" }}>
      <div class="line" role="img" aria-label={all.map((segment) => segment.says).join("; ")}>
        {all.map((segment) => (
          <span
            key={segment.from}
            class={`seg-${segment.look}`}
            title={segment.says}
            style={{ width: `${(100 * (segment.to - segment.from)) / whole}%` }}
          />
        ))}
      </div>
      <ul class="legend" style={{ listStyle: "none" }}>
        {all.map((segment) => (
          <li key={segment.from} style={{ display: "flex", alignItems: "center", gap: "0.45rem" }}>
            <i class={`dot seg-${segment.look}`} style={{ borderRadius: "3px" }} aria-hidden="true" />
            {segment.says}
          </li>
        ))}
      </ul>
    </div>
  );
}

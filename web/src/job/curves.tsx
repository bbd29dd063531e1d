/** The metrics of a job as curves: attempts and ranks over each other, smoothed, zoomed into, on a logarithmic scale. */

import { useEffect, useRef, useState } from "preact/hooks";
import { jobs as service } from "../api";
import { JobState } from "../gen/marquee/v1/common_pb";
import type { Job, JobDetail, Series } from "../gen/marquee/v1/jobs_pb";
import { useAnswer } from "../live";
import { go, withQuery } from "../router";
import { Chart, type Curve } from "../ui/chart";
import { Card, Command, Empty, Skeleton, TroubleBox } from "../ui/parts";
import { figure, isOpen } from "../words";

/** Seconds of progress after which a running job's curves are read again. */
const AGAIN_EVERY = 2;
const ATTEMPTS_MAX = 20;
const CHARTS_FIRST = 12;
/** Of the slider. */
const SMOOTH_MAX = 0.98;

/** Loss and scores first, hardware last. */
const ORDER = [/loss/, /f1|accuracy|auc|map/, /rate|images|per_s/, /^lr$|learning/];

export function inOrder(names: string[]): string[] {
  const place = (name: string) => {
    const found = ORDER.findIndex((pattern) => pattern.test(name));
    return found >= 0 ? found : /gpu|memory|temperature|power/.test(name) ? 9 : 5;
  };
  return names.toSorted((a, b) => place(a) - place(b) || a.localeCompare(b));
}

export function toCurve(series: Series, name: string, colour: number, by: "step" | "time", zero: number): Curve {
  return {
    name,
    x: by === "step" ? series.steps.map(Number) : series.atMs.map((at) => (Number(at) - zero) / 1000),
    mean: series.means,
    low: series.minima,
    high: series.maxima,
    colour,
  };
}

/** How the curves are drawn, as the address says. */
export function readLook(query: URLSearchParams) {
  const smooth = Number(query.get("smooth") ?? "0");
  return {
    smooth: smooth >= 0 && smooth <= SMOOTH_MAX ? smooth : 0,
    log: query.has("log"),
    by: query.has("time") ? ("time" as const) : ("step" as const),
    all: query.has("all"),
    search: query.get("metric") ?? "",
  };
}

export function Curves({ detail, job, query }: { detail: JobDetail; job: Job; query: URLSearchParams }) {
  const { smooth, log, by, all, search } = readLook(query);
  const set = (changes: Record<string, string>) => go(withQuery(changes), "replace");
  const [shown, setShown] = useState(CHARTS_FIRST);
  const numbers = detail.attempts.map((attempt) => attempt.number).slice(-ATTEMPTS_MAX);
  const attempts = all ? numbers : [];
  const answer = useAnswer(`series ${job.id}/${attempts.join()}/${job.attempt}`, (signal) =>
    service.series({ jobId: job.id, attempts, maxPoints: 500 }, { signal }),
  );
  const again = useRef(answer.again);
  again.current = answer.again;
  // The stream of the job tells when it came further: then there are new values.
  const runs = job.state === JobState.RUNNING;
  const beat = runs ? Math.floor(Number(job.progress?.at?.seconds ?? 0n) / AGAIN_EVERY) : 0;
  useEffect(() => again.current(), [runs, beat]);

  if (!answer.value)
    return answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={8} />;
  const series = answer.value.series;
  if (series.length === 0)
    return (
      <Card title="Curves">
        <Empty title={isOpen(job.state) ? "No values yet" : "It reported no values"}>
          <p>A training job reports its loss, scores and speed by itself; a command job reports none.</p>
          <Command line={`marquee metrics ${job.id}`} />
        </Empty>
      </Card>
    );
  const names = inOrder([...new Set(series.map((one) => one.name))]);
  const wanted = names.filter((name) => name.toLowerCase().includes(search.trim().toLowerCase()));
  const zero = Math.min(...series.flatMap((one) => one.atMs.slice(0, 1).map(Number)));
  return (
    <>
      <div class="filters">
        {names.length > 4 ? (
          <input
            type="search"
            placeholder="Metric"
            aria-label="Search metrics"
            value={search}
            onInput={(event) => set({ metric: event.currentTarget.value })}
          />
        ) : null}
        <label class="legend">
          <span>
            smoothing
            <input
              type="range"
              min="0"
              max={SMOOTH_MAX}
              step="0.02"
              value={smooth}
              onInput={(event) =>
                set({ smooth: Number(event.currentTarget.value) === 0 ? "" : event.currentTarget.value })
              }
            />
            <span class="num">{smooth.toFixed(2)}</span>
          </span>
        </label>
        <span class="chips">
          <button type="button" class="chip" aria-pressed={log} onClick={() => set({ log: log ? "" : "1" })}>
            log scale
          </button>
          <button
            type="button"
            class="chip"
            aria-pressed={by === "time"}
            onClick={() => set({ time: by === "time" ? "" : "1" })}
          >
            by time
          </button>
          {numbers.length > 1 ? (
            <button type="button" class="chip" aria-pressed={all} onClick={() => set({ all: all ? "" : "1" })}>
              all attempts
            </button>
          ) : null}
        </span>
        <span class="quiet">drag over a chart to zoom in, double-click to see all of it</span>
      </div>
      {answer.value.isCut ? <p class="quiet">There are more curves than are shown.</p> : null}
      <div class="curves">
        {wanted.slice(0, shown).map((name) => {
          const own = series.filter((one) => one.name === name);
          const several = new Set(own.map((one) => one.attempt)).size > 1;
          const ranks = new Set(own.map((one) => one.rank)).size > 1;
          const curves = own.map((one, index) => {
            const label = [several ? `attempt ${one.attempt}` : "", ranks ? `rank ${one.rank}` : ""].filter(Boolean);
            return toCurve(one, label.join(", ") || name, index, by, zero);
          });
          return (
            <Card key={name} title={name} more={<Last of={own} />}>
              <Chart
                title={name}
                curves={curves}
                smooth={smooth}
                log={log}
                xName={by === "step" ? "step" : "seconds"}
                sync="job"
              />
            </Card>
          );
        })}
      </div>
      {wanted.length > shown ? (
        <p class="pager">
          <button type="button" onClick={() => setShown(shown + CHARTS_FIRST)}>
            {wanted.length - shown} more
          </button>
        </p>
      ) : null}
    </>
  );
}

function Last({ of }: { of: Series[] }) {
  const newest = of.at(-1);
  const last = newest?.means.findLast(Number.isFinite);
  const odd = of.reduce((sum, one) => sum + Number(one.notFinite), 0);
  return (
    <span class="num quiet">
      {odd > 0 ? <span class="trouble-title">{odd} not finite </span> : null}
      {last === undefined ? "" : figure(last)}
    </span>
  );
}

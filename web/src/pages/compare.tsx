/** Runs side by side: what was asked differently, how they learnt, and how good they are, as far as that can be told. */

import { useState } from "preact/hooks";
import { jobs as service } from "../api";
import { JobKind } from "../gen/marquee/v1/common_pb";
import type { JobDetail, Series } from "../gen/marquee/v1/jobs_pb";
import { inOrder, toCurve } from "../job/curves";
import { differences } from "../job/spec";
import { flat, parse } from "../json";
import { useAnswer } from "../live";
import { go, Link } from "../router";
import { scores, summary } from "../scores";
import { Chart } from "../ui/chart";
import { Ago, Card, Empty, RanFor, Skeleton, State, TroubleBox } from "../ui/parts";
import { jobName, kindWord } from "../words";

const JOBS_MAX = 8;
const CHARTS_MAX = 12;

interface Run {
  detail: JobDetail;
  series: Series[];
}

export function readJobs(query: URLSearchParams): bigint[] {
  const ids = (query.get("jobs") ?? "").split(",").filter((id) => /^\d{1,18}$/.test(id));
  return [...new Set(ids)].slice(0, JOBS_MAX).map(BigInt);
}

export function ComparePage({ query }: { query: URLSearchParams }) {
  const ids = readJobs(query);
  const answer = useAnswer(ids.length === 0 ? null : ids.join(), (signal) =>
    Promise.all(
      ids.map(async (id): Promise<Run> => {
        const [detail, series] = await Promise.all([
          service.getJob({ id }, { signal }),
          service.series({ jobId: id, rank: 0, maxPoints: 400 }, { signal }),
        ]);
        return { detail, series: series.series };
      }),
    ),
  );
  const runs = answer.value ?? [];
  return (
    <>
      <div class="head">
        <h1>Compare runs</h1>
      </div>
      <Picker ids={ids} />
      {answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : null}
      {ids.length === 0 ? (
        <div class="card">
          <Empty title="Choose the runs to compare">
            <p>The address of this page then holds them: send it to anybody.</p>
          </Empty>
        </div>
      ) : runs.length === 0 && !answer.trouble ? (
        <Skeleton lines={8} />
      ) : (
        <div class="stack">
          <Runs runs={runs} ids={ids} />
          <Settings runs={runs} />
          <Quality runs={runs} />
          <Overlaid runs={runs} />
        </div>
      )}
    </>
  );
}

const address = (ids: bigint[]) => (ids.length === 0 ? "/compare" : `/compare?jobs=${ids.join()}`);

function Picker({ ids }: { ids: bigint[] }) {
  const [text, setText] = useState("");
  const found = useAnswer(`pick ${text}`, (signal) =>
    service.listJobs({ text, kinds: [JobKind.TRAIN, JobKind.EVAL], pageSize: 12, withTotal: true }, { signal }),
  );
  const offered = (found.value?.jobs ?? []).filter((job) => !ids.includes(job.id) && job.attempt > 0).slice(0, 8);
  if (ids.length >= JOBS_MAX) return null;
  return (
    <div class="filters">
      <input
        type="search"
        placeholder="Training or evaluation"
        aria-label="Search runs to compare"
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
      />
      <div class="chips" role="group" aria-label="Add a run">
        {offered.map((job) => (
          <button key={String(job.id)} type="button" class="chip" onClick={() => go(address([...ids, job.id]))}>
            + {jobName(job)} <span class="num">{String(job.id)}</span>
          </button>
        ))}
      </div>
    </div>
  );
}

const label = (run: Run) => `${run.detail.job?.name ?? "job"} ${run.detail.job?.id ?? ""}`;

function Runs({ runs, ids }: { runs: Run[]; ids: bigint[] }) {
  return (
    <Card title="Runs">
      <table class="list list-cards">
        <thead>
          <tr>
            <th scope="col">State</th>
            <th scope="col">Job</th>
            <th scope="col">Ran</th>
            <th scope="col">Submitted</th>
            <th scope="col">
              <span class="sr">Take away</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {runs.map(({ detail: { job } }, index) =>
            job ? (
              <tr key={String(job.id)}>
                <td>
                  <State of={job.state} />
                </td>
                <td>
                  <i class="dot" style={{ "--dot": `var(--chart-${index + 1})`, display: "inline-block" }} />{" "}
                  <Link to={`/jobs/${job.id}`} class="job-link">
                    {jobName(job)}
                  </Link>
                  <span class="of">
                    {kindWord(job.kind)} {String(job.id)} in {job.pipelineName} p{String(job.pipelineId)}
                  </span>
                </td>
                <td>
                  <RanFor job={job} />
                </td>
                <td class="row-hide">
                  <Ago at={job.createdAt} />
                </td>
                <td class="right">
                  <button
                    type="button"
                    class="chip"
                    aria-label={`Take ${jobName(job)} away`}
                    onClick={() => go(address(ids.filter((id) => id !== job.id)))}
                  >
                    ×
                  </button>
                </td>
              </tr>
            ) : null,
          )}
        </tbody>
      </table>
    </Card>
  );
}

function Settings({ runs }: { runs: Run[] }) {
  if (runs.length < 2) return null;
  const rows = differences(runs.map((run) => flat(parse(run.detail.specJson))));
  return (
    <Card title="What was asked differently">
      {rows.length === 0 ? (
        <Empty title="Nothing: they were asked the same" />
      ) : (
        <div class="wide" tabIndex={0} role="group" aria-label="Table">
          <table class="list">
            <thead>
              <tr>
                <th scope="col">Key</th>
                {runs.map((run) => (
                  <th key={label(run)} scope="col">
                    {label(run)}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {rows.map(([key, values]) => (
                <tr key={key}>
                  <td>
                    <code>{key}</code>
                  </td>
                  {values.map((value, index) => (
                    <td key={index} class="mono">
                      {value ?? "–"}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Card>
  );
}

function Quality({ runs }: { runs: Run[] }) {
  const rated = runs.flatMap((run) => {
    const found = scores(summary(run.detail));
    return found ? [{ run, found }] : [];
  });
  if (rated.length === 0) return null;
  return (
    <Card title="Quality on test pictures">
      <div class="wide" tabIndex={0} role="group" aria-label="Table">
        <table class="list">
          <thead>
            <tr>
              <th scope="col">Run</th>
              <th scope="col" class="right">
                micro F1
              </th>
              <th scope="col">95 % interval</th>
              <th scope="col" class="right">
                best baseline
              </th>
            </tr>
          </thead>
          <tbody>
            {rated.map(({ run, found }) => {
              const own = found.scores.find((score) => !score.isBaseline);
              const base = Math.max(...found.scores.filter((score) => score.isBaseline).map((score) => score.value));
              return (
                <tr key={label(run)}>
                  <td>{label(run)}</td>
                  <td class="right num">{found.stands ? own?.value.toFixed(3) : "–"}</td>
                  <td class="num">
                    {found.stands && own?.interval ? own.interval.map((end) => end.toFixed(3)).join(" to ") : "–"}
                  </td>
                  <td class="right num">{Number.isFinite(base) ? base.toFixed(3) : "–"}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
      <p class="inside quiet">Where intervals overlap, the difference may be chance.</p>
    </Card>
  );
}

function Overlaid({ runs }: { runs: Run[] }) {
  const [smooth, setSmooth] = useState(0);
  const [log, setLog] = useState(false);
  const names = inOrder([...new Set(runs.flatMap((run) => run.series.map((series) => series.name)))]);
  if (names.length === 0) return null;
  return (
    <>
      <div class="filters" style={{ margin: 0 }}>
        <label class="legend">
          <span>
            smoothing
            <input
              type="range"
              min="0"
              max="0.98"
              step="0.02"
              value={smooth}
              onInput={(event) => setSmooth(Number(event.currentTarget.value))}
            />
            <span class="num">{smooth.toFixed(2)}</span>
          </span>
        </label>
        <button type="button" class="chip" aria-pressed={log} onClick={() => setLog(!log)}>
          log scale
        </button>
        <span class="quiet">rank 0 of each run's newest attempt</span>
      </div>
      <div class="curves">
        {names.slice(0, CHARTS_MAX).map((name) => {
          const curves = runs.flatMap((run, index) =>
            run.series
              .filter((series) => series.name === name)
              .map((series) => toCurve(series, label(run), index, "step", 0)),
          );
          return (
            <Card key={name} title={name}>
              <Chart title={name} curves={curves} smooth={smooth} log={log} xName="step" sync="compare" />
            </Card>
          );
        })}
      </div>
    </>
  );
}

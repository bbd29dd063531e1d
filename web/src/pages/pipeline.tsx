/** A pipeline as a graph of its jobs, each with its progress. */

import { useRef, useState } from "preact/hooks";
import { jobs as service } from "../api";
import { JobState } from "../gen/marquee/v1/common_pb";
import type { Job } from "../gen/marquee/v1/jobs_pb";
import { layout } from "../graph";
import { useAnswer, useStream } from "../live";
import { useOverview } from "../overview";
import { go, Link } from "../router";
import { Act } from "../ui/dialog";
import { Ago, Bar, Card, Doing, JobLink, RanFor, Skeleton, State, TroubleBox } from "../ui/parts";
import { isOpen, jobName, kindWord, percent, plural } from "../words";
import { denied, useWho } from "../who";

export function PipelinePage({ id }: { id: bigint }) {
  const answer = useAnswer(`pipeline ${id}`, (signal) => service.getPipeline({ id }, { signal }));
  const [fresh, setFresh] = useState<Map<bigint, Job>>(new Map());
  const { returns } = useOverview();
  const { identity } = useWho();
  useStream(
    answer.value ? `pipeline ${id}/${returns}` : null,
    (signal) => service.watch({ pipelineId: id, keepOpen: true }, { signal }),
    ({ job }) => {
      if (job) setFresh((old) => new Map(old).set(job.id, job));
    },
  );
  const pipeline = answer.value;
  if (!pipeline)
    return (
      <>
        <h1 class="sr">Pipeline {String(id)}</h1>
        {answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={9} />}
      </>
    );
  const jobs = pipeline.jobs.map((job) => fresh.get(job.id) ?? job);
  const open = jobs.filter((job) => isOpen(job.state));
  const no = jobs.map((job) => denied(identity, "submitter", job.project)).find((why) => why !== undefined);
  const evaluations = jobs.filter((job) => kindWord(job.kind) === "eval" && job.state === JobState.SUCCEEDED);
  const trainings = jobs.filter((job) => kindWord(job.kind) === "train" && job.attempt > 0);
  return (
    <>
      <div class="head">
        <div class="head-title">
          <p class="crumbs">
            <Link to="/jobs">Jobs</Link>
          </p>
          <h1>{pipeline.name}</h1>
          <span class="quiet">
            p{String(id)}, {plural(jobs.length, "job")}, submitted <Ago at={pipeline.createdAt} />
          </span>
        </div>
        <div class="actions">
          {evaluations.map((job) => (
            <Link key={String(job.id)} class="button" to={`/reports/${job.id}`}>
              Report{evaluations.length > 1 ? ` of ${job.name}` : ""}
            </Link>
          ))}
          {trainings.length > 1 ? (
            <Link class="button" to={`/compare?jobs=${trainings.map((job) => job.id).join()}`}>
              Compare trainings
            </Link>
          ) : null}
          {no ? (
            <span class="quiet">{no}</span>
          ) : open.length > 0 ? (
            <Act
              label="Cancel all"
              question={`Cancel what is open of ${pipeline.name}?`}
              text={`${plural(open.length, "job")} will stop, or never start. What has ended stays as it is.`}
              yes="Cancel them"
              danger
              act={() => service.cancelPipeline({ id })}
              done={answer.again}
            />
          ) : (
            <Act
              label="Remove"
              question={`Remove ${pipeline.name} for good?`}
              text="Its jobs, their history, logs, metrics, checkpoints and artifacts are deleted. Nothing brings them back."
              yes="Remove it"
              danger
              act={() => service.removePipeline({ id })}
              done={() => go("/jobs")}
            />
          )}
        </div>
      </div>
      <div class="stack">
        <Card title="Graph">
          <Graph jobs={jobs} />
        </Card>
        <Card title="Jobs">
          <table class="list list-cards">
            <thead>
              <tr>
                <th scope="col">State</th>
                <th scope="col">Job</th>
                <th scope="col">Progress, or why not</th>
                <th scope="col" class="right">
                  Ran
                </th>
              </tr>
            </thead>
            <tbody>
              {jobs.map((job) => (
                <tr key={String(job.id)}>
                  <td>
                    <State of={job.state} />
                  </td>
                  <td>
                    <JobLink job={job} />
                    <span class="of">
                      {kindWord(job.kind)} <span class="num">{String(job.id)}</span>
                    </span>
                  </td>
                  <td class="row-wide">
                    <Doing job={job} />
                  </td>
                  <td class="right">
                    <RanFor job={job} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Card>
      </div>
    </>
  );
}

const NODE = { width: 208, height: 84, across: 56, down: 22 };

export function Graph({ jobs }: { jobs: Job[] }) {
  const box = useRef<HTMLDivElement>(null);
  const places = layout(
    jobs.map((job) => ({
      name: job.name,
      needs: job.needs,
      needsOn: new Map(job.needsOn.map((need) => [need.jobName, need.on])),
    })),
  );
  const left = (column: number) => column * (NODE.width + NODE.across);
  const top = (row: number) => row * (NODE.height + NODE.down);
  const width = left(places.columns) - NODE.across;
  const height = top(places.rows) - NODE.down;
  const live = new Set(jobs.filter((job) => job.state === JobState.RUNNING).map((job) => job.name));
  return (
    <div class="graph" ref={box} tabIndex={0} role="group" aria-label="Graph of the jobs; each follows what it needs">
      <svg width={Math.max(width, 1)} height={Math.max(height, 1)}>
        {places.edges.map(({ from, to, on }) => {
          const a = places.nodes.get(from);
          const b = places.nodes.get(to);
          if (!a || !b) return null;
          const [x1, y1] = [left(a.column) + NODE.width, top(a.row) + NODE.height / 2];
          const [x2, y2] = [left(b.column), top(b.row) + NODE.height / 2];
          const bend = Math.max((x2 - x1) / 2, 20);
          return (
            <path
              key={`${from}>${to}`}
              class={`edge${live.has(to) ? " edge-live" : ""}${on === "succeeded" ? "" : " edge-otherwise"}`}
              d={`M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`}
            >
              {on === "succeeded" ? null : <title>{`${to} runs when ${from} has ${on}`}</title>}
            </path>
          );
        })}
        {jobs.map((job) => {
          const place = places.nodes.get(job.name);
          if (!place) return null;
          return (
            <foreignObject
              key={job.name}
              x={left(place.column)}
              y={top(place.row)}
              width={NODE.width}
              height={NODE.height}
            >
              <Node job={job} />
            </foreignObject>
          );
        })}
      </svg>
    </div>
  );
}

function Node({ job }: { job: Job }) {
  const look = job.state === JobState.FAILED ? " node-failed" : job.state === JobState.RUNNING ? " node-running" : "";
  const inside = (
    <>
      <span class="node-row">
        <strong>{jobName(job)}</strong>
        {job.id === 0n ? null : <State of={job.state} small />}
      </span>
      <span class="node-row quiet">
        <span>
          {kindWord(job.kind)}
          {job.ranks > 1 ? ` × ${job.ranks}` : ""}
        </span>
        {job.id === 0n ? null : <RanFor job={job} />}
      </span>
      {job.state === JobState.RUNNING ? (
        <Bar value={percent(job.progress)} label={`${jobName(job)}: progress`} />
      ) : null}
    </>
  );
  // One that is only planned has no page yet.
  if (job.id === 0n) return <div class="node">{inside}</div>;
  return (
    <Link to={`/jobs/${job.id}`} class={`node${look}`}>
      {inside}
    </Link>
  );
}

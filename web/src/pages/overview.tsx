/** What the cluster does now, what waits and why, what ended, and who used it. */

import { useEffect, useMemo, useState } from "preact/hooks";
import { cluster } from "../api";
import { JobState } from "../gen/marquee/v1/common_pb";
import type { DeviceCount, Overview, Usage } from "../gen/marquee/v1/cluster_pb";
import type { Job } from "../gen/marquee/v1/jobs_pb";
import { useAnswer } from "../live";
import { useOverview } from "../overview";
import { Link } from "../router";
import { Ago, Card, Command, Doing, Empty, JobLink, RanFor, Skeleton, State, TroubleBox, useNow } from "../ui/parts";
import { Area } from "../ui/area";
import { exact, kindWord, ms, plural } from "../words";

export function OverviewPage() {
  const { overview, trouble } = useOverview();
  // The weeks are the longest look back there is: they come after what one looks at first.
  const [hasUsed, setHasUsed] = useState(false);
  if (!overview)
    return (
      <>
        <div class="head">
          <h1>Overview</h1>
        </div>
        {trouble ? <TroubleBox of={trouble} /> : <Skeleton lines={9} />}
      </>
    );
  const isNew = overview.newestJobId === 0n;
  return (
    <>
      <h1 class="sr">Overview</h1>
      <Figures of={overview} />
      <div class="two">
        <div class="stack">
          {isNew ? (
            <Card title="Nothing has been submitted yet">
              <Empty title="The cluster is ready">
                <p>A pipeline is a file of jobs. This one needs no data:</p>
                <Command line="marquee submit examples/command.toml --wait" />
                <p>
                  or <Link to="/submit">write one here</Link>
                </p>
              </Empty>
            </Card>
          ) : null}
          <Running jobs={overview.running} />
          <Queue of={overview} />
          <Ended jobs={overview.ended} />
        </div>
        <div class="stack">
          <Devices of={overview} />
          <Used known={() => setHasUsed(true)} />
          <ByProject after={hasUsed} />
        </div>
      </div>
    </>
  );
}

function Figures({ of }: { of: Overview }) {
  const jobs = (...states: JobState[]) =>
    of.jobs.filter(({ state }) => states.includes(state)).reduce((sum, { jobs }) => sum + jobs, 0);
  const failed = jobs(JobState.FAILED);
  const figures = [
    { label: "Running", value: jobs(JobState.RUNNING), to: "/jobs?state=running", dot: "var(--run)" },
    { label: "Queued", value: jobs(JobState.QUEUED), to: "/jobs?state=queued", dot: "var(--wait)" },
    { label: "Waiting for others", value: jobs(JobState.WAITING), to: "/jobs?state=waiting", dot: "var(--idle)" },
    { label: "Succeeded, 24 h", value: jobs(JobState.SUCCEEDED), to: "/jobs?state=succeeded", dot: "var(--ok)" },
    { label: "Failed, 24 h", value: failed, to: "/jobs?state=failed", dot: "var(--bad)" },
  ];
  return (
    <nav class="figures" aria-label="Jobs by state">
      {figures.map(({ label, value, to, dot }) => (
        <Link key={label} to={to}>
          <span class="label">
            <i class="dot" aria-hidden="true" style={{ "--dot": dot }} />
            {label}
          </span>
          <span class="value">{value.toLocaleString("en-US")}</span>
        </Link>
      ))}
    </nav>
  );
}

function Running({ jobs }: { jobs: Job[] }) {
  if (jobs.length === 0) return null;
  return (
    <Card title="Running now" more={<Link to="/jobs?state=running">All</Link>}>
      <ul class="rows">
        {jobs.map((job) => (
          <li key={String(job.id)}>
            <State of={job.state} small />
            <div>
              <JobLink job={job} /> <PipelineOf job={job} />
            </div>
            <span class="side">
              <RanFor job={job} />
            </span>
            <div class="below">
              <Doing job={job} />
            </div>
          </li>
        ))}
      </ul>
    </Card>
  );
}

function PipelineOf({ job }: { job: Job }) {
  return (
    <span class="quiet">
      {kindWord(job.kind)} in{" "}
      <Link to={`/pipelines/${job.pipelineId}`}>
        {job.pipelineName} p{String(job.pipelineId)}
      </Link>
    </span>
  );
}

function Queue({ of }: { of: Overview }) {
  if (of.queue.length === 0) return null;
  return (
    <Card title="Waiting, and why" more={<Link to="/jobs?state=queued">{plural(of.queued, "job")}</Link>}>
      <ul class="rows">
        {of.queue.map((reason) => (
          <li key={reason.text}>
            <span class="count-big">{reason.jobs.toLocaleString("en-US")}</span>
            <span>{reason.text}</span>
            <span class="side">
              <Link to={`/jobs/${reason.exampleJobId}`}>job {String(reason.exampleJobId)}</Link>
            </span>
          </li>
        ))}
      </ul>
    </Card>
  );
}

function Ended({ jobs }: { jobs: Job[] }) {
  const [bad, setBad] = useState(false);
  const shown = bad ? jobs.filter((job) => job.state === JobState.FAILED) : jobs.slice(0, 8);
  if (jobs.length === 0) return null;
  return (
    <Card
      title="Ended lately"
      more={
        <button type="button" class="chip" aria-pressed={bad} onClick={() => setBad(!bad)}>
          failed only
        </button>
      }
    >
      {shown.length === 0 ? (
        <Empty title="None of the newest failed" />
      ) : (
        <ul class="rows">
          {shown.map((job) => (
            <li key={String(job.id)}>
              <State of={job.state} small />
              <div>
                <JobLink job={job} /> <PipelineOf job={job} />
              </div>
              <span class="side">
                <Ago at={job.finishedAt} />
              </span>
              {job.state === JobState.FAILED || job.state === JobState.CANCELLED || job.reusedFromJobId !== 0n ? (
                <div class="below quiet">
                  <Doing job={job} />
                </div>
              ) : null}
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}

/** Bulbs are single where there are few. */
const BULBS_MAX = 256;

function Devices({ of }: { of: Overview }) {
  const online = of.workersOnline;
  const lost = of.workersLost;
  return (
    <Card title="Devices" more={<Link to="/workers">{plural(online, "worker")}</Link>}>
      <div class="inside stack">
        {online + lost === 0 ? (
          <Empty title="No worker has come yet">
            <p>Each host runs one; on this machine:</p>
            <Command line="marquee-worker" />
          </Empty>
        ) : null}
        {lost > 0 ? (
          <p class="trouble-title">
            {plural(lost, "worker")} lost: <Link to="/workers">which</Link>
          </p>
        ) : null}
        <Bulbs kind="gpu" of={of.gpus} />
        {of.idleGpus > 0 ? (
          <p class="quiet">
            {plural(of.idleGpus, "GPU")} of {plural(of.idleJobs, "running job")} {of.idleGpus === 1 ? "does" : "do"}{" "}
            nothing
          </p>
        ) : null}
        <Bulbs kind="cpu" of={of.cpus} />
      </div>
    </Card>
  );
}

function Bulbs({ kind, of }: { kind: "cpu" | "gpu"; of: DeviceCount | undefined }) {
  if (!of || of.all === 0) return null;
  const name = kind === "gpu" ? "GPU" : "CPU device";
  const closed = Math.min(of.closed, of.all - of.held);
  const says = `${of.held} of ${plural(of.all, name)} held${of.closed > 0 ? `, ${of.closed} closed` : ""}`;
  return (
    <div>
      <p class="node-row">
        <span>{says}</span>
        <span class="quiet num">{Math.round((100 * of.held) / of.all)} %</span>
      </p>
      {of.all <= BULBS_MAX ? (
        <div class="bulbs" role="img" aria-label={says} style={{ marginTop: "0.5rem" }}>
          {Array.from({ length: of.all }, (_, index) => {
            const look = index < of.held ? " bulb-held" : index >= of.all - closed ? " bulb-closed" : "";
            return <i key={index} class={`bulb bulb-${kind}${look}`} />;
          })}
        </div>
      ) : (
        <progress max={of.all} value={of.held} aria-label={says} />
      )}
    </div>
  );
}

const SPANS = [
  { name: "24 h", hours: 24, buckets: 96 },
  { name: "7 d", hours: 168, buckets: 84 },
  { name: "30 d", hours: 720, buckets: 90 },
] as const;

/** Milliseconds after which it is counted again. */
const USED_EVERY = 60_000;

function Used({ known }: { known: () => void }) {
  const [span, setSpan] = useState<(typeof SPANS)[number]>(SPANS[0]);
  const key = `${span.hours}:${Math.floor(useNow(USED_EVERY) / USED_EVERY)}`;
  const { value, trouble, again } = useAnswer(key, (signal) =>
    cluster.getUsage({ hours: span.hours, buckets: span.buckets }, { signal }),
  );
  const [last, setLast] = useState<Usage>();
  if (value && value !== last) setLast(value);
  const usage = value ?? last;
  const isKnown = usage !== undefined;
  useEffect(() => {
    if (isKnown) known();
  }, [isKnown]);
  return (
    <Card
      title="Used"
      more={
        <span class="chips">
          {SPANS.map((one) => (
            <button key={one.name} type="button" class="chip" aria-pressed={one === span} onClick={() => setSpan(one)}>
              {one.name}
            </button>
          ))}
        </span>
      }
    >
      {trouble && !usage ? <TroubleBox of={trouble} again={again} /> : null}
      {usage ? <UsedOf usage={usage} /> : trouble ? null : <Skeleton lines={4} />}
    </Card>
  );
}

function UsedOf({ usage }: { usage: Usage }) {
  const hasGpus = usage.gpus.some((held) => held > 0);
  const curves = useMemo(
    () => [
      ...(hasGpus ? [{ name: "GPUs", values: usage.gpus, colour: "var(--chart-1)" }] : []),
      { name: "CPU devices", values: usage.cpus, colour: hasGpus ? "var(--chart-2)" : "var(--chart-1)" },
    ],
    [usage, hasGpus],
  );
  return (
    <div class="inside stack">
      <Area curves={curves} from={ms(usage.from) ?? 0} to={ms(usage.to) ?? 0} label="Devices held over time" />
      {usage.pipelines.length === 0 ? <p class="quiet">Nothing ran in this time.</p> : null}
      {usage.pipelines.length > 0 ? (
        <div class="wide" tabIndex={0} role="group" aria-label="Table">
          <table class="list">
            <thead>
              <tr>
                <th scope="col" style={{ paddingLeft: 0 }}>
                  Pipeline
                </th>
                <th scope="col" class="right">
                  {hasGpus ? "GPU h" : "CPU h"}
                </th>
                <th scope="col" class="right" title="Hours of attempts that did not succeed">
                  lost
                </th>
              </tr>
            </thead>
            <tbody>
              {usage.pipelines.slice(0, 8).map((one) => (
                <tr key={one.pipelineName}>
                  <td style={{ paddingLeft: 0 }}>
                    <Link to={`/jobs?text=${encodeURIComponent(one.pipelineName)}`}>{one.pipelineName}</Link>
                  </td>
                  <td class="right num">{(hasGpus ? one.gpuHours : one.cpuHours).toFixed(2)}</td>
                  <td class="right num">{one.lostHours >= 0.005 ? one.lostHours.toFixed(2) : "–"}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      ) : null}
      {usage.isCut ? <p class="quiet">There were more attempts than are looked at; the oldest are missing.</p> : null}
    </div>
  );
}

/** Weeks that are told apart. */
const WEEKS = 5;
const WEEK_MS = 7 * 24 * 3600_000;

/** Device hours by project, of each week; the present one first. */
export function byProject(
  usage: Usage,
  now: number,
): { weeks: number[]; rows: { project: string; hours: number[] }[] } {
  // 1970-01-05 was a Monday.
  const monday = now - ((now - 4 * 24 * 3600_000) % WEEK_MS);
  const weeks = Array.from({ length: WEEKS }, (_, back) => monday - back * WEEK_MS);
  const hasGpus = usage.projectWeeks.some((one) => one.gpuHours > 0);
  const rows = new Map<string, number[]>();
  for (const one of usage.projectWeeks) {
    const back = weeks.indexOf(ms(one.week) ?? 0);
    if (back < 0) continue;
    const hours = rows.get(one.project) ?? weeks.map(() => 0);
    hours[back] = (hours[back] ?? 0) + (hasGpus ? one.gpuHours : one.cpuHours);
    rows.set(one.project, hours);
  }
  const sum = (hours: number[]) => hours.reduce((all, one) => all + one, 0);
  const sorted = [...rows].map(([project, hours]) => ({ project, hours }));
  return { weeks, rows: sorted.toSorted((a, b) => sum(b.hours) - sum(a.hours)) };
}

function ByProject({ after }: { after: boolean }) {
  const key = `weeks:${Math.floor(useNow(USED_EVERY) / USED_EVERY)}`;
  const { value } = useAnswer(after ? key : null, (signal) =>
    cluster.getUsage({ hours: WEEKS * 168, buckets: 1 }, { signal }),
  );
  const [last, setLast] = useState<Usage>();
  if (value && value !== last) setLast(value);
  const usage = value ?? last;
  if (!usage) return null;
  const { weeks, rows } = byProject(usage, ms(usage.to) ?? Date.now());
  if (rows.length === 0) return null;
  const hasGpus = usage.projectWeeks.some((one) => one.gpuHours > 0);
  const day = (week: number) =>
    new Date(week).toLocaleDateString(undefined, { day: "numeric", month: "short", timeZone: "UTC" });
  return (
    <Card title={`${hasGpus ? "GPU" : "CPU"}-hours by project and week`} more={<Link to="/admin">Quotas</Link>}>
      <div class="wide" tabIndex={0} role="group" aria-label="Table of hours">
        <table class="list">
          <thead>
            <tr>
              <th scope="col">Project</th>
              {weeks.map((week) => (
                <th key={week} scope="col" class="right" title={`From ${exact(week)}`}>
                  {day(week)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, 10).map(({ project, hours }) => (
              <tr key={project}>
                <td>
                  <Link to={`/jobs?project=${encodeURIComponent(project)}`}>{project}</Link>
                </td>
                {hours.map((one, back) => (
                  <td key={weeks[back]} class="right num">
                    {one >= 0.005 ? (one < 10 ? one.toFixed(2) : one.toFixed(0)) : "–"}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {usage.isCut ? (
        <p class="inside quiet">There were more attempts than are looked at; the oldest are missing.</p>
      ) : null}
    </Card>
  );
}

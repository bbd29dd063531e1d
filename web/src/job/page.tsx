/** A job: why it is where it is, its attempts, logs, curves, files and spec. */

import { useEffect, useState } from "preact/hooks";
import { jobs as service } from "../api";
import { JobState } from "../gen/marquee/v1/common_pb";
import type { Job, JobDetail } from "../gen/marquee/v1/jobs_pb";
import { lazy } from "../lazy";
import { useAnswer, useStream } from "../live";
import { useOverview } from "../overview";
import { Link } from "../router";
import { Act } from "../ui/dialog";
import { Card, Command, Empty, Progress, Skeleton, State, Tabs, TroubleBox } from "../ui/parts";
import { isOpen, jobName, kindWord } from "../words";
import { denied, useWho } from "../who";
import { Attempts } from "./attempts";
import { Logs } from "./logs";
import { Overview } from "./overview";

const Curves = lazy(() => import("./curves").then((part) => part.Curves));
const Files = lazy(() => import("./files").then((part) => part.Files));
const Spec = lazy(() => import("./spec").then((part) => part.Spec));

const PARTS = ["", "attempts", "logs", "curves", "files", "spec"] as const;

export function JobPage({ id, part, query }: { id: bigint; part: string; query: URLSearchParams }) {
  const [live, setLive] = useState<Job>();
  const { returns } = useOverview();
  const stream = useStream(
    `job ${id}/${returns}`,
    (signal) => service.watch({ jobIds: [id], keepOpen: true }, { signal }),
    ({ job }) => setLive(job),
  );
  const answer = useAnswer(`job ${id}`, (signal) => service.getJob({ id }, { signal }));
  // History, attempts and ranks change with these; progress alone does not.
  const stamp = live ? `${live.state}/${live.attempt}/${live.reason}/${live.cancelRequested}` : "";
  const again = answer.again;
  useEffect(() => {
    if (stamp !== "") again();
  }, [stamp]);
  // Ranks report their progress by themselves; what they hold is read again now and then while it runs.
  const beat = live?.state === JobState.RUNNING ? Math.floor(Number(live.progress?.at?.seconds ?? 0n) / 3) : 0;
  useEffect(() => {
    if (beat > 0) again();
  }, [beat]);

  const detail = answer.value;
  const job = live ?? detail?.job;
  const why = answer.trouble ?? (job ? undefined : stream.trouble);
  if (!detail || !job)
    return (
      <>
        <h1 class="sr">Job {String(id)}</h1>
        {why ? <TroubleBox of={why} again={again} /> : <Skeleton lines={10} />}
      </>
    );
  const base = `/jobs/${id}`;
  const checked = PARTS.find((known) => known === part);
  const tabs = [
    { name: "Overview", to: base },
    { name: "Attempts", to: `${base}/attempts`, count: detail.attempts.length },
    { name: "Logs", to: `${base}/logs` },
    { name: "Curves", to: `${base}/curves` },
    { name: "Files", to: `${base}/files` },
    { name: "Spec", to: `${base}/spec` },
  ];
  const now = tabs.find(({ to }) => to === (part === "" ? base : `${base}/${part}`))?.name ?? "";
  return (
    <>
      <Head job={job} again={again} />
      <Tabs of={tabs} now={now} />
      {checked === undefined ? (
        <Empty title="A job has no such part">
          <Link to={base}>Its overview</Link>
        </Empty>
      ) : (
        <Part part={checked} detail={detail} job={job} query={query} />
      )}
    </>
  );
}

interface PartProps {
  part: (typeof PARTS)[number];
  detail: JobDetail;
  job: Job;
  query: URLSearchParams;
}

function Part({ part, detail, job, query }: PartProps) {
  switch (part) {
    case "":
      return <Overview detail={detail} job={job} />;
    case "attempts":
      return <Attempts detail={detail} />;
    case "logs":
      return job.elements ? <OfElements job={job} /> : <Logs detail={detail} job={job} query={query} />;
    case "curves":
      return job.elements ? <OfElements job={job} /> : <Curves detail={detail} job={job} query={query} />;
    case "files":
      return <Files detail={detail} job={job} />;
    case "spec":
      return <Spec detail={detail} />;
  }
}

function OfElements({ job }: { job: Job }) {
  return (
    <Card title="A job array">
      <Empty title="Its elements do the work">
        <p>
          <Link to={`/jobs?array=${job.id}`}>Its elements</Link> have logs and curves of their own.
        </p>
      </Empty>
    </Card>
  );
}

function Head({ job, again }: { job: Job; again: () => void }) {
  const name = jobName(job);
  const ended = job.state === JobState.FAILED || job.state === JobState.CANCELLED;
  const { identity } = useWho();
  const no = denied(identity, "submitter", job.project);
  return (
    <div class="head">
      <div class="head-title">
        <p class="crumbs">
          <Link to="/jobs">Jobs</Link> /{" "}
          <Link to={`/pipelines/${job.pipelineId}`}>
            {job.pipelineName} p{String(job.pipelineId)}
          </Link>
          {job.element ? (
            <>
              {" "}
              / <Link to={`/jobs/${job.element.arrayJobId}`}>array {String(job.element.arrayJobId)}</Link>
            </>
          ) : null}
        </p>
        <h1>{name}</h1>
        <State of={job.state} />
        <span class="quiet">
          {kindWord(job.kind)} job {String(job.id)}
          {job.attempt > 0 ? `, attempt ${job.attempt}` : ""}
        </span>
        {job.state === JobState.RUNNING && job.progress ? <Progress of={job.progress} name={name} /> : null}
      </div>
      <div class="actions">
        {job.state === JobState.SUCCEEDED && kindWord(job.kind) === "eval" ? (
          <Link class="button" to={`/reports/${job.id}`}>
            Report
          </Link>
        ) : null}
        {kindWord(job.kind) === "train" ? (
          <Link class="button" to={`/compare?jobs=${job.id}`}>
            Compare
          </Link>
        ) : null}
        {job.elements ? (
          <Link class="button" to={`/jobs?array=${job.id}`}>
            Elements
          </Link>
        ) : null}
        {no ? <span class="quiet">{no}</span> : null}
        {!no && isOpen(job.state) && !job.cancelRequested ? (
          <Act
            label="Cancel"
            question={`Cancel ${name}?`}
            text={
              job.state === JobState.RUNNING
                ? "Its processes are told to stop; what they have not committed is lost. Jobs that need it are cancelled too."
                : "It will not start. Jobs that need it are cancelled too."
            }
            yes="Cancel it"
            danger
            act={() => service.cancelJob({ id: job.id })}
            done={again}
          />
        ) : null}
        {!no && (job.state === JobState.WAITING || job.state === JobState.QUEUED) && !job.element ? (
          job.heldBy === "" ? (
            <Act
              label="Hold"
              question={`Hold ${name}?`}
              text="It keeps its place and is not placed until somebody releases it."
              yes="Hold it"
              act={() => service.holdJob({ id: job.id })}
              done={again}
            />
          ) : (
            <Act
              label="Release"
              question={`Release ${name}?`}
              text={`It is held by ${job.heldBy}. Released, it is placed as soon as it fits.`}
              yes="Release it"
              act={() => service.releaseJob({ id: job.id })}
              done={again}
            />
          )
        ) : null}
        {!no && ended ? (
          <Act
            label="Retry"
            question={`Try ${name} again?`}
            text="It is queued again with as many attempts as it had at first, and so are the jobs that were cancelled for its sake. It runs with the settings it has."
            yes="Queue it again"
            act={() => service.retryJob({ id: job.id })}
            done={again}
          />
        ) : null}
      </div>
    </div>
  );
}

/** The place of this page that shows what a command would. */
function placeOf(command: string): { to: string; name: string } | undefined {
  const [, verb = "", id = ""] = /^marquee (logs|explain|artifacts get)(?: -f)? (\d+)\b/.exec(command) ?? [];
  if (verb === "logs") return { to: `/jobs/${id}/logs`, name: "open the log" };
  if (verb === "explain") return { to: `/jobs/${id}`, name: "go there" };
  if (verb === "artifacts get") return { to: `/jobs/${id}/files`, name: "see its files" };
  return command === "marquee workers" ? { to: "/workers", name: "see the workers" } : undefined;
}

/** What to do, as a command to type or a sentence. */
export function Hints({ of }: { of: { command: string; text: string }[] }) {
  if (of.length === 0) return null;
  return (
    <div class="hints">
      {of.map((hint) =>
        hint.command === "" ? (
          <span key={hint.text}>{hint.text}</span>
        ) : (
          <Hinted key={hint.command} command={hint.command} text={hint.text} />
        ),
      )}
    </div>
  );
}

function Hinted({ command, text }: { command: string; text: string }) {
  const place = placeOf(command);
  return (
    <span class="hint">
      <Command line={command} />
      {place ? <Link to={place.to}>{place.name}</Link> : text}
    </span>
  );
}

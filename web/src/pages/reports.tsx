/** The reports of eval jobs, each in a frame of its own that may run nothing and ask nothing. */

import { jobs as service } from "../api";
import { JobKind, JobState } from "../gen/marquee/v1/common_pb";
import { useAnswer } from "../live";
import { Link } from "../router";
import { ScoreRows } from "../job/scores";
import { scores, summary } from "../scores";
import { Ago, Card, Command, Empty, Skeleton, TroubleBox } from "../ui/parts";
import { jobName } from "../words";

const SHOWN = 50;

export function ReportsPage({ id }: { id: bigint | undefined }) {
  return id === undefined ? <All /> : <One id={id} />;
}

function All() {
  const answer = useAnswer("reports", (signal) =>
    service.listJobs(
      { kinds: [JobKind.EVAL], states: [JobState.SUCCEEDED], pageSize: SHOWN, withTotal: true },
      { signal },
    ),
  );
  return (
    <>
      <div class="head">
        <h1>Reports</h1>
      </div>
      {answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : null}
      {!answer.value ? (
        answer.trouble ? null : (
          <Skeleton lines={6} />
        )
      ) : answer.value.jobs.length === 0 ? (
        <div class="card">
          <Empty title="No model has been evaluated yet">
            <p>A pipeline with a job of kind "eval" ends in a report. The demo makes one in minutes:</p>
            <Command line="cargo xtask demo --keep" />
          </Empty>
        </div>
      ) : (
        <Card title="Evaluations, newest first">
          <ul class="rows">
            {answer.value.jobs.map((job) => (
              <li key={String(job.id)}>
                <span class="num quiet">{String(job.id)}</span>
                <span>
                  <Link to={`/reports/${job.id}`} class="job-link">
                    {jobName(job)}
                  </Link>
                  <span class="of">
                    in {job.pipelineName} p{String(job.pipelineId)}
                  </span>
                </span>
                <span class="side">
                  <Ago at={job.finishedAt} />
                </span>
              </li>
            ))}
          </ul>
        </Card>
      )}
    </>
  );
}

function One({ id }: { id: bigint }) {
  const answer = useAnswer(`report ${id}`, (signal) => service.getJob({ id }, { signal }));
  if (!answer.value)
    return answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={9} />;
  const job = answer.value.job;
  const found = scores(summary(answer.value));
  if (!job) return null;
  return (
    <>
      <div class="head">
        <div class="head-title">
          <p class="crumbs">
            <Link to="/reports">Reports</Link> /{" "}
            <Link to={`/pipelines/${job.pipelineId}`}>
              {job.pipelineName} p{String(job.pipelineId)}
            </Link>
          </p>
          <h1>Report of {jobName(job)}</h1>
        </div>
        <Link class="button" to={`/jobs/${job.id}`}>
          The job
        </Link>
      </div>
      {job.state !== JobState.SUCCEEDED ? (
        <div class="card">
          <Empty title="There is a report when the job has succeeded">
            <Link to={`/jobs/${job.id}`}>What it does now</Link>
          </Empty>
        </div>
      ) : (
        <div class="stack">
          {found ? (
            <Card title="At a glance">
              <div class="inside">
                <ScoreRows of={found} />
              </div>
            </Card>
          ) : null}
          <iframe class="report" title={`Report of ${jobName(job)}`} src={`/reports/${job.id}/document`} sandbox="" />
        </div>
      )}
    </>
  );
}

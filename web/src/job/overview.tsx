/** Why a job is where it is, what became of it over time, and what stands before and behind it. */

import { jobs as service } from "../api";
import type { Job, JobDetail, Relative } from "../gen/marquee/v1/jobs_pb";
import { useAnswer } from "../live";
import { Link } from "../router";
import { Ago, Card, Facts, RanFor, State } from "../ui/parts";
import { bytes, count, duration, exact, kindWord, ms, plural } from "../words";
import { Hints } from "./page";
import { Phases } from "./phases";
import { Scores } from "./scores";
import { TimeLine } from "./timeline";

export function Overview({ detail, job }: { detail: JobDetail; job: Job }) {
  const key = `explain ${job.id}/${job.state}/${job.attempt}/${job.reason}/${detail.events.length}`;
  const why = useAnswer(key, (signal) => service.explain({ jobId: job.id }, { signal })).value;
  const isBeside = detail.takesFrom.length > 0 || detail.takenBy.length > 0;
  return (
    <div class="two">
      <div class="stack">
        {why && why.why.length > 0 ? (
          <div class="why">
            {why.result === "" ? null : (
              <p>
                <strong>{why.result}</strong>
              </p>
            )}
            {why.why.map((sentence) => (
              <p key={sentence}>{sentence}</p>
            ))}
            <Hints of={why.whatToDo} />
          </div>
        ) : null}
        <Card title="Time line">
          <div class="inside">
            <TimeLine detail={detail} job={job} />
          </div>
        </Card>
        <Scores detail={detail} />
        <Phases detail={detail} />
        <Card title="History">
          <div class="inside">
            <Events detail={detail} />
          </div>
        </Card>
      </div>
      <div class="stack">
        <Card title="Facts">
          <div class="inside">
            <Facts
              of={[
                ["Submitted", <Ago at={job.createdAt} />],
                ["Started", job.startedAt ? <Ago at={job.startedAt} /> : ""],
                ["Ended", job.finishedAt ? <Ago at={job.finishedAt} /> : ""],
                ["Ran", job.startedAt ? <RanFor job={job} /> : ""],
                ["Project", job.project],
                ["Held by", job.heldBy],
                ["Makes room", job.makesRoom],
                ["Ranks", job.ranks],
                ["Attempts", `${job.attempt} of ${Math.max(job.maxAttempts, job.attempt)}`],
                ["Priority", job.priority === 0 ? "" : job.priority],
                ["Artifact", job.artifactDigest === "" ? "" : <Digest of={job.artifactDigest} />],
              ]}
            />
          </div>
        </Card>
        {isBeside ? (
          <Card title="Lineage">
            <Relatives title="Takes from" of={detail.takesFrom} />
            <Relatives title="Taken by" of={detail.takenBy} />
          </Card>
        ) : null}
        {detail.checkpoints.length > 0 ? <Checkpoints detail={detail} /> : null}
      </div>
    </div>
  );
}

export function Digest({ of }: { of: string }) {
  return (
    <Link to={`/artifacts/${of.slice(0, 12)}`} title={of}>
      <code>{of.slice(0, 12)}</code>
    </Link>
  );
}

function Relatives({ title, of }: { title: string; of: Relative[] }) {
  if (of.length === 0) return null;
  return (
    <>
      <h3 style={{ padding: "0.7rem 1.1rem 0" }}>{title}</h3>
      <ul class="rows">
        {of.map((relative) => (
          <li key={String(relative.jobId)}>
            <State of={relative.state} small />
            <span>
              <Link to={`/jobs/${relative.jobId}`} class="job-link">
                {relative.jobName}
              </Link>
              <span class="of">
                {kindWord(relative.kind)} in {relative.pipelineName} p{String(relative.pipelineId)}
                {relative.isReuse ? ", its result taken instead of doing it again" : ""}
              </span>
            </span>
            <span class="side">{relative.digest === "" ? "" : <Digest of={relative.digest} />}</span>
          </li>
        ))}
      </ul>
    </>
  );
}

const CHECKPOINTS_SHOWN = 6;

function Checkpoints({ detail }: { detail: JobDetail }) {
  const all = detail.checkpoints;
  return (
    <Card title="Checkpoints" more={<span class="quiet">{plural(all.length, "checkpoint")}</span>}>
      <ul class="rows">
        {all.slice(0, CHECKPOINTS_SHOWN).map((checkpoint) => (
          <li key={`${checkpoint.attempt}/${checkpoint.step}`}>
            <span class="num">step {count(checkpoint.step)}</span>
            <span class="quiet">
              attempt {checkpoint.attempt}, {bytes(checkpoint.sizeBytes)}
            </span>
            <span class="side">
              <Ago at={checkpoint.createdAt} />
            </span>
          </li>
        ))}
      </ul>
    </Card>
  );
}

function Events({ detail }: { detail: JobDetail }) {
  const events = detail.events;
  return (
    <ol class="events">
      {events.map((event, index) => {
        const at = ms(event.at);
        const before = ms(events[index - 1]?.at);
        const after = at !== undefined && before !== undefined ? `, ${duration(at - before)} later` : "";
        return (
          <li key={index}>
            <span class="when" title={at === undefined ? "" : exact(at)}>
              <Ago at={event.at} />
              {after}
              {event.attempt > 0 ? `, attempt ${event.attempt}` : ""}
              {event.caller === "" ? "" : `, by ${event.caller}`}
            </span>
            {event.text}
          </li>
        );
      })}
    </ol>
  );
}

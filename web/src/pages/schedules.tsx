/** Pipelines that are submitted at set times: when each is due, and what became of its last due times. */

import { schedules as service } from "../api";
import type { Schedule, ScheduleRun } from "../gen/marquee/v1/schedules_pb";
import { useAnswer } from "../live";
import { Link } from "../router";
import { Act } from "../ui/dialog";
import { Ago, Card, Command, Empty, Facts, Skeleton, TroubleBox } from "../ui/parts";
import { plural } from "../words";

const ADD = 'marquee schedule add nightly pipeline.toml --cron "30 2 * * *" --tz Europe/Berlin';

export function SchedulesPart({ name }: { name: string }) {
  return name === "" ? <All /> : <One name={name} />;
}

function All() {
  const answer = useAnswer("schedules", (signal) => service.listSchedules({}, { signal }));
  if (!answer.value)
    return answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={6} />;
  const all = answer.value.schedules;
  return (
    <Card title="Schedules" more={<span class="quiet">{plural(all.length, "schedule")}</span>}>
      {all.length === 0 ? (
        <Empty title="Nothing is submitted by itself">
          <Command line={ADD} />
        </Empty>
      ) : (
        <table class="list list-cards">
          <thead>
            <tr>
              <th scope="col">Schedule</th>
              <th scope="col">When</th>
              <th scope="col">Due next</th>
              <th scope="col">Last</th>
              <th scope="col" class="right">
                <span class="sr">Pause</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {all.map((schedule) => (
              <Row key={schedule.name} schedule={schedule} again={answer.again} />
            ))}
          </tbody>
        </table>
      )}
    </Card>
  );
}

function Row({ schedule, again }: { schedule: Schedule; again: () => void }) {
  const [last] = schedule.runs;
  return (
    <tr>
      <td>
        <Link to={`/admin/schedules/${encodeURIComponent(schedule.name)}`} class="job-link">
          {schedule.name}
        </Link>
        <span class="of">set by {schedule.setBy}</span>
      </td>
      <td>
        <code>{schedule.cron}</code>
        <span class="of">{schedule.timeZone}</span>
      </td>
      <td>
        <Due of={schedule} />
      </td>
      <td class="row-wide">{last ? <Became of={last} /> : <span class="quiet">never was due</span>}</td>
      <td class="right">
        <Pause schedule={schedule} again={again} />
      </td>
    </tr>
  );
}

function Due({ of }: { of: Schedule }) {
  if (of.pausedBy !== "")
    return (
      <>
        paused
        <span class="of">
          by {of.pausedBy} <Ago at={of.pausedAt} />
        </span>
      </>
    );
  if (of.waitingDue)
    return (
      <>
        when the run before it has ended
        <span class="of">
          was due <Ago at={of.waitingDue} />
        </span>
      </>
    );
  return of.nextDue ? <Ago at={of.nextDue} /> : <span class="quiet">never again</span>;
}

function Became({ of }: { of: ScheduleRun }) {
  return (
    <>
      {of.outcome} <Ago at={of.dueAt} />
      {of.pipelineId === 0n ? null : (
        <>
          : <Link to={`/pipelines/${of.pipelineId}`}>p{String(of.pipelineId)}</Link>
        </>
      )}
      {of.text === "" ? null : <span class="of">{of.text}</span>}
    </>
  );
}

function Pause({ schedule, again }: { schedule: Schedule; again: () => void }) {
  const { name } = schedule;
  return schedule.pausedBy === "" ? (
    <Act
      label="Pause"
      question={`Pause ${name}?`}
      text="Due times pass until somebody resumes it. What it has submitted goes on."
      yes="Pause it"
      act={() => service.pauseSchedule({ name })}
      done={again}
    />
  ) : (
    <Act
      label="Resume"
      question={`Resume ${name}?`}
      text="It goes on with the next due time; those that passed are left out."
      yes="Resume it"
      act={() => service.pauseSchedule({ name, resume: true })}
      done={again}
    />
  );
}

function One({ name }: { name: string }) {
  const answer = useAnswer(`schedule ${name}`, (signal) => service.getSchedule({ name }, { signal }));
  const schedule = answer.value;
  if (!schedule)
    return answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={8} />;
  const { format } = schedule.document ?? {};
  return (
    <div class="two">
      <div class="stack">
        <Card title={`Schedule ${schedule.name}`} more={<Link to="/admin/schedules">All schedules</Link>}>
          <div class="inside stack">
            <Facts
              of={[
                ["Pattern", <code>{schedule.cron}</code>],
                ["Time zone", schedule.timeZone],
                ["Due next", <Due of={schedule} />],
                [
                  "While one still runs",
                  schedule.overlap === "queue" ? "the next one waits" : "the next one is left out",
                ],
                ["Missed times", schedule.missed === "none" ? "are left out" : "one run stands for all"],
                ["Set by", schedule.setBy],
                ["Set", <Ago at={schedule.setAt} />],
              ]}
            />
            <Pause schedule={schedule} again={answer.again} />
          </div>
        </Card>
        <Card title="Its due times">
          {schedule.runs.length === 0 ? (
            <p class="inside quiet">None has come yet.</p>
          ) : (
            <ul class="rows">
              {schedule.runs.map((run, place) => (
                <li key={place}>
                  <span />
                  <div>
                    <Became of={run} />
                  </div>
                </li>
              ))}
            </ul>
          )}
        </Card>
      </div>
      <Card title="What it submits">
        <pre class="spec" tabIndex={0}>
          {format?.case === undefined ? "" : format.value}
        </pre>
      </Card>
    </div>
  );
}

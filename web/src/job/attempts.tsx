/** Each attempt with its ranks: where they ran, on what, how far they came, and what became of them. */

import type { Attempt, AttemptRank, JobDetail } from "../gen/marquee/v1/jobs_pb";
import { Link } from "../router";
import { Ago, Card, Command, Empty, Progress } from "../ui/parts";
import { attemptWord, deviceWord, duration, failureWord, ms, plural, rankWord } from "../words";

/** Of more ranks the table shows the first, and those that failed. */
const RANKS_SHOWN = 64;

export function Attempts({ detail }: { detail: JobDetail }) {
  if (detail.attempts.length === 0)
    return (
      <Card title="Attempts">
        <Empty title="It has not been tried yet">
          {detail.job ? <Command line={`marquee explain ${detail.job.id}`} /> : null}
        </Empty>
      </Card>
    );
  return (
    <div class="stack">
      {detail.attempts.toReversed().map((attempt) => (
        <OneAttempt key={attempt.number} job={detail.job?.id ?? 0n} attempt={attempt} />
      ))}
    </div>
  );
}

export function Word({ of }: { of: string }) {
  return <span class={`state state-${of}`}>{of.replace("_", " ")}</span>;
}

function OneAttempt({ job, attempt }: { job: bigint; attempt: Attempt }) {
  const started = ms(attempt.startedAt);
  const ended = ms(attempt.finishedAt);
  const ran = started !== undefined && ended !== undefined ? `, ran ${duration(ended - started)}` : "";
  const shown = attempt.ranks.filter((rank) => rank.rank < RANKS_SHOWN || rank.failure);
  return (
    <Card
      title={`Attempt ${attempt.number}`}
      more={
        <span class="quiet">
          <Word of={attemptWord(attempt.state)} /> <Ago at={attempt.createdAt} />
          {ran}
        </span>
      }
    >
      {attempt.failure || attempt.resumedFromStep !== undefined ? (
        <div class="inside stack" style={{ gap: "0.5rem" }}>
          {attempt.resumedFromStep === undefined ? null : (
            <p>It went on from the checkpoint at step {String(attempt.resumedFromStep)}.</p>
          )}
          {attempt.failure ? (
            <p>
              <Word of={failureWord(attempt.failure.class)} /> {attempt.failure.message}
            </p>
          ) : null}
        </div>
      ) : null}
      <div class="wide" tabIndex={0} role="group" aria-label="Table">
        <table class="list">
          <thead>
            <tr>
              <th scope="col">Rank</th>
              <th scope="col">Worker</th>
              <th scope="col">Devices</th>
              <th scope="col">State</th>
              <th scope="col">Progress</th>
            </tr>
          </thead>
          <tbody>
            {shown.map((rank) => (
              <Rank key={rank.rank} job={job} attempt={attempt.number} rank={rank} />
            ))}
          </tbody>
        </table>
      </div>
      {shown.length < attempt.ranks.length ? (
        <p class="inside quiet">{plural(attempt.ranks.length - shown.length, "more rank")}, none of which failed.</p>
      ) : null}
    </Card>
  );
}

function Rank({ job, attempt, rank }: { job: bigint; attempt: number; rank: AttemptRank }) {
  return (
    <tr>
      <td class="num">
        <Link to={`/jobs/${job}/logs?attempt=${attempt}&rank=${rank.rank}`}>{rank.rank}</Link>
      </td>
      <td>
        <Link to={`/workers/${encodeURIComponent(rank.workerName)}`}>{rank.workerName}</Link>
      </td>
      <td>{rank.devices.map(deviceWord).join(", ")}</td>
      <td>
        <Word of={rankWord(rank.state)} />
        {rank.lostAt ? (
          <span class="of">
            lost <Ago at={rank.lostAt} />
          </span>
        ) : null}
      </td>
      <td>
        {rank.failure ? (
          <span>
            {failureWord(rank.failure.class)}: {rank.failure.message}
          </span>
        ) : rank.progress ? (
          <Progress of={rank.progress} name={`rank ${rank.rank}`} />
        ) : null}
      </td>
    </tr>
  );
}

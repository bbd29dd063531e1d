/** What a job was asked to do, and what differs from the job of this name that was submitted before it. */

import { jobs as service } from "../api";
import type { JobDetail } from "../gen/marquee/v1/jobs_pb";
import { flat, parse } from "../json";
import { useAnswer } from "../live";
import { Link } from "../router";
import { Card, Empty } from "../ui/parts";

/** Jobs among which the one before is looked for. */
const LOOKED_AT = 50;

export function Spec({ detail }: { detail: JobDetail }) {
  if (detail.specUnreadable !== "")
    return (
      <Card title="Spec">
        <Empty title="Its spec cannot be read">
          <p>{detail.specUnreadable}</p>
        </Empty>
      </Card>
    );
  const spec = parse(detail.specJson);
  return (
    <div class="two">
      <Card title="Spec, with its defaults">
        <pre class="spec" tabIndex={0}>
          {JSON.stringify(spec, null, 2)}
        </pre>
      </Card>
      <Before detail={detail} />
    </div>
  );
}

function Before({ detail }: { detail: JobDetail }) {
  const job = detail.job;
  const { value } = useAnswer(job ? `before ${job.id}` : null, async (signal) => {
    if (!job) return undefined;
    const { jobs } = await service.listJobs(
      { text: job.name, kinds: [job.kind], pageToken: String(job.id), pageSize: LOOKED_AT },
      { signal },
    );
    const before = jobs.find((other) => other.name === job.name && other.pipelineName === job.pipelineName);
    return before ? await service.getJob({ id: before.id }, { signal }) : null;
  });
  if (value === undefined) return null;
  if (value === null)
    return (
      <Card title="Compared with the last run">
        <Empty title="It is the first job of this name in a pipeline of this name" />
      </Card>
    );
  const differs = differences([parse(value.specJson), parse(detail.specJson)].map((spec) => flat(spec)));
  return (
    <Card
      title="Compared with the last run"
      more={<Link to={`/jobs/${value.job?.id ?? 0n}`}>job {String(value.job?.id ?? "")}</Link>}
    >
      {differs.length === 0 ? (
        <Empty title="It was asked the same" />
      ) : (
        <table class="list">
          <thead>
            <tr>
              <th scope="col">Key</th>
              <th scope="col">Then</th>
              <th scope="col">Now</th>
            </tr>
          </thead>
          <tbody>
            {differs.map(([key, [then, now]]) => (
              <tr key={key}>
                <td>
                  <code>{key}</code>
                </td>
                <td class="mono">{then ?? "–"}</td>
                <td class="mono">{now ?? "–"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Card>
  );
}

/** Keys whose values are not the same in all of some documents. */
export function differences(documents: Map<string, string>[]): [string, (string | undefined)[]][] {
  const keys = new Set(documents.flatMap((document) => [...document.keys()]));
  const rows = [...keys].map((key): [string, (string | undefined)[]] => [key, documents.map((one) => one.get(key))]);
  return rows.filter(([, values]) => new Set(values).size > 1).toSorted(([a], [b]) => a.localeCompare(b));
}

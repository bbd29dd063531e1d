/** The files of a job's artifact. */

import { artifacts as service } from "../api";
import type { Artifact } from "../gen/marquee/v1/artifacts_pb";
import type { Job, JobDetail } from "../gen/marquee/v1/jobs_pb";
import { useAnswer } from "../live";
import { Link } from "../router";
import { Ago, Card, Command, Empty, Facts, Skeleton, TroubleBox } from "../ui/parts";
import { Download } from "../ui/download";
import { bytes, isOpen, plural } from "../words";

const FILES_SHOWN = 500;

export function Files({ job }: { detail: JobDetail; job: Job }) {
  const has = job.artifactDigest !== "";
  const answer = useAnswer(has ? `artifact ${job.id}` : null, (signal) =>
    service.getArtifact({ which: { case: "jobId", value: job.id } }, { signal }),
  );
  if (!has)
    return (
      <Card title="Files">
        <Empty title={isOpen(job.state) ? "Its artifact is there when it has succeeded" : "It left no artifact"} />
      </Card>
    );
  if (!answer.value)
    return answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={6} />;
  return <Contents artifact={answer.value} />;
}

export function Contents({ artifact }: { artifact: Artifact }) {
  const files = artifact.manifest?.files ?? [];
  const report = files.some((file) => file.path === "report.html");
  return (
    <div class="stack">
      <Card title={artifact.name} more={report ? <Link to={`/reports/${artifact.jobId}`}>Show the report</Link> : null}>
        <div class="inside stack">
          <Facts
            of={[
              ["Digest", <code title={artifact.digest}>{artifact.digest.slice(0, 24)}…</code>],
              ["Size", `${bytes(artifact.sizeBytes)} in ${plural(artifact.fileCount, "file")}`],
              ["Made by", <Link to={`/jobs/${artifact.jobId}`}>{`${artifact.jobName} (job ${artifact.jobId})`}</Link>],
              ["Committed", <Ago at={artifact.committedAt} />],
            ]}
          />
          {artifact.damaged === "" ? null : <p class="trouble-title">Damaged: {artifact.damaged}</p>}
          <Command line={`marquee artifacts get ${artifact.jobId} --to .`} />
        </div>
      </Card>
      <Card title="Files">
        <div class="wide" tabIndex={0} role="group" aria-label="Table">
          <table class="list">
            <thead>
              <tr>
                <th scope="col">Path</th>
                <th scope="col" class="right">
                  Size
                </th>
                <th scope="col" class="right">
                  <span class="sr">Download</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {files.slice(0, FILES_SHOWN).map((file) => (
                <tr key={file.path}>
                  <td>
                    <code>{file.path}</code>
                  </td>
                  <td class="right num">{bytes(file.sizeBytes)}</td>
                  <td class="right">
                    <Download job={artifact.jobId} file={file} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
        {files.length > FILES_SHOWN ? (
          <p class="inside quiet">{plural(files.length - FILES_SHOWN, "more file")}; the command above fetches all.</p>
        ) : null}
      </Card>
    </div>
  );
}

/** What jobs made. */

import { useState } from "preact/hooks";
import { artifacts as service } from "../api";
import type { Artifact } from "../gen/marquee/v1/artifacts_pb";
import { useAnswer } from "../live";
import { Link } from "../router";
import { Contents } from "../job/files";
import { Ago, Command, Empty, Skeleton, TroubleBox } from "../ui/parts";
import { bytes, plural } from "../words";

const PAGE = 50;

export function ArtifactsPage({ digest }: { digest: string }) {
  return digest === "" ? <All /> : <One digest={digest} />;
}

function One({ digest }: { digest: string }) {
  const answer = useAnswer(digest, (signal) =>
    service.getArtifact({ which: { case: "digest", value: digest } }, { signal }),
  );
  if (!answer.value)
    return answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={6} />;
  return (
    <>
      <div class="head">
        <div class="head-title">
          <p class="crumbs">
            <Link to="/artifacts">Artifacts</Link>
          </p>
          <h1>
            {answer.value.name} <code class="quiet">{answer.value.digest.slice(0, 12)}</code>
          </h1>
        </div>
      </div>
      <Contents artifact={answer.value} />
    </>
  );
}

function All() {
  const [pages, setPages] = useState<string[]>([""]);
  const token = pages.at(-1) ?? "";
  const answer = useAnswer(`artifacts ${token}`, (signal) =>
    service.listArtifacts({ pageSize: PAGE, pageToken: token }, { signal }),
  );
  return (
    <>
      <div class="head">
        <h1>Artifacts</h1>
      </div>
      {answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : null}
      <div class="card">
        {!answer.value ? (
          answer.trouble ? null : (
            <Skeleton lines={8} />
          )
        ) : answer.value.artifacts.length === 0 ? (
          <Empty title="No job has made anything yet">
            <Command line="marquee submit examples/command.toml --wait" />
          </Empty>
        ) : (
          <Table of={answer.value.artifacts} />
        )}
      </div>
      <nav class="pager" aria-label="Pages of the listing">
        {pages.length > 1 ? (
          <button type="button" onClick={() => setPages(pages.slice(0, -1))}>
            Newer
          </button>
        ) : (
          <span />
        )}
        {answer.value?.nextPageToken ? (
          <button type="button" onClick={() => setPages([...pages, answer.value?.nextPageToken ?? ""])}>
            Older
          </button>
        ) : null}
      </nav>
    </>
  );
}

function Table({ of }: { of: Artifact[] }) {
  return (
    <table class="list list-cards">
      <thead>
        <tr>
          <th scope="col">Artifact</th>
          <th scope="col">Made by</th>
          <th scope="col" class="right">
            Size
          </th>
          <th scope="col" class="right">
            Committed
          </th>
        </tr>
      </thead>
      <tbody>
        {of.map((artifact) => (
          <tr key={String(artifact.jobId)}>
            <td>
              <Link to={`/artifacts/${artifact.digest.slice(0, 12)}`} class="job-link">
                {artifact.name}
              </Link>
              <span class="of">
                <code>{artifact.digest.slice(0, 12)}</code>
                {artifact.damaged === "" ? "" : " damaged"}
              </span>
            </td>
            <td>
              <Link to={`/jobs/${artifact.jobId}`}>{artifact.jobName}</Link>
              <span class="of">p{String(artifact.pipelineId)}</span>
            </td>
            <td class="right num">
              {bytes(artifact.sizeBytes)}
              <span class="of">{plural(artifact.fileCount, "file")}</span>
            </td>
            <td class="right row-hide">
              <Ago at={artifact.committedAt} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

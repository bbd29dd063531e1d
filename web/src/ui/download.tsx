/** One file of a job's artifact, fetched over the same API as everything else. */

import { useState } from "preact/hooks";
import { artifacts, trouble } from "../api";
import type { FileEntry } from "../gen/marquee/v1/common_pb";

/** Bytes that a page holds in memory for a download; larger files are for the command line. */
const DOWNLOAD_MAX = 512n * 1024n * 1024n;

export async function fetchFile(job: bigint, file: FileEntry, tell?: (share: number) => void): Promise<Blob> {
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let have = 0;
  const request = { digest: file.digest, sizeBytes: file.sizeBytes, jobId: job };
  for await (const { chunk } of artifacts.downloadBlob(request)) {
    chunks.push(new Uint8Array(chunk));
    have += chunk.length;
    tell?.(have / Math.max(Number(file.sizeBytes), 1));
  }
  // Never a document of our origin, whatever the file holds.
  return new Blob(chunks, { type: "application/octet-stream" });
}

export function Download({ job, file }: { job: bigint; file: FileEntry }) {
  const [says, setSays] = useState("");
  const name = file.path.split("/").at(-1) ?? "file";
  if (file.sizeBytes > DOWNLOAD_MAX) return <span class="quiet">by command</span>;
  const run = async () => {
    try {
      const blob = await fetchFile(job, file, (share) => setSays(`${Math.round(100 * share)} %`));
      const url = URL.createObjectURL(blob);
      const link = document.createElement("a");
      link.href = url;
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
      setSays("");
    } catch (cause) {
      setSays(trouble(cause).text);
    }
  };
  return (
    <>
      <span class="quiet num" role="status">
        {says}{" "}
      </span>
      <button type="button" class="chip" aria-label={`Download ${file.path}`} onClick={() => void run()}>
        download
      </button>
    </>
  );
}

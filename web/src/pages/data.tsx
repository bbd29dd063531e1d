/** The pictures that models learn from: how they were split, which classes they have, and what is odd about them. */
import { Fragment } from "preact";
import { useState } from "preact/hooks";
import { artifacts, jobs as service } from "../api";
import { JobKind, JobState } from "../gen/marquee/v1/common_pb";
import type { Job, JobDetail } from "../gen/marquee/v1/jobs_pb";
import { parse, type Json } from "../json";
import { useAnswer } from "../live";
import { imbalance, quality, SPLITS, type Class, type Quality, type Share } from "../quality";
import { Link } from "../router";
import { summary } from "../scores";
import { fetchFile } from "../ui/download";
import { Ago, Card, Command, Empty, Facts, Skeleton, TroubleBox } from "../ui/parts";
import { bytes, count, jobName, plural } from "../words";

const SHOWN = 50;
const CLASSES_FIRST = 30;
const PAIRS_SHOWN = 20;
const IDS_SHOWN = 6;
/** Bytes of a report that is read here: ours have some hundred thousand. */
const REPORT_MAX = 16n * 1024n * 1024n;
const REPORT = "quality.json";
const PICTURES = "quality.html";

export function DataPage({ id }: { id: bigint | undefined }) {
  return id === undefined ? <All /> : <One id={id} />;
}

function All() {
  const answer = useAnswer("data", (signal) =>
    service.listJobs({ kinds: [JobKind.PREPROCESS], states: [JobState.SUCCEEDED], pageSize: SHOWN }, { signal }),
  );
  return (
    <>
      <div class="head">
        <h1>Data</h1>
      </div>
      {answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : null}
      {!answer.value ? (
        answer.trouble ? null : (
          <Skeleton lines={6} />
        )
      ) : answer.value.jobs.length === 0 ? (
        <div class="card">
          <Empty title="No pictures have been prepared yet">
            <p>A job of kind "preprocess" splits and packs what a fetch job brought. The demo has one:</p>
            <Command line="cargo xtask demo --keep" />
          </Empty>
        </div>
      ) : (
        <Card title="Prepared pictures, newest first">
          <ul class="rows">
            {answer.value.jobs.map((job) => (
              <li key={String(job.id)}>
                <span class="num quiet">{String(job.id)}</span>
                <span>
                  <Link to={`/data/${job.id}`} class="job-link">
                    {jobName(job)}
                  </Link>
                  <span class="of">
                    in {job.pipelineName} p{String(job.pipelineId)}
                    {job.reusedFromJobId === 0n ? "" : `, as job ${job.reusedFromJobId} made them`}
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

interface Read {
  detail: JobDetail;
  report: Json;
  hasPictures: boolean;
  size: bigint;
}

async function read(id: bigint, signal: AbortSignal): Promise<Read> {
  const detail = await service.getJob({ id }, { signal });
  const nothing = { detail, report: null, hasPictures: false, size: 0n };
  if (!detail.job || detail.job.artifactDigest === "") return nothing;
  const artifact = await artifacts.getArtifact({ which: { case: "jobId", value: id } }, { signal });
  const files = artifact.manifest?.files ?? [];
  const file = files.find(({ path }) => path === REPORT);
  const hasPictures = files.some(({ path }) => path === PICTURES);
  const report = file && file.sizeBytes <= REPORT_MAX ? parse(await (await fetchFile(id, file)).text()) : null;
  return { detail, report, hasPictures, size: artifact.sizeBytes };
}

function One({ id }: { id: bigint }) {
  const answer = useAnswer(`data ${id}`, (signal) => read(id, signal));
  if (!answer.value)
    return answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={9} />;
  const { detail, report, hasPictures, size } = answer.value;
  const { job } = detail;
  if (!job) return null;
  const found = quality(summary(detail), report);
  return (
    <>
      <Head job={job} />
      {found ? (
        <Found of={found} job={job} size={size} hasPictures={hasPictures} />
      ) : (
        <div class="card">
          <Empty title={job.state === JobState.SUCCEEDED ? "This job has left no report" : "It has not succeeded yet"}>
            <Link to={`/jobs/${job.id}`}>What it does now</Link>
          </Empty>
        </div>
      )}
    </>
  );
}

function Head({ job }: { job: Job }) {
  return (
    <div class="head">
      <div class="head-title">
        <p class="crumbs">
          <Link to="/data">Data</Link> /{" "}
          <Link to={`/pipelines/${job.pipelineId}`}>
            {job.pipelineName} p{String(job.pipelineId)}
          </Link>
        </p>
        <h1>Pictures of {jobName(job)}</h1>
      </div>
      <Link class="button" to={`/jobs/${job.id}`}>
        The job
      </Link>
    </div>
  );
}

function Found({ of, job, size, hasPictures }: { of: Quality; job: Job; size: bigint; hasPictures: boolean }) {
  const [look, setLook] = useState(false);
  const ratio = imbalance(of.classes);
  return (
    <div class="stack">
      {of.warnings.map((warning) => (
        <p key={warning} class="trouble-title">
          {warning}
        </p>
      ))}
      <Card title="At a glance">
        <div class="inside">
          <Facts
            of={[
              ["Pictures", of.pictures === undefined ? "" : count(of.pictures)],
              ["In splits", count(of.splits.reduce((sum, split) => sum + split.count, 0))],
              ["Left out", count(of.skipped.reduce((sum, one) => sum + one.count, 0))],
              ["Classes", of.classes.length === 0 ? "" : count(of.classes.length)],
              ["Commonest to rarest", ratio === undefined ? "" : `${ratio.toFixed(ratio < 10 ? 1 : 0)} to 1`],
              ["Look-alike groups", of.alike === undefined ? "" : count(of.alike)],
              ["Size", size === 0n ? "" : bytes(size)],
              ["Source", of.synthetic ? "synthetic pictures" : ""],
            ]}
          />
        </div>
      </Card>
      <div class="two">
        <div class="stack">
          <Splits of={of.splits} />
          <Balance all={of.classes} />
          <Columns title="Years" of={of.years} unit="picture" />
        </div>
        <div class="stack">
          <Odd title="Left out, and why" of={of.skipped} none="No picture was left out" />
          <Odd title="Odd pictures" of={of.flags} none="Nothing is odd about the pictures" />
          <Disagreements of={of} />
          <Columns title="Classes of a picture" of={of.labels} unit="picture" />
        </div>
      </div>
      {hasPictures ? (
        <Card
          title="The pictures themselves"
          more={
            <button type="button" class="chip" aria-pressed={look} onClick={() => setLook(!look)}>
              show
            </button>
          }
        >
          {look ? (
            <iframe
              class="report"
              title={`Quality report of ${jobName(job)}`}
              src={`/reports/${job.id}/document`}
              sandbox=""
            />
          ) : (
            <p class="inside quiet">Examples of all that is odd, look-alikes beside each other.</p>
          )}
        </Card>
      ) : null}
    </div>
  );
}

const COLOURS: Record<string, string> = {
  train: "var(--chart-1)",
  validation: "var(--chart-2)",
  test: "var(--chart-3)",
};

function Legend() {
  return (
    <p class="legend">
      {SPLITS.map((split) => (
        <span key={split}>
          <i class="dot" aria-hidden="true" style={{ "--dot": COLOURS[split] }} />
          {split}
        </span>
      ))}
    </p>
  );
}

/** Parts of a whole beside each other, as wide as each is of `most`. */
function Stacked({ of, most, label }: { of: Share[]; most: number; label: string }) {
  return (
    <span class="stacked" role="img" aria-label={label}>
      {of.map(({ name, count }) => (
        <i key={name} style={{ width: `${(100 * count) / Math.max(most, 1)}%`, background: COLOURS[name] }} />
      ))}
    </span>
  );
}

function Splits({ of }: { of: Share[] }) {
  const all = of.reduce((sum, { count }) => sum + count, 0);
  if (all === 0) return null;
  const share = (part: number) => `${((100 * part) / all).toFixed(1)} %`;
  return (
    <Card title="Splits">
      <div class="inside stack">
        <Stacked of={of} most={all} label={of.map(({ name, count }) => `${name} ${share(count)}`).join(", ")} />
        <Facts of={of.map(({ name, count: part }) => [name, `${count(part)} (${share(part)})`])} />
        <Legend />
      </div>
    </Card>
  );
}

function Balance({ all }: { all: Class[] }) {
  const [whole, setWhole] = useState(false);
  if (all.length === 0) return null;
  const most = all[0]?.all ?? 1;
  const shown = whole ? all : all.slice(0, CLASSES_FIRST);
  return (
    <Card title="Class balance" more={<span class="quiet">{count(all.length)} classes</span>}>
      <div class="inside stack">
        <Legend />
        <div class="balance">
          {shown.map((one) => (
            <Row key={one.name} one={one} most={most} />
          ))}
        </div>
        {all.length > CLASSES_FIRST ? (
          <button type="button" class="plain" onClick={() => setWhole(!whole)}>
            {whole ? "Only the commonest" : `All ${count(all.length)}`}
          </button>
        ) : null}
      </div>
    </Card>
  );
}

function Row({ one, most }: { one: Class; most: number }) {
  const parts = SPLITS.map((name) => ({ name, count: one.of[name] }));
  const says = parts.map(({ name, count: part }) => `${name} ${count(part)}`).join(", ");
  return (
    <>
      <span class="balance-name">{one.name}</span>
      <Stacked of={parts} most={most} label={`${one.name}: ${says}`} />
      <span class="num" title={says}>
        {count(one.all)}
      </span>
    </>
  );
}

function Odd({ title, of, none }: { title: string; of: (Share & { ids: string[] })[]; none: string }) {
  return (
    <Card title={title}>
      {of.length === 0 ? (
        <p class="inside quiet">{none}.</p>
      ) : (
        <ul class="rows">
          {of.map(({ name, count: found, ids }) => (
            <li key={name}>
              <span class="count-big">{count(found)}</span>
              <div>
                {name.replaceAll("_", " ")}
                {ids.length === 0 ? null : (
                  <span class="of">
                    such as <code>{ids.slice(0, IDS_SHOWN).join(", ")}</code>
                  </span>
                )}
              </div>
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}

function Disagreements({ of }: { of: Quality }) {
  if (of.disagreements.length === 0) return null;
  return (
    <Card
      title="Alike, with other labels"
      more={<span class="quiet">{plural(of.disagreementsInAll || of.disagreements.length, "pair")}</span>}
    >
      <div class="wide" tabIndex={0} role="group" aria-label="Pairs of pictures">
        <table class="list">
          <thead>
            <tr>
              <th scope="col">Pictures</th>
              <th scope="col">Labels</th>
            </tr>
          </thead>
          <tbody>
            {of.disagreements.slice(0, PAIRS_SHOWN).map(({ pictures, labels }) => (
              <tr key={pictures.join()}>
                <td>
                  <code>{pictures[0]}</code>
                  <span class="of">
                    <code>{pictures[1]}</code>
                  </span>
                </td>
                <td>
                  {labels[0]}
                  <span class="of">{labels[1]}</span>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Card>
  );
}

function Columns({ title, of, unit }: { title: string; of: Share[]; unit: string }) {
  const most = Math.max(1, ...of.map(({ count }) => count));
  if (of.length === 0) return null;
  return (
    <Card title={title}>
      <div class="inside balance">
        {of.slice(-CLASSES_FIRST).map(({ name, count: found }) => (
          <Fragment key={name}>
            <span class="balance-name num">{name}</span>
            <span class="stacked" role="img" aria-label={`${name}: ${plural(found, unit)}`}>
              <i style={{ width: `${(100 * found) / most}%`, background: "var(--chart-1)" }} />
            </span>
            <span class="num">{count(found)}</span>
          </Fragment>
        ))}
      </div>
    </Card>
  );
}

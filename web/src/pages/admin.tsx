/** Who shares the cluster, within which quotas, and who asked for what. */

import { useEffect, useRef, useState } from "preact/hooks";
import { audit, projects as service } from "../api";
import type { AuditLine } from "../gen/marquee/v1/audit_pb";
import type { Project } from "../gen/marquee/v1/projects_pb";
import { at, entries, list, number, parse, text, type Json } from "../json";
import { useAnswer } from "../live";
import { go, Link, withQuery } from "../router";
import { Ago, Bar, Card, Command, Empty, Skeleton, Tabs, TroubleBox, useNow } from "../ui/parts";
import { count, exact, ms, plural } from "../words";
import { deniedToGovern, useWho } from "../who";
import { SchedulesPart } from "./schedules";
import { TokensPart, UsersPart } from "./users";

/** Parts with the right that they take. */
const PARTS = [
  { name: "Projects", to: "/admin", governs: false },
  { name: "Users", to: "/admin/users", governs: true },
  { name: "Tokens", to: "/admin/tokens", governs: false },
  { name: "Schedules", to: "/admin/schedules", governs: true },
  { name: "Audit", to: "/admin/audit", governs: true },
];
/** Milliseconds after which use is asked for again. */
const AGAIN_EVERY = 10_000;
/** Lines of a page of the audit. */
const LINES = 100;

export function AdminPage({ part, name, query }: { part: string; name: string; query: URLSearchParams }) {
  const { identity } = useWho();
  const no = deniedToGovern(identity);
  const shown = PARTS.filter(({ governs }) => !governs || no === undefined);
  const now = PARTS.find(({ to }) => to === `/admin/${part}`) ?? PARTS[0];
  return (
    <>
      <div class="head">
        <h1>Admin</h1>
      </div>
      <Tabs of={shown} now={now?.name ?? ""} />
      {no !== undefined && now?.governs ? (
        <div class="card">
          <Empty title={no} />
        </div>
      ) : (
        <Part part={part} name={name} query={query} />
      )}
    </>
  );
}

function Part({ part, name, query }: { part: string; name: string; query: URLSearchParams }) {
  switch (part) {
    case "audit":
      return <Audit query={query} />;
    case "users":
      return <UsersPart />;
    case "tokens":
      return <TokensPart />;
    case "schedules":
      return <SchedulesPart key={name} name={name} />;
    case "projects":
      return <One name={name} />;
    default:
      return <Projects />;
  }
}

function Projects() {
  const now = Math.floor(useNow(AGAIN_EVERY) / AGAIN_EVERY);
  const answer = useAnswer("projects", (signal) => service.listProjects({}, { signal }));
  const again = useRef(answer.again);
  again.current = answer.again;
  useEffect(() => again.current(), [now]);
  if (!answer.value)
    return answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={6} />;
  const all = answer.value.projects;
  return (
    <div class="stack">
      <Card title="Projects" more={<span class="quiet">{plural(all.length, "project")}</span>}>
        <div class="wide" tabIndex={0} role="group" aria-label="Table of projects">
          <table class="list list-cards list-pairs">
            <thead>
              <tr>
                <th scope="col">Project</th>
                <th scope="col" class="right">
                  Weight
                </th>
                <th scope="col">GPUs</th>
                <th scope="col">CPU devices</th>
                <th scope="col">GPU-hours this week</th>
                <th scope="col">Jobs that wait</th>
              </tr>
            </thead>
            <tbody>
              {all.map((project) => (
                <Row key={project.name} project={project} />
              ))}
            </tbody>
          </table>
        </div>
      </Card>
      <Card title="To change them">
        <div class="inside stack">
          <Command line="marquee project set vision --weight 2" />
          <Command line="marquee project set vision --gpus 8 --gpu-hours-week 500" />
        </div>
      </Card>
    </div>
  );
}

function Row({ project }: { project: Project }) {
  const { quotas } = project;
  return (
    <tr>
      <td>
        <Link to={`/admin/projects/${encodeURIComponent(project.name)}`} class="job-link">
          {project.name}
        </Link>
        <span class="of">
          <Link to={`/jobs?project=${encodeURIComponent(project.name)}`}>its jobs</Link>
        </span>
      </td>
      <td class="right num row-hide">{project.weight}</td>
      <td>
        <Used name={`GPUs of ${project.name}`} used={project.gpusUsed} of={quotas?.gpus} label="GPUs" />
        <FreeAt at={ms(project.devicesFreeAt)} what="devices" />
      </td>
      <td>
        <Used
          name={`CPU devices of ${project.name}`}
          used={project.cpuSlotsUsed}
          of={quotas?.cpuSlots}
          label="CPU devices"
        />
      </td>
      <td>
        <Used
          name={`GPU-hours of ${project.name}`}
          used={project.gpuHoursUsed}
          of={quotas?.gpuHoursWeek}
          label="GPU-hours"
        />
        <FreeAt at={ms(project.gpuHoursFreeAt)} what="hours" />
      </td>
      <td>
        <Used name={`jobs of ${project.name}`} used={Number(project.queuedJobs)} of={quotas?.queued} label="jobs" />
      </td>
    </tr>
  );
}

const figure = (value: number) => (Number.isInteger(value) ? count(value) : value.toFixed(1));

/** How much of a quota is used; a quota that is used up says so in words too. */
function Used({ name, used, of, label }: { name: string; used: number; of: number | undefined; label: string }) {
  if (of === undefined)
    return (
      <>
        <span class="num">{figure(used)}</span> {label}
        <span class="of">no quota</span>
      </>
    );
  const isFull = used >= of;
  return (
    <span class="progress">
      <span class={isFull ? "trouble-title" : ""}>
        <span class="num">{figure(used)}</span> of <span class="num">{figure(of)}</span> {label}
        {isFull ? ", used up" : ""}
      </span>
      <Bar value={of === 0 ? 100 : Math.min(100, (100 * used) / of)} label={`Used of the ${name}`} />
    </span>
  );
}

function FreeAt({ at, what }: { at: number | undefined; what: string }) {
  if (at === undefined) return null;
  return (
    <span class="of" title={exact(at)}>
      {what} again {new Date(at).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" })}
    </span>
  );
}

function One({ name }: { name: string }) {
  const answer = useAnswer(`project ${name}`, (signal) => service.listProjects({ name }, { signal }));
  const project = answer.value?.projects[0];
  if (!project)
    return answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={6} />;
  return (
    <div class="stack">
      <Card title={`Project ${project.name}`} more={<Link to="/admin">All projects</Link>}>
        <div class="wide" tabIndex={0} role="group" aria-label="Quotas">
          <table class="list">
            <thead>
              <tr>
                <th scope="col">What</th>
                <th scope="col">Used</th>
              </tr>
            </thead>
            <tbody>
              {(
                [
                  ["GPUs", project.gpusUsed, project.quotas?.gpus],
                  ["CPU devices", project.cpuSlotsUsed, project.quotas?.cpuSlots],
                  ["GPU-hours", project.gpuHoursUsed, project.quotas?.gpuHoursWeek],
                  ["jobs", Number(project.queuedJobs), project.quotas?.queued],
                ] as const
              ).map(([label, used, of]) => (
                <tr key={label}>
                  <th scope="row">{label}</th>
                  <td>
                    <Used name={`${label} of ${project.name}`} used={used} of={of} label={label} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </Card>
      <Card title="Changes of its weight and quotas">
        {project.changes.length === 0 ? (
          <p class="inside quiet">None has been made.</p>
        ) : (
          <ul class="rows">
            {project.changes.map((change, place) => (
              <li key={place}>
                <span />
                <div>
                  {change.text}
                  <span class="of">{change.caller}</span>
                </div>
                <span class="side">
                  <Ago at={change.at} />
                </span>
              </li>
            ))}
          </ul>
        )}
      </Card>
    </div>
  );
}

interface Filter {
  who: string;
  worker: string;
  job: bigint;
  before: bigint;
}

export function readAuditFilter(query: URLSearchParams): Filter {
  const id = (key: string) => {
    const text = query.get(key) ?? "";
    return /^\d{1,18}$/.test(text) ? BigInt(text) : 0n;
  };
  return { who: query.get("who") ?? "", worker: query.get("worker") ?? "", job: id("job"), before: id("before") };
}

async function lines(filter: Filter, signal: AbortSignal): Promise<AuditLine[]> {
  const found: AuditLine[] = [];
  const request = {
    actor: filter.who,
    worker: filter.worker,
    jobId: filter.job,
    before: filter.before,
    newestFirst: true,
    limit: LINES,
  };
  for await (const line of audit.list(request, { signal })) found.push(line);
  return found;
}

function Audit({ query }: { query: URLSearchParams }) {
  const filter = readAuditFilter(query);
  const key = `audit ${filter.who}/${filter.worker}/${filter.job}/${filter.before}`;
  const answer = useAnswer(key, (signal) => lines(filter, signal));
  const found = answer.value;
  return (
    <>
      <div class="filters" role="search">
        <Field name="who" value={filter.who} label="Who asked" hint="Part of a name" />
        <Field name="worker" value={filter.worker} label="Worker" hint="Name or id" />
        <Field name="job" value={filter.job === 0n ? "" : String(filter.job)} label="Job" hint="Number" />
      </div>
      {answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : null}
      {found === undefined ? (
        answer.trouble ? null : (
          <Skeleton lines={10} />
        )
      ) : found.length === 0 ? (
        <div class="card">
          <Empty title={query.size > 0 ? "No such lines" : "Nothing has happened yet"}>
            {query.size > 0 ? <Link to="/admin/audit">All lines</Link> : null}
          </Empty>
        </div>
      ) : (
        <Lines of={found} />
      )}
      <nav class="pager" aria-label="Pages of the audit">
        {filter.before === 0n ? <span /> : <Link to={withQuery({ before: "" })}>Newest</Link>}
        {found?.length === LINES ? (
          <Link to={withQuery({ before: String(found.at(-1)?.number ?? 0n) })}>Older</Link>
        ) : (
          <span />
        )}
      </nav>
      <Command line="marquee audit verify" />
    </>
  );
}

function Field({ name, value, label, hint }: { name: string; value: string; label: string; hint: string }) {
  const [typed, setTyped] = useState(value);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => setTyped(value), [value]);
  return (
    <label class="field">
      <span>{label}</span>
      <input
        type="search"
        value={typed}
        placeholder={hint}
        maxLength={200}
        onInput={(event) => {
          const { value } = event.currentTarget;
          setTyped(value);
          clearTimeout(timer.current);
          timer.current = setTimeout(() => go(withQuery({ [name]: value.trim(), before: "" }), "replace"), 250);
        }}
      />
    </label>
  );
}

function Lines({ of }: { of: AuditLine[] }) {
  return (
    <div class="card">
      <table class="list list-cards">
        <thead>
          <tr>
            <th scope="col" class="right">
              Line
            </th>
            <th scope="col">What</th>
            <th scope="col">About</th>
            <th scope="col">Who asked</th>
            <th scope="col" class="right">
              When
            </th>
          </tr>
        </thead>
        <tbody>
          {of.map((line) => (
            <tr key={String(line.number)}>
              <td class="right num row-hide">{String(line.number)}</td>
              <td>{line.kind.replaceAll("_", " ")}</td>
              <td class="row-wide">
                <About line={line} />
              </td>
              <td>{line.actor === "" ? <span class="quiet">Marquee</span> : line.actor}</td>
              <td class="right">
                <Ago at={line.at} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Digits of a digest that tell it from others. */
const DIGEST_SHOWN = 12;

/** A value of a line's details, as a person reads it. */
export function said(key: string, value: Json): string {
  if (typeof value === "string")
    return /^[0-9a-f]{64}$/.test(value) ? `${key} ${value.slice(0, DIGEST_SHOWN)}…` : `${key} ${value}`;
  const devices =
    key === "devices" ? list(value).map((one) => `${text(at(one, "kind"))} ${number(at(one, "index")) ?? "?"}`) : [];
  return devices.length > 0 ? devices.join(", ") : `${key} ${JSON.stringify(value)}`;
}

function About({ line }: { line: AuditLine }) {
  const more = entries(parse(line.detailJson)).map(([key, value]) => said(key, value));
  return (
    <>
      {line.pipelineId === 0n ? null : <Link to={`/pipelines/${line.pipelineId}`}>p{String(line.pipelineId)} </Link>}
      {line.jobId === 0n ? null : <Link to={`/jobs/${line.jobId}`}>job {String(line.jobId)}</Link>}
      {line.attempt === 0 ? "" : `, attempt ${line.attempt}`}
      {line.rank === undefined ? "" : `, rank ${line.rank}`}
      {line.workerName === "" && line.workerId === "" ? null : (
        <>
          {line.jobId === 0n ? "" : " on "}
          <Link to={`/workers/${encodeURIComponent(line.workerName)}`}>{line.workerName || line.workerId}</Link>
        </>
      )}
      {more.length === 0 ? null : <span class="of">{more.join(", ")}</span>}
    </>
  );
}

/** All jobs, filtered and paged by the server, kept up to date by one stream of those in view. */

import { useEffect, useRef, useState } from "preact/hooks";
import { jobs as service, projects, workers } from "../api";
import type { JobKind, JobState } from "../gen/marquee/v1/common_pb";
import type { Job, ListJobsResponse } from "../gen/marquee/v1/jobs_pb";
import { useAnswer, useStream } from "../live";
import { useOverview } from "../overview";
import { go, Link, withQuery } from "../router";
import { Ago, Command, Doing, Empty, JobLink, RanFor, Skeleton, State, TroubleBox } from "../ui/parts";
import { JOB_KINDS, JOB_STATES, kindWord, stateWord } from "../words";

const PAGE = 50;
/** The server counts up to here. */
const COUNTED_MAX = 10_000;

export interface Filter {
  states: JobState[];
  kinds: JobKind[];
  text: string;
  worker: string;
  project: string;
  pipeline: bigint;
  array: bigint;
  before: string;
}

export function readFilter(query: URLSearchParams): Filter {
  const words = (key: string) => (query.get(key) ?? "").split(",");
  const id = (key: string) => {
    const text = query.get(key) ?? "";
    return /^\d{1,18}$/.test(text) ? BigInt(text) : 0n;
  };
  return {
    states: JOB_STATES.filter((state) => words("state").includes(stateWord(state))),
    kinds: JOB_KINDS.filter((kind) => words("kind").includes(kindWord(kind))),
    text: query.get("text") ?? "",
    worker: query.get("worker") ?? "",
    project: query.get("project") ?? "",
    pipeline: id("pipeline"),
    array: id("array"),
    before: query.get("before") ?? "",
  };
}

export function JobsPage({ query }: { query: URLSearchParams }) {
  const filter = readFilter(query);
  const listing = useListing(filter);
  const what = filter.array !== 0n ? `Elements of job ${filter.array}` : "Jobs";
  return (
    <>
      <div class="head">
        <div class="head-title">
          <h1>{what}</h1>
          <Total of={listing.value} />
        </div>
      </div>
      <Filters filter={filter} />
      {listing.trouble ? <TroubleBox of={listing.trouble} again={listing.again} /> : null}
      {listing.value ? (
        <Listing jobs={listing.value.jobs} isFiltered={query.size > 0} />
      ) : listing.trouble ? null : (
        <div class="card">
          <Skeleton lines={12} />
        </div>
      )}
      <Pager filter={filter} next={listing.value?.nextPageToken ?? ""} />
    </>
  );
}

function Total({ of }: { of: ListJobsResponse | undefined }) {
  if (!of) return null;
  const text = of.total >= COUNTED_MAX ? "10,000 or more" : of.total.toLocaleString("en-US");
  return <span class="quiet num">{text}</span>;
}

/** A page of jobs: read again when new ones come or old ones leave the filter, and each of them as it changes. */
function useListing(filter: Filter) {
  const { overview, returns } = useOverview();
  // What the overview counts tells when a listing may have other members.
  const counts = overview ? overview.jobs.map(({ state, jobs }) => `${state}=${jobs}`).join() : "";
  const stamp = `${overview?.newestJobId ?? 0n}/${counts}/${returns}`;
  const key = JSON.stringify(filter, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value));
  const answer = useAnswer(key, (signal) =>
    service.listJobs(
      {
        states: filter.states,
        kinds: filter.kinds,
        text: filter.text,
        workerName: filter.worker,
        project: filter.project,
        pipelineId: filter.pipeline,
        arrayJobId: filter.array,
        pageToken: filter.before,
        pageSize: PAGE,
        withTotal: true,
      },
      { signal },
    ),
  );
  const first = useRef("");
  const again = answer.again;
  useEffect(() => {
    if (stamp.startsWith("0//")) return;
    if (first.current !== "" && first.current !== stamp) again();
    first.current = stamp;
  }, [stamp]);

  const [fresh, setFresh] = useState<Map<bigint, Job>>(new Map());
  const ids = answer.value?.jobs.map((job) => job.id) ?? [];
  useStream(
    ids.length === 0 ? null : `${ids.join()}/${returns}`,
    (signal) => service.watch({ jobIds: ids, keepOpen: true }, { signal }),
    ({ job }) => {
      if (job) setFresh((old) => new Map(old).set(job.id, job));
    },
  );
  if (!answer.value) return answer;
  const value = { ...answer.value, jobs: answer.value.jobs.map((job) => fresh.get(job.id) ?? job) };
  return { ...answer, value };
}

function Filters({ filter }: { filter: Filter }) {
  const [text, setText] = useState(filter.text);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => setText(filter.text), [filter.text]);
  const set = (changes: Record<string, string>) => go(withQuery({ ...changes, before: "" }), "replace");
  const toggle = <T,>(all: T[], one: T, word: (one: T) => string) =>
    (all.includes(one) ? all.filter((other) => other !== one) : [...all, one]).map(word).join(",");
  return (
    <div class="filters" role="search">
      <input
        type="search"
        value={text}
        placeholder="Job or pipeline"
        aria-label="Search by the name of a job or its pipeline"
        onInput={(event) => {
          const { value } = event.currentTarget;
          setText(value);
          clearTimeout(timer.current);
          timer.current = setTimeout(() => set({ text: value.trim() }), 250);
        }}
      />
      <div class="chips" role="group" aria-label="States">
        {JOB_STATES.map((state) => (
          <button
            key={state}
            type="button"
            class="chip"
            aria-pressed={filter.states.includes(state)}
            onClick={() => set({ state: toggle(filter.states, state, stateWord) })}
          >
            {stateWord(state)}
          </button>
        ))}
      </div>
      <select
        aria-label="Kind"
        value={filter.kinds.length === 1 && filter.kinds[0] !== undefined ? kindWord(filter.kinds[0]) : ""}
        onChange={(event) => set({ kind: event.currentTarget.value })}
      >
        <option value="">every kind</option>
        {JOB_KINDS.map((kind) => (
          <option key={kind} value={kindWord(kind)}>
            {kindWord(kind)}
          </option>
        ))}
      </select>
      <Choice
        label="Project"
        all="every project"
        value={filter.project}
        read={(signal) =>
          projects.listProjects({}, { signal }).then((found) => found.projects.map((project) => project.name))
        }
        set={(project) => set({ project })}
      />
      <Choice
        label="Host"
        all="every host"
        value={filter.worker}
        read={(signal) =>
          workers.listWorkers({}, { signal }).then((found) => found.workers.map((worker) => worker.name))
        }
        set={(worker) => set({ worker })}
      />
      {filter.pipeline === 0n ? null : (
        <button type="button" class="chip" aria-pressed="true" onClick={() => set({ pipeline: "" })}>
          in p{String(filter.pipeline)} ×
        </button>
      )}
    </div>
  );
}

/** One of many names, which are asked for when somebody is about to choose. */
function Choice({
  label,
  all,
  value,
  read,
  set,
}: {
  label: string;
  all: string;
  value: string;
  read: (signal: AbortSignal) => Promise<string[]>;
  set: (name: string) => void;
}) {
  const [wanted, setWanted] = useState(false);
  const names = useAnswer(wanted ? label : null, read).value ?? [];
  const want = () => setWanted(true);
  const shown = [...new Set([...(value === "" ? [] : [value]), ...names])].toSorted();
  return (
    <select
      aria-label={label}
      value={value}
      onFocus={want}
      onPointerEnter={want}
      onChange={(event) => set(event.currentTarget.value)}
    >
      <option value="">{all}</option>
      {shown.map((name) => (
        <option key={name} value={name}>
          {name}
        </option>
      ))}
    </select>
  );
}

function Listing({ jobs, isFiltered }: { jobs: Job[]; isFiltered: boolean }) {
  if (jobs.length === 0)
    return (
      <div class="card">
        {isFiltered ? (
          <Empty title="No such jobs">
            <p>
              <Link to="/jobs">Show all jobs</Link>
            </p>
          </Empty>
        ) : (
          <Empty title="No jobs yet">
            <Command line="marquee submit examples/command.toml --wait" />
            <p>
              or <Link to="/submit">write a pipeline here</Link>
            </p>
          </Empty>
        )}
      </div>
    );
  return (
    <div class="card">
      <table class="list list-cards">
        <thead>
          <tr>
            <th scope="col">State</th>
            <th scope="col">Job</th>
            <th scope="col">Kind</th>
            <th scope="col">Progress, or why not</th>
            <th scope="col" class="right">
              Ran
            </th>
            <th scope="col" class="right">
              Submitted
            </th>
          </tr>
        </thead>
        <tbody>
          {jobs.map((job) => (
            <tr key={String(job.id)}>
              <td>
                <State of={job.state} />
              </td>
              <td>
                <JobLink job={job} />
                <span class="of">
                  <span class="num">{String(job.id)}</span> in{" "}
                  <Link to={`/pipelines/${job.pipelineId}`}>
                    {job.pipelineName} p{String(job.pipelineId)}
                  </Link>
                </span>
              </td>
              <td class="row-hide">
                {kindWord(job.kind)}
                {job.ranks > 1 ? <span class="of">{job.ranks} ranks</span> : null}
              </td>
              <td class="row-wide">
                <Doing job={job} />
              </td>
              <td class="right row-hide">
                <RanFor job={job} />
              </td>
              <td class="right">
                <Ago at={job.createdAt} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Pager({ filter, next }: { filter: Filter; next: string }) {
  if (filter.before === "" && next === "") return null;
  return (
    <nav class="pager" aria-label="Pages of the listing">
      {filter.before === "" ? <span /> : <Link to={withQuery({ before: "" })}>Newest</Link>}
      {next === "" ? <span>That is all.</span> : <Link to={withQuery({ before: next })}>Older</Link>}
    </nav>
  );
}

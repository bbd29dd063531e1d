/** Hosts: what each has, what runs on it, and what is wrong with it. */

import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { useEffect, useRef } from "preact/hooks";
import { cluster, workers as service } from "../api";
import type { Gpu as GpuDevice } from "../gen/marquee/v1/common_pb";
import type { GpuPast } from "../gen/marquee/v1/cluster_pb";
import { WorkerState, type CacheUse, type GpuReading, type Worker } from "../gen/marquee/v1/workers_pb";
import { useAnswer } from "../live";
import { useOverview } from "../overview";
import { Link } from "../router";
import { Area } from "../ui/area";
import { Act } from "../ui/dialog";
import { Ago, Bar, Card, Command, Empty, Facts, Skeleton, TroubleBox } from "../ui/parts";
import { Word } from "../job/attempts";
import { bytes, exact, ms, plural, workerWord } from "../words";
import { deniedToGovern, useWho } from "../who";

export function WorkersPage({ name }: { name: string }) {
  const { overview, returns } = useOverview();
  const answer = useAnswer("workers", (signal) => service.listWorkers({}, { signal }));
  const again = useRef(answer.again);
  again.current = answer.again;
  // What the overview says of workers and devices changes when any of them does; it also beats while nothing changes.
  const beat = overview ? `${overview.now?.seconds ?? 0n}/${returns}` : "";
  useEffect(() => {
    if (beat !== "") again.current();
  }, [beat]);
  if (!answer.value)
    return answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={9} />;
  const all = answer.value.workers;
  const shown = name === "" ? all : all.filter((worker) => worker.name === name);
  const here = shown.filter((worker) => worker.state !== WorkerState.LEFT);
  const left = shown.filter((worker) => worker.state === WorkerState.LEFT);
  return (
    <>
      <div class="head">
        <div class="head-title">
          {name === "" ? null : (
            <p class="crumbs">
              <Link to="/workers">Workers</Link>
            </p>
          )}
          <h1>{name === "" ? "Workers" : name}</h1>
          {name === "" ? <span class="quiet num">{all.length - left.length}</span> : null}
        </div>
        {name === "" ? null : (
          <Link class="button" to={`/jobs?worker=${encodeURIComponent(name)}`}>
            Jobs of this worker
          </Link>
        )}
      </div>
      {shown.length === 0 ? (
        <div class="card">
          {name === "" ? (
            <Empty title="No worker has come yet">
              <p>Each host runs one, which needs nothing but the coordinator's address:</p>
              <Command line={`marquee-worker --coordinator ${window.location.origin}`} />
            </Empty>
          ) : (
            <Empty title={`There is no worker ${name}`}>
              <Link to="/workers">All workers</Link>
            </Empty>
          )}
        </div>
      ) : null}
      <div class="hosts">
        {here.map((worker) => (
          <Host key={worker.id} worker={worker} whole={name !== ""} />
        ))}
      </div>
      {left.length > 0 ? (
        <p class="pager">
          {plural(left.length, "worker")} said goodbye: {left.map((worker) => worker.name).join(", ")}
        </p>
      ) : null}
    </>
  );
}

const DEVICES_SHOWN = 128;

interface Slot {
  kind: "cpu" | "gpu";
  index: number;
  held?: { job: bigint; name: string; rank: number };
  ill: boolean;
}

export function slots(worker: Worker): Slot[] {
  const inventory = worker.inventory;
  if (!inventory) return [];
  const held = new Map<string, Slot["held"]>();
  for (const rank of worker.ranks) {
    for (const { kind } of rank.devices) {
      if (kind.case) held.set(`${kind.case} ${kind.value}`, { job: rank.jobId, name: rank.jobName, rank: rank.rank });
    }
  }
  const slot = (kind: "cpu" | "gpu", index: number): Slot => {
    const holder = held.get(`${kind} ${index}`);
    const ill = kind === "gpu" && worker.gpus.some((gpu) => gpu.index === index && gpu.fault !== "");
    return { kind, index, ill, ...(holder ? { held: holder } : {}) };
  };
  return [
    ...inventory.gpus.map((gpu) => slot("gpu", gpu.index)),
    ...Array.from({ length: Math.min(inventory.cpuSlots, DEVICES_SHOWN) }, (_, index) => slot("cpu", index)),
  ];
}

/** Seconds between two looks at what GPUs said before. */
const PAST_EVERY = 10n;

function Host({ worker, whole }: { worker: Worker; whole: boolean }) {
  const wanted = whole && worker.gpus.length > 0;
  const beat = (worker.gpus[0]?.at?.seconds ?? 0n) / PAST_EVERY;
  const past = useAnswer(wanted ? `past ${worker.name} ${beat}` : null, (signal) =>
    cluster.getGpuHistory({ workerName: worker.name }, { signal }),
  ).value;
  const inventory = worker.inventory;
  const all = slots(worker);
  const busy = all.filter((slot) => slot.held).length;
  return (
    <section class="card" aria-label={worker.name}>
      <header>
        <h2>
          <Link to={`/workers/${encodeURIComponent(worker.name)}`}>{worker.name}</Link>
        </h2>
        <span class="quiet">
          <Word of={workerWord(worker.state)} />
        </span>
      </header>
      <div class="host">
        {worker.unreadable === "" ? null : (
          <p class="trouble-title">Its inventory cannot be read: {worker.unreadable}</p>
        )}
        {worker.rival === "" ? null : <p class="trouble-title">{worker.rival}</p>}
        {worker.closed === "" ? null : (
          <p>
            <strong>Closed:</strong> it {worker.closed}.
          </p>
        )}
        {worker.drainDeadline ? (
          <p>
            What still runs there is moved <Ago at={worker.drainDeadline} />.
          </p>
        ) : null}
        {worker.quarantinedGpus.map((gpu) => (
          <p key={gpu.index}>
            <strong>gpu {gpu.index}</strong> is {gpu.reason}.
          </p>
        ))}
        {worker.windows.map((window) => (
          <p key={window.number} title={`${at(window.from)} to ${at(window.until)}`}>
            <strong>Maintenance:</strong> it {window.words}.
          </p>
        ))}
        {whole && worker.state === WorkerState.ONLINE ? <Drain worker={worker} /> : null}
        {worker.state === WorkerState.LOST ? (
          <p class="trouble-title">
            Nothing was heard from it since <Ago at={worker.lastSeenAt} />. Is the host up, and marquee-worker running?
          </p>
        ) : null}
        {all.length > 0 ? (
          <div>
            <p class="node-row">
              <span>
                {busy} of {plural(all.length, "device")} held
              </span>
              <span class="quiet">
                seen <Ago at={worker.lastSeenAt} />
              </span>
            </p>
            <div class="bulbs" style={{ marginTop: "0.5rem" }}>
              {all.map((slot) => (
                <Bulb key={`${slot.kind}${slot.index}`} slot={slot} />
              ))}
            </div>
          </div>
        ) : null}
        {worker.gpus.map((gpu) => (
          <Gpu key={gpu.index} gpu={gpu} whole={whole} past={past?.gpus.find((one) => one.index === gpu.index)} />
        ))}
        {worker.ranks.length > 0 ? (
          <ul class="legend" style={{ listStyle: "none" }}>
            {worker.ranks.slice(0, whole ? 500 : 6).map((rank) => (
              <li key={`${rank.jobId}/${rank.attempt}/${rank.rank}`}>
                <Link to={`/jobs/${rank.jobId}`}>{rank.jobName}</Link> rank {rank.rank}
              </li>
            ))}
            {!whole && worker.ranks.length > 6 ? <li>and {worker.ranks.length - 6} more</li> : null}
          </ul>
        ) : null}
        {inventory ? (
          <Facts
            of={[
              ["Host", inventory.hostname],
              ["CPU", `${inventory.cpuThreads} threads, ${plural(inventory.cpuSlots, "slot")}`],
              ["Memory", bytes(inventory.memoryBytes)],
              ["GPUs", inventory.gpus.length === 0 ? "" : summary(inventory.gpus.map(deviceName))],
              ["Labels", inventory.labels.join(", ")],
              ["Inputs kept", worker.cache ? kept(worker.cache) : ""],
              ["Trainer", inventory.flavour === "" ? "none" : inventory.flavour],
              ["Version", worker.version],
              ...(whole
                ? ([
                    ["Address of ranks", inventory.address],
                    ["Id", worker.id],
                  ] as [string, string][])
                : []),
            ]}
          />
        ) : null}
      </div>
    </section>
  );
}

const at = (time: Timestamp | undefined) => {
  const when = ms(time);
  return when === undefined ? "?" : exact(when);
};

/** `3 artifacts, 1.2 GiB of 100 GiB, 1 in use`. */
export function kept(cache: Pick<CacheUse, "artifacts" | "bytes" | "maxBytes" | "pinned">): string {
  const used = cache.pinned === 0 ? "" : `, ${cache.pinned} in use`;
  return `${plural(cache.artifacts, "artifact")}, ${bytes(cache.bytes)} of ${bytes(cache.maxBytes)}${used}`;
}

/** `2 × Tesla K80`. */
/** A part of a GPU says of which one. */
function deviceName({ name, part }: GpuDevice): string {
  if (!part) return name;
  return part.isShare ? `share of gpu ${part.of}` : `${name} (MIG instance of gpu ${part.of})`;
}

function summary(names: string[]): string {
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].map(([name, count]) => (count === 1 ? name : `${count} × ${name}`)).join(", ");
}

function Bulb({ slot }: { slot: Slot }) {
  const device = `${slot.kind} ${slot.index}`;
  const look = slot.ill ? " bulb-closed" : slot.held ? " bulb-held" : "";
  const says = slot.held
    ? `${device}: ${slot.held.name}, rank ${slot.held.rank}`
    : `${device}: ${slot.ill ? "ill" : "free"}`;
  if (!slot.held) return <i class={`bulb bulb-${slot.kind}${look}`} role="img" aria-label={says} title={says} />;
  return <Link to={`/jobs/${slot.held.job}`} class={`bulb bulb-${slot.kind}${look}`} aria-label={says} title={says} />;
}

function Gpu({ gpu, whole, past }: { gpu: GpuReading; whole: boolean; past: GpuPast | undefined }) {
  const memory =
    gpu.memoryUsedBytes !== undefined && gpu.memoryTotalBytes !== undefined && gpu.memoryTotalBytes > 0n
      ? (100 * Number(gpu.memoryUsedBytes)) / Number(gpu.memoryTotalBytes)
      : undefined;
  const watts = gpu.powerMw === undefined ? "" : `${Math.round(gpu.powerMw / 1000)} W`;
  const heat = gpu.temperatureC === undefined ? "" : `${gpu.temperatureC} °C`;
  return (
    <div class="stack" style={{ gap: "0.3rem" }}>
      <p class="node-row">
        <span>
          gpu {gpu.index} <span class="quiet">{gpu.name}</span>
        </span>
        <span class="quiet num">{[watts, heat].filter(Boolean).join(", ")}</span>
      </p>
      {gpu.utilisationPercent === undefined ? null : (
        <div class="meter">
          <span class="quiet">busy</span>
          <Bar value={gpu.utilisationPercent} label={`gpu ${gpu.index}: busy`} />
          <span class="num">{gpu.utilisationPercent} %</span>
        </div>
      )}
      {memory === undefined ? null : (
        <div class="meter">
          <span class="quiet">memory</span>
          <Bar value={memory} label={`gpu ${gpu.index}: memory`} />
          <span class="num">{bytes(gpu.memoryUsedBytes ?? 0n)}</span>
        </div>
      )}
      {gpu.fault === "" ? null : (
        <p class="trouble-title">
          {gpu.fault}: {gpu.cure}
        </p>
      )}
      {gpu.throttleReasons.length > 0 ? <p class="quiet">slowed down: {gpu.throttleReasons.join(", ")}</p> : null}
      {whole && past ? <Past of={past} gpu={gpu} /> : null}
      {whole ? (
        <Card title={`gpu ${gpu.index}`}>
          <div class="inside">
            <Facts
              of={[
                ["UUID", <code>{gpu.uuid}</code>],
                ["Driver", `${gpu.driverVersion}${gpu.cudaVersion === "" ? "" : `, CUDA ${gpu.cudaVersion}`}`],
                ["PCI", gpu.pciBusId],
                ["Clock", gpu.smClockMhz === undefined ? "" : `${gpu.smClockMhz} of ${gpu.smClockMaxMhz ?? "?"} MHz`],
                ["State", gpu.performanceState],
                [
                  "ECC, uncorrected",
                  gpu.eccUncorrectedVolatile === undefined ? "" : String(gpu.eccUncorrectedVolatile),
                ],
                ["Xid errors", gpu.xids.map((xid) => String(xid.code)).join(", ")],
              ]}
            />
          </div>
        </Card>
      ) : null}
    </div>
  );
}

/** The last hour of a GPU: how busy it was, and how full. */
function Past({ of, gpu }: { of: GpuPast; gpu: GpuReading }) {
  const [first, last] = [of.samples[0], of.samples.at(-1)];
  if (!first || !last || first === last) return null;
  const total = Number(gpu.memoryTotalBytes ?? 0n);
  const memory = of.samples.map((sample) => (total === 0 ? 0 : (100 * Number(sample.memoryUsedBytes ?? 0n)) / total));
  const curves = [
    { name: "busy %", values: of.samples.map((sample) => sample.utilisationPercent ?? 0), colour: "var(--chart-1)" },
    { name: "memory %", values: memory, colour: "var(--chart-2)" },
  ];
  return (
    <Area curves={curves} from={Number(first.atMs)} to={Number(last.atMs)} label={`gpu ${gpu.index}, the last hour`} />
  );
}

/** Keeps new work away from a worker, or lets it come again. */
function Drain({ worker }: { worker: Worker }) {
  const { name } = worker;
  const { identity } = useWho();
  const no = deniedToGovern(identity);
  if (no) return <p class="quiet">{no}</p>;
  return (
    <div class="actions">
      {worker.closed === "" ? (
        <Act
          label="Drain"
          question={`Drain ${name}?`}
          text="What runs there may finish; nothing new is placed on it until it is resumed."
          yes="Drain it"
          act={() => service.drainWorker({ name })}
        />
      ) : (
        <Act
          label="Resume"
          question={`Resume ${name}?`}
          text="It takes new ranks again."
          yes="Resume it"
          act={() => service.resumeWorker({ name })}
        />
      )}
    </div>
  );
}

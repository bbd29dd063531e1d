import { create, fromBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { describe, expect, test } from "vitest";
import { AttemptState, JobKind, JobState } from "../src/gen/marquee/v1/common_pb";
import { UsageSchema } from "../src/gen/marquee/v1/cluster_pb";
import { JobDetailSchema, JobSchema, ProgressSchema } from "../src/gen/marquee/v1/jobs_pb";
import { WorkerSchema } from "../src/gen/marquee/v1/workers_pb";
import { layout } from "../src/graph";
import { inOrder } from "../src/job/curves";
import { rows } from "../src/job/phases";
import { differences } from "../src/job/spec";
import { readLook } from "../src/job/curves";
import { segments } from "../src/job/timeline";
import { at, flat, parse } from "../src/json";
import { locate } from "../src/locate";
import { readJobs } from "../src/pages/compare";
import { readAuditFilter, said } from "../src/pages/admin";
import { readFilter } from "../src/pages/jobs";
import { byProject } from "../src/pages/overview";
import { kept, slots } from "../src/pages/workers";
import { imbalance, quality } from "../src/quality";
import { read } from "../src/router";
import { scores } from "../src/scores";
import { smoothed, table } from "../src/ui/chart";
import { bytes, duration, figure, jobName, percent, relative, stateWord, timeLeft } from "../src/words";

describe("words", () => {
  test("say times and sizes as the command line does", () => {
    expect([3_400, 59_900, 125_000, 4_320_000, 273_600_000].map(duration)).toEqual([
      "3.4 s",
      "59 s",
      "2 m 05 s",
      "1 h 12 m",
      "3 d 4 h",
    ]);
    expect([0, 12_000, 300_000, 7_200_000, -300_000].map((ago) => relative(0, ago))).toEqual([
      "just now",
      "12 s ago",
      "5 m ago",
      "2 h ago",
      "in 5 m",
    ]);
    expect([0n, 1023n, 1536n, 190n << 20n].map(bytes)).toEqual(["0 B", "1023 B", "1.5 KiB", "190 MiB"]);
    expect([0.00012, 0.6931, 42, 1234.56, 3e9, Infinity].map(figure)).toEqual([
      "1.20e-4",
      "0.6931",
      "42",
      "1234.6",
      "3.00e+9",
      "Infinity",
    ]);
  });

  test("of a newer coordinator are unknown, and no error", () => {
    const newer = fromBinary(JobSchema, new Uint8Array([0x30, 99]));
    expect(stateWord(newer.state)).toBe("unknown");
  });

  test("tell arrays and elements by name, and how far they are", () => {
    const array = create(JobSchema, { name: "fetch", elements: { succeeded: 12, running: 4 } });
    expect(jobName(array)).toBe("fetch[0-15]");
    expect(jobName(create(JobSchema, { name: "fetch", element: { index: 3 } }))).toBe("fetch[3]");
    const progress = create(ProgressSchema, {
      done: 50n,
      total: 200n,
      phaseStartedDone: 0n,
      phaseStartedAt: timestampFromMs(0),
      at: timestampFromMs(10_000),
    });
    expect(percent(progress)).toBe(25);
    expect(timeLeft(progress)).toBe(30_000);
    expect(percent(create(ProgressSchema, { done: 5n }))).toBeUndefined();
    expect(percent(create(ProgressSchema, { done: 5n, total: 0n }))).toBeUndefined();
  });
});

describe("addresses", () => {
  test("of any kind are read, and those that nobody meant mean nothing", () => {
    expect(read({ pathname: "/jobs/17/logs", search: "?rank=0" }).parts).toEqual(["jobs", "17", "logs"]);
    expect(read({ pathname: "//workers/%", search: "" }).parts).toEqual(["workers", "%"]);
    const filter = readFilter(new URLSearchParams("state=failed,nonsense&kind=train&pipeline=-1&text=%3Cb%3E"));
    expect(filter).toMatchObject({ states: [JobState.FAILED], kinds: [JobKind.TRAIN], pipeline: 0n, text: "<b>" });
    expect(readJobs(new URLSearchParams("jobs=3,3,x,99999999999999999999,4"))).toEqual([3n, 4n]);
  });
});

describe("a graph", () => {
  test("puts each job behind what it needs", () => {
    const drawn = layout([
      { name: "fetch", needs: [] },
      { name: "prep", needs: ["fetch"] },
      { name: "a", needs: ["prep"] },
      { name: "b", needs: ["prep"] },
      { name: "eval", needs: ["a", "prep", "elsewhere"] },
    ]);
    const columns = Object.fromEntries([...drawn.nodes].map(([name, { column }]) => [name, column]));
    expect(columns).toEqual({ fetch: 0, prep: 1, a: 2, b: 2, eval: 3 });
    expect([drawn.columns, drawn.rows, drawn.edges.length]).toEqual([4, 2, 5]);
  });

  test("tells which end of a job another one waits for", () => {
    const drawn = layout([
      { name: "train", needs: [] },
      { name: "clean", needs: ["train"], needsOn: new Map([["train", "finished"]]) },
      { name: "eval", needs: ["train"] },
    ]);
    expect(drawn.edges.map(({ to, on }) => `${to} ${on}`)).toEqual(["clean finished", "eval succeeded"]);
  });

  test("of a circle, or of nothing, ends all the same", () => {
    expect(layout([]).nodes.size).toBe(0);
    const circle = layout([
      { name: "a", needs: ["b"] },
      { name: "b", needs: ["a", "b"] },
    ]);
    expect(circle.nodes.size).toBe(2);
  });
});

describe("a wrong field", () => {
  const document = [
    'name = "x"',
    "",
    "[jobs.train]",
    'kind = "train"',
    "epochs = 0",
    'optimizer = { name = "sgd" }',
    '[jobs."other job"]',
    'kind = "nothing"',
  ].join("\n");
  test("is found in its document, or the nearest thing to it", () => {
    for (const [field, why, line] of [
      ["jobs.train.epochs", "", 4],
      ["jobs.train.optimizer.name", "", 5],
      ["jobs.train.model", "it is missing", 2],
      ['jobs."other job".kind', "", 7],
      ["name", "", 0],
      ["document", "expected `=` at line 3, column 1", 2],
      ["other", "", undefined],
    ] as const)
      expect(locate(document, field, why), field).toBe(line);
  });
});

describe("what a link says", () => {
  test("of curves is what was looked at, and nothing odd", () => {
    const look = (query: string) => readLook(new URLSearchParams(query));
    expect(look("")).toEqual({ smooth: 0, log: false, by: "step", all: false, search: "" });
    expect(look("smooth=0.9&log=1&time=1&all=1&metric=loss")).toEqual({
      smooth: 0.9,
      log: true,
      by: "time",
      all: true,
      search: "loss",
    });
    for (const odd of ["-1", "1", "NaN", "x", "1e999"]) expect(look(`smooth=${odd}`).smooth, odd).toBe(0);
  });
});

describe("a line of the audit", () => {
  test("is said in words, whatever its details are", () => {
    const digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    expect(said("digest", digest)).toBe("digest e3b0c44298fc…");
    expect(
      said("devices", [
        { kind: "gpu", index: 1 },
        { kind: "cpu", index: 0 },
      ]),
    ).toBe("gpu 1, cpu 0");
    expect(said("devices", [{}])).toBe(" ?");
    expect(said("devices", "none")).toBe("devices none");
    expect(said("odd", { a: [1] })).toBe('odd {"a":[1]}');
  });
});

describe("what a worker keeps", () => {
  test("is said in a line", () => {
    const cache = { artifacts: 3, bytes: 1n << 30n, maxBytes: 100n << 30n, pinned: 0 };
    expect(kept(cache)).toBe("3 artifacts, 1.0 GiB of 100 GiB");
    expect(kept({ ...cache, artifacts: 1, pinned: 1 })).toBe("1 artifact, 1.0 GiB of 100 GiB, 1 in use");
  });
});

describe("a job's life", () => {
  test("is one bar without gaps", () => {
    const detail = create(JobDetailSchema, {
      attempts: [
        {
          number: 1,
          state: AttemptState.FAILED,
          createdAt: timestampFromMs(10_000),
          startedAt: timestampFromMs(12_000),
          finishedAt: timestampFromMs(20_000),
          waitedFor: "needs 2 devices, 1 of 4 were free when it was last looked at",
        },
        {
          number: 2,
          state: AttemptState.RUNNING,
          createdAt: timestampFromMs(30_000),
          startedAt: timestampFromMs(31_000),
        },
      ],
    });
    const job = create(JobSchema, { state: JobState.RUNNING, createdAt: timestampFromMs(0) });
    const all = segments(detail, job, 40_000);
    expect(all.map(({ look, from, to }) => [look, from / 1000, to / 1000])).toEqual([
      ["wait", 0, 10],
      ["prepare", 10, 12],
      ["bad", 12, 20],
      ["wait", 20, 30],
      ["prepare", 30, 31],
      ["run", 31, 40],
    ]);
    expect(all[0]?.says).toBe("waited (needs 2 devices, 1 of 4 were free when it was last looked at): 10 s");
    expect(all[3]?.says).toBe("waited for the next attempt: 10 s");
    const needy = create(JobSchema, { ...job, needs: ["fetch", "prepare"] });
    expect(segments(detail, needy, 40_000)[0]?.says).toMatch(/^waited for fetch, prepare \(needs 2 devices/);
    // Clocks of two hosts: an attempt that ended before it began takes no time, and breaks nothing.
    const odd = create(JobDetailSchema, {
      attempts: [{ number: 1, createdAt: timestampFromMs(5), finishedAt: timestampFromMs(1) }],
    });
    expect(segments(odd, job, 10).every(({ from, to }) => to > from)).toBe(true);
  });
});

describe("documents within messages", () => {
  test("may be anything", () => {
    for (const text of [
      "",
      "{",
      "null",
      "[]",
      '"x"',
      '{"phases": 7, "rules": {"a": 1}}',
      '{"phases": {"step_s": "1"}}',
    ]) {
      expect(scores(parse(text))).toBeUndefined();
      const detail = create(JobDetailSchema, { attempts: [{ ranks: [{ summaryJson: text }] }] });
      expect(rows(detail)).toEqual([]);
    }
    expect(at(parse('{"__proto__": 1}'), "constructor")).toBeNull();
  });

  test("give scores with their interval, beside the baselines", () => {
    const found = scores(
      parse(
        '{"rules": [{"rule": "global", "f1_micro": 0.7, "f1_micro_interval": [0.6, 0.8]}], "headline": {"rule": "global", "stands": true}, "baselines": [{"name": "all", "f1_micro": 0.3}]}',
      ),
    );
    expect(found?.scores).toEqual([
      { name: "micro F1", value: 0.7, isBaseline: false, interval: [0.6, 0.8] },
      { name: "baseline “all”", value: 0.3, isBaseline: true },
    ]);
  });

  test("are compared key by key", () => {
    const [a, b] = [flat(parse('{"x": {"lr": 1, "m": [1]}, "y": true}')), flat(parse('{"x": {"lr": 2, "m": [1]}}'))];
    expect(differences([a, b])).toEqual([
      ["x.lr", ["1", "2"]],
      ["y", ["true", undefined]],
    ]);
  });
});

describe("curves", () => {
  test("are smoothed without a false start, and hold what is no number apart", () => {
    expect(smoothed([1, 1, 1], 0.9)).toEqual([1, expect.closeTo(1), expect.closeTo(1)]);
    expect(smoothed([1, NaN, 3], 0)).toEqual([1, null, 3]);
    const curve = { name: "a", x: [1, 2], mean: [5, -1], low: [5, -1], high: [5, -1], colour: 0 };
    expect(table([curve, { ...curve, x: [2, 3] }], 0, true)[0]).toEqual([1, 2, 3]);
    expect(table([curve], 0, true)[1]).toEqual([5, null]);
    expect(table([], 0, false)).toEqual([[]]);
  });

  test("stand in the order in which people look at them", () => {
    expect(inOrder(["gpu_power_w", "lr", "val_f1", "train_loss", "other"])).toEqual([
      "train_loss",
      "val_f1",
      "lr",
      "other",
      "gpu_power_w",
    ]);
  });
});

test("a worker's devices know who holds them", () => {
  const worker = create(WorkerSchema, {
    inventory: { cpuSlots: 2, gpus: [{ index: 3 }] },
    ranks: [{ jobId: 7n, jobName: "train", rank: 1, devices: [{ kind: { case: "gpu", value: 3 } }] }],
    gpus: [{ index: 3, fault: "fell off the bus" }],
  });
  expect(slots(worker).map(({ kind, index, held, ill }) => [kind, index, held?.job, ill])).toEqual([
    ["gpu", 3, 7n, true],
    ["cpu", 0, undefined, false],
    ["cpu", 1, undefined, false],
  ]);
});

describe("what is known of pictures", () => {
  const report = {
    pictures: 12,
    flags: { dark: 2, blurry: 0, near_duplicate: 3 },
    skipped: { undecodable: 1 },
    samples: { dark: ["a", "<img onerror=x>"], undecodable: ["z"] },
    years: { "1999": 4, unknown: 8 },
    classes: { train: { Drama: 6, Action: 2 }, test: { Drama: 2 }, validation: { Action: 1 } },
    label_counts: { train: { "1": 5, "2": 2 }, validation: { "1": 1 }, test: { "10": 1, "2": 1 } },
    clusters_in_all: 4,
    disagreements: [{ pictures: ["a", "b"], labels: [["Drama"], ["Action", "War"]] }],
    disagreements_in_all: 7,
  };

  test("is read from the summary and from the report", () => {
    const summary = { pictures: 13, splits: { train: 7, validation: 1, test: 2 }, source: { synthetic: true } };
    const found = quality(summary, report);
    expect(found?.pictures).toBe(13);
    expect(found?.synthetic).toBe(true);
    expect(found?.splits.map(({ count }) => count)).toEqual([7, 1, 2]);
    expect(found?.classes).toEqual([
      { name: "Drama", of: { train: 6, validation: 0, test: 2 }, all: 8 },
      { name: "Action", of: { train: 2, validation: 1, test: 0 }, all: 3 },
    ]);
    expect(found?.flags.map(({ name }) => name)).toEqual(["near_duplicate", "dark"]);
    expect(found?.skipped).toEqual([{ name: "undecodable", count: 1, ids: ["z"] }]);
    expect(found?.labels).toEqual([
      { name: "1", count: 6 },
      { name: "2", count: 3 },
      { name: "10", count: 1 },
    ]);
    expect(found?.disagreements).toEqual([{ pictures: ["a", "b"], labels: ["Drama", "Action, War"] }]);
    expect(imbalance(found?.classes ?? [])?.toFixed(2)).toBe("2.67");
  });

  test("is as much as there is: a taken result has no summary, an old one no report", () => {
    expect(quality(null, report)?.splits.map(({ count }) => count)).toEqual([7, 1, 2]);
    const old = quality({ splits: { train: 3 }, flags: { dark: 1 } }, null);
    expect(old?.splits.map(({ count }) => count)).toEqual([3, 0, 0]);
    expect(old?.classes).toEqual([]);
    expect(quality(null, null)).toBeUndefined();
    expect(quality({ splits: 7 }, { classes: [1, 2], samples: "x", disagreements: [null, 3] })?.classes).toEqual([]);
    expect(imbalance([])).toBeUndefined();
  });
});

describe("hours of projects", () => {
  test("stand under their week, the present one first", () => {
    // Monday, 2026-11-30.
    const monday = Date.UTC(2026, 10, 30);
    const week = (back: number) => timestampFromMs(monday - back * 7 * 24 * 3600_000);
    const usage = create(UsageSchema, {
      projectWeeks: [
        { project: "vision", week: week(0), gpuHours: 2 },
        { project: "text", week: week(0), gpuHours: 1 },
        { project: "text", week: week(2), gpuHours: 9, lostHours: 1 },
        { project: "old", week: week(40), gpuHours: 1 },
      ],
    });
    const { weeks, rows } = byProject(usage, monday + 5 * 3600_000);
    expect(weeks[0]).toBe(monday);
    expect(rows).toEqual([
      { project: "text", hours: [1, 0, 9, 0, 0] },
      { project: "vision", hours: [2, 0, 0, 0, 0] },
    ]);
  });
});

describe("the audit", () => {
  test("is asked for what the address says, and nothing odd", () => {
    const query = new URLSearchParams("who=ada&worker=gpu-1&job=17&before=900");
    expect(readAuditFilter(query)).toEqual({ who: "ada", worker: "gpu-1", job: 17n, before: 900n });
    expect(readAuditFilter(new URLSearchParams("job=-1&before=x")).before).toBe(0n);
  });
});

/**
 * How soon a page is there with a large cluster behind it, beside the same page of an empty one. Prints one figure a
 * line, as JSON; `cargo xtask bench page` judges them.
 */

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { chromium, type Browser } from "playwright-core";
import { Cluster } from "./cluster.ts";

/** Milliseconds that people are promised (docs/web.md). */
const PAGE_MAX = 1_000;
const SKELETON_MAX = 300;
const rounds = process.argv.includes("--quick") ? 3 : 9;

interface Times {
  /** Milliseconds until something is painted, and until nothing of the page is waited for. */
  skeleton: number;
  page: number;
}

/** A first visit, with nothing in the browser's cache. */
async function visit(browser: Browser, url: string, has: string): Promise<Times> {
  const context = await browser.newContext({ viewport: { width: 1360, height: 860 } });
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  await page.goto(url, { waitUntil: "commit" });
  await page.waitForFunction((has) => document.querySelector(has) && !document.querySelector(".skeleton, .boot"), has);
  const times = await page.evaluate(() => ({
    skeleton: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? Number.NaN,
    page: performance.now(),
  }));
  await context.close();
  return times;
}

async function median(browser: Browser, url: string, has: string): Promise<Times> {
  const all: Times[] = [];
  for (let round = 0; round < rounds; round += 1) all.push(await visit(browser, url, has));
  const middle = (of: (times: Times) => number) => all.map(of).toSorted((a, b) => a - b)[rounds >> 1] ?? Number.NaN;
  return { skeleton: middle(({ skeleton }) => skeleton), page: middle(({ page }) => page) };
}

/** What of the page stands there when it is whole. */
const PLACES = [
  { name: "overview", path: "/", has: "main .figures" },
  { name: "jobs", path: "/jobs", has: "main .filters" },
  { name: "jobs that failed", path: "/jobs?state=failed", has: "main .filters" },
  { name: "jobs by a word", path: "/jobs?text=sweep-1", has: "main .filters" },
  { name: "jobs of a worker", path: "/jobs?worker=host-3", has: "main .filters" },
];

function fill(cluster: Cluster): bigint {
  const psql = join(process.env.MARQUEE_POSTGRES_BIN ?? "", "psql");
  const file = join(import.meta.dirname, "large.sql");
  const done = spawnSync(psql, ["-v", "ON_ERROR_STOP=1", "-Atq", "-f", file, cluster.database()], { encoding: "utf8" });
  if (done.status !== 0) throw new Error(`${psql}: ${done.error?.message ?? done.stderr}`);
  const [, job] = /^job (\d+) of 1000000 values$/m.exec(done.stdout) ?? [];
  if (job === undefined) throw new Error(`no million values: ${done.stdout}`);
  return BigInt(job);
}

function tell(name: string, value: number, reference: number, atMost: number | undefined, what: string): void {
  const figure = {
    name,
    value,
    unit: "ms wall",
    is_less_better: true,
    reference: Number.isNaN(reference) ? null : { name: "empty cluster", value: reference },
    goal: atMost === undefined ? {} : { at_most: atMost },
    ran: `${what}; first visits with an empty cache in Chromium, median of ${rounds}`,
  };
  console.log(JSON.stringify(figure));
}

const cluster = await Cluster.start(0);
const browser = await chromium.launch({
  executablePath: process.env.MARQUEE_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});
try {
  await visit(browser, cluster.url, "main");
  const before = new Map<string, Times>();
  for (const { name, path, has } of PLACES) before.set(name, await median(browser, cluster.url + path, has));
  const job = fill(cluster);
  const what = "100,000 jobs and 1,000,000 values stored";
  for (const { name, path, has } of PLACES) {
    const now = await median(browser, cluster.url + path, has);
    const empty = before.get(name);
    tell(`first page: ${name}`, now.page, empty?.page ?? Number.NaN, PAGE_MAX, what);
    if (path === "/") tell("skeleton", now.skeleton, empty?.skeleton ?? Number.NaN, SKELETON_MAX, what);
  }
  const curves = await median(browser, `${cluster.url}/jobs/${job}/curves`, "main canvas");
  tell("curves", curves.page, Number.NaN, undefined, "1,000,000 values of one job as 20 curves");
} finally {
  await browser.close();
  await cluster.stop();
}

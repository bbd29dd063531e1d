/**
 * How quick the page is on a full cluster: 100,000 jobs and 1,000,000 values of metrics, stored by SQL, since to run as
 * many takes a day. A measurement, made on demand, since a machine that does other things as well is slow: MARQUEE_FULL=1.
 */

import { execFileSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Browser } from "playwright-core";
import { Cluster } from "./cluster";
import { open, openBrowser } from "./page";

const JOBS = 100_000;
const VALUES = 1_000_000;
/** Milliseconds until something stands there, and until what was asked for does. */
const SKELETON_MAX = 300;
const PAGE_MAX = 1_000;
/** The median of so many looks. */
const LOOKS = 5;

const FILL = `
INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, attempt, last_attempt, created_at,
                  started_at, finished_at, project)
SELECT p.id, n, 'step-' || n, j.kind, j.spec, 0, 1, CASE WHEN n % 20 = 0 THEN 'failed' ELSE 'succeeded' END, 1,
       j.last_attempt, now() - n * interval '1 s', now() - n * interval '1 s', now() - n * interval '1 s', j.project
FROM jobs j, pipelines p, generate_series(1, ${JOBS}) AS n WHERE j.id = 1 AND p.id = j.pipeline_id;
INSERT INTO attempts (job_id, number, state, created_at, started_at, finished_at)
SELECT id, 1, state, created_at, started_at, finished_at FROM jobs WHERE id > 1;
INSERT INTO attempt_ranks (job_id, attempt, rank, worker_id, local_rank, devices, state, ended_at)
SELECT j.id, 1, 0, r.worker_id, 0, r.devices, 'finished', j.finished_at
FROM jobs j, attempt_ranks r WHERE r.job_id = 1 AND j.id > 1;
INSERT INTO metrics (job_id, attempt, rank, sequence, name, step, value, at)
SELECT 1, 1, 0, 1000000 + n, CASE WHEN n % 2 = 0 THEN 'train/loss' ELSE 'train/images_per_second' END, n,
       1.0 / n, now() FROM generate_series(1, ${VALUES}) AS n;
ANALYZE;
`;

function psql(): string {
  const folders = [process.env.MARQUEE_POSTGRES_BIN ?? ""];
  const debian = "/usr/lib/postgresql";
  if (existsSync(debian)) folders.push(...readdirSync(debian).map((version) => join(debian, version, "bin")));
  return folders.map((folder) => join(folder, "psql")).find((path) => existsSync(path)) ?? "psql";
}

describe.skipIf(!process.env.MARQUEE_FULL)("a full cluster", () => {
  let cluster: Cluster;
  let browser: Browser;

  beforeAll(async () => {
    [cluster, browser] = await Promise.all([Cluster.start(1), openBrowser()]);
    const { page } = await open(browser, `${cluster.url}/submit`);
    await page.getByLabel("Pipeline document").fill('name = "full"\n[jobs.first]\nkind = "command"\nargv = ["true"]\n');
    await page.getByRole("button", { name: "Submit 1 job" }).click();
    await page.locator(".state-succeeded").first().waitFor();
    await page.context().close();
    execFileSync(psql(), ["-q", "-v", "ON_ERROR_STOP=1", "-d", "marquee", "-c", FILL], {
      env: { ...process.env, PGHOST: cluster.postgres },
      stdio: ["ignore", "ignore", "inherit"],
    });
  }, 600_000);

  afterAll(async () => {
    await browser.close();
    await cluster.stop();
  });

  test.each([
    ["/", ".rows .job-link"],
    ["/jobs", "table .job-link"],
    ["/jobs?state=failed", "table .job-link"],
    ["/jobs?text=step-9999", "table .job-link"],
    ["/jobs/1/curves", "canvas"],
    ["/workers", ".host"],
    ["/admin/audit", "table .num"],
  ])("shows %s at once", { timeout: 120_000 }, async (place, what) => {
    const looks: { skeleton: number; whole: number }[] = [];
    for (let look = 0; look < LOOKS; look += 1) {
      const { page } = await open(browser, `${cluster.url}/about`);
      const begun = performance.now();
      await page.goto(`${cluster.url}${place}`, { waitUntil: "commit" });
      await page.locator(".boot, .skeleton, main").first().waitFor();
      const skeleton = performance.now() - begun;
      await page.locator(what).first().waitFor();
      looks.push({ skeleton, whole: performance.now() - begun });
      await page.context().close();
    }
    const median = (of: number[]) => Math.round(of.toSorted((a, b) => a - b)[Math.floor(LOOKS / 2)] ?? 0);
    const skeleton = median(looks.map((one) => one.skeleton));
    const whole = median(looks.map((one) => one.whole));
    console.log(`${place}: something after ${skeleton} ms, all of it after ${whole} ms`);
    expect(skeleton, `${place}: the skeleton`).toBeLessThanOrEqual(SKELETON_MAX);
    expect(whole, place).toBeLessThanOrEqual(PAGE_MAX);
  });
});

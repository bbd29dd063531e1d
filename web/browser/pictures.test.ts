/** Pictures for docs/web.md and the README, made on demand: MARQUEE_SHOTS names the folder. */

import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Cluster } from "./cluster";
import { open, openBrowser } from "./page";
import { ask, ELSEWHERE, framed, user } from "./users";

const shots = process.env.MARQUEE_SHOTS;
let cluster: Cluster;
let browser: Browser;

beforeAll(async () => {
  if (shots) [cluster, browser] = await Promise.all([Cluster.start(), openBrowser()]);
});

afterAll(async () => {
  if (!shots) return;
  await browser.close();
  await cluster.stop();
});

const job = (name: string, script: string, more = "") =>
  `[jobs.${name}]\nkind = "command"\nargv = ["sh", "-c", '''${script}''']\nmax_attempts = 1\n${more}\n`;

const NIGHTLY = [
  'name = "nightly"\n',
  job("fetch", "echo 3,000 films; sleep 1"),
  job("prepare", "sleep 1", 'needs = ["fetch"]'),
  job(
    "check-labels",
    "echo 'Traceback (most recent call last):' >&2; echo 'ValueError: Sci-fi is not in the vocabulary' >&2; exit 3",
    'needs = ["prepare"]',
  ),
  job("train-small", "sleep 2", 'needs = ["prepare"]'),
  job("train-large", "sleep 900", 'needs = ["prepare"]'),
  job("evaluate", "true", 'needs = ["train-small", "train-large"]'),
  job("report", "true", 'needs = ["train-small"]'),
].join("");
const OVER = "array = { over = { lr = [0.1, 0.01, 0.001], seed = [1, 2, 3, 4] } }";
const SWEEP = `name = "sweep"\n${job("trial", "sleep 30", OVER)}`;
const WIDE = `name = "wide"\n${job("all-devices", "true", "ranks = 4")}`;
const WRONG =
  'name = "posters"\n\n[jobs.fetch]\nkind = "command"\nargv = ["./fetch"]\nrank = 2\n\n[jobs.train]\nkind = "trian"\n';

async function submit(page: Page, document: string): Promise<string> {
  await page.goto(`${cluster.url}/submit`);
  await page.getByLabel("Pipeline document").fill(document);
  await page.getByRole("button", { name: /^Submit \d+ job/ }).click();
  await page.waitForURL(/\/pipelines\/\d+$/);
  return new URL(page.url()).pathname;
}

async function picture(name: string, path: string, look: BrowserContextOptions = {}, until = "live"): Promise<void> {
  const { page } = await open(browser, cluster.url + path, { viewport: { width: 1240, height: 760 }, ...look });
  await page.getByText(until).first().waitFor();
  await page.locator(".skeleton").waitFor({ state: "detached" });
  await page.screenshot({ path: `${shots ?? ""}/web-${name}.png` });
  await page.context().close();
}

test.skipIf(!shots)("the tour", { timeout: 600_000 }, async () => {
  const { page } = await open(browser, cluster.url);
  const nightly = await submit(page, NIGHTLY);
  await page.locator("table .state-failed").first().waitFor();
  await expect.poll(() => page.locator("table .state-succeeded").count()).toBe(3);
  const failed = (await page.locator("table .job-link", { hasText: "check-labels" }).getAttribute("href")) ?? "";
  await submit(page, SWEEP);
  await submit(page, WIDE);
  await page.getByText("needs 4 cpu devices").first().waitFor();
  await ask(cluster, "Schedules/AddSchedule", [
    [1, "nightly"],
    [2, "30 2 * * *"],
    [3, "Europe/Berlin"],
    [4, framed([[1, 'name = "nightly"\n[jobs.a]\nkind = "command"\nargv = ["true"]\n']]).slice(5)],
  ]);
  await page.context().close();

  await picture("overview", "/", {}, "by project and week");
  await picture("overview-dark", "/", { colorScheme: "dark" }, "by project and week");
  await picture("pipeline", nightly);
  await picture("job", failed, {}, "Time line");
  await picture("phone", "/jobs", { viewport: { width: 390, height: 844 } }, "check-labels");
  await picture("audit", "/admin/audit", {}, "Who asked");
  await picture("schedules", "/admin/schedules", { viewport: { width: 1240, height: 380 } }, "Europe/Berlin");

  const wrong = await open(browser, `${cluster.url}/submit`, { viewport: { width: 1240, height: 560 } });
  await wrong.page.getByLabel("Pipeline document").fill(WRONG);
  await wrong.page.getByText("2 problems").first().waitFor();
  await wrong.page.screenshot({ path: `${shots ?? ""}/web-submit.png` });

  await user(cluster, "ada", "admin");
  await picture("login", "/", { extraHTTPHeaders: ELSEWHERE, viewport: { width: 1240, height: 430 } }, "Log in");
});

/** The page on a cluster that runs commands: what a person does with it, and what may go wrong. */

import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Cluster } from "./cluster";
import { accessible, fits, open, openBrowser, type Watched } from "./page";
import { ask, framed } from "./users";

let cluster: Cluster;
let browser: Browser;

beforeAll(async () => {
  [cluster, browser] = await Promise.all([Cluster.start(), openBrowser()]);
});

afterAll(async () => {
  await browser.close();
  await cluster.stop();
});

/** Writes a pipeline into the page and submits it; gives the number of the pipeline. */
async function submit(page: Page, toml: string): Promise<string> {
  await page.goto(`${cluster.url}/submit`);
  await page.getByLabel("Pipeline document").fill(toml);
  await page.getByRole("button", { name: /^Submit \d+ job/ }).click();
  await page.waitForURL(/\/pipelines\/\d+$/);
  return new URL(page.url()).pathname.split("/")[2] ?? "";
}

async function closed({ page, problems }: Watched): Promise<void> {
  expect(problems).toEqual([]);
  await page.context().close();
}

test("an empty cluster says what to do next", async () => {
  const watched = await open(browser, cluster.url);
  const { page } = watched;
  await page.getByText("The cluster is ready").waitFor();
  await page.getByText("marquee submit examples/command.toml --wait").waitFor();
  // Workers come by themselves, and are seen without a look.
  await page.getByText("0 of 4 CPU devices held").waitFor();
  for (const place of [
    "",
    "jobs",
    "workers",
    "reports",
    "compare",
    "artifacts",
    "data",
    "admin",
    "admin/audit",
    "admin/users",
    "admin/tokens",
    "admin/schedules",
    "admin/schedules/none",
    "admin/projects/default",
    "submit",
    "about",
    "jobs/99",
    "nothing",
  ]) {
    await page.goto(`${cluster.url}/${place}`);
    await page.getByText("live").first().waitFor();
    await page.locator(".skeleton").waitFor({ state: "detached" });
    await accessible(page, `/${place}, empty`);
  }
  await closed(watched);
});

test("a document is checked while it is written, with each error beside its line", async () => {
  const watched = await open(browser, `${cluster.url}/submit`);
  const { page } = watched;
  await page.getByText("1 job would be stored").waitFor();
  await page
    .getByLabel("Pipeline document")
    .fill('name = "wrong"\n\n[jobs.a]\nkind = "command"\nargv = []\nrank = 2\n\n[jobs.b]\nkind = "nothing"\n');
  await page
    .getByText(/\d problems/)
    .first()
    .waitFor();
  const problems = await page.locator(".problems li").allInnerTexts();
  expect(
    problems.some((text) => text.includes("jobs.a.rank") && text.includes("line 6")),
    problems.join("\n"),
  ).toBe(true);
  expect(
    problems.some((text) => text.includes("jobs.b.kind") && text.includes("line 9")),
    problems.join("\n"),
  ).toBe(true);
  expect(await page.getByRole("button", { name: "Submit", exact: true }).isDisabled()).toBe(true);
  await accessible(page, "/submit with errors");
  await closed(watched);
});

/** What a job may write anywhere: markup, programs, what terminals act on, letters that turn the others around. */
const HOSTILE = [
  "<img src=x onerror=alert(1)>",
  "<script>alert(2)</script>",
  "javascript:alert(3)",
  "{{constructor.constructor('alert(4)')()}}",
  "\u202egnp.exe",
];

/** A report on pictures that no preprocess job has written. */
const ODD = {
  pictures: 3,
  classes: { train: { "<img src=x onerror=alert(9)>": 2 }, test: { "<b>bold</b>": 1 } },
  flags: { "<script>alert(10)</script>": 1 },
  samples: { "<script>alert(10)</script>": ["<img src=x onerror=alert(11)>"] },
  skipped: { "javascript:alert(12)": 1 },
  label_counts: { train: { "<u>1</u>": 3 } },
  years: { "<i>1999</i>": 3 },
  disagreements: [{ pictures: ["<a href=x>", "b"], labels: [["<img src=x onerror=alert(13)>"], ["x"]] }],
};

test("what a job wrote is text wherever it is shown", async () => {
  const watched = await open(browser, cluster.url);
  const { page } = watched;
  const script = [
    "cat <<'END'",
    ...HOSTILE,
    "END",
    String.raw`printf '\033[31mred\033[0m and plain \033]0;title\007\n'`,
    'echo hi > "$MARQUEE_OUTPUT/<img src=x onerror=alert(5)>.txt"',
    `printf '%s' '${JSON.stringify(ODD)}' > "$MARQUEE_OUTPUT/quality.json"`,
    `echo "<script>alert(6)</script><h1>A report</h1>" > "$MARQUEE_OUTPUT/report.html"`,
  ].join("\n");
  const toml = [
    'name = "hostile"',
    "[jobs.a]",
    'kind = "command"',
    `argv = ["sh", "-c", '''\n${script}\n''', "<svg onload=alert(7)>"]`,
    'env = { X = "<img src=x onerror=alert(8)>" }',
  ].join("\n");
  await submit(page, toml);
  await page.locator(".state-succeeded").first().waitFor();
  await page.locator("table .job-link").first().click();
  await page.getByText("It succeeded").waitFor();
  const job = new URL(page.url()).pathname;
  for (const part of ["", "/attempts", "/logs", "/curves", "/files", "/spec"]) {
    await page.goto(`${cluster.url}${job}${part}`);
    await page.locator(".skeleton").waitFor({ state: "detached" });
    if (part === "/logs") {
      await page.getByText("<img src=x onerror=alert(1)>").waitFor();
      // Colours are colours, and the rest of the sequence is gone.
      await page.locator(".f1", { hasText: "red" }).waitFor();
    }
    if (part === "/files") await page.getByText("<img src=x onerror=alert(5)>.txt").waitFor();
    if (part === "/spec") await page.getByText("<svg onload=alert(7)>").waitFor();
    const made = await page.locator("main img, main script, main svg[onload], main [onerror]").count();
    expect(made, `${part}: markup came of it`).toBe(0);
    await accessible(page, `${job}${part}`);
  }
  for (const place of [`/data/${job.split("/")[2] ?? ""}`, `/admin/audit?job=${job.split("/")[2] ?? ""}`]) {
    await page.goto(`${cluster.url}${place}`);
    await page.locator(".skeleton").waitFor({ state: "detached" });
    if (place.startsWith("/data")) await page.getByText("<img src=x onerror=alert(9)>").first().waitFor();
    else await page.getByText("committed").first().waitFor();
    expect(await page.locator("main img, main script, main b, main u, main [onerror]").count(), place).toBe(0);
    await accessible(page, place);
  }
  // A link to words of the log leads to them.
  await page.goto(`${cluster.url}${job}/logs?find=and+PLAIN`);
  await page.locator(".log-now", { hasText: "red and plain" }).waitFor();
  // Its report is shown, and runs nothing.
  await page.goto(`${cluster.url}/reports/${job.split("/")[2] ?? ""}/document`);
  await page.getByRole("heading", { name: "A report" }).waitFor();
  const blocked = watched.problems.filter((problem) => !problem.includes("Blocked script execution"));
  expect(blocked).toEqual([]);
  watched.problems.length = 0;
  await closed(watched);
});

test("a schedule is shown, paused and resumed", async () => {
  const document = 'name = "odd"\n[jobs.a]\nkind = "command"\nargv = ["<img src=x onerror=alert(14)>"]\n';
  await ask(cluster, "Schedules/AddSchedule", [
    [1, "new-year"],
    [2, "0 0 1 1 *"],
    [4, framed([[1, document]]).slice(5)],
  ]);
  const watched = await open(browser, `${cluster.url}/admin/schedules`);
  const { page } = watched;
  await page.getByText("never was due").waitFor();
  await accessible(page, "/admin/schedules");
  await page.getByRole("link", { name: "new-year" }).click();
  await page.getByText("<img src=x onerror=alert(14)>").waitFor();
  expect(await page.locator("main img, main [onerror]").count()).toBe(0);
  await page.getByRole("button", { name: "Pause", exact: true }).click();
  await page.getByRole("button", { name: "Pause it" }).click();
  await page.getByRole("button", { name: "Resume", exact: true }).click();
  await page.getByRole("button", { name: "Resume it" }).click();
  await page.getByRole("button", { name: "Pause", exact: true }).waitFor();
  await accessible(page, "/admin/schedules/new-year");
  await closed(watched);
});

test("a job is cancelled and tried again from the page, after a question", async () => {
  const watched = await open(browser, cluster.url);
  const { page } = watched;
  await submit(page, 'name = "long"\n[jobs.sleeps]\nkind = "command"\nargv = ["sh", "-c", "echo began; sleep 600"]\n');
  await page.locator("table .job-link").first().click();
  await page.locator(".head .state-running").waitFor();
  const cancel = page.getByRole("button", { name: "Cancel", exact: true });
  await cancel.click();
  await accessible(page, "the question before a cancel");
  await page.getByRole("button", { name: "No, leave it" }).click();
  await page.locator(".head .state-running").waitFor();
  await cancel.click();
  await page.getByRole("button", { name: "Cancel it" }).click();
  await page.locator(".head .state-cancelled").waitFor();
  await page.getByText("It was cancelled").waitFor();
  // Who asked is part of the history.
  await page
    .getByText(/ via rpc from 127\.0\.0\.1/)
    .first()
    .waitFor();
  await page.getByRole("button", { name: "Retry", exact: true }).click();
  await page.getByRole("button", { name: "Queue it again" }).click();
  await page.locator(".head .state-running").waitFor();
  await page.getByRole("link", { name: "Logs" }).click();
  await page.getByText("began").waitFor();
  // Back goes where one was.
  await page.goBack();
  await page.getByText("Time line").first().waitFor();
  await page.getByRole("button", { name: "Cancel", exact: true }).click();
  await page.getByRole("button", { name: "Cancel it" }).click();
  await page.locator(".head .state-cancelled").waitFor();
  await closed(watched);
});

test("a coordinator that is killed leaves the page open, and right when it is back", async () => {
  const watched = await open(browser, cluster.url);
  const { page } = watched;
  const ticks = "for i in $(seq 1 400); do echo tick $i; sleep 0.3; done";
  await submit(page, `name = "lives-on"\n[jobs.ticks]\nkind = "command"\nargv = ["sh", "-c", "${ticks}"]\n`);
  await page.locator("table .job-link").first().click();
  await page.locator(".head .state-running").waitFor();
  await page.getByRole("link", { name: "Logs" }).click();
  await page.getByText("tick 3", { exact: true }).waitFor();
  await cluster.kill();
  await page.getByText("The coordinator does not answer.").waitFor();
  await page.getByText("not connected").waitFor();
  await accessible(page, "a page without its coordinator");
  await cluster.startCoordinator();
  await page.getByText("The coordinator does not answer.").waitFor({ state: "detached" });
  await page.getByText("live").first().waitFor();
  // The log goes on by itself, each line once.
  const last = () => page.locator(".log-line .words").last().innerText();
  const before = Number((await last()).replace(/\D/g, ""));
  await expect.poll(async () => Number((await last()).replace(/\D/g, "")), { timeout: 60_000 }).toBeGreaterThan(before);
  const shown = await page.locator(".log-line .words").allInnerTexts();
  expect(new Set(shown).size).toBe(shown.length);
  await page.getByRole("button", { name: "Cancel", exact: true }).click();
  await page.getByRole("button", { name: "Cancel it" }).click();
  await page.locator(".head .state-cancelled").waitFor();
  // What the browser says of connections that broke is no fault of the page.
  await closed(watched);
});

test("a listing is filtered by the server, and its address holds the filter", async () => {
  const watched = await open(browser, cluster.url);
  const { page } = watched;
  const jobs = Array.from(
    { length: 60 },
    (_, n) => `[jobs.needle-${n}]\nkind = "command"\nargv = ["true"]\nneeds = ["first"]\n`,
  );
  await submit(page, `name = "many"\n[jobs.first]\nkind = "command"\nargv = ["true"]\n${jobs.join("")}`);
  await page.goto(`${cluster.url}/jobs`);
  await page.locator("table .job-link").first().waitFor();
  // The key of the search.
  await page.keyboard.press("/");
  await page.keyboard.type("NEEDLE-5");
  await expect.poll(() => page.locator("table .job-link").count()).toBe(11);
  expect(page.url()).toContain("text=NEEDLE-5");
  await page.getByRole("button", { name: "failed", exact: true }).click();
  await page.getByText("No such jobs").waitFor();
  await page.goto(`${cluster.url}/jobs?text=needle`);
  await expect.poll(() => page.locator("table .job-link").count()).toBe(50);
  await page.getByRole("link", { name: "Older" }).click();
  await expect.poll(() => page.locator("table .job-link").count()).toBe(10);
  await page.goBack();
  await expect.poll(() => page.locator("table .job-link").count()).toBe(50);
  // Projects and hosts are there to be chosen from.
  for (const [label, name] of [
    ["Project", "default"],
    ["Host", "worker-1"],
  ] as const) {
    await page.getByLabel(label, { exact: true }).focus();
    await page.getByLabel(label, { exact: true }).selectOption(name);
  }
  await page.waitForURL(/project=default&worker=worker-1/);
  await page.locator(".skeleton").waitFor({ state: "detached" });
  await closed(watched);
});

test("the page is used by the keyboard alone", async () => {
  const watched = await open(browser, cluster.url);
  const { page } = watched;
  await page.keyboard.press("g");
  await page.keyboard.press("j");
  await page.waitForURL(/\/jobs$/);
  await page.locator("table .job-link").first().waitFor();
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/jobs\/\d+$/);
  await page.keyboard.press("?");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  // The first thing that Tab reaches leads past the navigation.
  await page.goto(cluster.url);
  await page.keyboard.press("Tab");
  expect(await page.evaluate(() => document.activeElement?.textContent)).toBe("Skip to the page");
  await closed(watched);
});

test("in the dark, on a phone, and without movement it is as good", async () => {
  const looks = [
    { colorScheme: "dark" as const },
    { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true },
    { viewport: { width: 360, height: 740 }, colorScheme: "dark" as const, reducedMotion: "reduce" as const },
  ];
  for (const look of looks) {
    const watched = await open(browser, cluster.url, look);
    const { page } = watched;
    await page.goto(`${cluster.url}/jobs`);
    const link = page.locator("table .job-link").first();
    await link.waitFor();
    const job = (await link.getAttribute("href")) ?? "";
    await link.click();
    const pipeline = await page.locator(".crumbs a").last().getAttribute("href");
    const places = [
      "/",
      "/jobs",
      job,
      `${job}/attempts`,
      `${job}/logs`,
      `${job}/spec`,
      pipeline ?? "/",
      "/workers",
      "/submit",
      "/data",
      "/admin",
      "/admin/audit",
      "/admin/schedules",
      "/about",
    ];
    for (const place of places) {
      await page.goto(`${cluster.url}${place}`);
      await page.getByText("live").first().waitFor();
      await page.locator(".skeleton").waitFor({ state: "detached" });
      // The last has the colours of the first and the room of the second, both of which axe has seen.
      if (look !== looks.at(-1)) await accessible(page, `${place} as ${JSON.stringify(look)}`);
      await fits(page, `${place} as ${JSON.stringify(look)}`);
    }
    await closed(watched);
  }
});

test("the files of the page are kept by the browser, and the page is small", async () => {
  const watched = await open(browser, cluster.url);
  const { page } = watched;
  const files = await page.evaluate(() =>
    performance.getEntriesByType("resource").map((entry) => {
      const { name, encodedBodySize } = entry as PerformanceResourceTiming;
      return { name, bytes: encodedBodySize };
    }),
  );
  const programs = files.filter(({ name }) => name.endsWith(".js"));
  expect(programs.length).toBeGreaterThan(0);
  expect(programs.reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThan(150_000);
  const again = await fetch(programs[0]?.name ?? "");
  expect(again.headers.get("cache-control")).toContain("immutable");
  await closed(watched);
});

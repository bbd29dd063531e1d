/** Two coordinators of one cluster: the page stays open and right when the one that leads is killed. */

import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Cluster, freePort } from "./cluster";
import { accessible, open, openBrowser } from "./page";

let cluster: Cluster;
let browser: Browser;

beforeAll(async () => {
  [cluster, browser] = await Promise.all([Cluster.start(0), openBrowser()]);
});

afterAll(async () => {
  await browser.close();
  await cluster.stop();
});

test("when the leader is killed the pages of both coordinators stay open, and are right again by themselves", async () => {
  const ports = [await freePort(), await freePort()] as const;
  const [first, second] = ports.map((port) => `http://127.0.0.1:${port}`) as [string, string];
  const leader = await cluster.startBeside("first", ports[0]);
  const one = await open(browser, `${first}/submit`);
  await one.page.getByText("live").first().waitFor();
  await cluster.startBeside("second", ports[1]);
  cluster.startWorker("worker-1", `${first},${second}`);

  const ticks = "for i in $(seq 1 600); do echo tick $i; sleep 0.2; done";
  await one.page
    .getByLabel("Pipeline document")
    .fill(`name = "lives-on"\n[jobs.ticks]\nkind = "command"\nargv = ["sh", "-c", "${ticks}"]\n`);
  await one.page.getByRole("button", { name: "Submit 1 job" }).click();
  await one.page.waitForURL(/\/pipelines\/\d+$/);
  await one.page.locator("table .job-link").first().click();
  await one.page.locator(".head .state-running").waitFor();
  const job = new URL(one.page.url()).pathname;
  await one.page.getByRole("link", { name: "Logs" }).click();
  await one.page.getByText("tick 3", { exact: true }).waitFor();

  // The one that stands by shows the same, and who leads.
  const two = await open(browser, `${second}${job}/logs`);
  await two.page.getByText("This coordinator stands by.").waitFor();
  const there = two.page.getByRole("link", { name: first });
  expect(await there.getAttribute("href")).toBe(`${first}${job}/logs`);
  await two.page.getByText("tick 3", { exact: true }).waitFor();
  await accessible(two.page, "a page of a coordinator that stands by");

  await cluster.kill(leader);
  await one.page.getByText("The coordinator does not answer.").waitFor();
  await two.page.getByText("This coordinator stands by.").waitFor({ state: "detached" });
  // The job ran on, and its log goes on where it was, each line once.
  const last = async () => Number((await two.page.locator(".log-line .words").last().innerText()).replace(/\D/g, ""));
  const before = await last();
  await expect.poll(last).toBeGreaterThan(before + 5);
  const shown = await two.page.locator(".log-line .words").allInnerTexts();
  expect(new Set(shown).size).toBe(shown.length);
  await two.page.getByText("attempt 1").first().waitFor();
  await two.page.getByRole("button", { name: "Cancel", exact: true }).click();
  await two.page.getByRole("button", { name: "Cancel it" }).click();
  await two.page.locator(".head .state-cancelled").waitFor();

  // Somebody goes on in the page of the dead one, which cannot answer; when it is back it does, without a click.
  await one.page.getByRole("link", { name: "Artifacts" }).click();
  await one.page.getByRole("alert").first().waitFor();
  await cluster.startBeside("first", ports[0]);
  await one.page.getByText("This coordinator stands by.").waitFor();
  await expect.poll(() => one.page.locator(".trouble").count()).toBe(0);
  await one.page.goBack();
  await one.page.locator(".head .state-cancelled").waitFor();
  // What is to be done now is done where the link leads.
  await one.page.getByRole("link", { name: second }).click();
  await one.page.waitForURL(`${second}${job}/logs`);
  await one.page.locator(".head .state-cancelled").waitFor();
  await one.page.getByRole("button", { name: "Retry", exact: true }).waitFor();
  expect(two.problems).toEqual([]);
  // It went where it was sent: to the other coordinator.
  expect(one.problems.filter((problem) => problem !== `a request to ${new URL(second).host}`)).toEqual([]);
  await Promise.all([one.page.context().close(), two.page.context().close()]);
});

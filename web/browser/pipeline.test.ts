/** The small pipeline, watched from its submission to its report: real pictures, two ranks, real scores. */

import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Browser } from "playwright-core";
import { Cluster, has } from "./cluster";
import { accessible, fits, open, openBrowser } from "./page";

const needed = ["marquee-trainer", "marquee-prep", "marquee-catalogue"];
const missing = needed.filter((program) => !has(program));
if (missing.length > 0) console.log(`SKIPPED  the pipeline in a browser: ${missing.join(", ")} is not built`);
/** Pictures for the documentation, where somebody wants some. */
const shots = process.env.MARQUEE_SHOTS;

describe.skipIf(missing.length > 0)("a pipeline", () => {
  let cluster: Cluster;
  let browser: Browser;
  let api: string;

  beforeAll(async () => {
    [cluster, browser] = await Promise.all([Cluster.start(), openBrowser()]);
    api = await cluster.startCatalogue(160);
  });

  afterAll(async () => {
    await browser.close();
    await cluster.stop();
  });

  test("is watched from its submission to its report", { timeout: 900_000 }, async () => {
    const watched = await open(browser, `${cluster.url}/submit`);
    const { page } = watched;
    page.setDefaultTimeout(600_000);
    const shot = async (name: string) => {
      if (shots) await page.screenshot({ path: `${shots}/web-${name}.png` });
    };
    const document = readFileSync("../examples/posters.toml", "utf8")
      .replace("http://127.0.0.1:8080/3", api)
      .replace("epochs = 12", "epochs = 3")
      .replace("bootstrap_resamples = 200", "bootstrap_resamples = 20");
    await page.getByLabel("Pipeline document").fill(document);
    await page.getByRole("button", { name: "Submit 4 jobs" }).click();
    await page.waitForURL(/\/pipelines\/\d+$/);
    // It gets there without a look at anything else.
    await page.getByRole("link", { name: "Report", exact: true }).waitFor();
    await expect.poll(() => page.locator("table .state-succeeded").count()).toBe(4);
    await accessible(page, "a pipeline that has succeeded");
    await shot("pipeline");

    const train = page.locator("table .job-link", { hasText: "train" });
    const trained = (await train.getAttribute("href")) ?? "";
    await train.click();
    await page.getByText("Where the time went").waitFor();
    await page.getByRole("heading", { name: "Checkpoints" }).waitFor();
    await page.getByText("Its speed:").waitFor();
    await accessible(page, "a training job");
    await shot("train");
    await page.getByRole("link", { name: "Curves" }).click();
    await page.locator("canvas").first().waitFor();
    const curves = await page.getByRole("img", { name: /loss/ }).first().getAttribute("aria-label");
    expect(curves).toMatch(/is -?\d/);
    // The rows of the bands are nobody's to read.
    expect(await page.locator(".u-series:visible", { hasText: "Value" }).count()).toBe(0);
    await page.getByRole("button", { name: "log scale" }).click();
    await page.waitForURL(/log=1/);
    await accessible(page, "curves");
    await shot("curves");

    await page.goBack();
    await page.goto(`${cluster.url}/reports`);
    await page.locator(".job-link", { hasText: "eval" }).click();
    // With its interval, beside the baselines.
    await page.getByText("micro F1").first().waitFor();
    await page
      .getByText(/baseline/)
      .first()
      .waitFor();
    await page.frameLocator("iframe.report").locator("h1").first().waitFor();
    const frame = await page.locator("iframe.report").getAttribute("sandbox");
    expect(frame).toBe("");
    await accessible(page, "a report");
    await shot("report");

    await page.goto(`${cluster.url}/data`);
    await page.locator(".job-link", { hasText: "preprocess" }).click();
    await page.getByText("Class balance").waitFor();
    await accessible(page, "the pictures of a preprocess job");
    await shot("data");
    await page.getByRole("button", { name: "show" }).click();
    await page.frameLocator("iframe.report").locator("h1").first().waitFor();

    await page.goto(`${cluster.url}/compare?jobs=${trained.split("/")[2] ?? ""}`);
    await page.locator("canvas").first().waitFor();
    await accessible(page, "a comparison");
    await page.goto(`${cluster.url}${trained}/files`);
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page
        .getByRole("button", { name: /^Download / })
        .first()
        .click(),
    ]);
    expect((await download.path()).length).toBeGreaterThan(0);
    expect(watched.problems).toEqual([]);
    await page.context().close();

    const phone = await open(browser, `${cluster.url}${trained}/curves`, { viewport: { width: 360, height: 740 } });
    await phone.page.locator("canvas").first().waitFor();
    await fits(phone.page, "curves on a phone");
    await phone.page.context().close();
  });
});

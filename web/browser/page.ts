/** Chromium, and what every page must hold: no error, no request to elsewhere, nothing that axe finds. */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium, type Browser, type BrowserContextOptions, type Page } from "playwright-core";
import { expect } from "vitest";
import { SOON } from "./cluster";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export async function openBrowser(more: string[] = []): Promise<Browser> {
  return chromium.launch({
    executablePath: process.env.MARQUEE_CHROMIUM ?? "/usr/bin/chromium",
    // Chromium has no sandbox of its own for root, and a small /dev/shm in containers.
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb", ...more],
  });
}

export interface Watched {
  page: Page;
  /** What went wrong in the page so far. */
  problems: string[];
}

export async function open(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<Watched> {
  const context = await browser.newContext({ viewport: { width: 1360, height: 860 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(SOON);
  const problems: string[] = [];
  const { host } = new URL(url);
  page.on("pageerror", (error) => problems.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // That the coordinator is away is no fault of the page.
    const text = message.text();
    if (message.type() === "error" && !text.includes("ERR_") && !text.includes("Failed to load resource"))
      problems.push(`console: ${text}`);
  });
  page.on("dialog", (dialog) => {
    problems.push(`a dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("request", (request) => {
    const asked = new URL(request.url());
    if (asked.host !== host && asked.protocol !== "data:" && asked.protocol !== "blob:")
      problems.push(`a request to ${asked.host}`);
  });
  await page.goto(url);
  await page.locator("main").waitFor();
  return { page, problems };
}

/** Everything that axe knows of WCAG 2.2 at levels A and AA. */
export async function accessible(page: Page, where: string): Promise<void> {
  // What still moves has colours in between.
  await page.waitForFunction(() =>
    document
      .getAnimations()
      .every((one) => one.playState !== "running" || one.effect?.getTiming().iterations === Infinity),
  );
  // Through the debugger, which the page's own policy does not bind.
  await page.evaluate(axe);
  const found = await page.evaluate(async () => {
    const { axe } = window as unknown as { axe: { run: (root: Document, options: object) => Promise<AxeResult> } };
    const result = await axe.run(document, {
      runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
      // A report is a document of its own, which its makers test.
      iframes: false,
    });
    return result.violations.map(
      (one) =>
        `${one.id}: ${one.nodes
          .map((node) => node.html)
          .slice(0, 3)
          .join(" | ")}`,
    );
  });
  expect(found.join("\n"), `axe on ${where}`).toBe("");
}

interface AxeResult {
  violations: { id: string; nodes: { html: string }[] }[];
}

/** Nothing reaches over the edge of the window: nobody scrolls sideways. */
export async function fits(page: Page, where: string): Promise<void> {
  const wide = await page.evaluate(() => {
    const { clientWidth, scrollWidth } = document.documentElement;
    return scrollWidth - clientWidth;
  });
  expect(wide, `${where} is wider than its window`).toBeLessThanOrEqual(0);
}

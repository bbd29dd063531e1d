/** The session of a browser over TLS, and what pages of other sites make of it. */

import { createHash, X509Certificate } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Cluster } from "./cluster";
import { open, openBrowser } from "./page";
import { ask, ELSEWHERE, post, user } from "./users";

let cluster: Cluster;
let browser: Browser;
let elsewhere: Server;

beforeAll(async () => {
  cluster = await Cluster.start(0, true);
  browser = await openBrowser(trusts(cluster.authority));
  // A site of somebody else: whatever its page does, it does as that site.
  elsewhere = createServer((_, answer) => answer.setHeader("content-type", "text/html").end("<h1>Free posters</h1>"));
  await new Promise<void>((done) => elsewhere.listen(0, "127.0.0.1", done));
});

afterAll(async () => {
  elsewhere.close();
  await browser.close();
  await cluster.stop();
});

/** Chromium takes certificates of this authority, and of no other that its system does not know. */
function trusts(authority: string): string[] {
  const key = new X509Certificate(authority).publicKey.export({ type: "spki", format: "der" });
  return [`--ignore-certificate-errors-spki-list=${createHash("sha256").update(key).digest("base64")}`];
}

/** What a page may try with a request that its browser sends without asking. */
function attack(page: Page, method: string, type: string): Promise<string> {
  const url = `${cluster.url}/marquee.v1.${method}`;
  return page.evaluate(
    async ({ url, type }) => {
      const body = new Blob([new Uint8Array(5)], { type });
      const mode = type.startsWith("application/grpc") ? "cors" : "no-cors";
      try {
        const answer = await fetch(url, { method: "POST", mode, credentials: "include", body });
        return `answered: ${answer.type}`;
      } catch {
        return "refused";
      }
    },
    { url, type },
  );
}

test("over TLS a session is a cookie that other sites cannot use and nobody can read", async () => {
  const token = await user(cluster, "ada", "submitter");
  const { page, problems } = await open(browser, `${cluster.url}/jobs`, { extraHTTPHeaders: ELSEWHERE });
  await page.getByLabel("Token", { exact: true }).fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByText("live").first().waitFor();
  const [cookie, ...more] = await page.context().cookies();
  expect(more).toEqual([]);
  expect(cookie).toMatchObject({ secure: true, httpOnly: true, sameSite: "Strict", path: "/", domain: "localhost" });
  expect(await page.evaluate(() => document.cookie)).toBe("");
  expect(await page.evaluate(() => JSON.stringify([localStorage, sessionStorage]))).not.toContain("mqu_");

  // Of the page's own origin, and with its cookie: what no page of ours sends is not taken.
  for (const type of ["text/plain", "application/json", "application/x-www-form-urlencoded", "multipart/form-data"]) {
    const status = await page.evaluate(async (type) => {
      const answer = await fetch("/marquee.v1.Users/LogOut", { method: "POST", headers: { "content-type": type } });
      return answer.status;
    }, type);
    expect(status, type).toBe(415);
  }

  // Another site in the same browser, which has the cookie: its pages, its forms, a link that was clicked there.
  const other = await page.context().newPage();
  const { port } = elsewhere.address() as AddressInfo;
  for (const site of [`http://127.0.0.1:${port}`, `http://localhost:${port}`]) {
    await other.goto(site);
    const sent: string[] = [];
    other.on("request", (request) => {
      void request.allHeaders().then((headers) => sent.push(headers.cookie ?? ""));
    });
    for (const type of ["application/grpc-web+proto", "text/plain", "application/x-www-form-urlencoded"])
      expect(await attack(other, "Users/LogOut", type), type).not.toBe("answered: basic");
    await other.evaluate((action) => {
      const form = document.createElement("form");
      form.method = "post";
      form.action = action;
      document.body.append(form);
      form.submit();
    }, `${cluster.url}/marquee.v1.Users/LogOut`);
    await other.waitForURL(`${cluster.url}/**`);
    await other
      .getByText(/403|415|other|page of|gRPC/)
      .first()
      .waitFor();
    expect(sent.join(""), `${site} sent the cookie`).toBe("");
    other.removeAllListeners("request");
  }
  // And in a frame nothing of it is seen.
  await other.goto(`http://127.0.0.1:${port}`);
  await other.evaluate((url) => {
    const frame = document.createElement("iframe");
    frame.src = url;
    document.body.append(frame);
  }, cluster.url);
  await expect.poll(() => other.frames().some((frame) => frame.url().startsWith("chrome-error:"))).toBe(true);
  await other.close();

  // The session is as it was, and ends when its owner says so.
  await page.reload();
  await page.getByText("live").first().waitFor();
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByRole("heading", { name: "Log in" }).waitFor();
  expect(await page.context().cookies()).toEqual([]);
  expect(problems).toEqual([]);
  await page.context().close();
});

test("what is refused over TLS says why, and sets no cookie", async () => {
  const grpc = "application/grpc-web+proto";
  for (const headers of [
    { "content-type": grpc, origin: "https://evil.example" },
    { "content-type": grpc, origin: "null" },
    { "content-type": grpc, "sec-fetch-site": "same-site" },
    { "content-type": "text/plain" },
    { "content-type": "application/json" },
  ]) {
    const answer = await post(cluster, "Users/LogIn", headers);
    expect([403, 415], JSON.stringify(headers)).toContain(answer.status);
    expect(answer.headers["set-cookie"]).toBeUndefined();
  }
  expect(await ask(cluster, "Users/ListUsers")).toContain("ada");
});

/** Logging in and out, and what a role hides. */

import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Cluster } from "./cluster";
import { accessible, fits, open, openBrowser } from "./page";
import { ask, ELSEWHERE, post, user } from "./users";

let cluster: Cluster;
let browser: Browser;

beforeAll(async () => {
  [cluster, browser] = await Promise.all([Cluster.start(1), openBrowser()]);
});

afterAll(async () => {
  await browser.close();
  await cluster.stop();
});

test("a stranger is asked for a token, and a role hides what it does not allow", async () => {
  const admin = await user(cluster, "ada", "admin");
  const viewer = await user(cluster, "eve", "viewer");
  const watched = await open(browser, `${cluster.url}/jobs`, { extraHTTPHeaders: ELSEWHERE });
  const { page, problems } = watched;
  await page.getByRole("heading", { name: "Log in" }).waitFor();
  await page.getByText("not logged in").waitFor();
  await accessible(page, "/login");
  await page.setViewportSize({ width: 360, height: 800 });
  await fits(page, "/login");
  await page.setViewportSize({ width: 1360, height: 860 });

  // A token that is none is said to be none, and stays in no address.
  await page.getByLabel("Token", { exact: true }).fill(`${viewer.slice(0, -8)}00000000`);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByText("that is no valid token").waitFor();
  await page.getByLabel("Token", { exact: true }).fill(viewer);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByText("live").first().waitFor();
  expect(page.url()).toBe(`${cluster.url}/jobs`);

  // The cookie is the browser's alone.
  const [cookie] = await page.context().cookies();
  expect(cookie).toMatchObject({ name: "marquee-session", httpOnly: true, sameSite: "Strict" });
  expect(await page.evaluate(() => document.cookie)).toBe("");
  expect(cookie?.value).not.toContain(viewer.slice(20, 40));

  await page.goto(`${cluster.url}/submit`);
  await page.getByText("You may look, and not submit").waitFor();
  await accessible(page, "/submit, viewer");
  await page.goto(`${cluster.url}/workers/worker-1`);
  await page.getByText("This takes an administrator").first().waitFor();
  await page.goto(`${cluster.url}/admin`);
  await page.getByRole("link", { name: "Tokens" }).waitFor();
  expect(await page.getByRole("link", { name: "Users" }).count()).toBe(0);

  // Out is out, also for whoever presses the back key.
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByRole("heading", { name: "Log in" }).waitFor();
  await page.goBack();
  await page.getByRole("heading", { name: "Log in" }).waitFor();
  expect((await page.context().cookies()).length).toBe(0);

  // An administrator sees who there is, and ends the session of another.
  await page.getByLabel("Token", { exact: true }).fill(admin);
  await page.keyboard.press("Enter");
  await page.getByText("live").first().waitFor();
  await page.goto(`${cluster.url}/admin/users`);
  await page.getByText("viewer everywhere").waitFor();
  await accessible(page, "/admin/users");
  await page.goto(`${cluster.url}/admin/tokens`);
  await page.getByRole("row", { name: /eve/ }).getByRole("button", { name: "Revoke" }).click();
  await accessible(page, "/admin/tokens, asked");
  await page.getByRole("button", { name: "Revoke it" }).click();
  await page.getByRole("row", { name: /eve.*revoked/ }).waitFor();
  expect(problems).toEqual([]);
  await page.context().close();
});

test("a session that is ended elsewhere asks for a token where it is", async () => {
  const token = await user(cluster, "bob", "viewer");
  const watched = await open(browser, `${cluster.url}/workers`, { extraHTTPHeaders: ELSEWHERE });
  const { page, problems } = watched;
  await page.getByLabel("Token", { exact: true }).fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByText("live").first().waitFor();
  await ask(cluster, "Users/RevokeToken", [[1, token.slice(4, 16)]]);
  await page.getByRole("heading", { name: "Log in" }).waitFor();
  expect(page.url()).toBe(`${cluster.url}/workers`);
  expect(problems).toEqual([]);
  await page.context().close();
});

test("another site can use no session", async () => {
  for (const headers of [
    { "content-type": "application/grpc-web+proto", origin: "http://evil.example" },
    { "content-type": "application/grpc-web+proto", "sec-fetch-site": "cross-site" },
    { "content-type": "text/plain" },
    { "content-type": "application/x-www-form-urlencoded" },
    { "content-type": "application/json" },
  ]) {
    for (const method of ["Users/LogIn", "Users/LogOut"]) {
      const answer = await post(cluster, method, headers);
      expect([403, 415], `${method} ${JSON.stringify(headers)}`).toContain(answer.status);
      expect(answer.headers["set-cookie"]).toBeUndefined();
    }
  }
});

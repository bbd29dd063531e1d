/** Users of a test's cluster, made as the coordinator's own account makes them. */

import { connect } from "node:http2";
import { expect } from "vitest";
import type { Cluster } from "./cluster";

/** As a proxy on the host would ask for somebody else: the account of this test is the coordinator's own otherwise. */
export const ELSEWHERE = { "x-forwarded-for": "10.0.0.9" };

export interface Answer {
  status: number;
  headers: Record<string, string | string[] | number | undefined>;
  body: string;
}

/** A message of text fields, with its number each, as gRPC-Web frames it; shorter than 128 bytes. */
export function framed(fields: [number, string | Uint8Array][]): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder();
  const body = fields.flatMap(([number, value]) => {
    const bytes = typeof value === "string" ? text.encode(value) : value;
    return [(number << 3) | 2, bytes.length, ...bytes];
  });
  return new Uint8Array([0, 0, 0, 0, body.length, ...body]);
}

/** A request by no browser. With TLS the certificate is checked against the cluster's own authority. */
export function post(
  cluster: Cluster,
  method: string,
  headers: Record<string, string>,
  body = framed([]),
): Promise<Answer> {
  const path = `/marquee.v1.${method}`;
  return cluster.url.startsWith("https:")
    ? overTls(cluster, path, headers, body)
    : inTheClear(cluster, path, headers, body);
}

async function inTheClear(
  cluster: Cluster,
  path: string,
  headers: Record<string, string>,
  body: Uint8Array<ArrayBuffer>,
): Promise<Answer> {
  const answer = await fetch(cluster.url + path, { method: "POST", headers, body });
  const bytes = Buffer.from(await answer.arrayBuffer());
  return { status: answer.status, headers: Object.fromEntries(answer.headers), body: bytes.toString("latin1") };
}

/** With TLS the coordinator speaks HTTP/2 alone, as every browser does. */
function overTls(cluster: Cluster, path: string, headers: Record<string, string>, body: Uint8Array): Promise<Answer> {
  return new Promise((done, fail) => {
    const session = connect(cluster.url, { ca: cluster.authority });
    session.on("error", fail);
    const stream = session.request({ ...headers, ":method": "POST", ":path": path });
    const parts: Buffer[] = [];
    let said: Answer["headers"] = {};
    stream.on("response", (answer) => (said = answer as Answer["headers"]));
    stream.on("data", (part: Buffer) => parts.push(part));
    stream.on("error", fail);
    stream.on("end", () => {
      session.close();
      done({ status: Number(said[":status"]), headers: said, body: Buffer.concat(parts).toString("latin1") });
    });
    stream.end(body);
  });
}

/** Asks as the coordinator's own account does, which may do everything. */
export async function ask(
  cluster: Cluster,
  method: string,
  fields: [number, string | Uint8Array][] = [],
): Promise<string> {
  const headers = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" };
  const { body, headers: said } = await post(cluster, method, headers, framed(fields));
  expect(body, `${method}: ${String(said["grpc-message"])}`).toContain("grpc-status:0");
  return body;
}

/** A new user's token. */
export async function user(cluster: Cluster, name: string, role: string): Promise<string> {
  await ask(cluster, "Users/AddUser", [
    [1, name],
    [2, framed([[2, role]]).slice(5)],
  ]);
  const made = await ask(cluster, "Users/CreateToken", [[1, name]]);
  return /mqu_[0-9a-f]{12}_[0-9a-f]{64}/.exec(made)?.[0] ?? "";
}

/** A cluster of this machine for one test file: a coordinator with its own Postgres, and workers. */

import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** Milliseconds until whatever must happen has happened, on a busy machine. */
export const SOON = 60_000;

const programs = process.env.MARQUEE_BIN_DIR ?? "../target/debug";

export const has = (program: string) => existsSync(join(programs, program));

interface Program {
  child: ChildProcess;
  /** What it says of itself when it is ready. */
  says: Record<string, unknown>;
}

export class Cluster {
  readonly folder = mkdtempSync(join(tmpdir(), "marquee-web-"));
  private readonly workers: ChildProcess[] = [];
  private readonly others: ChildProcess[] = [];
  private coordinator: ChildProcess | undefined;
  private port = 0;
  private isTls = false;

  get url(): string {
    return this.isTls ? `https://localhost:${this.port}` : `http://127.0.0.1:${this.port}`;
  }

  private get data(): string {
    return join(this.folder, "coordinator");
  }

  /** The cluster's own authority, where it has one. */
  get authority(): string {
    return this.isTls ? readFileSync(join(this.data, "tls/ca.pem"), "utf8") : "";
  }

  static async start(workers = 2, isTls = false): Promise<Cluster> {
    const cluster = new Cluster();
    cluster.port = await freePort();
    cluster.isTls = isTls;
    if (isTls) cluster.init();
    await cluster.startCoordinator();
    for (let number = 1; number <= workers; number += 1) cluster.startWorker(`worker-${number}`);
    return cluster;
  }

  /** As docs/deploy.md says: an authority, and a certificate for this coordinator. */
  private init(): void {
    const flags = ["--listen", `127.0.0.1:${this.port}`, "--data-dir", this.data];
    const done = spawnSync(join(programs, "marquee-coordinator"), [...flags, "init"], { encoding: "utf8" });
    if (done.status !== 0) throw new Error(`init: ${done.stderr}`);
  }

  async startCoordinator(): Promise<void> {
    const listen = `127.0.0.1:${this.port}`;
    const { child } = await this.run("marquee-coordinator", ["--listen", listen, "--data-dir", this.data]);
    this.coordinator = child;
  }

  /** Where the coordinator's own Postgres is. */
  database(name = "postgres"): string {
    const password = readFileSync(join(this.data, "postgres.password"), "utf8").trim();
    const socket = encodeURIComponent(join(this.data, "socket"));
    return `postgres://marquee:${password}@localhost/${name}?host=${socket}`;
  }

  /**
   * A coordinator of another cluster, on the Postgres of this one: several that are started so share that cluster, and
   * one of them leads.
   */
  async startBeside(name: string, port: number): Promise<ChildProcess> {
    const listen = `127.0.0.1:${port}`;
    const { child } = await this.run(
      "marquee-coordinator",
      ["--listen", listen, "--data-dir", join(this.folder, name)],
      {
        // The other database that every server has.
        MARQUEE_COORDINATOR__DATABASE_URL: this.database("template1"),
        MARQUEE_COORDINATOR__ARTIFACTS_DIR: join(this.folder, "artifacts"),
        MARQUEE_COORDINATOR__TIMING__LEADER_LEASE_MS: "1000",
      },
    );
    this.others.push(child);
    return child;
  }

  /** As a crash would: nothing is said, nothing is put away. */
  async kill(child = this.coordinator): Promise<void> {
    if (!child) return;
    const over = new Promise((done) => child.once("exit", done));
    child.kill("SIGKILL");
    await over;
  }

  startWorker(name: string, coordinator = this.url): void {
    const settings = {
      MARQUEE_WORKER__COORDINATOR: coordinator,
      MARQUEE_WORKER__NAME: name,
      MARQUEE_WORKER__DATA_DIR: join(this.folder, name),
      MARQUEE_WORKER__CPU_SLOTS: "2",
      MARQUEE_WORKER__THREADS_PER_SLOT: "1",
    };
    this.workers.push(this.begin("marquee-worker", [], settings));
  }

  /** Films and posters behind an API. Gives its address. */
  async startCatalogue(films: number): Promise<string> {
    const { child, says } = await this.run("marquee-catalogue", [
      "serve",
      "--films",
      String(films),
      "--seed",
      "1",
      "--port",
      "0",
    ]);
    this.others.push(child);
    return String(says.api_url);
  }

  async stop(): Promise<void> {
    await ended([...this.workers, ...this.others]);
    // Whoever has its Postgres goes last.
    if (this.coordinator) await ended([this.coordinator]);
    rmSync(this.folder, { recursive: true, force: true });
  }

  private begin(program: string, args: string[], settings: Record<string, string> = {}): ChildProcess {
    const logs = join(this.folder, "logs");
    mkdirSync(logs, { recursive: true });
    const name = settings.MARQUEE_WORKER__NAME ?? program;
    const log = openSync(join(logs, `${name}.log`), "a");
    return spawn(join(programs, program), args, {
      env: { ...process.env, ...settings },
      stdio: ["ignore", "pipe", log],
    });
  }

  /** Starts a program that prints a line of JSON when it listens. */
  private run(program: string, args: string[], settings: Record<string, string> = {}): Promise<Program> {
    const child = this.begin(program, args, settings);
    return new Promise((done, fail) => {
      child.once("error", fail);
      child.once("exit", (code) => {
        fail(new Error(`${program} ended with ${code ?? "a signal"}; see ${this.folder}/logs`));
      });
      if (!child.stdout) return;
      createInterface({ input: child.stdout }).on("line", (line) => {
        const says = heard(line);
        if (says?.event === "listening") done({ child, says });
      });
    });
  }
}

async function ended(children: ChildProcess[]): Promise<void> {
  const over = children.map((child) =>
    child.exitCode !== null || child.signalCode !== null
      ? Promise.resolve()
      : new Promise<void>((done) => {
          const late = setTimeout(() => child.kill("SIGKILL"), 30_000);
          child.once("exit", () => {
            clearTimeout(late);
            done();
          });
        }),
  );
  for (const child of children) child.kill("SIGTERM");
  await Promise.all(over);
}

function heard(line: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

export function freePort(): Promise<number> {
  return new Promise((done, fail) => {
    const server = createServer();
    server.once("error", fail);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => {
        if (address && typeof address === "object") done(address.port);
      });
    });
  });
}

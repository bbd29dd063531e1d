/** A cluster of this machine for one test file: a coordinator with its own Postgres, and workers. */

import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, openSync, rmSync } from "node:fs";
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

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  static async start(workers = 2): Promise<Cluster> {
    const cluster = new Cluster();
    cluster.port = await freePort();
    await cluster.startCoordinator();
    for (let number = 1; number <= workers; number += 1) cluster.startWorker(`worker-${number}`);
    return cluster;
  }

  async startCoordinator(): Promise<void> {
    const data = join(this.folder, "coordinator");
    const listen = `127.0.0.1:${this.port}`;
    const { child } = await this.run("marquee-coordinator", ["--listen", listen, "--data-dir", data]);
    this.coordinator = child;
  }

  /** As a crash would: nothing is said, nothing is put away. */
  async kill(): Promise<void> {
    const { coordinator } = this;
    if (!coordinator) return;
    const over = new Promise((done) => coordinator.once("exit", done));
    coordinator.kill("SIGKILL");
    await over;
  }

  startWorker(name: string): void {
    const settings = {
      MARQUEE_WORKER__COORDINATOR: this.url,
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
    const all = [...this.workers, ...this.others, this.coordinator].filter((child) => child !== undefined);
    const over = all.map((child) =>
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
    for (const child of all) child.kill("SIGTERM");
    await Promise.all(over);
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
  private run(program: string, args: string[]): Promise<Program> {
    const child = this.begin(program, args);
    return new Promise((done, fail) => {
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

function heard(line: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

function freePort(): Promise<number> {
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

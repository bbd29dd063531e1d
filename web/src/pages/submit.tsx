/** A pipeline, written or dropped here, read by the coordinator while it is written. */

import { useEffect, useRef, useState } from "preact/hooks";
import { jobs as service, trouble, type Trouble } from "../api";
import type { Job } from "../gen/marquee/v1/jobs_pb";
import { locate } from "../locate";
import { go } from "../router";
import { Card, Command, Empty, TroubleBox } from "../ui/parts";
import { plural } from "../words";
import { denied, useWho } from "../who";
import { Graph } from "./pipeline";

const EXAMPLE = `name = "hello"

[jobs.hello]
kind = "command"
ranks = 2
argv = ["sh", "-c", "echo hello from rank $RANK of $WORLD_SIZE"]
timeout = "1m"
`;
/** Milliseconds after the last key until the coordinator is asked. */
const AFTER = 350;
/** What is written stays when the page is left, until it is submitted. */
const KEPT = "marquee.draft";

interface Checked {
  text: string;
  jobs: Job[];
  trouble?: Trouble;
}

export function SubmitPage() {
  const { identity } = useWho();
  if (denied(identity, "submitter"))
    return (
      <Empty title="You may look, and not submit">
        <h1 class="sr">Submit a pipeline</h1>
        <p>An administrator can make you a submitter in a project:</p>
        <Command line={`marquee admin user role ${identity?.name ?? "YOU"} --role submitter --project PROJECT`} />
      </Empty>
    );
  return <Writer />;
}

function Writer() {
  const [text, setText] = useState(() => sessionStorage.getItem(KEPT) ?? EXAMPLE);
  const [checked, setChecked] = useState<Checked>();
  const [busy, setBusy] = useState(false);
  const [over, setOver] = useState(false);
  // One id for each text: a second click, or one after a broken connection, submits nothing twice.
  const request = useRef({ text: "", id: "" });
  useEffect(() => {
    sessionStorage.setItem(KEPT, text);
    if (text.trim() === "") {
      setChecked({ text, jobs: [] });
      return;
    }
    const stop = new AbortController();
    const timer = setTimeout(() => {
      void check(text, stop.signal).then((found) => {
        if (!stop.signal.aborted) setChecked(found);
      });
    }, AFTER);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [text]);

  const isRight = checked?.text === text && !checked.trouble && checked.jobs.length > 0;
  const submit = async () => {
    if (request.current.text !== text) request.current = { text, id: identity() };
    setBusy(true);
    try {
      const done = await service.submitPipeline({
        requestId: request.current.id,
        document: { format: { case: "toml", value: text } },
      });
      sessionStorage.removeItem(KEPT);
      go(`/pipelines/${done.pipelineId}`);
    } catch (cause) {
      setChecked({ text, jobs: [], trouble: trouble(cause) });
    } finally {
      setBusy(false);
    }
  };
  const read = (file: File | undefined) => void file?.text().then(setText);
  return (
    <>
      <div class="head">
        <h1>Submit a pipeline</h1>
        <div class="actions">
          <label class="button">
            Open a file
            <input
              type="file"
              accept=".toml,text/plain"
              class="sr"
              onChange={(event) => read(event.currentTarget.files?.[0])}
            />
          </label>
          <button type="button" class="primary" disabled={!isRight || busy} onClick={() => void submit()}>
            {busy ? "Submitting…" : isRight ? `Submit ${plural(checked.jobs.length, "job")}` : "Submit"}
          </button>
        </div>
      </div>
      <div class="two">
        <section
          class={`card${over ? " drop" : ""}`}
          aria-label="Document"
          onDragOver={(event) => {
            event.preventDefault();
            setOver(true);
          }}
          onDragLeave={() => setOver(false)}
          onDrop={(event) => {
            event.preventDefault();
            setOver(false);
            read(event.dataTransfer?.files[0]);
          }}
        >
          <header>
            <h2>Document (TOML)</h2>
            <span class="quiet">or drop a file here</span>
          </header>
          <Editor text={text} setText={setText} checked={checked} />
        </section>
        <div class="stack">
          <Verdict text={text} checked={checked} />
          {isRight ? (
            <Card title="What it is made of">
              <Graph jobs={checked.jobs} />
            </Card>
          ) : null}
        </div>
      </div>
    </>
  );
}

async function check(text: string, signal: AbortSignal): Promise<Checked> {
  try {
    const { jobs } = await service.submitPipeline(
      { requestId: "check", dryRun: true, document: { format: { case: "toml", value: text } } },
      { signal },
    );
    return { text, jobs };
  } catch (cause) {
    return { text, jobs: [], trouble: trouble(cause) };
  }
}

/** Browsers have no randomUUID on addresses without TLS that are not loopback. */
function identity(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `web-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function Editor({
  text,
  setText,
  checked,
}: {
  text: string;
  setText: (text: string) => void;
  checked: Checked | undefined;
}) {
  const wrong = new Set(
    (checked?.text === text ? (checked.trouble?.fields ?? []) : []).map(({ field, why }) => locate(text, field, why)),
  );
  return (
    <div class="editor">
      <div class="lines" aria-hidden="true">
        {text.split("\n").map((_, index) => (
          <div key={index} class={wrong.has(index) ? "wrong" : ""}>
            {wrong.has(index) ? "▸ " : ""}
            {index + 1}
          </div>
        ))}
      </div>
      <textarea
        id="document"
        aria-label="Pipeline document"
        spellcheck={false}
        autocomplete="off"
        value={text}
        rows={text.split("\n").length + 1}
        onInput={(event) => setText(event.currentTarget.value)}
      />
    </div>
  );
}

function Verdict({ text, checked }: { text: string; checked: Checked | undefined }) {
  if (text.trim() === "")
    return (
      <Card title="Checked by the coordinator">
        <Empty title="Write a pipeline, or drop a file">
          <p>docs/pipeline.md describes every key; examples/ has files to begin with.</p>
        </Empty>
      </Card>
    );
  const why = checked?.trouble;
  const fields = why?.fields ?? [];
  if (why && fields.length === 0) return <TroubleBox of={why} />;
  const title = why ? plural(fields.length, "problem") : "Checked by the coordinator";
  return (
    <Card title={title}>
      <div aria-live="polite">
        {!checked || checked.text !== text ? (
          <p class="inside quiet">reads it…</p>
        ) : why ? (
          <ul class="problems">
            {fields.map(({ field, why: says }) => (
              <Problem key={`${field}${says}`} text={text} field={field} says={says} />
            ))}
          </ul>
        ) : (
          <p class="inside">
            <span class="state state-succeeded">✓ right</span> {plural(checked.jobs.length, "job")} would be stored.
          </p>
        )}
      </div>
    </Card>
  );
}

function Problem({ text, field, says }: { text: string; field: string; says: string }) {
  const line = locate(text, field, says);
  const show = () => {
    const area = document.querySelector<HTMLTextAreaElement>("#document");
    if (!area || line === undefined) return;
    const begin = text.split("\n").slice(0, line).join("\n").length + (line > 0 ? 1 : 0);
    const end = text.indexOf("\n", begin);
    area.focus();
    area.setSelectionRange(begin, end < 0 ? text.length : end);
  };
  return (
    <li>
      {line === undefined ? null : (
        <>
          <button type="button" class="plain" onClick={show}>
            line {line + 1}
          </button>{" "}
        </>
      )}
      <code>{field}</code>
      <p>{says}</p>
    </li>
  );
}

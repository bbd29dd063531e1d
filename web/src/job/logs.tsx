/**
 * The log, live: only what is in view is drawn, so that a hundred thousand lines scroll like ten. Its end is followed
 * until somebody scrolls up.
 */

import { useEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import { pieces, plain } from "../ansi";
import { jobs as service } from "../api";
import { LogLine_Stream, type Job, type JobDetail, type LogLine } from "../gen/marquee/v1/jobs_pb";
import { useStream } from "../live";
import { useOverview } from "../overview";
import { go, withQuery } from "../router";
import { Command, Empty, Skeleton, TroubleBox } from "../ui/parts";
import { exact, isOpen, ms } from "../words";

/** Lines that are read at first; all of them on demand. */
const TAIL = 5_000;
/** Lines that are kept. */
const KEPT_MAX = 200_000;
const LINE_HEIGHT = 20;
const AROUND = 30;
const ERRORS = /\b(error|exception|traceback|panicked|fatal|out of memory|killed)\b/i;

export function Logs({ detail, job, query }: { detail: JobDetail; job: Job; query: URLSearchParams }) {
  const attempt = whole(query.get("attempt"));
  const rank = whole(query.get("rank"));
  const [all, setAll] = useState(false);
  const lines = useRef<LogLine[]>([]);
  const [, draw] = useReducer((count: number) => count + 1, 0);
  const due = useRef(0);
  const later = () => {
    // Drawn once a frame, however many lines come.
    due.current ||= requestAnimationFrame(() => {
      due.current = 0;
      draw(undefined);
    });
  };
  useEffect(() => () => cancelAnimationFrame(due.current), []);
  const hasRun = job.attempt > 0;
  // A log may be silent for long, so that a broken path is not seen here: it begins anew when the overview did.
  const { returns } = useOverview();
  const stream = useStream(
    hasRun ? `logs ${job.id}/${attempt ?? 0}/${rank ?? "all"}/${all}/${isOpen(job.state)}/${returns}` : null,
    (signal) =>
      service.logs(
        {
          jobId: job.id,
          attempt: attempt ?? 0,
          ...(rank === undefined ? {} : { rank }),
          follow: true,
          tail: all ? 0 : TAIL,
        },
        { signal },
      ),
    (line) => {
      lines.current.push(line);
      if (lines.current.length > KEPT_MAX) lines.current.splice(0, KEPT_MAX / 10);
      later();
    },
    () => {
      lines.current = [];
      later();
    },
  );
  const search = query.get("find") ?? "";
  // Whoever was sent a link to some words is shown them, and not the end.
  const [follow, setFollow] = useState(search === "");
  const ranks = detail.attempts.find((one) => one.number === (attempt ?? job.attempt))?.ranks ?? [];
  const set = (changes: Record<string, string>) => go(withQuery(changes), "replace");

  const count = lines.current.length;
  const hits = useMemo(() => {
    const wanted = search.trim().toLowerCase();
    if (wanted === "") return [];
    return lines.current.flatMap((line, index) => (plain(line.text).toLowerCase().includes(wanted) ? [index] : []));
  }, [search, count]);
  const [hit, setHit] = useState(0);
  const target = useRef<number>(undefined);
  const jump = (line: number | undefined) => {
    if (line === undefined) return;
    target.current = line;
    setFollow(false);
    later();
  };
  const toHit = (index: number) => {
    if (hits.length === 0) return;
    const next = (index + hits.length) % hits.length;
    setHit(next);
    jump(hits[next]);
  };
  const current = hits[hit];
  const isSent = useRef(search !== "");
  useEffect(() => {
    if (!isSent.current || hits.length === 0) return;
    isSent.current = false;
    jump(hits[0]);
  }, [hits]);

  return (
    <section class="card" aria-label="Log">
      <div class="log-bar">
        <input
          type="search"
          placeholder="Search the log"
          aria-label="Search the log"
          value={search}
          onInput={(event) => {
            set({ find: event.currentTarget.value });
            setHit(0);
          }}
          onKeyDown={(event) => {
            if (event.key === "Enter") toHit(hit + (event.shiftKey ? -1 : 1));
          }}
        />
        {search.trim() === "" ? null : (
          <span class="num quiet" role="status">
            {hits.length === 0 ? "not found" : `${hit + 1} of ${hits.length}`} in {count.toLocaleString("en-US")} lines
          </span>
        )}
        {hits.length > 0 ? (
          <span class="chips">
            <button type="button" class="chip" aria-label="Previous match" onClick={() => toHit(hit - 1)}>
              ↑
            </button>
            <button type="button" class="chip" aria-label="Next match" onClick={() => toHit(hit + 1)}>
              ↓
            </button>
          </span>
        ) : null}
        <button
          type="button"
          class="chip"
          onClick={() => {
            const from = (target.current ?? -1) + 1;
            const at = lines.current.findIndex((line, index) => index >= from && ERRORS.test(line.text));
            jump(at >= 0 ? at : lines.current.findIndex((line) => ERRORS.test(line.text)));
          }}
        >
          next error
        </button>
        {detail.attempts.length > 1 ? (
          <select
            aria-label="Attempt"
            value={String(attempt ?? job.attempt)}
            onChange={(event) => set({ attempt: event.currentTarget.value })}
          >
            {detail.attempts.map(({ number }) => (
              <option key={number} value={String(number)}>
                attempt {number}
              </option>
            ))}
          </select>
        ) : null}
        {ranks.length > 1 ? (
          <select
            aria-label="Rank"
            value={rank === undefined ? "" : String(rank)}
            onChange={(event) => set({ rank: event.currentTarget.value })}
          >
            <option value="">all ranks</option>
            {ranks.map((one) => (
              <option key={one.rank} value={String(one.rank)}>
                rank {one.rank}
              </option>
            ))}
          </select>
        ) : null}
        <label>
          <input type="checkbox" checked={follow} onChange={(event) => setFollow(event.currentTarget.checked)} /> follow
        </label>
        {!all && count >= TAIL ? (
          <button type="button" class="chip" onClick={() => setAll(true)}>
            from the beginning
          </button>
        ) : null}
      </div>
      {stream.trouble ? <TroubleBox of={stream.trouble} /> : null}
      <Lines
        lines={lines.current}
        count={count}
        showRank={rank === undefined && ranks.length > 1}
        follow={follow}
        setFollow={setFollow}
        target={target}
        current={current}
        hits={hits}
        empty={
          !hasRun ? (
            <Empty title="It has not been tried yet">
              <Command line={`marquee explain ${job.id}`} />
            </Empty>
          ) : stream.health === "starting" && isOpen(job.state) ? (
            <Empty title="It has printed nothing yet" />
          ) : stream.health === "starting" ? (
            <Skeleton lines={8} />
          ) : (
            <Empty title="It printed nothing" />
          )
        }
      />
    </section>
  );
}

function whole(text: string | null): number | undefined {
  return text !== null && /^\d{1,9}$/.test(text) ? Number(text) : undefined;
}

interface LinesProps {
  lines: LogLine[];
  count: number;
  showRank: boolean;
  follow: boolean;
  setFollow: (follow: boolean) => void;
  target: { current: number | undefined };
  current: number | undefined;
  hits: number[];
  empty: preact.ComponentChild;
}

function Lines({ lines, count, showRank, follow, setFollow, target, current, hits, empty }: LinesProps) {
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const followed = useRef(0);
  useEffect(() => {
    if (box.current) setHeight(box.current.clientHeight);
  }, [count > 0]);
  useEffect(() => {
    const { current: element } = box;
    if (!element) return;
    if (target.current !== undefined && !follow) {
      element.scrollTop = Math.max(0, target.current * LINE_HEIGHT - element.clientHeight / 3);
      return;
    }
    if (follow) {
      element.scrollTop = element.scrollHeight;
      followed.current = element.scrollTop;
    }
  }, [count, follow, target.current]);
  if (count === 0) return <div>{empty}</div>;
  const first = Math.max(0, Math.floor(top / LINE_HEIGHT) - AROUND);
  const last = Math.min(count, Math.ceil((top + height) / LINE_HEIGHT) + AROUND);
  const found = new Set(hits);
  return (
    <div
      class="log"
      ref={box}
      tabIndex={0}
      role="log"
      aria-live="off"
      aria-label={`${count} lines`}
      onScroll={(event) => {
        const element = event.currentTarget;
        setTop(element.scrollTop);
        setHeight(element.clientHeight);
        const atEnd = element.scrollTop + element.clientHeight >= element.scrollHeight - LINE_HEIGHT;
        // Upwards by hand: whoever reads must not be pulled away.
        if (follow && element.scrollTop < followed.current - LINE_HEIGHT && !atEnd) setFollow(false);
      }}
    >
      <div style={{ height: `${count * LINE_HEIGHT}px`, position: "relative" }}>
        {lines.slice(first, last).map((line, offset) => {
          const index = first + offset;
          const look = index === current ? " log-now" : found.has(index) ? " log-hit" : "";
          const isErr = line.stream === LogLine_Stream.STDERR;
          const at = ms(line.at);
          return (
            <div
              key={index}
              class={`log-line${look}${isErr ? " log-err" : ""}`}
              style={{ top: `${index * LINE_HEIGHT}px` }}
            >
              <span class="gutter" title={at === undefined ? "" : exact(at)}>
                <span>{at === undefined ? "" : new Date(at).toLocaleTimeString("en-GB")}</span>
                {showRank ? <span>r{line.rank}</span> : null}
              </span>
              <span class="words">
                {isErr ? <span class="sr">stderr: </span> : null}
                {pieces(line.text).map((piece, place) =>
                  piece.look === "" ? (
                    piece.text
                  ) : (
                    <span key={place} class={piece.look}>
                      {piece.text}
                    </span>
                  ),
                )}
              </span>
            </div>
          );
        })}
      </div>
    </div>
  );
}

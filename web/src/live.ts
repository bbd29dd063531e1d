/**
 * Streams that stay: they begin again with growing pauses when they break, and say how they are. A page has two at
 * most, since over plain HTTP/1.1 a browser opens six connections to a host for all its windows together.
 */

import { useEffect, useRef, useState } from "preact/hooks";
import { isAbort, trouble, type Trouble } from "./api";

/** Milliseconds: the first pause, and the longest. */
const PAUSE_FIRST = 400;
const PAUSE_MAX = 5_000;
/** A page that nobody sees lets go of its streams after so long. */
const HIDDEN_AFTER = 60_000;

/** A stream that beats is dead when it was silent for so long: a path that breaks says nothing of it. */
export const SILENT_AFTER = 15_000;

export type Health = "starting" | "live" | "broken" | "ended";

export interface Stream {
  health: Health;
  /** Why it broke, or will not begin. */
  trouble?: Trouble;
}

/**
 * Follows a stream for as long as the component lives. `key` names what is followed: another key begins anew; null
 * follows nothing. `begin` is called before each (re)start, so that what is there can be read again.
 */
export function useStream<T>(
  key: string | null,
  open: (signal: AbortSignal) => AsyncIterable<T>,
  take: (message: T) => void,
  begin?: () => void,
  /** Milliseconds after which it is given up; undefined: it may be silent for ever. */
  silentAfter?: number,
): Stream {
  const [stream, setStream] = useState<Stream>({ health: "starting" });
  const latest = useRef({ open, take, begin, silentAfter });
  latest.current = { open, take, begin, silentAfter };
  useEffect(() => {
    if (key === null) return;
    const stop = new AbortController();
    setStream({ health: "starting" });
    void follow(stop.signal, () => latest.current, setStream);
    return () => stop.abort();
  }, [key]);
  return stream;
}

interface Parts<T> {
  open: (signal: AbortSignal) => AsyncIterable<T>;
  take: (message: T) => void;
  begin?: (() => void) | undefined;
  silentAfter?: number | undefined;
}

const SILENT: Trouble = {
  title: "The coordinator does not answer",
  text: "nothing was heard from it for a while",
  code: "",
  fields: [],
  passes: true,
};

async function follow<T>(stop: AbortSignal, parts: () => Parts<T>, tell: (stream: Stream) => void): Promise<void> {
  let pause = PAUSE_FIRST;
  while (!stop.aborted) {
    await seen(stop);
    const once = new AbortController();
    const end = () => once.abort();
    stop.addEventListener("abort", end, { once: true });
    const unseen = whenUnseen(end);
    const { silentAfter } = parts();
    let silence: ReturnType<typeof setTimeout> | undefined;
    const listen = () => {
      clearTimeout(silence);
      if (silentAfter === undefined) return;
      silence = setTimeout(() => {
        if (!document.hidden) tell({ health: "broken", trouble: SILENT });
        end();
      }, silentAfter);
    };
    try {
      parts().begin?.();
      listen();
      for await (const message of parts().open(once.signal)) {
        listen();
        tell({ health: "live" });
        pause = PAUSE_FIRST;
        parts().take(message);
      }
      if (once.signal.aborted) continue;
      tell({ health: "ended" });
      return;
    } catch (cause) {
      if (isAbort(cause) || once.signal.aborted) continue;
      const why = trouble(cause);
      tell({ health: "broken", trouble: why });
      // What is not there, or not allowed, does not come by itself.
      if (!why.passes) return;
      await sleep(pause, stop);
      pause = Math.min(pause * 2, PAUSE_MAX);
    } finally {
      clearTimeout(silence);
      unseen();
      stop.removeEventListener("abort", end);
    }
  }
}

function sleep(ms: number, stop: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    stop.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        done();
      },
      { once: true },
    );
  });
}

/** Waits until somebody looks at the page. */
function seen(stop: AbortSignal): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((done) => {
    const look = () => {
      if (document.hidden && !stop.aborted) return;
      document.removeEventListener("visibilitychange", look);
      done();
    };
    document.addEventListener("visibilitychange", look);
    stop.addEventListener("abort", look, { once: true });
  });
}

function whenUnseen(then: () => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(then, HIDDEN_AFTER);
  };
  document.addEventListener("visibilitychange", look);
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", look);
  };
}

/** An answer that is asked for once for each key, and again by `again`. */
export interface Answer<T> {
  value?: T;
  trouble?: Trouble;
  again: () => void;
}

export function useAnswer<T>(key: string | null, ask: (signal: AbortSignal) => Promise<T>): Answer<T> {
  const [answer, setAnswer] = useState<{ key?: string | null; value?: T; trouble?: Trouble }>({});
  const [turn, setTurn] = useState(0);
  const latest = useRef(ask);
  latest.current = ask;
  useEffect(() => {
    if (key === null) return;
    const stop = new AbortController();
    let retry: ReturnType<typeof setTimeout> | undefined;
    latest.current(stop.signal).then(
      (value) => setAnswer({ key, value }),
      (cause: unknown) => {
        if (stop.signal.aborted || isAbort(cause)) return;
        const why = trouble(cause);
        // What was shown stays while the coordinator is away, and nobody has to click when it is back.
        setAnswer((old) => (old.key === key ? { ...old, trouble: why } : { key, trouble: why }));
        if (why.passes) retry = setTimeout(() => setTurn((now) => now + 1), PAUSE_MAX);
      },
    );
    return () => {
      clearTimeout(retry);
      stop.abort();
    };
  }, [key, turn]);
  const again = () => setTurn((now) => now + 1);
  if (answer.key !== key) return { again };
  return {
    again,
    ...(answer.value === undefined ? {} : { value: answer.value }),
    ...(answer.trouble ? { trouble: answer.trouble } : {}),
  };
}

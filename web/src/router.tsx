/** Addresses of the page: each place has one, the back key goes where one was, and a link can be sent to anybody. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";

export interface Place {
  /** Parts of the path: `/jobs/17/logs` is `["jobs", "17", "logs"]`. */
  parts: string[];
  query: URLSearchParams;
}

export function read(location: { pathname: string; search: string }): Place {
  const parts = location.pathname.split("/").filter((part) => part !== "");
  return { parts: parts.map(decoded), query: new URLSearchParams(location.search) };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const CHANGED = "marquee:place";

export function go(to: string, how: "push" | "replace" = "push"): void {
  if (how === "push") {
    history.pushState(null, "", to);
    window.scrollTo(0, 0);
  } else {
    history.replaceState(null, "", to);
  }
  window.dispatchEvent(new Event(CHANGED));
}

export function usePlace(): Place {
  const [place, setPlace] = useState(() => read(window.location));
  useEffect(() => {
    const look = () => setPlace(read(window.location));
    window.addEventListener("popstate", look);
    window.addEventListener(CHANGED, look);
    return () => {
      window.removeEventListener("popstate", look);
      window.removeEventListener(CHANGED, look);
    };
  }, []);
  return place;
}

/** The address with some parameters of its query set; an empty value takes one away. */
export function withQuery(changes: Record<string, string>): string {
  const query = new URLSearchParams(window.location.search);
  for (const [key, value] of Object.entries(changes)) {
    if (value === "") query.delete(key);
    else query.set(key, value);
  }
  const text = query.toString();
  return window.location.pathname + (text === "" ? "" : `?${text}`);
}

export interface LinkProps {
  to: string;
  children?: ComponentChildren;
  class?: string;
  title?: string;
  "aria-label"?: string;
  "aria-current"?: "page" | undefined;
}

/** A link within the page. With a modifier key it is as any link is: a new tab, a new window. */
export function Link({ to, children, ...more }: LinkProps) {
  return (
    <a
      href={to}
      {...more}
      onClick={(event) => {
        if (event.defaultPrevented || event.button !== 0) return;
        if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
        event.preventDefault();
        go(to);
      }}
    >
      {children}
    </a>
  );
}

/** The overview that every page knows: one stream for the whole page, which also tells whether the coordinator lives. */

import { createContext } from "preact";
import type { ComponentChildren } from "preact";
import { useContext, useState } from "preact/hooks";
import { cluster } from "./api";
import type { Overview } from "./gen/marquee/v1/cluster_pb";
import { SILENT_AFTER, useStream, type Stream } from "./live";

export interface Known extends Stream {
  overview?: Overview;
  /** How often the connection came back. */
  returns: number;
}

const Context = createContext<Known>({ health: "starting", returns: 0 });

export const useOverview = () => useContext(Context);

export function OverviewKeeper({ children }: { children: ComponentChildren }) {
  const [overview, setOverview] = useState<Overview>();
  const [begins, setBegins] = useState(-1);
  const stream = useStream(
    "overview",
    (signal) => cluster.watchOverview({}, { signal }),
    setOverview,
    () => setBegins((now) => now + 1),
    SILENT_AFTER,
  );
  const known = { ...stream, returns: Math.max(begins, 0), ...(overview ? { overview } : {}) };
  return <Context.Provider value={known}>{children}</Context.Provider>;
}

/** The overview that every page knows: one stream for the whole page, which also tells whether the coordinator lives. */

import { createContext } from "preact";
import type { ComponentChildren } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import { cluster } from "./api";
import type { Overview } from "./gen/marquee/v1/cluster_pb";
import { SILENT_AFTER, useStream, type Stream } from "./live";
import { isStranger, useWho } from "./who";

/** Nobody that the cluster knows asks: a session has ended, or there was none. */
const NOT_LOGGED_IN = "MQ0370";

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
  const { identity, turn, again } = useWho();
  const stranger = isStranger(identity);
  const stream = useStream(
    stranger ? null : `overview ${turn}`,
    (signal) => cluster.watchOverview({}, { signal }),
    setOverview,
    () => setBegins((now) => now + 1),
    SILENT_AFTER,
  );
  const isOut = stream.trouble?.code === NOT_LOGGED_IN;
  useEffect(() => {
    if (isOut && !stranger) again();
  }, [isOut]);
  const known = { ...stream, returns: Math.max(begins, 0), ...(overview ? { overview } : {}) };
  return <Context.Provider value={known}>{children}</Context.Provider>;
}

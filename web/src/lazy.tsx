/** Pages that are fetched when somebody goes there. */

import type { ComponentType } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { useOverview } from "./overview";
import { Skeleton, TroubleBox } from "./ui/parts";

export function lazy<P extends object>(load: () => Promise<ComponentType<P>>): ComponentType<P> {
  let loaded: ComponentType<P> | undefined;
  return function Lazy(props: P) {
    const [part, setPart] = useState(() => loaded);
    const [failed, setFailed] = useState(false);
    useEffect(() => {
      if (part || failed) return;
      load().then(
        (found) => {
          loaded = found;
          setPart(() => found);
        },
        () => setFailed(true),
      );
    }, [part, failed]);
    // A browser asks for a program only once. When the coordinator is back, the same place is opened anew.
    const { health } = useOverview();
    const wasAway = useRef(false);
    useEffect(() => {
      if (!failed) return;
      if (health !== "live") wasAway.current = true;
      else if (wasAway.current) window.location.reload();
    }, [failed, health]);
    if (part) {
      const Part = part;
      return <Part {...props} />;
    }
    if (!failed) return <Skeleton lines={8} />;
    // The coordinator is away, or is of another version by now, which has other files.
    const why = "A part of this page could not be loaded. Is the coordinator back, perhaps in another version?";
    return (
      <TroubleBox
        of={{ title: "Not loaded", text: why, code: "", fields: [], passes: false }}
        again={() => window.location.reload()}
      />
    );
  };
}

/** The coordinator behind this page, and as whom it knows the reader. */

import { useOverview } from "../overview";
import { Card, Command, Facts, Skeleton } from "../ui/parts";
import { plural } from "../words";

export function AboutPage() {
  const { overview } = useOverview();
  if (!overview) return <Skeleton lines={5} />;
  return (
    <>
      <div class="head">
        <h1>About this cluster</h1>
      </div>
      <div class="two">
        <Card title="Coordinator">
          <div class="inside">
            <Facts
              of={[
                ["Version", overview.version],
                ["Cluster", <code>{overview.clusterId}</code>],
                ["Address", window.location.origin],
                ["Workers", plural(overview.workersOnline, "worker")],
                ["You are", overview.caller],
                ["Safe mode", overview.safeMode],
              ]}
            />
          </div>
        </Card>
        <Card title="From the command line">
          <div class="inside stack">
            <p>Everything on this page comes from the same API as these:</p>
            <Command line="marquee jobs" />
            <Command line="marquee workers" />
            <Command line="marquee doctor" />
          </div>
        </Card>
      </div>
    </>
  );
}

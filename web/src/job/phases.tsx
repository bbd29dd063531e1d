/** Where the time of each rank's steps went. */

import type { JobDetail } from "../gen/marquee/v1/jobs_pb";
import { at, number, parse, type Json } from "../json";
import { Card } from "../ui/parts";
import { duration } from "../words";

const PHASES = [
  ["input_s", "input", "var(--chart-3)"],
  ["forward_s", "forward", "var(--chart-2)"],
  ["backward_s", "backward", "var(--chart-4)"],
  ["all_reduce_s", "all-reduce", "var(--chart-1)"],
  ["optimizer_s", "optimizer", "var(--chart-7)"],
  ["checkpoint_s", "checkpoint", "var(--chart-6)"],
] as const;
const OTHER = "var(--line-strong)";
const RANKS_SHOWN = 16;

interface Row {
  rank: number;
  whole: number;
  parts: { name: string; colour: string; seconds: number }[];
}

export function rows(detail: JobDetail): Row[] {
  const attempt = detail.attempts.findLast((one) => one.ranks.some((rank) => rank.summaryJson !== ""));
  return (attempt?.ranks ?? []).flatMap((rank) => {
    const row = read(rank.rank, parse(rank.summaryJson));
    return row ? [row] : [];
  });
}

function read(rank: number, summary: Json): Row | undefined {
  const whole = number(at(summary, "phases", "step_s"));
  if (whole === undefined || whole <= 0) return undefined;
  const parts = PHASES.map(([key, name, colour]) => ({
    name,
    colour,
    seconds: Math.max(0, number(at(summary, "phases", key)) ?? 0),
  }));
  const known = parts.reduce((sum, part) => sum + part.seconds, 0);
  parts.push({ name: "other" as never, colour: OTHER as never, seconds: Math.max(0, whole - known) });
  return { rank, whole, parts };
}

export function Phases({ detail }: { detail: JobDetail }) {
  const all = rows(detail);
  const [first] = all;
  if (!first) return null;
  const longest = Math.max(...all.map((row) => row.whole));
  return (
    <Card title="Where the time went">
      <div class="inside stack">
        <div class="phases">
          {all.slice(0, RANKS_SHOWN).map((row) => (
            <Bar key={row.rank} row={row} longest={longest} />
          ))}
        </div>
        <div class="legend">
          {first.parts.map((part) => (
            <span key={part.name}>
              <i class="dot" style={{ "--dot": part.colour, borderRadius: "3px" }} aria-hidden="true" />
              {part.name} {share(part.seconds, first.whole)}
            </span>
          ))}
          {all.length > 1 ? <span>(rank {first.rank})</span> : null}
        </div>
        {all.length > RANKS_SHOWN ? (
          <p class="quiet">
            The first {RANKS_SHOWN} of {all.length} ranks.
          </p>
        ) : null}
      </div>
    </Card>
  );
}

const share = (part: number, whole: number) => `${Math.round((100 * part) / whole)} %`;

function Bar({ row, longest }: { row: Row; longest: number }) {
  const says = row.parts.map((part) => `${part.name} ${share(part.seconds, row.whole)}`).join(", ");
  return (
    <>
      <span class="quiet">rank {row.rank}</span>
      <div role="img" aria-label={`rank ${row.rank}: ${says}`}>
        <div class="phase-bar" style={{ width: `${(100 * row.whole) / longest}%` }}>
          {row.parts.map((part) => (
            <span
              key={part.name}
              title={`${part.name}: ${part.seconds.toFixed(1)} s, ${share(part.seconds, row.whole)}`}
              style={{ width: `${(100 * part.seconds) / row.whole}%`, background: part.colour }}
            />
          ))}
        </div>
      </div>
      <span class="num">{duration(row.whole * 1000)}</span>
    </>
  );
}

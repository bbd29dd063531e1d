/** How good a model is, never without what it is better than. */

import type { JobDetail } from "../gen/marquee/v1/jobs_pb";
import { scores, summary, type Score, type Scores as Found } from "../scores";
import { Card, Facts } from "../ui/parts";

export function Scores({ detail }: { detail: JobDetail }) {
  const found = scores(summary(detail));
  return found ? (
    <Card title="Quality on test pictures">
      <div class="inside stack">
        <ScoreRows of={found} />
        <Facts of={found.more} />
        {found.synthetic ? (
          <p class="quiet">The pictures are synthetic: compare with figures on the same ones alone.</p>
        ) : null}
        {found.warnings.map((warning) => (
          <p key={warning} class="trouble-title">
            {warning}
          </p>
        ))}
      </div>
    </Card>
  ) : null;
}

export function ScoreRows({ of }: { of: Found }) {
  if (!of.stands) return <p class="trouble-title">{of.why || "The model has learned from these pictures."}</p>;
  return (
    <div class="phases">
      {of.scores.map((score) => (
        <Row key={score.name} score={score} />
      ))}
    </div>
  );
}

function Row({ score }: { score: Score }) {
  const [low, high] = score.interval ?? [score.value, score.value];
  const says = score.interval ? `${low.toFixed(3)} to ${high.toFixed(3)}` : "";
  const percent = (value: number) => `${100 * Math.min(Math.max(value, 0), 1)}%`;
  return (
    <>
      <span class={score.isBaseline ? "quiet" : ""}>{score.name}</span>
      <svg width="100%" height="18" role="img" aria-label={`${score.name} ${score.value.toFixed(3)} ${says}`}>
        <rect x="0" y="8" width="100%" height="2" fill="var(--idle-soft)" />
        <rect
          x="0"
          y="5"
          width={percent(score.value)}
          height="8"
          rx="2"
          fill={score.isBaseline ? "var(--line-strong)" : "var(--bulb)"}
        />
        {score.interval ? (
          <line x1={percent(low)} x2={percent(high)} y1="9" y2="9" stroke="var(--ink)" stroke-width="2" />
        ) : null}
      </svg>
      <span class="num">
        {score.value.toFixed(3)}
        {says === "" ? "" : <span class="quiet"> ({says})</span>}
      </span>
    </>
  );
}

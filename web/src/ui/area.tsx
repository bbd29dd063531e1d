/** A small chart of something over time, drawn as SVG: the first view needs no chart library. */

import { useState } from "preact/hooks";
import { exact } from "../words";

export interface Curve {
  name: string;
  values: number[];
  colour: string;
}

const WIDTH = 400;
const HEIGHT = 92;

export function Area({ curves, from, to, label }: { curves: Curve[]; from: number; to: number; label: string }) {
  const [at, setAt] = useState<number>();
  const length = Math.max(...curves.map((curve) => curve.values.length), 1);
  const most = Math.max(...curves.flatMap((curve) => curve.values), 1);
  const x = (index: number) => (index * WIDTH) / length;
  const y = (value: number) => HEIGHT - 2 - (value * (HEIGHT - 12)) / most;
  const time = (index: number) => from + ((to - from) * index) / length;
  const peak = curves.map((curve) => `${curve.name} at most ${Math.max(...curve.values, 0).toFixed(1)}`).join(", ");
  return (
    <figure style={{ margin: 0 }}>
      <svg
        class="small-chart"
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`${label}: ${peak}`}
        onPointerMove={(event) => {
          const box = event.currentTarget.getBoundingClientRect();
          setAt(Math.min(length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * length))));
        }}
        onPointerLeave={() => setAt(undefined)}
      >
        <line x1="0" x2={WIDTH} y1={HEIGHT - 1} y2={HEIGHT - 1} stroke="var(--line-strong)" />
        {curves.map((curve) => {
          // Steps: each value stands for a part of the time.
          const line = curve.values
            .map((value, index) => `L${x(index)} ${y(value)}L${x(index + 1)} ${y(value)}`)
            .join("");
          return (
            <g key={curve.name}>
              <path d={`M0 ${HEIGHT - 2}${line}L${WIDTH} ${HEIGHT - 2}Z`} fill={curve.colour} opacity="0.16" />
              <path
                d={`M0 ${y(curve.values[0] ?? 0)}${line}`}
                fill="none"
                stroke={curve.colour}
                stroke-width="1.6"
                vector-effect="non-scaling-stroke"
              />
            </g>
          );
        })}
        {at === undefined ? null : (
          <line x1={x(at + 0.5)} x2={x(at + 0.5)} y1="0" y2={HEIGHT} stroke="var(--quiet)" stroke-dasharray="3 3" />
        )}
      </svg>
      <figcaption class="legend">
        {curves.map((curve) => (
          <span key={curve.name}>
            <i class="dot" style={{ "--dot": curve.colour }} />
            {curve.name}
            {at === undefined ? "" : `: ${(curve.values[at] ?? 0).toFixed(1)}`}
          </span>
        ))}
        <span>{at === undefined ? `peak ${most.toFixed(most < 10 ? 1 : 0)}` : exact(time(at))}</span>
      </figcaption>
    </figure>
  );
}

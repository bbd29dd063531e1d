/** Curves by uPlot: the mean of each range of steps as a line, its least and greatest value as a band. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { figure } from "../words";

export interface Curve {
  name: string;
  x: number[];
  mean: number[];
  low: number[];
  high: number[];
  /** Place among the colours. */
  colour: number;
  dashed?: boolean;
}

const COLOURS = 8;

export interface ChartProps {
  title: string;
  curves: Curve[];
  /** 0: as it is; near 1: very smooth. */
  smooth: number;
  log: boolean;
  xName: string;
  height?: number;
  /** Charts with one key show each other's cursor. */
  sync?: string;
}

/** The exponential moving average, corrected for its start, that TensorBoard's users know. */
export function smoothed(values: number[], weight: number): (number | null)[] {
  let sum = 0;
  let norm = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return null;
    if (weight <= 0) return value;
    sum = sum * weight + (1 - weight) * value;
    norm = norm * weight + (1 - weight);
    return sum / norm;
  });
}

/** All curves over one axis: each has a value where it has one. */
export function table(curves: Curve[], smooth: number, log: boolean): uPlot.AlignedData {
  const fit = (value: number | null) =>
    value === null || !Number.isFinite(value) || (log && value <= 0) ? null : value;
  const all = curves.map((curve): uPlot.AlignedData => {
    const mean = smoothed(curve.mean, smooth).map(fit);
    return [curve.x, mean, curve.low.map(fit), curve.high.map(fit)];
  });
  return all.length === 0 ? [[]] : uPlot.join(all);
}

export function Chart({ title, curves, smooth, log, xName, height = 210, sync }: ChartProps) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(undefined);
  const shape = curves.map((curve) => `${curve.name}/${curve.colour}/${curve.dashed ?? false}`).join("|");
  const data = table(curves, smooth, log);
  const latest = useRef(data);
  latest.current = data;

  useEffect(() => {
    const { current: element } = box;
    if (!element) return;
    const build = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(element, curves, log, xName, height, sync), latest.current, element);
    };
    build();
    const sized = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height }));
    sized.observe(element);
    const scheme = window.matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", build);
    return () => {
      sized.disconnect();
      scheme.removeEventListener("change", build);
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, [shape, log, xName, height, sync]);
  useEffect(() => plot.current?.setData(data), [data]);

  const says = curves
    .map((curve) => {
      const last = curve.mean.findLast(Number.isFinite);
      return `${curve.name} ${last === undefined ? "has no values" : `is ${figure(last)} at last`}`;
    })
    .join("; ");
  return <div class="chart" ref={box} role="img" aria-label={`${title}: ${says}`} />;
}

/** `0.5` for `0.5000`: ticks are round. */
const round = (text: string) => (/^-?\d+\.\d+$/.test(text) ? text.replace(/\.?0+$/, "") : text);

function options(
  element: HTMLElement,
  curves: Curve[],
  log: boolean,
  xName: string,
  height: number,
  sync: string | undefined,
): uPlot.Options {
  const style = getComputedStyle(element);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const font = `12px ${style.fontFamily}`;
  const axis = {
    stroke: colour("--quiet"),
    font,
    labelFont: font,
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1 },
  };
  const short = (value: number) => (Math.abs(value) >= 10_000 ? `${value / 1000}k` : String(value));
  const series = curves.flatMap((curve): uPlot.Series[] => {
    const stroke = colour(`--chart-${(curve.colour % COLOURS) + 1}`);
    const hidden = { show: true, stroke: "transparent", width: 0, points: { show: false }, label: "" };
    return [
      {
        label: curve.name,
        stroke,
        width: 1.7,
        points: { show: curve.x.length === 1 },
        ...(curve.dashed ? { dash: [5, 4] } : {}),
        spanGaps: true,
        value: (_, value: number | null) => (value === null ? "–" : figure(value)),
      },
      hidden,
      hidden,
    ];
  });
  const bands = curves.map((curve, index): uPlot.Band => {
    const first = 1 + 3 * index;
    return { series: [first + 2, first + 1], fill: `${colour(`--chart-${(curve.colour % COLOURS) + 1}`)}24` };
  });
  return {
    width: Math.max(element.clientWidth, 200),
    height,
    // eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment -- a const enum of another file cannot be read
    scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
    axes: [
      { ...axis, size: 30, values: (_, ticks) => ticks.map(short) },
      {
        ...axis,
        size: 56,
        values: (_, ticks) => ticks.map((tick: number | null) => (tick === null ? "" : round(figure(tick)))),
      },
    ],
    series: [{ label: xName, value: (_, value: number | null) => (value === null ? "–" : figure(value)) }, ...series],
    bands,
    legend: { show: curves.length <= COLOURS, live: true },
    cursor: { ...(sync ? { sync: { key: sync } } : {}), drag: { x: true, y: false } },
    hooks: {
      // The bands' own rows would say nothing in the legend.
      ready: [
        (self) => {
          const rows = self.root.querySelectorAll<HTMLElement>(".u-series");
          rows.forEach((row, index) => {
            if (index > 0 && (index - 1) % 3 !== 0) row.hidden = true;
          });
        },
      ],
    },
  };
}

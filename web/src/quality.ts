/** What a preprocess job found out about its pictures: its summary, and the `quality.json` of its artifact. */

import { at, entries, list, number, text, type Json } from "./json";

export const SPLITS = ["train", "validation", "test"] as const;
export type Split = (typeof SPLITS)[number];

export interface Share {
  name: string;
  count: number;
}

export interface Class {
  name: string;
  /** Pictures of each split. */
  of: Record<Split, number>;
  all: number;
}

export interface Quality {
  pictures: number | undefined;
  synthetic: boolean;
  splits: Share[];
  /** The commonest first. */
  classes: Class[];
  /** Pictures with something odd about them, by what it is, and some of them. */
  flags: (Share & { ids: string[] })[];
  /** Pictures that are in no split, by why. */
  skipped: (Share & { ids: string[] })[];
  /** Pictures by how many classes they have. */
  labels: Share[];
  years: Share[];
  /** Groups of pictures that look the same, and pairs among them with other labels. */
  alike: number | undefined;
  disagreements: { pictures: [string, string]; labels: [string, string] }[];
  disagreementsInAll: number;
  warnings: string[];
}

const shares = (value: Json): Share[] =>
  entries(value).flatMap(([name, found]) => {
    const count = number(found);
    return count === undefined ? [] : [{ name, count }];
  });

/** Out of the summary, which every such job has, and the report, which may not be there yet; undefined: of neither. */
export function quality(summary: Json, report: Json): Quality | undefined {
  if (at(summary, "splits") === null && at(report, "classes") === null) return undefined;
  const ids = (name: string) => list(at(report, "samples", name)).map(text);
  const odd = (value: Json) =>
    shares(value)
      .filter(({ count }) => count > 0)
      .map((share) => ({ ...share, ids: ids(share.name) }))
      .toSorted((a, b) => b.count - a.count);
  const counted = shares(at(summary, "splits"));
  const pair = (value: Json, join: (one: Json) => string): [string, string] => [join(at(value, 0)), join(at(value, 1))];
  return {
    pictures: number(at(summary, "pictures")) ?? number(at(report, "pictures")),
    synthetic: at(summary, "source", "synthetic") === true,
    // What took an earlier job's shards has no summary of its own: then the report says it.
    splits: SPLITS.map((name) => ({
      name,
      count:
        counted.find((split) => split.name === name)?.count ??
        shares(at(report, "label_counts", name)).reduce((sum, { count }) => sum + count, 0),
    })),
    classes: classes(report),
    flags: odd(at(report, "flags") ?? at(summary, "flags")),
    skipped: odd(at(report, "skipped") ?? at(summary, "skipped")),
    labels: sums(SPLITS.map((split) => at(report, "label_counts", split))),
    years: shares(at(report, "years")),
    alike: number(at(report, "clusters_in_all")),
    disagreements: list(at(report, "disagreements")).map((one) => ({
      pictures: pair(at(one, "pictures"), text),
      labels: pair(at(one, "labels"), (labels) => list(labels).map(text).join(", ")),
    })),
    disagreementsInAll: number(at(report, "disagreements_in_all")) ?? 0,
    warnings: list(at(summary, "warnings")).map(text),
  };
}

function classes(report: Json): Class[] {
  const found = new Map<string, Class>();
  for (const split of SPLITS) {
    for (const { name, count } of shares(at(report, "classes", split))) {
      const one = found.get(name) ?? { name, of: { train: 0, validation: 0, test: 0 }, all: 0 };
      one.of[split] += count;
      one.all += count;
      found.set(name, one);
    }
  }
  return [...found.values()].toSorted((a, b) => b.all - a.all || a.name.localeCompare(b.name));
}

/** Counts by number, from 0 up. */
function sums(of: Json[]): Share[] {
  const found = new Map<string, number>();
  for (const { name, count } of of.flatMap(shares)) found.set(name, (found.get(name) ?? 0) + count);
  return [...found].map(([name, count]) => ({ name, count })).toSorted((a, b) => Number(a.name) - Number(b.name));
}

/** How many times more pictures the commonest class has than the rarest. */
export function imbalance(all: Class[]): number | undefined {
  const counts = all.map((one) => one.all);
  const [most, least] = [Math.max(...counts), Math.min(...counts)];
  return all.length < 2 || least === 0 ? undefined : most / least;
}

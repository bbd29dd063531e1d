/** The scores of an eval job, out of its summary: the headline with its interval, beside the baselines. */

import type { JobDetail } from "./gen/marquee/v1/jobs_pb";
import { at, list, number, parse, text, type Json } from "./json";

export interface Score {
  name: string;
  value: number;
  /** 95 % of resamples lie within. */
  interval?: [number, number];
  isBaseline: boolean;
}

export interface Scores {
  rule: string;
  why: string;
  /** The model has learned from these pictures: its figures stand for nothing. */
  stands: boolean;
  synthetic: boolean;
  scores: Score[];
  more: [string, string][];
  warnings: string[];
}

export function summary(detail: JobDetail): Json {
  const attempt = detail.attempts.findLast((one) => one.ranks[0]?.summaryJson);
  return parse(attempt?.ranks[0]?.summaryJson ?? "");
}

export function scores(report: Json): Scores | undefined {
  const rules = list(at(report, "rules"));
  if (rules.length === 0) return undefined;
  const rule = text(at(report, "headline", "rule")) || "per_class";
  const chosen = rules.find((one) => text(at(one, "rule")) === rule) ?? rules[0];
  const pair = (value: Json): [number, number] | undefined => {
    const [low, high] = [number(at(value, 0)), number(at(value, 1))];
    return low === undefined || high === undefined ? undefined : [low, high];
  };
  const found: Score[] = [];
  const add = (name: string, value: Json, isBaseline: boolean, interval?: [number, number]) => {
    const figure = number(value);
    if (figure !== undefined) found.push({ name, value: figure, isBaseline, ...(interval ? { interval } : {}) });
  };
  add("micro F1", at(chosen, "f1_micro"), false, pair(at(chosen, "f1_micro_interval")));
  for (const baseline of list(at(report, "baselines")))
    add(`baseline “${text(at(baseline, "name"))}”`, at(baseline, "f1_micro"), true);
  const more: [string, string][] = [];
  const figure = (name: string, value: Json) => {
    const read = number(value);
    if (read !== undefined) more.push([name, read.toFixed(3)]);
  };
  figure("weighted F1", at(chosen, "f1_weighted"));
  figure("macro F1", at(chosen, "f1_macro"));
  figure("mean average precision", at(report, "map"));
  figure("macro ROC AUC", at(report, "roc_auc_macro"));
  figure("all labels right", at(chosen, "subset_accuracy"));
  const pictures = number(at(report, "pictures", "test"));
  if (pictures !== undefined) more.push(["test pictures", pictures.toLocaleString("en-US")]);
  return {
    rule,
    why: text(at(report, "headline", "why")),
    stands: at(report, "headline", "stands") !== false,
    synthetic: at(report, "source", "synthetic") === true,
    scores: found,
    more,
    warnings: list(at(report, "warnings")).map(text),
  };
}

/**
 * Documents within messages: specs and summaries, which children write and other versions read. Nothing in them is
 * taken for granted.
 */

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export function parse(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return null;
  }
}

export function at(value: Json | undefined, ...path: (string | number)[]): Json {
  let now: Json = value ?? null;
  for (const key of path) {
    if (now === null || typeof now !== "object") return null;
    const next: Json | undefined = Array.isArray(now) ? now[Number(key)] : Object.hasOwn(now, key) ? now[key] : null;
    now = next ?? null;
  }
  return now;
}

export const number = (value: Json | undefined): number | undefined =>
  typeof value === "number" && Number.isFinite(value) ? value : undefined;
export const text = (value: Json | undefined): string => (typeof value === "string" ? value : "");
export const list = (value: Json | undefined): Json[] => (Array.isArray(value) ? value : []);
export const entries = (value: Json | undefined): [string, Json][] =>
  value && typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : [];

/** Each value with its path: `optimizer.lr` = `0.001`. */
export function flat(value: Json, path = ""): Map<string, string> {
  const found = new Map<string, string>();
  const isTable = value !== null && typeof value === "object" && !Array.isArray(value);
  if (!isTable) {
    found.set(path, typeof value === "string" ? value : JSON.stringify(value));
    return found;
  }
  for (const [key, inner] of Object.entries(value)) {
    for (const [name, says] of flat(inner, path === "" ? key : `${path}.${key}`)) found.set(name, says);
  }
  return found;
}

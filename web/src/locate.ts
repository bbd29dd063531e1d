/** Where in a TOML document a field stands that the coordinator found wrong: `jobs.train.epochs`. */

const HEADING = /^\s*\[+\s*([^\]]+?)\s*\]+/;
const KEY = /^\s*((?:"[^"]*"|'[^']*'|[\w-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[\w-]+))*)\s*=/;
/** `at line 3, column 5`, as the reader of TOML says. */
const LINE = /\bline (\d+)\b/;

function keys(path: string): string[] {
  return [...path.matchAll(/"([^"]*)"|'([^']*)'|([\w-]+)/g)].map((match) => match[1] ?? match[2] ?? match[3] ?? "");
}

/** The line, from 0; the one of the nearest table above where the field itself is missing; undefined: nowhere. */
export function locate(document: string, field: string, why = ""): number | undefined {
  const lines = document.split("\n");
  const said = LINE.exec(why);
  if (said?.[1] !== undefined && Number(said[1]) <= lines.length) return Number(said[1]) - 1;
  const wanted = keys(field);
  if (wanted.length === 0) return undefined;
  let best: { line: number; depth: number } | undefined;
  let table: string[] = [];
  lines.forEach((line, index) => {
    const heading = HEADING.exec(line);
    const key = KEY.exec(line);
    const here = heading ? keys(heading[1] ?? "") : key ? [...table, ...keys(key[1] ?? "")] : undefined;
    if (heading) table = here ?? [];
    if (!here || here.length === 0 || here.length > wanted.length) return;
    if (!here.every((part, place) => part === wanted[place])) return;
    if (!best || here.length > best.depth) best = { line: index, depth: here.length };
  });
  return best?.line;
}
